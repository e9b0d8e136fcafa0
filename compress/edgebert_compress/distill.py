"""Distillation losses: answers (Hinton et al. 2015, arXiv 1503.02531), hidden states, attention relations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebert_compress.errors import TrainingError

BLOCKED = -1e30  # a score that softmax turns into exactly 0, finite so that 0 · (difference) is 0


def logit_loss(student: Tensor, teacher: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """KL(teacher/T ‖ student/T)·T², mean over the rows: 0-d, from two [..., classes] logits.

    `counted`: bool [...], the rows that take part; None: all. 0 when none does. Section 2 of Hinton et al.
    """
    if student.shape != teacher.shape:
        raise TrainingError(
            f"the teacher's logits have shape {tuple(teacher.shape)}, the student's {tuple(student.shape)}; "
            "give a teacher with the same labels and vocabulary"
        )
    if counted is not None:
        student, teacher = student[counted], teacher[counted]
    rows = student.numel() // student.shape[-1]
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return divergence / max(rows, 1) * temperature**2


def answer_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float, counted: Tensor | None = None
) -> Tensor:
    """`logit_loss` averaged over the output heads (question answering has two, start and end)."""
    losses = [logit_loss(s, t, temperature, counted) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(losses).mean()


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], attended: Tensor) -> Tensor:
    """Mean squared difference over attended tokens and channels, averaged over the layers: 0-d.

    `student`, `teacher`: [batch, tokens, width], one a layer; `attended`: bool [batch, tokens].
    Raises TrainingError when the widths differ.
    """
    losses = []
    for s, t in zip(student, teacher, strict=True):
        if s.shape[-1] != t.shape[-1]:
            raise TrainingError(
                f"'hidden' compares hidden states, but the student is {s.shape[-1]} wide and the teacher "
                f"{t.shape[-1]}; use 'relations', which takes any width, or a teacher of the same width"
            )
        losses.append(F.mse_loss(s[attended], t[attended]))
    return torch.stack(losses).mean()


def relation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int, attended: Tensor
) -> Tensor:
    """MiniLM v2 (Wang et al. 2020, arXiv 2012.15828, equations 5 and 6) over queries, keys and values: 0-d.

    `student`, `teacher`: outputs [batch, tokens, width] of the query, key and value layer, whose widths may
    differ. Each is split into `heads` relation heads of width d; softmax(X Xᵀ / √d) relates every token to
    the others. The loss is KL(teacher ‖ student), mean over heads and attended tokens, summed over the three.
    """
    losses = []
    for s, t in zip(student, teacher, strict=True):
        student_log, teacher_log = relations(s, heads, attended), relations(t, heads, attended)
        rows = (teacher_log.exp() * (teacher_log - student_log)).sum(dim=-1)  # [batch, heads, tokens]
        losses.append(rows.transpose(1, 2)[attended].mean())
    return torch.stack(losses).sum()


def relations(x: Tensor, heads: int, attended: Tensor) -> Tensor:
    """log softmax(X Xᵀ / √d) of each head, [batch, heads, tokens, tokens]; `x` is [batch, tokens, width]."""
    batch, tokens, width = x.shape
    split = x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    return F.log_softmax(scores.masked_fill(~attended[:, None, None, :], BLOCKED), dim=-1)


def relation_heads(student: int, teacher: int, preferred: int) -> int:
    """How many relation heads: the largest number up to `preferred` that divides both widths."""
    return next(heads for heads in range(preferred, 0, -1) if student % heads == 0 and teacher % heads == 0)


def layer_map(kept: Sequence[int], teacher_depth: int) -> tuple[int, ...]:
    """The teacher's layer for each of the student's, counted from 0.

    A student that lost layers is held against those that it kept (`kept`, indices into the teacher). Another
    depth is mapped uniformly: layer i of S to the end of the i-th of S equal parts of the teacher.
    """
    depth = len(kept)
    if tuple(kept) != tuple(range(depth)) and kept[-1] < teacher_depth:
        return tuple(kept)
    return tuple(max(0, (layer + 1) * teacher_depth // depth - 1) for layer in range(depth))
