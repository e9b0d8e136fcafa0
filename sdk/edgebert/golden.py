"""Golden examples: texts with the ids and logits that the build got, to be met wherever the package runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgebert.errors import PackageError
from edgebert.manifest import AGAIN
from edgebert.strict_json import parse_json
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import Session

FILE = "golden.jsonl"


@dataclass(frozen=True)
class GoldenExample:
    """`ids`: unpadded token ids; `logits`: float32 values [classes]."""

    text: str
    text_pair: str | None
    ids: tuple[int, ...]
    logits: tuple[float, ...]


def record_golden(
    session: Session, tokenizer: TextTokenizer, texts: Sequence[str], pairs: Sequence[str | None]
) -> tuple[GoldenExample, ...]:
    """Golden examples as `session` answers now, one text at a time: padding may move the last bits."""
    found = []
    for text, pair in zip(texts, pairs, strict=True):
        encoded = tokenizer.encode([text], [pair])
        logits = session.run(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)[0]
        ids = tuple(encoded.input_ids[0].tolist())
        found.append(GoldenExample(text, pair, ids, tuple(logits.tolist())))
    return tuple(found)


def dump_golden(examples: Sequence[GoldenExample]) -> bytes:
    """Bytes of golden.jsonl: one object a line, logits as hexadecimal floats, exact."""
    return "".join(_line(example) for example in examples).encode()


def _line(example: GoldenExample) -> str:
    row: dict[str, object] = {"text": example.text}
    if example.text_pair is not None:
        row["text_pair"] = example.text_pair
    row |= {"ids": list(example.ids), "logits": [float(value).hex() for value in example.logits]}
    return json.dumps(row, ensure_ascii=False) + "\n"


def parse_golden(raw: bytes, classes: int) -> tuple[GoldenExample, ...]:
    """Read golden.jsonl. Raises PackageError with the line number."""
    lines = raw.split(b"\n")
    return tuple(_example(line, i, classes) for i, line in enumerate(lines, 1) if line.strip())


def _example(line: bytes, number: int, classes: int) -> GoldenExample:
    where = f"{FILE} line {number}"
    row = parse_json(line, where)
    if not isinstance(row, dict) or set(row) - {"text_pair"} != {"text", "ids", "logits"}:
        raise PackageError(
            f"{where} needs text, ids and logits and may have text_pair, nothing else; {AGAIN}"
        )
    text, pair, ids, logits = row["text"], row.get("text_pair"), row["ids"], row["logits"]
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise PackageError(f"{where} has a text that is no string; {AGAIN}")
    if not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i < 1 << 31 for i in ids):
        raise PackageError(f"{where} has ids that are no token ids; {AGAIN}")
    if not isinstance(logits, list) or len(logits) != classes:
        raise PackageError(f"{where} needs {classes} logits, one a class; {AGAIN}")
    try:
        values = tuple(float.fromhex(value) for value in logits)
    except (ValueError, TypeError, OverflowError):
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise PackageError(f"{where} has logits that are no finite hexadecimal floats; {AGAIN}")
    return GoldenExample(text, pair, tuple(ids), values)
