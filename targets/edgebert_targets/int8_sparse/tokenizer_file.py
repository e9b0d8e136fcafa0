"""A tokenizer's settings in the engine's model file (docs/formats.md, "Engine model 1")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.int8_sparse.model_file import Array, U32List, Value
from edgebert_targets.int8_sparse.tokenizer_settings import AddedToken, TokenizerSettings

PREFIX = "edgebert.tokenizer."


def tokenizer_keys(settings: TokenizerSettings, vocabulary: int, token_types: int) -> dict[str, Value]:
    """Every `edgebert.tokenizer.*` key, for a model of `vocabulary` ids and `token_types` types (0: none).

    A model of less than two types takes zeros, whatever the templates say. Raises UnsupportedModelError.
    """
    _check_ids(settings, vocabulary, token_types)
    keys: dict[str, Value] = {
        "kind": settings.kind,
        "clean_text": settings.clean_text,
        "chinese_characters": settings.chinese_characters,
        "strip_accents": settings.strip_accents,
        "lowercase": settings.lowercase,
        "unknown": settings.unknown,
        "prefix": settings.prefix,
        "max_word_characters": settings.max_word_characters,
        "add_prefix_space": settings.add_prefix_space,
        "single": list(settings.single),
        "single_types": _types(settings.single_types, token_types),
        "pair": list(settings.pair),
        "pair_types": _types(settings.pair_types, token_types),
    }
    if settings.added:
        keys["added.content"] = [token.content for token in settings.added]
        keys["added.ids"] = [token.id for token in settings.added]
        keys["added.flags"] = U32List(_flags(token) for token in settings.added)
    return {f"{PREFIX}{name}": value for name, value in keys.items()}


def tokenizer_tensors(settings: TokenizerSettings) -> dict[str, Array]:
    """`tokenizer.tokens` and, where there are any, `tokenizer.merges`: strings ended by zero bytes."""
    tensors = {"tokenizer.tokens": _texts(settings.tokens)}
    if settings.merges:
        tensors["tokenizer.merges"] = _texts(settings.merges)
    return tensors


def _check_ids(settings: TokenizerSettings, vocabulary: int, token_types: int) -> None:
    ids = [
        *settings.single,
        *settings.pair,
        *(token.id for token in settings.added),
        len(settings.tokens) - 1,
    ]
    types = [*settings.single_types, *settings.pair_types]
    if max(ids) >= vocabulary:
        raise UnsupportedModelError(
            f"the tokenizer makes the id {max(ids)}, the model knows {vocabulary}; save the tokenizer that"
            " belongs to it"
        )
    if max(types) >= max(token_types, 2):
        raise UnsupportedModelError(
            f"the tokenizer makes the token type {max(types)}, the model knows {token_types}; save the"
            " tokenizer that belongs to it"
        )


def _types(types: Sequence[int], token_types: int) -> list[int]:
    return list(types) if token_types > 1 else [0] * len(types)


def _flags(token: AddedToken) -> int:
    marks = (token.single_word, token.strip_left, token.strip_right, token.normalized)
    return sum(1 << bit for bit, mark in enumerate(marks) if mark)


def _texts(texts: Sequence[str]) -> Array:
    return np.frombuffer(b"".join(text.encode() + b"\0" for text in texts), np.int8)
