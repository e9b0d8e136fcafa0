"""The quantize stage with static ranges, from recipe to checkpoint and back."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from edgebert_compress import quantize
from edgebert_compress.activation_ranges import FixedRange
from edgebert_compress.checkpoint import load
from edgebert_compress.data import silent
from edgebert_compress.errors import CheckpointError, RecipeError, TrainingError
from edgebert_compress.integration import save_compressed
from edgebert_compress.integration_run import segments
from edgebert_compress.recipe import (
    Distillation,
    PruneStage,
    QuantizeStage,
    Training,
    parse_recipe,
    recipe_from_dict,
    stage_as_dict,
)
from edgebert_compress.stages import run_stage
from edgebert_compress.teacher import TeacherModel
from edgebert_compress.trainer import model_logits, predict_logits

METHODS = ("min-max", "percentile", "mse", "learned")
ENDS = tuple(f".{end}.{part}" for end in ("input", "output") for part in ("scale", "zero_point"))
LAYER = "bert.encoder.layer.0.output.dense"
ON_LABELS = Distillation(hardness=0.0)


def static(method=None, epochs=0.0, examples=64):
    training = Training(epochs=epochs, learning_rate=1e-3)
    return QuantizeStage(
        training=training, distillation=ON_LABELS, activations="static", calibration=method,
        calibration_examples=examples,
    )  # fmt: skip


@pytest.fixture(scope="module")
def quantised(task, tmp_path_factory):
    """Post-training, by least squared error."""
    out = tmp_path_factory.mktemp("static") / "q"
    run_stage(task.teacher, out, static(), task.train, None, 0, silent)
    return out


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("method", METHODS)
def test_a_classifier_keeps_its_accuracy(task, tmp_path, method):
    stage = static(method, epochs=0.3 if method == "learned" else 0)
    run_stage(task.teacher, tmp_path / "q", stage, task.train, None, 0, silent)
    assert task.accuracy(tmp_path / "q") >= task.accuracy(task.teacher) - 0.02
    record = json.loads((tmp_path / "q/compression.json").read_text())["quantization"]
    assert record["activations"] == "int8-static-per-tensor-asymmetric"
    assert record["calibration"] == method
    assert record["attention"] == "float"


def test_the_file_holds_a_range_for_the_input_and_output_of_every_layer(quantised):
    stored = load_file(quantised / "quantized.safetensors")
    names = json.loads((quantised / "compression.json").read_text())["quantization"]["tensors"]
    layers = {name.removesuffix(".weight") for name in names if "embeddings" not in name}
    assert LAYER in layers and "classifier" in layers
    parts = {f"{layer}{end}" for layer in layers for end in ENDS}
    assert set(stored) == {*names, *(f"{name}.scale" for name in names), *parts}
    for name in parts:
        assert stored[name].shape == (1,)
        assert stored[name].dtype == (np.float32 if name.endswith("scale") else np.int8)
    self = "bert.encoder.layer.1.attention.self"
    for part in ("scale", "zero_point"):
        assert len({stored[f"{self}.{one}.input.{part}"][0] for one in ("query", "key", "value")}) == 1
    assert not any("range" in name for name in load_file(quantised / "model.safetensors"))


def test_a_loaded_checkpoint_is_the_simulated_model(task, quantised):
    """Every value that leaves a linear layer is a level of its range."""
    model = load(quantised).model
    stored = load_file(quantised / "quantized.safetensors")
    seen = []

    def check(name):
        def hook(module, arguments, out):
            steps = out / float(stored[f"{name}.output.scale"][0])
            zero = int(stored[f"{name}.output.zero_point"][0])
            seen.append(name)
            assert (steps - steps.round()).abs().max() < 1e-3
            assert steps.min() >= -128 - zero - 1e-3
            assert steps.max() <= 127 - zero + 1e-3

        return hook

    for name, layer in quantize.linear_layers(model).items():
        assert isinstance(layer.input_range, FixedRange)
        layer.register_forward_hook(check(name))
    got = model_logits(model, task.held_out)
    assert set(seen) == set(quantize.linear_layers(model))
    np.testing.assert_array_equal(got, predict_logits(quantised, task.held_out))


def test_masks_stay_and_learned_ranges_move(task, tmp_path):
    prune = PruneStage(
        method="magnitude", sparsity=0.5, steps=1, training=Training(epochs=0.1), distillation=ON_LABELS
    )
    run_stage(task.teacher, tmp_path / "pruned", prune, task.train, None, 0, silent)
    for method in ("mse", "learned"):
        out = tmp_path / method
        run_stage(tmp_path / "pruned", out, static(method, epochs=0.2), task.train, None, 0, silent)
        before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "pruned", out))
        sparsity = json.loads((out / "compression.json").read_text())["sparsity"]
        assert sparsity
        for name in sparsity:
            assert (before[name] == 0).any()
            assert not after[name][before[name] == 0].any()
    fixed, learned = (load_file(tmp_path / method / "quantized.safetensors") for method in ("mse", "learned"))
    scales = [name for name in fixed if name.endswith("put.scale")]
    assert sum(fixed[name][0] != learned[name][0] for name in scales) > len(scales) / 2


def test_trained_ranges_are_those_of_the_untrained_model_unless_learned(task, tmp_path, quantised):
    run_stage(task.teacher, tmp_path / "q", static("mse", epochs=0.1), task.train, None, 0, silent)
    before, after = (load_file(folder / "quantized.safetensors") for folder in (quantised, tmp_path / "q"))
    assert all(before[name] == after[name] for name in before if name.endswith(ENDS))
    assert not np.array_equal(before[f"{LAYER}.weight"], after[f"{LAYER}.weight"])


@pytest.mark.parametrize("method", ["percentile", "learned"])
def test_one_seed_gives_the_same_bytes(task, tmp_path, method):
    for name in ("a", "b"):
        stage = static(method, epochs=0.1)
        run_stage(task.teacher, tmp_path / name, stage, task.train, TeacherModel(task.teacher), 5, silent)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_dynamic_checkpoints_hold_no_ranges(task, tmp_path):
    stage = QuantizeStage(training=Training(epochs=0))
    run_stage(task.teacher, tmp_path / "q", stage, task.train, None, 0, silent)
    record = json.loads((tmp_path / "q/compression.json").read_text())["quantization"]
    assert record["activations"] == "int8-dynamic-per-token-asymmetric"
    assert record["attention"] == "int8-dynamic"
    assert "calibration" not in record
    assert not any(name.endswith(ENDS) for name in load_file(tmp_path / "q/quantized.safetensors"))


def edited(folder, out, change):
    shutil.copytree(folder, out)
    tensors = load_file(out / "quantized.safetensors")
    change(tensors)
    save_file(tensors, out / "quantized.safetensors")
    return out


def refused(folder, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("input.scale", None),
        ("output.zero_point", None),
        ("input.scale", np.array([0], np.float32)),
        ("input.scale", np.array([-1], np.float32)),
        ("input.scale", np.array([np.nan], np.float32)),
        ("output.scale", np.array([np.inf], np.float32)),
        ("output.scale", np.array([1e-39], np.float32)),
        ("output.scale", np.array([0.1], np.float64)),
        ("output.scale", np.array([0.1, 0.1], np.float32)),
        ("output.scale", np.array(0.1, np.float32)),
        ("input.zero_point", np.array([0], np.uint8)),
        ("input.zero_point", np.array([0, 0], np.int8)),
    ],
)
def test_damaged_ranges_are_refused_by_name(quantised, tmp_path, part, value):
    def change(tensors):
        if value is None:
            del tensors[f"{LAYER}.{part}"]
        else:
            tensors[f"{LAYER}.{part}"] = value

    refused(edited(quantised, tmp_path / "q", change), f"{LAYER}.{part}")


def test_ranges_and_the_record_must_agree(quantised, tmp_path):
    def record(folder, **changes):
        shutil.copytree(quantised, folder)
        path = folder / "compression.json"
        values = json.loads(path.read_text())
        values["quantization"] |= changes
        path.write_text(json.dumps(values))
        return folder

    refused(record(tmp_path / "a", activations="int8-dynamic-per-token-asymmetric"), "disagree about")
    refused(record(tmp_path / "b", activations="int4-static"), "int4-static.*this version knows")
    refused(edited(quantised, tmp_path / "c", lambda tensors: tensors.update(
        {"extra.input.scale": np.ones(1, np.float32)})), "extra.input.scale")  # fmt: skip


def test_too_few_examples_and_broken_weights_leave_nothing_behind(task, tmp_path):
    with pytest.raises(TrainingError, match="'calibration_examples'"):
        run_stage(task.teacher, tmp_path / "q", static(examples=601), task.train, None, 0, silent)
    broken = shutil.copytree(task.teacher, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights[f"{LAYER}.bias"][0] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=f"output of {LAYER} is not finite"):
        run_stage(broken, tmp_path / "q", static(), task.train, None, 0, silent)
    assert not (tmp_path / "q").exists()


def test_a_training_under_way_calibrates_nothing():
    with pytest.raises(RecipeError, match="activations: dynamic"):
        segments([static()], 10)


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (["activations: static", "calibration: median"], 4, ["'calibration'", "'mse'", "'median'"]),
        (["activations: fixed"], 3, ["'activations'", "'static'", "'fixed'"]),
        (["calibration: mse"], 2, ["'calibration'", "'activations: static'"]),
        (["activations: dynamic", "calibration_examples: 8"], 2, ["'calibration_examples'", "static"]),
        (["activations: static", "calibration_examples: 0"], 4, ["'calibration_examples'", "at least 1"]),
        (["activations: static", "attention: int8"], 2, ["'attention: int8'", "'attention: float'"]),
        (
            ["activations: static", "calibration: learned", "training: {epochs: 0}"],
            2,
            ["'calibration: learned'", "epochs"],
        ),
        (["activations: static", "calibrations: mse"], 4, ["'calibrations'", "'calibration'"]),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_line_and_key(lines, line, words):
    text = "stages:\n- kind: quantize\n" + "".join(f"  {entry}\n" for entry in lines)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "mine.yaml", "mine")
    message = str(caught.value)
    assert message.startswith(f"mine.yaml, line {line}: ")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_defaults_follow_the_kind_of_activations():
    dynamic, fixed = QuantizeStage(), QuantizeStage(activations="static")
    assert (dynamic.products, dynamic.method) == ("int8", None)
    assert (fixed.products, fixed.method, fixed.examples) == ("float", "mse", 256)
    assert "static" in fixed.title and "static" not in dynamic.title
    for stage in (dynamic, fixed, static("learned", epochs=1)):
        document = {"name": "x", "stages": [stage_as_dict(stage)]}
        assert recipe_from_dict(document).stages == (stage,)


def test_static_ranges_are_not_saved_as_dynamic(quantised, tmp_path):
    model = load(quantised).model
    with pytest.raises(CheckpointError, match="static activation ranges"):
        save_compressed(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ranges_need_no_gradient_once_fixed(quantised):
    model = load(quantised).model
    assert not [name for name, _ in model.named_parameters() if "growth" in name or "range" in name]
    assert all(torch.isfinite(value).all() for value in model.parameters())
