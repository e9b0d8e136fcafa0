"""Checks of what a session is given, made before any runtime sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.errors import InputError

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class InputLimits:
    """`vocabulary` and `token_types` count the rows of the tables; `token_types` 0: the model has none."""

    vocabulary: int
    max_length: int
    token_types: int

    def check(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> None:
        """Raise InputError unless all three are integer [batch, length] arrays within the limits."""
        if input_ids.ndim != 2 or not input_ids.size:
            raise InputError(f"input_ids has shape {input_ids.shape}; give [batch, length] with both above 0")
        named = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        for name, value in named.items():
            if value.shape != input_ids.shape:
                raise InputError(
                    f"{name} has shape {value.shape}, input_ids {input_ids.shape}; give equal shapes"
                )
            if not np.issubdtype(value.dtype, np.integer):
                raise InputError(f"{name} is {value.dtype}; give integers")
        if input_ids.shape[1] > self.max_length:
            raise InputError(
                f"{input_ids.shape[1]} tokens, the model takes {self.max_length}; truncate the text"
            )
        _check_range("input id", input_ids, self.vocabulary, "use the model's own tokenizer")
        _check_range("attention mask value", attention_mask, 2, "use 1 for tokens and 0 for padding")
        if self.token_types:
            _check_range("token type", token_type_ids, self.token_types, "use the model's own tokenizer")


def _check_range(what: str, values: IntArray, limit: int, hint: str) -> None:
    """Raise InputError unless every value is in [0, limit)."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= limit:
        raise InputError(f"{what} {low if low < 0 else high} is outside [0, {limit - 1}]; {hint}")
