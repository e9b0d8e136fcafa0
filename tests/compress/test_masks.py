"""Ranking against a plain sort, magnitude, and the choice of tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgebert_compress import magnitude
from edgebert_compress.errors import ModelError, TrainingError
from edgebert_compress.masks import check_block, full_masks, masks_from_scores, sparsity


def by_stable_sort(scores: dict[str, torch.Tensor], target: float) -> dict[str, np.ndarray]:
    ranked = np.concatenate([value.numpy() for value in scores.values()])
    count = max(round(target * len(ranked)), int(np.isneginf(ranked).sum()))
    keep = np.ones(len(ranked), bool)
    keep[np.argsort(ranked, kind="stable")[:count]] = False
    ends = np.cumsum([len(value) for value in scores.values()])
    return dict(zip(scores, np.split(keep, ends[:-1]), strict=True))


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.0, 1.0, 2.5, np.inf]), min_size=1, max_size=12),
        min_size=1,
        max_size=4,
    ),
    target=st.floats(0, 1),
    block=st.sampled_from([1, 2, 4]),
    ranking=st.sampled_from(["global", "tensor"]),
)
def test_ranking_is_a_stable_sort_with_ties(rows, target, block, ranking):
    scores = {str(i): torch.tensor(row, dtype=torch.float32) for i, row in enumerate(rows)}
    masks = {}
    for name, score in scores.items():
        masks[name] = ~torch.isneginf(score).repeat_interleave(block).reshape(1, -1)
    new = masks_from_scores(scores, masks, target, ranking)
    if ranking == "global":
        wanted = by_stable_sort(scores, target)
    else:
        wanted = {name: by_stable_sort({name: score}, target)[name] for name, score in scores.items()}
    for name in scores:
        np.testing.assert_array_equal(new[name].numpy()[0], wanted[name].repeat(block))


def test_scores_that_are_not_numbers_name_their_tensor():
    scores = {"a": torch.zeros(4), "b": torch.tensor([0.0, torch.nan, 0, 0])}
    masks = {name: torch.ones(4, dtype=torch.bool) for name in scores}
    with pytest.raises(TrainingError, match="saliency of b is not a number"):
        masks_from_scores(scores, masks, 0.5)


@pytest.mark.parametrize("ranking", ["global", "tensor"])
def test_magnitude_ranks_over_all_or_in_each(ranking):
    parameters = {
        "small": torch.arange(1.0, 9).reshape(2, 4),
        "large": 10 * torch.arange(1.0, 9).reshape(2, 4),
    }
    new = magnitude.prune(parameters, full_masks(parameters), 4, 0.5, ranking)
    wanted = {"global": (0, 8), "tensor": (4, 4)}[ranking]
    assert (int(new["small"].sum()), int(new["large"].sum())) == wanted
    assert sparsity(new) == 0.5


def test_magnitude_keeps_single_zeros_inside_kept_blocks():
    parameters = {"w": nn.Parameter(torch.arange(1.0, 17).reshape(2, 8))}
    masks = full_masks(parameters)
    masks["w"][1, 7] = False
    new = magnitude.prune(parameters, masks, 4, 0.25)
    assert not new["w"][1, 7]
    assert not new["w"][0, :4].any()
    assert int(new["w"].sum()) == 11


@pytest.mark.parametrize(("block", "message"), [(4, "rows of 6 weights"), (0, "blocks of 0 weights")])
def test_bad_blocks(block, message):
    with pytest.raises(ModelError, match=message):
        check_block("w", torch.ones(4, 6), block)
