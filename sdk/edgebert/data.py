"""Labelled text: read from JSONL, CSV, TSV or a `datasets` id, checked line by line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FILE_SUFFIXES = (".jsonl", ".csv", ".tsv")
MAX_FILE_BYTES = 4 << 30
DATASET_ID = re.compile(r"^\w[\w.-]*(/[\w.-]+)?(:[\w.-]+){0,2}$")


@dataclass(frozen=True)
class Example:
    """One labelled text, or pair of texts when `text_pair` is not None."""

    text: str
    text_pair: str | None
    label: str


@dataclass(frozen=True)
class Columns:
    """Names of the columns in the user's data; `text_pair` may be absent from a file."""

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"


def load_examples(source: str | Path, columns: Columns | None = None, split: str = "train") -> list[Example]:
    """Read all examples of `source`: a .jsonl, .csv or .tsv file, or `datasets` id `NAME[:CONFIG[:SPLIT]]`.

    `split` is the split of a dataset id that names none. Raises DataError (with the line number for files)
    and MissingExtraError when `datasets` is needed and not installed.
    """
    columns = columns or Columns()
    path = Path(source)
    if path.is_file():
        examples = list(_from_file(path, columns))
    elif path.suffix.lower() in FILE_SUFFIXES or path.exists() or not DATASET_ID.match(str(source)):
        raise DataError(
            f"no data file at '{source}'; give a .jsonl, .csv or .tsv file, "
            "or a datasets id NAME[:CONFIG[:SPLIT]]"
        )
    else:
        examples = list(_from_dataset(str(source), columns, split))
    if not examples:
        raise DataError(f"'{source}' holds no examples; give a file with at least one row")
    return examples


def data_hash(examples: Sequence[DataclassInstance]) -> str:
    """SHA-256 of the examples of any task in order, whatever file format they came from."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(astuple(example), ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def label_set(train: Sequence[Example], evaluation: Sequence[Example]) -> tuple[str, ...]:
    """Sorted labels of the training data. DataError when evaluation data has one that training lacks."""
    labels = {example.label for example in train}
    for number, example in enumerate(evaluation, 1):
        if example.label not in labels:
            known = ", ".join(sorted(labels)[:8])
            raise DataError(
                f"label '{example.label}' of evaluation example {number} is not in the training data "
                f"(which has: {known}{', …' if len(labels) > 8 else ''}); use one set of labels for both"
            )
    if len(labels) < 2:
        raise DataError(
            f"the training data has only one label ('{next(iter(labels))}'); at least 2 are needed"
        )
    return tuple(sorted(labels))


def _from_file(path: Path, columns: Columns) -> Iterator[Example]:
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise DataError(f"'{path}' has an unknown format '{suffix}'; use one of {', '.join(FILE_SUFFIXES)}")
    text = read_utf8(path)
    if suffix == ".jsonl":
        return (_example(row, where, columns) for where, row in json_lines(path, text))
    return _from_table(path, text, columns, "\t" if suffix == ".tsv" else ",")


def read_utf8(path: Path) -> str:
    """The text of a data file without its byte-order mark. Raises DataError, with the line if not UTF-8."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"'{path}' is larger than {MAX_FILE_BYTES >> 30} GiB; split it or sample from it")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}; give a data file") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not valid UTF-8; save the file as UTF-8") from None


def json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each object of a JSON-lines file stands, and the object. Raises DataError with the line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = json_fault(error)
            raise DataError(f"{path}, line {number}: not valid JSON ({what}); one object a line") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: a {type(row).__name__}, not an object; write one object a line"
            )
        yield f"{path}, line {number}", row


def json_fault(error: Exception) -> str:
    """What `json.loads` could not take, in words."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deep" if isinstance(error, RecursionError) else "a number of too many digits"


def checked_text(value: object, where: str, name: str) -> str:
    """`value` when it is a string with something in it. Raises DataError."""
    if not isinstance(value, str):
        raise DataError(f"{where}: '{name}' must be a string, not {repr(value)[:60]}")
    if not value.strip():
        raise DataError(f"{where}: '{name}' is empty; remove the row")
    _check_unicode(value, where, name)
    return value


def _check_unicode(value: str, where: str, name: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: '{name}' is not valid Unicode (a lone surrogate); correct it") from None


def _from_table(path: Path, text: str, columns: Columns, delimiter: str) -> Iterator[Example]:
    # Tab-separated files are written without quoting by most tools: a lone quote is part of the text there.
    unquoted = delimiter == "\t"
    csv.field_size_limit(1 << 24)
    reader: csv.DictReader[str] = csv.DictReader(
        io.StringIO(text, newline=""),
        restkey="\0extra",
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL,
        strict=True,
    )
    start = 1
    try:
        _ = reader.fieldnames  # reads the header, so that its lines are counted
        start = reader.line_num + 1
        for row in reader:
            where, start = f"{path}, line {start}", reader.line_num + 1
            if "\0extra" in row:
                raise DataError(
                    f"{where}: more fields than the header has; quote texts that hold '{delimiter}'"
                )
            yield _example(row, where, columns)
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: {error}; check the quoting") from None


def _from_dataset(source: str, columns: Columns, split: str) -> Iterator[Example]:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            f"'{source}' is a datasets id and datasets is not installed; run: pip install 'edgebert[build]'"
        ) from None
    name, *rest = source.split(":")
    config, chosen = (rest[0] if rest else None), (rest[1] if len(rest) > 1 else split)
    try:
        rows = datasets.load_dataset(name, config, split=chosen)
    except Exception as error:  # the library raises many unrelated types
        what = " ".join(str(error).split())[:200]
        raise DataError(
            f"cannot load dataset '{source}' (split {chosen}): {what}; use a local file"
        ) from None
    names = getattr(rows.features.get(columns.label), "names", None)
    for number, row in enumerate(rows, 1):
        value = row.get(columns.label)
        if names and isinstance(value, int) and 0 <= value < len(names):
            value = names[value]
        yield _example({**row, columns.label: value}, f"{source}, row {number}", columns)


def _example(row: dict[str, Any], where: str, columns: Columns) -> Example:
    for column in (columns.text, columns.label):
        if row.get(column) is None:
            found = ", ".join(str(key) for key in row) or "none"
            raise DataError(f"{where}: no '{column}'; columns found: {found[:120]}")
    text, pair, label = row[columns.text], row.get(columns.text_pair), row[columns.label]
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise DataError(f"{where}: '{columns.text}' and '{columns.text_pair}' must be strings")
    if not text.strip():
        raise DataError(f"{where}: '{columns.text}' is empty; remove the row")
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise DataError(f"{where}: '{columns.label}' must be a non-empty string or integer, not {label!r}")
    for column, value in ((columns.text, text), (columns.text_pair, pair or ""), (columns.label, str(label))):
        _check_unicode(value, where, column)
    return Example(text, pair, str(label))


def write_jsonl(examples: Iterable[Example], out: Path) -> None:
    """Write examples as JSON lines that `load_examples` reads back."""
    rows = ({k: v for k, v in vars(example).items() if v is not None} for example in examples)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
