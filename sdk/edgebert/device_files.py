"""What goes to a device and what comes back, never trusted ("Runner files 1" in docs/formats.md)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import DeviceError
from edgebert.tokenizer import EncodedBatch

INPUT_MAGIC, OUTPUT_MAGIC = b"EBRUNIN1", b"EBRUNOU1"
TEXTS, IDS = 1, 2
NO_PAIR = 0xFFFFFFFF
MAX_REPLY_BYTES = 1 << 20


@dataclass(frozen=True)
class RunnerAnswer:
    """One example's token ids, int32 [tokens], and logits, float32 [floats] or [tokens, floats]."""

    ids: tuple[int, ...]
    logits: NDArray[np.float32]


def pack_texts(texts: Sequence[str], pairs: Sequence[str | None]) -> bytes:
    """An input file of texts; `pairs[i]` None: a single text."""
    parts = [INPUT_MAGIC, struct.pack("<II", TEXTS, len(texts))]
    for text, pair in zip(texts, pairs, strict=True):
        first, second = text.encode(), b"" if pair is None else pair.encode()
        parts.append(struct.pack("<II", len(first), NO_PAIR if pair is None else len(second)))
        parts += [first, second]
    return b"".join(parts)


def pack_ids(encoded: EncodedBatch) -> bytes:
    """An input file of token ids without their padding."""
    parts = [INPUT_MAGIC, struct.pack("<II", IDS, len(encoded.input_ids))]
    rows = zip(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids, strict=True)
    for ids, mask, types in rows:
        used = int(mask.sum())
        parts.append(struct.pack("<I", used))
        parts += [ids[:used].astype("<i4").tobytes(), types[:used].astype("<i4").tobytes()]
    return b"".join(parts)


def answer_limit(examples: int, tokens: int, floats: int, *, per_token: bool = False) -> int:
    """Bytes of the largest output file for `examples` of at most `tokens` tokens and `floats` logits each.

    `per_token`: so many logits for each token.
    """
    return len(OUTPUT_MAGIC) + 4 + examples * (8 + 4 * (tokens + floats * (tokens if per_token else 1)))


def unpack_answers(raw: bytes, examples: int, floats: int, *, per_token: bool = False) -> list[RunnerAnswer]:
    """The runner's output file for `examples` examples of `floats` logits each.

    `per_token`: so many logits for each token, which come as [tokens, floats].
    Raises DeviceError when it is anything else, to the last byte, or holds a number that is not finite.
    """
    if raw[:8] != OUTPUT_MAGIC or len(raw) < 12:
        raise DeviceError(f"the device's answers are no runner output ({raw[:16]!r}); {AGAIN}")
    (count,) = struct.unpack_from("<I", raw, 8)
    if count != examples:
        raise DeviceError(f"the device answered {count} examples instead of {examples}; {AGAIN}")
    place, answers = 12, []
    for number in range(1, examples + 1):
        if len(raw) - place < 8:
            raise DeviceError(f"the device's answers end in example {number}; {AGAIN}")
        tokens, found = struct.unpack_from("<II", raw, place)
        place += 8
        wanted = floats * (tokens if per_token else 1)
        if found != wanted:
            raise DeviceError(
                f"the device gave {found} logits for example {number} instead of {wanted}; {AGAIN}"
            )
        if len(raw) - place < 4 * (tokens + found):
            raise DeviceError(f"the device's answers end in example {number}; {AGAIN}")
        ids = np.frombuffer(raw, "<i4", tokens, place)
        logits = finite(np.frombuffer(raw, "<f4", found, place + 4 * tokens), number)
        shaped = logits.reshape(tokens, floats) if per_token else logits
        answers.append(RunnerAnswer(tuple(ids.tolist()), shaped))
        place += 4 * (tokens + found)
    if place != len(raw):
        raise DeviceError(f"the device's answers go on for {len(raw) - place} bytes too many; {AGAIN}")
    return answers


AGAIN = "run the same command again, or try another device"


def finite(logits: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """`logits` as native float32. Raises DeviceError naming example `number` when one is not finite."""
    if not np.isfinite(logits).all():
        raise DeviceError(f"the device's logits for example {number} are not finite; {AGAIN}")
    return logits.astype(np.float32)


def parse_reply(stdout: bytes) -> Mapping[str, Any]:
    """The JSON object on a program's last line. Raises DeviceError."""
    lines = stdout.strip().splitlines()
    last = lines[-1] if lines else b""
    try:
        value = json.loads(last) if len(last) <= MAX_REPLY_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DeviceError(f"the device's reply is no JSON object ({last[:60]!r}); {AGAIN}")
    return value


def reply_int(reply: Mapping[str, Any], key: str, low: int = 0, high: int = 1 << 62) -> int:
    """A whole number of a reply. Raises DeviceError."""
    value = reply.get(key)
    if type(value) is not int or not low <= value <= high:
        raise DeviceError(
            f"the device's reply has {key} {value!r:.60}, no number from {low} to {high}; {AGAIN}"
        )
    return value


def reply_text(reply: Mapping[str, Any], key: str) -> str:
    """A short printable string of a reply. Raises DeviceError."""
    value = reply.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 100 or not value.isprintable():
        raise DeviceError(f"the device's reply has {key} {value!r:.60}, no short text; {AGAIN}")
    return value


def reply_times(reply: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """`ns`: `count` times in nanoseconds, each above 0. Raises DeviceError."""
    values = reply.get("ns")
    good = isinstance(values, list) and len(values) == count
    if not good or not all(type(ns) is int and 0 < ns < 1 << 62 and math.isfinite(ns) for ns in values or ()):
        raise DeviceError(f"the device's reply does not hold {count} times above 0 ns; {AGAIN}")
    return tuple(values or ())
