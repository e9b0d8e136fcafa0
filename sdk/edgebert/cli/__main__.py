"""`python -m edgebert.cli` does what the `edgebert` command does."""

from edgebert.cli.dispatch import main

main()
