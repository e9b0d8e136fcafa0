"""What a model answers, by task: names of its outputs, and the array that every session returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.base import Session
from edgebert_targets.encoder import EncoderSpec, FloatArray, Task
from edgebert_targets.errors import ArtifactError

# Hugging Face's names, which optimum looks for; a vector is called as in sentence-transformers.
OUTPUT_NAMES: dict[Task, tuple[str, ...]] = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "embedding": ("sentence_embedding",),
}
TOKEN_TASKS: tuple[Task, ...] = ("token-classification", "question-answering")


def joined(task: Task, outputs: Sequence[FloatArray], attention_mask: NDArray[np.int64]) -> FloatArray:
    """The one array that `Session.run` returns, from the runtime's outputs in the order of OUTPUT_NAMES.

    Token classes come as [batch, length, classes], start and end as two [batch, length]; padding gets 0.
    """
    if task not in TOKEN_TASKS:
        return outputs[0]
    answer = np.stack(outputs, axis=-1) if task == "question-answering" else outputs[0]
    return np.where(attention_mask[..., None] != 0, answer, np.float32(0))


def check_first_run(spec: EncoderSpec, session: Session, length: int) -> None:
    """Run one sequence of `length` padding tokens. Raises ArtifactError unless the answer fits `spec`."""
    ids = np.full((1, length), spec.pad_token_id, np.int64)
    answer = session.run(ids, np.ones_like(ids), np.zeros_like(ids))
    wanted = (1, length, spec.outputs) if spec.task in TOKEN_TASKS else (1, spec.outputs)
    if answer.shape != wanted or not np.isfinite(answer).all():
        raise ArtifactError(
            f"the converted model answers {answer.shape}, not finite numbers of shape {wanted};"
            " check the weights"
        )
