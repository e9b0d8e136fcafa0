"""Which parameters SparseML's recipes freeze."""

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import Located
from edgebert_compress.sparseml.document import Modifier
from edgebert_compress.sparseml.fields import Fields
from edgebert_compress.sparseml.frozen import frozen_patterns
from tests.compress.sparseml_recipes import RANGE, lines, rates_over, read


def freezing(settings: str, more: str = "") -> str:
    return f"modifiers:\n{RANGE}  - !TrainableParamsModifier {{{settings}}}\n{more}"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("[bert.embeddings.word_embeddings.weight]", ("bert.embeddings.word_embeddings.weight",)),
        ("['re:bert.embeddings.*']", ("bert?embeddings*",)),
        ("['re:.*LayerNorm[.]?']", None),
        (r"['re:bert\.encoder\.layer\.(0|1)\..*']", ("bert.encoder.layer.0.*", "bert.encoder.layer.1.*")),
        ("['re:.*[.]bias$']", None),
        (r"['re:.*\.bias$']", ("*.bias",)),
        ("['re:.*(a|b).x', plain]", ("*a?x*", "*b?x*", "plain")),
        (r"['re:layer.\d+.x']", ("layer?[0-9]?x*", "layer?[0-9][0-9]?x*")),
        ("['re:(a|b']", None),
        ("['re:a{2}']", None),
        ("['re:(ab)+']", None),
        ("__ALL__", None),
        ("[]", None),
    ],
)
def test_frozen_parameters(params, expected):
    text = freezing(f"params: {params}, trainable: False")
    if expected is None:
        with pytest.raises(RecipeError, match=r"^theirs.yaml, line 3: TrainableParamsModifier: 'params"):
            read(text)
        return
    (stage,) = read(text).stages
    assert stage.training.frozen == expected


PIECES = st.sampled_from([".*", ".", "a", "b", r"\.", "(a|b)", "[ab]", r"\d", r"\d+", ".+", "$"])


@given(st.lists(PIECES, min_size=1, max_size=5).map("".join), st.text(alphabet="ab.1", max_size=6))
def test_patterns_match_what_their_expressions_match(expression, name):
    modifier = Modifier(
        "TrainableParamsModifier",
        1,
        {"params": Located(f"re:{expression}", 1), "trainable": Located(False, 1)},
    )
    try:
        patterns = frozen_patterns(Fields(modifier, "theirs.yaml"), ())
    except RecipeError:
        return
    ours = any(fnmatchcase(name, pattern) for pattern in patterns)
    assert ours == (re.match(expression, name) is not None)


def test_weights_freeze_for_the_epochs_that_are_asked_for():
    text = freezing("params: [a.weight], trainable: False, end_epoch: 4", lines((0, 10, 1e-4, 0)))
    text += "  - !TrainableParamsModifier {params: ['re:.*bias'], trainable: False, start_epoch: 2}\n"
    stages = read(text).stages
    assert [(stage.training.epochs, stage.training.frozen) for stage in stages] == [
        (2, ("a.weight",)),
        (2, ("a.weight", "*bias*")),
        (6, ("*bias*",)),
    ]
    assert rates_over(read(text), 10) == pytest.approx(
        [1e-4 * (1 - step / 100) for step in range(100)], rel=1e-3
    )
    assert read(freezing("params: [a], trainable: True")).stages[0].training.frozen == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            freezing(
                "params: [a], trainable: False",
                "  - !TrainableParamsModifier {params: [b], trainable: True}\n",
            ),
            ["line 4", "trainable: True", "next to"],
        ),
        (
            freezing(
                "params: ['re:bert.encoder.layer.3.*'], trainable: False",
                "  - !LayerPruningModifier {layers: [bert.encoder.layer.1]}\n",
            ),
            ["line 3", "by number while layers are dropped"],
        ),
        (
            freezing(
                "params: [a], trainable: False, end_epoch: 3",
                "  - !GMPruningModifier {params: __ALL_PRUNABLE__, init_sparsity: 0.1, final_sparsity: 0.5, "
                "start_epoch: 1, end_epoch: 5, update_frequency: 1}\n",
            ),
            ["line 4", "goes on while another"],
        ),
    ],
)  # fmt: skip
def test_freezing_without_an_equivalent(text, words):
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert all(word in str(caught.value) for word in words), caught.value
