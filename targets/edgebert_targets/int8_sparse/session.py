"""A loaded engine model as the other targets' sessions are: padded arrays in, padded answers out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.base import SessionOptions
from edgebert_targets.errors import InputError
from edgebert_targets.inputs import InputLimits, IntArray
from edgebert_targets.int8_sparse.library import Engine, EngineSession


class SparseSession:
    """Runs one model file without its padding. Calls from several threads take turns."""

    def __init__(self, engine: Engine, session: EngineSession) -> None:
        self._engine = engine
        self._session = session
        info = engine.info
        self._limits = InputLimits(info.vocabulary, info.max_length, info.token_types)

    @property
    def max_length(self) -> int:
        return self._limits.max_length

    def run(
        self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray
    ) -> NDArray[np.float32]:
        """As `Session.run`: the same bits in any batch. Raises InputError."""
        self._limits.check(input_ids, attention_mask, token_type_ids)
        used = attention_mask.astype(bool)
        lengths = used.sum(axis=1, dtype=np.int32)
        if not used[:, 0].all() or (used[:, 1:] > used[:, :-1]).any():
            raise InputError(
                "attention_mask must be ones and then zeros, with one 1 or more; pad on the right"
            )
        types = token_type_ids[used].astype(np.int32) if self._limits.token_types else None
        answers = self._session.run_flat(input_ids[used].astype(np.int32), types, lengths)
        if not self._engine.info.answers_tokens:
            return answers
        padded = np.zeros((*used.shape, answers.shape[1]), np.float32)
        padded[used] = answers
        return padded

    def tokenize(self, text: str, pair: str | None, max_length: int) -> list[int] | None:
        """Ids by the engine's own tokenizer, cut to `max_length` tokens; None: the file holds none.

        Raises InputError.
        """
        return self._engine.tokenize(text, pair, max_length)[0] if self._engine.info.has_tokenizer else None

    def close(self) -> None:
        """Release the model's memory."""
        self._session.close()
        self._engine.close()


def open_session(model: Path, options: SessionOptions) -> SparseSession:
    """Load `model`. Raises ArtifactError, InputError, WrongCpuError, MissingExtraError and MemoryError."""
    engine = Engine.open(model)
    try:
        return SparseSession(engine, engine.session(options.threads))
    except BaseException:
        engine.close()
        raise
