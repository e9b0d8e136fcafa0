"""`edgebert run`: classify texts from arguments, stdin or JSON lines, on this machine or on a device."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from edgebert.cli.output import (
    clean,
    device_option,
    json_option,
    print_json,
    print_notes,
    threads_option,
)
from edgebert.errors import DataError, UsageError
from edgebert.pipeline import Classifier, load
from edgebert.tasks.text_classification import Prediction

if TYPE_CHECKING:
    from edgebert.device_classifier import DeviceClassifier

CHUNK = 256  # lines classified at a time, so that endless input needs no endless memory
MAX_LINE_BYTES = 16 << 20

TextPair = tuple[str, str | None]


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--jsonl",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read JSON lines with 'text' and optional 'text_pair' from this file, or from stdin with '-'.",
)
@click.option("--pair", help="Second text, for a task on pairs; goes with every TEXT.")
@click.option(
    "--top-k",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Show this many classes for each text.",
)
@device_option
@threads_option
@json_option
def command(
    package: Path,
    texts: tuple[str, ...],
    jsonl: Path | None,
    pair: str | None,
    top_k: int,
    device: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Classify TEXTS with PACKAGE.

    Without TEXTS, or with '-', each line of stdin is a text.
    """
    if jsonl is not None and (texts or pair is not None):
        raise UsageError("--jsonl was given together with texts; give one of them")
    with open_classifier(package, device, threads) as classifier:
        print_notes(classifier.notes)
        rows = classify_all(classifier, read_inputs(texts, jsonl, pair), top_k)
        if as_json:
            manifest = classifier.manifest
            found = [to_json(text, prediction) for text, prediction in rows]
            print_json({"package_id": manifest.package_id, "target": manifest.target, "predictions": found})
            return
        for text, prediction in rows:
            click.echo(to_line(text, prediction))


def open_classifier(
    package: Path, device: str | None, threads: int
) -> AbstractContextManager[Classifier | DeviceClassifier]:
    """The package on this machine or on `device`. Raises what `load` raises, and DeviceError."""
    return load(package, threads) if device is None else on_device(package, device, threads)


@contextmanager
def on_device(path: Path, spec: str, threads: int) -> Iterator[DeviceClassifier]:
    """The package at `path` on the device `spec`."""
    from edgebert.cli.console import console_reporter
    from edgebert.device_classifier import load_on_device
    from edgebert.devices.base import open_device
    from edgebert.package import open_package

    with open_package(path) as package, open_device(spec) as device:
        with console_reporter() as reporter:
            classifier = load_on_device(package, device, threads, reporter)
        yield classifier


def classify_all(
    classifier: Classifier | DeviceClassifier, inputs: Iterator[TextPair], top_k: int
) -> Iterator[tuple[TextPair, Prediction]]:
    """Predictions in the order of `inputs`, which is read in chunks."""
    while chunk := list(islice(inputs, CHUNK)):
        found = classifier.classify([text for text, _ in chunk], [pair for _, pair in chunk], top_k)
        yield from zip(chunk, found, strict=True)


def read_inputs(texts: tuple[str, ...], jsonl: Path | None, pair: str | None) -> Iterator[TextPair]:
    """Texts from the arguments, JSON lines or stdin. Raises DataError with the line number."""
    if jsonl is not None:
        yield from _read_jsonl(jsonl)
    elif texts and texts != ("-",):
        yield from ((text, pair) for text in texts)
    else:
        yield from ((line, pair) for _, line in _lines(sys.stdin.buffer, "stdin"))


def to_json(inputs: TextPair, prediction: Prediction) -> dict[str, Any]:
    text, pair = inputs
    row: dict[str, Any] = {"text": text} | ({} if pair is None else {"text_pair": pair})
    scores = [{"label": label, "score": score} for label, score in prediction.scores]
    return row | {"label": prediction.label, "score": prediction.score, "scores": scores}


def to_line(inputs: TextPair, prediction: Prediction) -> str:
    """Label and score, tab-separated, for each class shown; then the text, cut to one short line."""
    text, pair = inputs
    shown = clean(text if pair is None else f"{text} | {pair}")
    scores = "\t".join(f"{clean(label)}\t{score:.4f}" for label, score in prediction.scores)
    return f"{scores}\t{shown if len(shown) <= 80 else shown[:79] + '…'}"


def _read_jsonl(path: Path) -> Iterator[TextPair]:
    name = "stdin" if str(path) == "-" else str(path)
    try:
        source = nullcontext(sys.stdin.buffer) if name == "stdin" else path.open("rb")
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}; check the path") from None
    with source as file:
        for number, line in _lines(file, name):
            if line.strip():
                yield _parse_row(line, f"{name}, line {number}")


def _parse_row(line: str, where: str) -> TextPair:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not valid JSON; one object a line") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f"{where}: needs an object with a string 'text'")
    pair = row.get("text_pair")
    if not isinstance(pair, str | None):
        raise DataError(f"{where}: 'text_pair' must be a string")
    try:
        (row["text"] + (pair or "")).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: holds a lone surrogate; write characters beyond U+FFFF as UTF-8") from None
    return row["text"], pair


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
