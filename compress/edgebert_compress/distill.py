"""Distillation from cached teacher logits (Hinton et al. 2015, arXiv 1503.02531, section 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgebert_compress.recipe import Distillation


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher/T ‖ student/T)·T², batch mean: 0-d, from two [batch, classes] logits."""
    return (
        F.kl_div(
            F.log_softmax(student / temperature, dim=-1),
            F.log_softmax(teacher / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )


def combined_loss(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, distillation: Distillation | None
) -> Tensor:
    """(1 - h)·cross-entropy + h·distillation; cross-entropy alone without a teacher. 0-d."""
    if teacher is None or distillation is None or distillation.hardness == 0:
        return F.cross_entropy(logits, labels)
    soft = distillation.hardness * distillation_loss(logits, teacher, distillation.temperature)
    if distillation.hardness == 1:
        return soft
    return (1 - distillation.hardness) * F.cross_entropy(logits, labels) + soft
