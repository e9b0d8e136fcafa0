"""Golden examples: texts with the ids and answers that the build got, to be met wherever the package runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import PackageError
from edgebert.manifest import AGAIN
from edgebert.strict_json import parse_json
from edgebert.tasks.rows import Answers
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import Session

FILE = "golden.jsonl"


@dataclass(frozen=True)
class GoldenExample:
    """`ids`: unpadded token ids; `logits`: float32 values, token after token where every token is answered.

    `reference`: the float model's vector, where a package is measured against that; else empty.
    """

    text: str
    text_pair: str | None
    ids: tuple[int, ...]
    logits: tuple[float, ...]
    reference: tuple[float, ...] = ()


@dataclass(frozen=True)
class GoldenForm:
    """What a golden example of a package holds.

    `outputs`: values a sequence, or a token with `per_token`; None: as many as the first example has.
    """

    outputs: int | None
    per_token: bool = False
    reference: bool = False

    def answer(self, example: GoldenExample) -> NDArray[np.float32]:
        """The recorded answer, float32 [outputs] or [tokens, outputs]."""
        values = np.array(example.logits, np.float32)
        return values.reshape(len(example.ids), -1) if self.per_token else values


def record_golden(
    session: Session,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str | None],
    references: Answers | None = None,
) -> tuple[GoldenExample, ...]:
    """Golden examples as `session` answers now, one text at a time: padding may move the last bits."""
    found = []
    for number, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        encoded = tokenizer.encode([text], [pair])
        logits = session.run(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)[0]
        ids = tuple(encoded.input_ids[0].tolist())
        reference = () if references is None else tuple(references[number].tolist())
        found.append(GoldenExample(text, pair, ids, tuple(logits.ravel().tolist()), reference))
    return tuple(found)


def dump_golden(examples: Sequence[GoldenExample]) -> bytes:
    """Bytes of golden.jsonl: one object a line, numbers as hexadecimal floats, exact."""
    return "".join(_line(example) for example in examples).encode()


def _line(example: GoldenExample) -> str:
    row: dict[str, object] = {"text": example.text}
    if example.text_pair is not None:
        row["text_pair"] = example.text_pair
    row |= {"ids": list(example.ids), "logits": [float(value).hex() for value in example.logits]}
    if example.reference:
        row["reference"] = [float(value).hex() for value in example.reference]
    return json.dumps(row, ensure_ascii=False) + "\n"


def parse_golden(raw: bytes, form: GoldenForm) -> tuple[GoldenExample, ...]:
    """Read golden.jsonl. Raises PackageError with the line number."""
    found: list[GoldenExample] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            outputs = len(found[0].logits) if found and form.outputs is None else form.outputs
            found.append(_example(line, number, GoldenForm(outputs, form.per_token, form.reference)))
    return tuple(found)


def _example(line: bytes, number: int, form: GoldenForm) -> GoldenExample:
    where = f"{FILE} line {number}"
    row = parse_json(line, where)
    keys = {"text", "ids", "logits"} | ({"reference"} if form.reference else set())
    if not isinstance(row, dict) or set(row) - {"text_pair"} != keys:
        raise PackageError(
            f"{where} needs {', '.join(sorted(keys))} and may have text_pair, nothing else; {AGAIN}"
        )
    text, pair, ids = row["text"], row.get("text_pair"), row["ids"]
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise PackageError(f"{where} has a text that is no string; {AGAIN}")
    if not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i < 1 << 31 for i in ids):
        raise PackageError(f"{where} has ids that are no token ids; {AGAIN}")
    outputs = None if form.outputs is None else form.outputs * (len(ids) if form.per_token else 1)
    values = _floats(row["logits"], where, "logits", outputs)
    reference = _floats(row["reference"], where, "reference", len(values)) if form.reference else ()
    return GoldenExample(text, pair, tuple(ids), values, reference)


def _floats(value: object, where: str, name: str, count: int | None) -> tuple[float, ...]:
    if not isinstance(value, list) or not value or count not in (None, len(value)):
        raise PackageError(f"{where} needs {count or 'one or more'} numbers in '{name}'; {AGAIN}")
    try:
        values = tuple(float.fromhex(item) for item in value)
    except (ValueError, TypeError, OverflowError):
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise PackageError(f"{where} has {name} that are no finite hexadecimal floats; {AGAIN}")
    return values
