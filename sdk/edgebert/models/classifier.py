"""A package that puts texts, or pairs of texts, into classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import UsageError
from edgebert.inference import text_logits
from edgebert.models.base import PackageModel
from edgebert.tasks import text_classification
from edgebert.tasks.text_classification import Prediction


class Classifier(PackageModel):
    """Opened by `edgebert.load` for text classification."""

    def classify(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, top_k: int = 1
    ) -> list[Prediction]:
        """A prediction for each text, or pair where `pairs` has a second. Raises DataError, UsageError."""
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; ask for at least 1 class")
        return text_classification.predictions(self.logits(texts, pairs), self.labels, top_k)

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, batch: int | None = None
    ) -> NDArray[np.float32]:
        """Logits, float32 [n, classes], in the order of `texts`. Raises DataError, UsageError."""
        classes, size = len(self.labels), batch or self._batch
        return text_logits(self._session, self.tokenizer, texts, pairs, classes, batch=size)
