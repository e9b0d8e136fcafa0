"""A package that turns texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import UsageError
from edgebert.models.base import PackageModel, checked_texts
from edgebert.tasks.masked_language_model import TextExample


class Embedder(PackageModel):
    """Opened by `edgebert.load` for embedding."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector a text, float32 [n, width], in the order of one or more `texts`.

        Raises DataError, UsageError.
        """
        checked_texts(texts)
        if not texts:
            raise UsageError("there is no text to embed; give one or more")
        return np.stack(self.answers(self.rows([TextExample(text) for text in texts])))
