"""Parameters that do not learn: which ones, for how long, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgebert_compress.checkpoint import load
from edgebert_compress.data import silent
from edgebert_compress.errors import RecipeError
from edgebert_compress.freezing import frozen, frozen_names
from edgebert_compress.recipe import Distillation, PruneStage, QuantizeStage, Training, TrainStage
from edgebert_compress.stages import run_stage
from edgebert_compress.training_run import optimizer
from tests.compress.conftest import tokenized
from tests.factories import make_checkpoint

EMBEDDINGS = ("*.embeddings.word_embeddings.weight", "*.embeddings.LayerNorm.*")
ALONE = Distillation(hardness=0.0)


def stage_of(kind: str, patterns: tuple[str, ...]) -> TrainStage | PruneStage | QuantizeStage:
    training = Training(epochs=1, batch_size=8, frozen=patterns)
    if kind == "train":
        return TrainStage(training=training, distillation=ALONE)
    if kind == "quantize":
        return QuantizeStage(training=training, distillation=ALONE)
    return PruneStage(
        method="obert" if kind == "obert" else "magnitude", pattern="unstructured", gradients=4, steps=2,
        training=training, distillation=ALONE,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["train", "obert", "magnitude"])
def test_only_the_frozen_parameters_stay(tmp_path, kind):
    source = make_checkpoint(tmp_path / "m", layers=1, hidden=40)
    run_stage(source, tmp_path / "out", stage_of(kind, EMBEDDINGS), tokenized(source, 32, 0), None, 0, silent)
    before = dict(load(source).model.named_parameters())
    after = dict(load(tmp_path / "out").model.named_parameters())
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    stem = "bert.embeddings."
    asked = {stem + name for name in ("word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")}
    # A row of the table that no batch uses would stay in any case; the others must move.
    assert still == asked


def test_without_patterns_the_same_parameters_learn(tmp_path):
    source = make_checkpoint(tmp_path / "m", layers=1, hidden=40)
    stage = stage_of("train", ())
    run_stage(source, tmp_path / "out", stage, tokenized(source, 32, 0), None, 0, silent)
    before, after = load(source).model, load(tmp_path / "out").model
    for name, value in before.named_parameters():
        assert not torch.equal(value, after.get_parameter(name)), name


def test_what_was_frozen_before_stays_frozen_after(tmp_path):
    model = load(make_checkpoint(tmp_path / "m", layers=1, hidden=40)).model
    model.classifier.bias.requires_grad_(False)
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    with frozen(model, ("classifier.*", "*.query.*")):
        now = {name for name, value in model.named_parameters() if value.requires_grad}
        assert learning - now == {
            "classifier.weight",
            "bert.encoder.layer.0.attention.self.query.weight",
            "bert.encoder.layer.0.attention.self.query.bias",
        }
        trained = {
            id(value) for group in optimizer(model, Training()).param_groups for value in group["params"]
        }
        assert trained == {id(value) for name, value in model.named_parameters() if name in now}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == learning


@pytest.mark.parametrize(
    ("kind", "patterns", "words"),
    [
        ("train", ("*.embeddings.*", "*.no_such.weight"), ["no_such", "matches none"]),
        ("train", ("*",), ["all", "nothing would learn"]),
        ("quantize", ("bert.embeddings",), ["'bert.embeddings'", "matches none"]),
        ("obert", ("*.query.weight",), ["layer.0.attention.self.query.weight", "oBERT prunes"]),
    ],
)
def test_bad_patterns_are_refused_before_any_training(tmp_path, kind, patterns, words):
    source = make_checkpoint(tmp_path / "m", layers=1, hidden=40)
    said = []

    def progress(*args, **figures):
        said.append(args)

    with pytest.raises(RecipeError) as caught:
        run_stage(
            source, tmp_path / "out", stage_of(kind, patterns), tokenized(source, 16, 0), None, 0, progress
        )
    assert all(word in str(caught.value) for word in words), caught.value
    assert not said
    assert not (tmp_path / "out").exists()


NAMES = ["a.x.weight", "a.x.bias", "a.y.weight", "b.y.bias"]


@given(st.lists(st.sampled_from([*NAMES, "*.x.*", "b.*", "c*", "*.w?ight"]), max_size=3))
def test_names_by_pattern_against_python_s_own(patterns):
    wanted = {
        "*.x.*": {"a.x.weight", "a.x.bias"},
        "b.*": {"b.y.bias"},
        "c*": set(),
        "*.w?ight": {"a.x.weight", "a.y.weight"},
    }
    sets = [wanted.get(pattern, {pattern}) for pattern in patterns]
    expected = set().union(*sets)
    if set() in sets or len(expected) == len(NAMES):
        with pytest.raises(RecipeError):
            frozen_names(NAMES, patterns)
    else:
        assert frozen_names(NAMES, patterns) == expected
