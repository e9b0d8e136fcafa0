"""Dispatch to one module a verb; turn every expected error into one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys

import click

from edgebert import errors

# verb -> one line of help; the module is edgebert.cli.<verb> and holds a click command named `command`.
VERBS = {
    "build": "Compress, convert, prove and package a model.",
    "compress": "Compress a model with a recipe; the result is a Hugging Face checkpoint.",
    "recipes": "List, print and translate compression recipes.",
    "run": "Classify, tag, answer or embed with a package.",
    "validate": "Measure a package on data and check its golden examples.",
    "bench": "Measure a package's speed and memory on this machine.",
    "inspect": "Show what is in a package: sizes, layers, dtypes, sparsity, needs.",
    "package": "Turn a package into what an app takes in.",
    "report": "Show what phones measured with the demo app.",
    "targets": "Show what pays where: pattern by backend.",
    "devices": "Show the devices that can be reached and what each one is.",
    "doctor": "Show this machine's CPU features, versions and what is missing.",
}

# Errors of the packages below know nothing of exit codes: class name -> code.
FOREIGN_EXIT_CODES = {
    "edgebert_targets": {
        "UnknownTargetError": errors.EXIT_USAGE,
        "MissingExtraError": errors.EXIT_MISSING_EXTRA,
        "UnsupportedModelError": errors.EXIT_MODEL,
        "ArtifactError": errors.EXIT_PACKAGE,
        "InputError": errors.EXIT_DATA,
        "WrongCpuError": errors.EXIT_WRONG_CPU,
    },
    "edgebert_compress": {
        "RecipeError": errors.EXIT_RECIPE,
        "ModelError": errors.EXIT_MODEL,
        "CheckpointError": errors.EXIT_MODEL,
        "TrainingError": errors.EXIT_TRAINING,
    },
}


class LazyGroup(click.Group):
    """A click group whose verbs are imported on use, so that `edgebert run` never pays for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"edgebert.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgebert")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """EdgeBERT: compress a BERT, convert it for a device, prove it there, package it."""


def exit_code_of(error: BaseException) -> int | None:
    """The exit code of an expected error, None for a bug."""
    if isinstance(error, errors.EdgeBertError):
        return error.exit_code
    package = type(error).__module__.split(".")[0]
    for base in type(error).__mro__:
        code = FOREIGN_EXIT_CODES.get(package, {}).get(base.__name__)
        if code is not None:
            return code
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return errors.EXIT_DISK_FULL
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            return errors.EXIT_OUTPUT
    return None


def describe(error: BaseException) -> str:
    """One line for an expected error; plain OS errors get the next step added."""
    if isinstance(error, OSError) and not isinstance(error, errors.EdgeBertError):
        where = f" '{error.filename}'" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"disk full while writing{where}; free some space and run the same command again"
        return f"cannot write{where}: {error.strerror}; choose a folder that you may write to"
    return " ".join(str(error).split())


def fail(message: str, code: int, as_json: bool) -> int:
    """Print one error line (JSON on stdout too when asked for) and return `code`."""
    if as_json:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    click.echo(f"edgebert: {message}", err=True)
    return code


def run(args: list[str]) -> int:
    """Run the command line and return its exit code; no traceback unless --debug."""
    debug, as_json = "--debug" in args, "--json" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        result = cli.main(args=args, prog_name="edgebert", standalone_mode=False)
        return result if isinstance(result, int) else errors.EXIT_OK
    except BrokenPipeError:
        # The reader has gone; without this Python complains once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_OK
    except (Exception, KeyboardInterrupt) as error:
        message, code = explain(error)
        if debug and not isinstance(error, click.ClickException | KeyboardInterrupt):
            raise
        return fail(message, code, as_json) if message else code


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print (empty for a plain exit) and the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return "", error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted; run the same command again to continue", errors.EXIT_INTERRUPTED
    if isinstance(error, click.ClickException):
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "edgebert"
        return f"{error.format_message()} See '{hint} --help'.", errors.EXIT_USAGE
    code = exit_code_of(error)
    if code is not None:
        return describe(error), code
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected error, a bug: {what}; run again with --debug", errors.EXIT_BUG


def main() -> None:
    """Entry point of the `edgebert` command."""
    sys.exit(run(sys.argv[1:]))
