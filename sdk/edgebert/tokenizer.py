"""Text to ids with the `tokenizers` library alone, exactly as the model was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgebert.errors import DataError, ModelError, UsageError

MAX_JSON_BYTES = 64 << 20
PAD_TOKENS = ("[PAD]", "<pad>")
# Families whose models take no token types (or a table of one row) even when the tokenizer makes them.
WITHOUT_TOKEN_TYPES = ("roberta", "distilbert", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class EncodedBatch:
    """Three int64 arrays [n, longest], right-padded; `attention_mask` is 1 on tokens and 0 on padding."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


class TextTokenizer:
    """A tokenizer with its truncation (longest first, to `max_length` tokens) and padding fixed."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, pad_id: int, token_types: bool) -> None:
        # The library cuts nothing at all, without a word, where the special tokens alone are too many.
        special = tokenizer.num_special_tokens_to_add(True)
        if max_length < special + 2:
            raise UsageError(
                f"{max_length} tokens are too few: this tokenizer adds {special} to a pair of texts; "
                f"allow at least {special + 2}"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.pad_id = pad_id
        self.token_types = token_types

    @classmethod
    def from_json(cls, raw: bytes, *, max_length: int, pad_id: int, token_types: bool) -> TextTokenizer:
        """From the bytes of tokenizer.json. Raises ModelError, UsageError (`max_length` too small)."""
        try:
            tokenizer = Tokenizer.from_str(raw.decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            what = " ".join(str(error).split())[:160]
            raise ModelError(f"tokenizer.json cannot be read ({what}); save the tokenizer again") from None
        return cls(tokenizer, max_length, pad_id, token_types)

    @classmethod
    def from_folder(cls, path: Path, max_length: int) -> TextTokenizer:
        """From a Hugging Face folder with tokenizer.json. Raises as `from_json`."""
        raw = _read(path / "tokenizer.json")
        if raw is None:
            raise ModelError(f"'{path}' has no tokenizer.json; save the tokenizer with the model")
        settings, config = _read_object(path / "tokenizer_config.json"), _read_object(path / "config.json")
        tokenizer = cls.from_json(
            raw, max_length=max_length, pad_id=0, token_types=_token_types(settings, config)
        )
        tokenizer.pad_id = _pad_id(tokenizer._tokenizer, settings, config)
        return tokenizer

    def bare(self) -> Tokenizer:
        """A copy of the library's tokenizer that neither cuts nor pads."""
        copy: Tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy

    @property
    def lowercase(self) -> bool:
        """Whether the normalizer lower-cases the text."""
        normalizer = json.loads(self._tokenizer.to_str()).get("normalizer") or {}
        steps = normalizer.get("normalizers", [normalizer])
        return any(step.get("type") == "Lowercase" or step.get("lowercase") is True for step in steps)

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, *, first: int = 1
    ) -> EncodedBatch:
        """Encode `texts`, with `pairs[i]` as the second text where it is not None.

        Raises DataError, which counts the texts from `first`.
        """
        rows = self._encode(texts, pairs, first)
        longest = max((len(row.ids) for row in rows), default=0)
        ids = np.full((len(rows), longest), self.pad_id, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        types = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            length = len(row.ids)
            ids[i, :length] = row.ids
            mask[i, :length] = 1
            if self.token_types:
                types[i, :length] = row.type_ids
        return EncodedBatch(ids, mask, types)

    def encode_ids(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """Ids and token types of one text or pair, unpadded. Raises DataError."""
        row = self._encode([text], [pair], 1)[0]
        return list(row.ids), list(row.type_ids) if self.token_types else [0] * len(row.ids)

    def _encode(self, texts: Sequence[str], pairs: Sequence[str | None] | None, first: int) -> list[Encoding]:
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each, or None")
        seconds = pairs if pairs is not None else [None] * len(texts)
        inputs: list[Any] = []
        for number, (text, pair) in enumerate(zip(texts, seconds, strict=True), first):
            _check_text(text, number)
            if pair is not None:
                _check_text(pair, number)
            inputs.append(text if pair is None else (text, pair))
        try:
            return self._tokenizer.encode_batch(inputs)
        except Exception as error:  # the library raises plain Exception
            what = " ".join(str(error).split())[:160]
            raise ModelError(f"the tokenizer fails ({what}); save the tokenizer again") from None


def _check_text(text: object, number: int) -> None:
    if not isinstance(text, str):
        raise DataError(f"text {number} is of type {type(text).__name__}, not a string; pass strings")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"text {number} is not valid Unicode (a lone surrogate); decode it as UTF-8"
        ) from None


def _read(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"'{path}' is larger than {MAX_JSON_BYTES >> 20} MiB; give a smaller vocabulary")
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _read_object(path: Path) -> Mapping[str, Any]:
    raw = _read(path)
    try:
        value = json.loads(raw) if raw is not None else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"'{path}' is not a JSON object; save the model again")
    return value


def _token_types(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    names = settings.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    return config.get("model_type") not in WITHOUT_TOKEN_TYPES


def _pad_id(tokenizer: Tokenizer, settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    token = settings.get("pad_token")
    if isinstance(token, dict):  # an AddedToken as older versions wrote it
        token = token.get("content")
    for name in (token, *PAD_TOKENS):
        found = tokenizer.token_to_id(name) if isinstance(name, str) else None
        if found is not None:
            return int(found)
    pad_id = config.get("pad_token_id")
    return pad_id if isinstance(pad_id, int) else 0
