"""Which layers stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert_compress.architecture import layer_list
from edgebert_compress.checkpoint import load
from edgebert_compress.errors import RecipeError
from edgebert_compress.layer_drop import drop_layers, layers_to_keep, spread
from edgebert_compress.recipe import DropLayersStage
from tests.factories import ARCHITECTURES, make_checkpoint


def test_published_and_other_depths():
    assert spread(12, 6) == (0, 2, 4, 6, 8, 11)
    assert spread(12, 3) == (0, 6, 11)
    assert spread(6, 3) == (0, 2, 5)
    assert spread(24, 6) == (0, 5, 9, 14, 18, 23)
    for depth, count in ((12, 8), (6, 4), (4, 3), (24, 16)):
        assert layers_to_keep(DropLayersStage(), depth) == spread(depth, count)
    assert layers_to_keep(DropLayersStage(layers="half"), 1) == (0,)
    assert layers_to_keep(DropLayersStage(layers="third"), 12) == spread(12, 4)
    assert layers_to_keep(DropLayersStage(keep=(1, 3)), 4) == (1, 3)
    assert layers_to_keep(DropLayersStage(drop=(1, 3)), 5) == (0, 2, 4)


@given(st.integers(1, 48).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_spread_keeps_the_first_and_the_last_and_spreads_evenly(pair):
    depth, count = pair
    kept = spread(depth, count)
    assert len(set(kept)) == count
    assert list(kept) == sorted(kept)
    assert kept[0] == 0
    assert count == 1 or kept[-1] == depth - 1
    if count > 1:
        even = [(depth - 1) * index / (count - 1) for index in range(count)]
        assert all(abs(a - b) < 1 for a, b in zip(kept, even, strict=True))


def test_too_deep_is_named():
    with pytest.raises(RecipeError, match="layer 9, but the model has 3"):
        layers_to_keep(DropLayersStage(keep=(0, 9)), 3)
    for drop in ((3,), (0, 1, 2)):
        with pytest.raises(RecipeError, match="but the model has 3 layers"):
            layers_to_keep(DropLayersStage(drop=drop), 3)
    with pytest.raises(RecipeError, match="only 3"):
        layers_to_keep(DropLayersStage(layers=4), 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kept_layers_stay_as_they_are(architecture, tmp_path):
    model = load(make_checkpoint(tmp_path / "m", architecture, layers=4)).model
    before = list(layer_list(model))
    drop_layers(model, (0, 2, 3))
    assert [id(layer) for layer in layer_list(model)] == [id(before[index]) for index in (0, 2, 3)]
    assert model.config.num_hidden_layers == 3
