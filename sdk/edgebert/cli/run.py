"""`edgebert run`: ask a package about texts from arguments, stdin or JSON lines, here or on a device."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click

from edgebert.cli.ask import Shown, Verb, check_options, get_verb
from edgebert.cli.output import (
    device_option,
    json_option,
    print_json,
    print_notes,
    threads_option,
)
from edgebert.errors import DataError, UsageError
from edgebert.models.base import PackageModel
from edgebert.pipeline import load

CHUNK = 256  # lines answered at a time, so that endless input needs no endless memory
MAX_LINE_BYTES = 16 << 20


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--jsonl",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read JSON lines from this file, or from stdin with '-': 'text' and optional 'text_pair', 'tokens' "
    "for words that are known, or 'question' and 'context'.",
)
@click.option("--pair", help="Second text, for a task on pairs; goes with every TEXT.")
@click.option(
    "--context", help="Text that holds the answers, for question answering; every TEXT is a question."
)
@click.option("--no-answer", is_flag=True, help="A question may have no answer, if the model was trained so.")
@click.option(
    "--top-k",
    type=click.IntRange(1),
    help="Show this many classes for each text. Default: 1.",
)
@device_option
@threads_option
@json_option
def command(
    package: Path,
    texts: tuple[str, ...],
    jsonl: Path | None,
    pair: str | None,
    context: str | None,
    no_answer: bool,
    top_k: int | None,
    device: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Ask PACKAGE about TEXTS: classes, tags of words, vectors, or answers to questions.

    Without TEXTS, or with '-', each line of stdin is a text.
    """
    if jsonl is not None and (texts or pair is not None or context is not None):
        raise UsageError("--jsonl was given together with texts; give one of them")
    options = {"pair": pair, "context": context, "no_answer": no_answer or None, "top_k": top_k}
    with open_model(package, device, threads) as model:
        verb = get_verb(model.manifest.task)
        check_options(verb, {name: value for name, value in options.items() if value is not None})
        print_notes(model.notes)
        rows = ask_all(verb, model, read_inputs(verb, texts, jsonl, options), options)
        if as_json:
            manifest = model.manifest
            found = [shown.as_json for shown in rows]
            print_json({"package_id": manifest.package_id, "target": manifest.target, "predictions": found})
            return
        for shown in rows:
            for line in shown.lines:
                click.echo(line)


def open_model(package: Path, device: str | None, threads: int) -> AbstractContextManager[PackageModel]:
    """The package on this machine or on `device`. Raises what `load` raises, and DeviceError."""
    return load(package, threads) if device is None else on_device(package, device, threads)


@contextmanager
def on_device(path: Path, spec: str, threads: int) -> Iterator[PackageModel]:
    """The package at `path` on the device `spec`."""
    from edgebert.cli.console import console_reporter
    from edgebert.device_package import load_on_device
    from edgebert.devices.base import open_device
    from edgebert.package import open_package

    with open_package(path) as package, open_device(spec) as device:
        with console_reporter() as reporter:
            model = load_on_device(package, device, threads, reporter)
        yield model


def ask_all(
    verb: Verb, model: PackageModel, inputs: Iterator[Any], options: dict[str, Any]
) -> Iterator[Shown]:
    """Answers in the order of `inputs`, which is read in chunks."""
    while chunk := list(islice(inputs, CHUNK)):
        yield from verb.ask(model, chunk, options)


def read_inputs(
    verb: Verb, texts: tuple[str, ...], jsonl: Path | None, options: dict[str, Any]
) -> Iterator[Any]:
    """Inputs from the arguments, JSON lines or stdin. Raises DataError with the line number."""
    if jsonl is not None:
        yield from _read_jsonl(verb, jsonl)
    elif texts and texts != ("-",):
        yield from (verb.from_text(text, options) for text in texts)
    else:
        yield from (verb.from_text(line, options) for _, line in _lines(sys.stdin.buffer, "stdin"))


def _read_jsonl(verb: Verb, path: Path) -> Iterator[Any]:
    name = "stdin" if str(path) == "-" else str(path)
    try:
        source = nullcontext(sys.stdin.buffer) if name == "stdin" else path.open("rb")
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}; check the path") from None
    with source as file:
        for number, line in _lines(file, name):
            if line.strip():
                yield _parse_row(verb, line, f"{name}, line {number}")


def _parse_row(verb: Verb, line: str, where: str) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not valid JSON; one object a line") from None
    return verb.from_row(row if isinstance(row, dict) else {}, where)


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(
                f"{name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; split it into lines"
            )
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(f"{name}, line {number}: not valid UTF-8; convert the text to UTF-8") from None
