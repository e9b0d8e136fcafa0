"""Simulated INT8 attention: both products of a head on integers, as the sparse engine computes them.

The arithmetic is that of docs/formats.md: queries and keys per token and head, values per channel over the
tokens of the sequence, weights as whole numbers up to 255. float32 holds every product and sum of up to 512
tokens exactly. The gradient passes straight through every rounding (arXiv 1308.3432).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebert_compress.matmul import without_autocast

LIMIT = 127
WEIGHT_LIMIT = 255
NAME = "edgebert_int8"  # under which transformers finds it


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def _round(x: Tensor) -> Tensor:
    """Half to even, gradient straight through."""
    return cast(Tensor, _RoundStraightThrough.apply(x))  # type: ignore[no-untyped-call]


def symmetric_integers(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Whole floats in [-127, 127] shaped as `x`, and their step max|x| / 127 with `dim` kept as size 1.

    The step is a constant to the gradient: integers * step passes it on unchanged.
    """
    highest = x.detach().abs().amax(dim=dim, keepdim=True)
    # two tensors: torch turns a division of or by a number into two roundings on some devices
    limit = torch.full_like(highest, LIMIT)
    inverse = torch.where(highest > 0, torch.div(limit, highest), torch.zeros_like(highest))
    return _round(x * inverse), torch.div(highest, limit)


def int8_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: context [batch, tokens, heads, size] and no weights.

    `query`, `key`, `value`: float32 [batch, heads, tokens, size]. `attention_mask`: bool
    [batch, 1, tokens, tokens], true where a key takes part; None: all do.
    """
    with without_autocast(query):
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        if attention_mask is not None:  # padding must not widen the range of a channel
            value = value.masked_fill(~attention_mask[:, :, :1].transpose(-1, -2), 0.0)
        q, q_step = symmetric_integers(query, dim=-1)
        k, k_step = symmetric_integers(key, dim=-1)
        v, v_step = symmetric_integers(value, dim=-2)
        scores = torch.matmul(q, k.transpose(-1, -2)) * k_step.transpose(-1, -2)
        scores = scores * (q_step * (scaling * math.log2(math.e)))
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, -math.inf)
        highest = scores.detach().amax(dim=-1, keepdim=True)
        weights = _round(WEIGHT_LIMIT * torch.exp2(scores - highest))
        total = weights.sum(dim=-1, keepdim=True)
        weights = F.dropout(weights, dropout, module.training)
        context = torch.matmul(weights, v) * v_step / total
        return context.transpose(1, 2).contiguous(), None


def use_int8_attention(model: Any) -> None:
    """Send every self-attention of a transformers `model` through `int8_attention`, in place."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, int8_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
