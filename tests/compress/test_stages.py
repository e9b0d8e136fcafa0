"""Stages from folder to folder: what they write, what stays zero, and what an interruption leaves."""

import errno
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification

from edgebert_compress.checkpoint import load
from edgebert_compress.data import silent
from edgebert_compress.errors import CheckpointError, ModelError, RecipeError, TrainingError
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    FineTuneStage,
    PruneStage,
    QuantizeStage,
    Training,
    recipe_from_dict,
)
from edgebert_compress.stages import run_stage
from edgebert_compress.teacher import TeacherLogits
from edgebert_compress.trainer import fine_tune, predict_logits
from tests.compress.conftest import tokenized
from tests.factories import ARCHITECTURES, LABELS, make_checkpoint

SHORT = Training(epochs=1, learning_rate=1e-3)
PRUNE = PruneStage(sparsity=0.6, initial_sparsity=0.2, steps=3, gradients=16, training=SHORT)


def encoder_weights(folder):
    names = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
    return {
        name: value
        for name, value in load_file(folder / "model.safetensors").items()
        if ".layer." in name and name.removesuffix(".weight").endswith(names) and name.endswith(".weight")
    }


def record_of(folder):
    return json.loads((folder / "compression.json").read_text())


def test_the_whole_road(task, tmp_path):
    """Drop, prune, quantise: zeros stay, the record tells it all, plain transformers agrees."""
    folders = [task.teacher]
    stages = [DropLayersStage(layers=2, training=SHORT), PRUNE, QuantizeStage(training=SHORT)]
    for index, stage in enumerate(stages):
        folders.append(tmp_path / str(index))
        facts = run_stage(*folders[-2:], stage, task.train, TeacherLogits(task.teacher_logits), 0, silent)
        assert facts.kind == stage.kind
        assert facts.distilled
        assert facts.steps == 19
        json.dumps(facts.as_dict(), allow_nan=False)
    pruned, final = folders[2], folders[3]
    record = record_of(final)
    assert recipe_from_dict(record["recipe"]).stages == tuple(stages)
    assert [stage["kind"] for stage in record["stages"]] == ["drop-layers", "prune", "quantize"]
    assert record["layers_kept"] == [0, 2]
    assert json.loads((final / "config.json").read_text())["num_hidden_layers"] == 2
    before, after = encoder_weights(pruned), encoder_weights(final)
    assert len(after) == 12
    assert set(record["sparsity"]) == set(after)
    size = sum(value.size for value in before.values())
    assert sum(int((value == 0).sum()) for value in before.values()) == 4 * round(0.6 * size / 4)
    for name, value in after.items():
        assert not value[before[name] == 0].any(), name
        assert record["sparsity"][name]["zeros"] == int((value == 0).sum())
    assert (final / "tokenizer.json").read_bytes() == (task.teacher / "tokenizer.json").read_bytes()
    assert task.accuracy(final) > task.accuracy(task.teacher) - 0.1
    assert not list(tmp_path.glob(".*"))


def test_quantised_files_hold_the_same_numbers(task, tmp_path):
    run_stage(task.teacher, tmp_path / "q", QuantizeStage(training=SHORT), task.train, None, 0, silent)
    stored, plain = (
        load_file(tmp_path / "q/quantized.safetensors"),
        load_file(tmp_path / "q/model.safetensors"),
    )
    quantization = record_of(tmp_path / "q")["quantization"]
    assert {"bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight",
            "bert.embeddings.token_type_embeddings.weight", "bert.pooler.dense.weight",
            "classifier.weight"} < set(quantization["tensors"])  # fmt: skip
    assert len(quantization["tensors"]) == 3 * 6 + 5
    assert set(stored) == {*quantization["tensors"], *(f"{name}.scale" for name in quantization["tensors"])}
    for name in quantization["tensors"]:
        values, scale = stored[name], stored[f"{name}.scale"]
        assert (values.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, values.shape[:1])
        assert values.min() >= -127
        assert (scale > 0).all()
        np.testing.assert_array_equal(plain[name], values.astype(np.float32) * scale[:, None])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "q", dtype=torch.float32)
    row = torch.tensor([task.held_out.input_ids[0]])
    with torch.inference_mode():
        logits = model(input_ids=row).logits.numpy()[0]
    simulated = predict_logits(tmp_path / "q", task.held_out)[0]
    assert np.abs(logits - simulated).max() < 0.1 * np.abs(logits).max()
    assert (logits != simulated).any()


def test_post_training_quantisation_trains_nothing(task, tmp_path):
    facts = run_stage(
        task.teacher, tmp_path / "q", QuantizeStage(training=Training(epochs=0)), task.train, None, 0, silent
    )
    assert (facts.steps, facts.loss_curve, facts.distilled) == (0, (), False)
    old, new = load_file(task.teacher / "model.safetensors"), load_file(tmp_path / "q/model.safetensors")
    for name, value in old.items():
        step = np.abs(value).max(axis=-1, keepdims=True) / 127
        assert (np.abs(new[name] - value) <= 0.5001 * step).all()
    assert task.accuracy(tmp_path / "q") >= task.accuracy(task.teacher) - 0.02


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_every_stage(architecture, tmp_path):
    raw = make_checkpoint(tmp_path / "raw", architecture, layers=3, embedding=16)
    data = tokenized(raw, 40, 0)
    types = tuple((1,) * len(row) for row in data.input_ids)
    data = type(data)(data.input_ids, types, data.labels, data.pad_token_id)
    folder = raw
    for index, stage in enumerate(
        [
            DropLayersStage(keep=(0, 2), training=SHORT),
            PruneStage(pattern="unstructured", sparsity=0.5, steps=2, gradients=4, training=SHORT),
            QuantizeStage(training=SHORT),
        ]
    ):
        run_stage(folder, tmp_path / str(index), stage, data, None, 0, silent)
        folder = tmp_path / str(index)
    loaded = load(folder)
    config = loaded.model.config
    assert config.num_hidden_layers == 2
    assert loaded.labels == LABELS
    tensors = record_of(folder)["quantization"]["tensors"]
    tables = 2 if architecture == "distilbert" else 3
    assert len(tensors) == 2 * 6 + tables + 2 + (architecture == "electra")
    logits = predict_logits(folder, data)
    assert np.isfinite(logits).all()
    untyped = predict_logits(folder, type(data)(data.input_ids, None, data.labels, data.pad_token_id))
    assert np.array_equal(logits, untyped) == (architecture in ("distilbert", "roberta"))


def test_dropping_layers_keeps_and_renames_the_masks(task, tmp_path):
    run_stage(task.teacher, tmp_path / "p", PRUNE, task.train, None, 0, silent)
    run_stage(
        tmp_path / "p",
        tmp_path / "d",
        DropLayersStage(keep=(0, 2), training=SHORT),
        task.train,
        None,
        0,
        silent,
    )
    before, after = encoder_weights(tmp_path / "p"), encoder_weights(tmp_path / "d")
    assert set(record_of(tmp_path / "d")["sparsity"]) == set(after)
    for name, value in after.items():
        old = before[name.replace(".layer.1.", ".layer.2.")]
        np.testing.assert_array_equal(value == 0, old == 0)


def test_same_seed_same_bytes_other_seed_other_bytes(task, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        teacher = TeacherLogits(task.teacher_logits)
        run_stage(task.teacher, tmp_path / name, PRUNE, task.train, teacher, seed, silent)
    first, second, third = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "abc")
    assert first == second
    assert first["model.safetensors"] != third["model.safetensors"]


def test_magnitude_one_shot_prunes_the_smallest(task, tmp_path):
    stage = PruneStage(
        method="magnitude", pattern="unstructured", sparsity=0.5, initial_sparsity=0, steps=1,
        training=Training(epochs=0),
    )  # fmt: skip
    run_stage(task.teacher, tmp_path / "m", stage, task.train, None, 0, silent)
    old, new = encoder_weights(task.teacher), encoder_weights(tmp_path / "m")
    flat = np.abs(np.concatenate([value.reshape(-1) for value in old.values()]))
    limit = np.sort(flat)[flat.size // 2]
    for name, value in old.items():
        np.testing.assert_array_equal(new[name], np.where(np.abs(value) >= limit, value, 0))


@pytest.mark.parametrize("phase", ["gradients", "prune"])
def test_an_interruption_leaves_nothing(task, tmp_path, phase):
    def interrupt(name, done, total, **figures):
        assert 0 < done <= total
        if name == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(task.teacher, tmp_path / "out", PRUNE, task.train, None, 0, interrupt)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        fine_tune(
            task.teacher, tmp_path / "out", task.train, LABELS, FineTuneStage(), 0,
            lambda *args, **figures: (_ for _ in ()).throw(KeyboardInterrupt),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_of_a_killed_run_does_not_matter(task, tmp_path):
    (tmp_path / ".q.partial").mkdir()
    (tmp_path / ".q.partial/junk").write_text("half")
    stage = QuantizeStage(training=Training(epochs=0))
    run_stage(task.teacher, tmp_path / "q", stage, task.train, None, 0, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    assert not (tmp_path / "q/junk").exists()


def test_a_full_disk_is_an_os_error_and_leaves_nothing(task, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        run_stage(
            task.teacher,
            tmp_path / "q",
            QuantizeStage(training=Training(epochs=0)),
            task.train,
            None,
            0,
            silent,
        )
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_at_once(task, tmp_path):
    folder = shutil.copytree(task.teacher, tmp_path / "nan")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.weight"][0, 0] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"loss at step 1 of .* nan"):
        run_stage(folder, tmp_path / "out", DropLayersStage(keep=(0, 1)), task.train, None, 0, silent)
    with pytest.raises(TrainingError, match=r"gradient mini-batch 1 of .* nan"):
        run_stage(folder, tmp_path / "out", PRUNE, task.train, None, 0, silent)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_named(task, tmp_path):
    def attempt(error, words, checkpoint=task.teacher, stage=PRUNE, data=task.train, logits=None, out="out"):
        teacher = None if logits is None else TeacherLogits(logits)
        with pytest.raises(error, match=words) as caught:
            run_stage(checkpoint, tmp_path / out, stage, data, teacher, 0, silent)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    empty = type(task.train)((), (), (), 0)
    attempt(TrainingError, "0 examples", data=empty)
    wrong = type(task.train)(task.train.input_ids, None, (7,) * len(task.train), 0)
    attempt(TrainingError, r"label 7 is outside 0\.\.2", data=wrong)
    attempt(TrainingError, "teacher logits have shape", logits=task.teacher_logits[:5])
    attempt(TrainingError, "not finite", logits=task.teacher_logits * np.float32(np.inf))
    attempt(RecipeError, "layer 7", stage=DropLayersStage(keep=(0, 7)))
    attempt(RecipeError, "only 3", stage=DropLayersStage(layers=4))
    attempt(CheckpointError, r"no config\.json", checkpoint=tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    attempt(CheckpointError, "exists already", out="full")
    assert (tmp_path / "full/file").read_text() == "mine"


def test_a_quantised_checkpoint_takes_no_more_stages(task, tmp_path):
    stage = QuantizeStage(training=Training(epochs=0))
    run_stage(task.teacher, tmp_path / "q", stage, task.train, None, 0, silent)
    with pytest.raises(CheckpointError, match="quantised already"):
        run_stage(tmp_path / "q", tmp_path / "out", PRUNE, task.train, None, 0, silent)


def test_hardness_one_ignores_the_labels(task, tmp_path):
    stage = DropLayersStage(layers=2, training=SHORT, distillation=Distillation(hardness=1.0))
    shuffled = type(task.train)(
        task.train.input_ids, task.train.token_type_ids, task.train.labels[::-1], task.train.pad_token_id
    )
    for name, data in (("a", task.train), ("b", shuffled)):
        run_stage(task.teacher, tmp_path / name, stage, data, TeacherLogits(task.teacher_logits), 0, silent)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_unsupported_architectures_are_named(tmp_path, task):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text('{"model_type": "t5"}')
    shutil.copy(task.teacher / "model.safetensors", tmp_path / "m")
    with pytest.raises(ModelError, match="'t5'; supported: bert"):
        predict_logits(tmp_path / "m", task.held_out)
