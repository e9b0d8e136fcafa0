"""The command line: a small dispatcher that imports a verb's module only when the verb is used."""

from edgebert.cli.dispatch import main

__all__ = ["main"]
