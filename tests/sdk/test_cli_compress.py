"""`edgebert compress`: a checkpoint that loads, a plan that does not train, errors that say what next."""

import csv
import json
from pathlib import Path

import pytest

from edgebert import errors
from edgebert.cli.dispatch import run
from edgebert.compress_estimate import pruning_steps
from edgebert.compress_plan import parse_memory
from edgebert.errors import UsageError
from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.recipe import PruneStage, Training
from tests.compress.conftest import precision_in_use
from tests.factories import make_checkpoint, task_sentences

RECIPE = """
name: tiny
stages:
  - kind: drop-layers
    drop: [0]
    training: {epochs: 1, learning_rate: 1.0e-3, batch_size: 16}
  - kind: prune
    sparsity: 0.75
    steps: 3
    gradients: 8
    gradient_batch_size: 4
    training: {epochs: 2, learning_rate: 1.0e-3, batch_size: 16}
  - kind: quantize
    training: {epochs: 1, learning_rate: 3.0e-4, batch_size: 16}
"""
THEIRS = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0, end_epoch: 1}
  - !SetLearningRateModifier {start_epoch: 0, learning_rate: 1e-3}
  - !GMPruningModifier
    params: ['re:bert.encoder.layer.*.intermediate.dense.weight']
    init_sparsity: 0.5
    final_sparsity: 0.5
    start_epoch: 0
    end_epoch: 1
    update_frequency: 0.1
    mask_type: [1, 4]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compress")
    make_checkpoint(folder / "model", layers=2)
    for name, count, seed in (("train", 64, 0), ("eval", 32, 1)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(task_sentences(count, seed))
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "theirs.yaml").write_text(THEIRS)
    return folder


def args(files: Path, out: Path, *more: str, recipe: str = "tiny.yaml") -> list[str]:
    path = files / recipe
    return [
        "compress", "--model", str(files / "model"), "--recipe", str(path) if path.exists() else recipe,
        "--train", str(files / "train.csv"), "--eval", str(files / "eval.csv"), "--out", str(out),
        "--work", str(files / "work"), "--threads", "1", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_output_loads_with_transformers_and_keeps_its_zeros(files, tmp_path, capsys):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out = tmp_path / "deep" / "out"
    assert run(args(files, out, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["folder"], result["metric"], result["quantized"]) == (str(out), "accuracy", True)
    assert [stage["kind"] for stage in result["stages"]] == ["teacher", "drop-layers", "prune", "quantize"]
    model = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    assert len(model.bert.encoder.layer) == 1
    blocks = torch.cat([value.reshape(-1, 4) for value in prunable_parameters(model).values()])
    assert (blocks == 0).all(dim=1).float().mean() == pytest.approx(0.75, abs=0.01)
    assert AutoTokenizer.from_pretrained(out)("turn the light on")["input_ids"]
    record = json.loads((out / "compression.json").read_text())
    assert record["layers_kept"] == [1]
    assert len(record["stages"]) == 3
    report = json.loads((out / "report.json").read_text())
    pruned = report["stages"][2]
    assert pruned["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert len(pruned["sparsity_curve"]) == 3
    assert pruned["loss_curve"]
    assert "<svg" in (out / "report.html").read_text()
    # the same command again: refused, then allowed, the same bytes from the kept stages
    before = (out / "model.safetensors").read_bytes()
    assert run(args(files, out)) == errors.EXIT_OUTPUT
    assert run(args(files, out, "--force")) == 0
    assert (out / "model.safetensors").read_bytes() == before
    assert not [path for path in out.parent.iterdir() if path != out]


@pytest.mark.slow
def test_a_sparseml_recipe_runs_and_says_what_it_took(files, tmp_path, capsys):
    import torch
    from transformers import AutoModelForSequenceClassification

    assert run(args(files, tmp_path / "out", recipe="theirs.yaml")) == 0
    assert "note: batch size is no part of a SparseML recipe" in capsys.readouterr().err
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for layer in model.bert.encoder.layer:
        assert (layer.intermediate.dense.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
        assert (layer.output.dense.weight == 0).float().mean() < 0.01


def test_a_dry_run_plans_and_writes_nothing(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(args(files, out, "--dry-run", "--json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert (plan["rows"], plan["evaluation_rows"], plan["labels"]) == (64, 32, 3)
    drop, prune, quantize = plan["stages"]
    assert [stage["steps"] for stage in plan["stages"]] == [4, 8, 4]
    assert [stage["layers"] for stage in plan["stages"]] == [1, 1, 1]
    # Zhu & Gupta: 30 %, then 7/8 of the way, then 75 %, over 60 % of the 8 steps
    assert [(point["step"], point["sparsity"]) for point in prune["pruning"]] == [
        (0, 0.3), (2, 0.69375), (4, 0.75),
    ]  # fmt: skip
    assert not drop["pruning"] and not quantize["pruning"]
    assert all(stage["seconds"] > 0 and stage["memory_bytes"] > 0 for stage in plan["stages"])
    assert any("estimates" in note for note in plan["notes"])
    assert run(args(files, out, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "prune 75% 4-block (obert): 2 epochs, 8 steps, 1 layer, " in printed
    assert "1 pass over the gradients, 1 shard, " in printed
    assert "step 2, epoch 0.5: 69.4% zeros" in printed


def test_steps_are_timed_in_the_precision_of_their_stage(files, tmp_path, capsys, monkeypatch):
    import torch
    from transformers import BertForSequenceClassification

    used = set()
    forward = BertForSequenceClassification.forward

    def spy(self, *given, **inputs):
        used.add((self.training, precision_in_use()))
        return forward(self, *given, **inputs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", spy)
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(
        "stages:\n- {kind: prune, training: {epochs: 1, matmul_precision: bfloat16}}\n"
        "- {kind: quantize, training: {epochs: 1, matmul_precision: medium}}\n"
    )
    assert run(args(files, tmp_path / "out", "--dry-run", recipe=str(mixed))) == 0
    assert {precision for training, precision in used if training} == {"bfloat16", "medium"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_pruning_steps_over_epochs():
    stage = PruneStage(
        sparsity=0.9, initial_sparsity=0.7, steps=7, pruning_start=2 / 30, pruning_share=26 / 30,
        training=Training(epochs=30),
    )  # fmt: skip
    points = pruning_steps(stage, 300, 10)
    assert [point.epoch for point in points] == [2, 6, 10, 14, 18, 22, 26]
    assert [round(point.sparsity, 3) for point in points] == [0.7, 0.784, 0.841, 0.875, 0.893, 0.899, 0.9]


@pytest.mark.parametrize(
    ("stage", "code", "words"),
    [
        ("{kind: prune, sparcity: 0.8}", errors.EXIT_RECIPE, ["line 2", "'sparcity'", "sparsity"]),
        ("{kind: prune, sparsity: 1.0}", errors.EXIT_RECIPE, ["line 2", "[0, 1)"]),
        ("{kind: prune, tensors: ['*.nothing']}", errors.EXIT_RECIPE, ["'*.nothing'", "matches none"]),
        ("{kind: prune, pattern: 32-block}", 0, []),
        ("{kind: drop-layers, keep: [0, 7]}", errors.EXIT_RECIPE, ["layer 7", "2 layers"]),
        (
            "{kind: train, training: {frozen: ['*.nothing']}}",
            errors.EXIT_RECIPE,
            ["'*.nothing'", "matches none"],
        ),
        ("{kind: train, training: {frozen: ['*']}}", errors.EXIT_RECIPE, ["'frozen' matches all", "learn"]),
        ("{kind: train, training: {frozen: ['classifier.*', '*.layer.1.*']}}", 0, []),
        (
            "{kind: prune, training: {frozen: ['*.layer.0.*']}}",
            errors.EXIT_RECIPE,
            ["bert.encoder.layer.0.attention.self.query.weight", "which oBERT prunes"],
        ),
        ("{kind: prune, method: magnitude, training: {frozen: ['*.layer.0.*']}}", 0, []),
        (
            "{kind: prune, dampening: 1.0e-7, relative_dampening: 0.1}",
            errors.EXIT_RECIPE,
            ["line 2", "'dampening' and 'relative_dampening' say the same thing twice"],
        ),
    ],
)
def test_what_a_recipe_asks_of_the_model_is_checked_first(files, tmp_path, capsys, stage, code, words):
    (tmp_path / "r.yaml").write_text(f"stages:\n- {stage}\n")
    given = args(files, tmp_path / "out", "--dry-run", recipe=str(tmp_path / "r.yaml"))
    assert run(given) == code
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert message.count("\n") == (1 if code else 0)


def test_what_the_teacher_s_training_freezes_is_checked_where_one_is_made(files, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("fine_tune: {frozen: ['*.nothing']}\nstages:\n- {kind: train}\n")
    given = args(files, tmp_path / "out", "--dry-run", recipe=str(tmp_path / "r.yaml"))
    assert run([*given, "--new-head"]) == errors.EXIT_RECIPE
    assert "'frozen' has '*.nothing', which matches none" in capsys.readouterr().err
    assert run(given) == 0


def test_a_block_that_does_not_divide_a_row_is_named(files, tmp_path, capsys):
    make_checkpoint(tmp_path / "odd", hidden=20, heads=2, intermediate=44, layers=1)
    (tmp_path / "r.yaml").write_text("stages:\n- {kind: prune, pattern: 8-block}\n")
    given = args(files, tmp_path / "out", "--dry-run", recipe=str(tmp_path / "r.yaml"))
    given[given.index("--model") + 1] = str(tmp_path / "odd")
    assert run(given) == errors.EXIT_MODEL
    message = capsys.readouterr().err
    assert "rows of 20" in message and "8" in message


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--memory", "lots"], errors.EXIT_USAGE, "--memory is 'lots'"),
        (["--memory", "1KB"], errors.EXIT_USAGE, "1MiB or more"),
        (["--memory", "1MiB", "--dry-run"], errors.EXIT_TRAINING, "too small"),
        (["--threads", "0"], errors.EXIT_USAGE, "--threads is 0"),
        (["--seed", "-1"], errors.EXIT_USAGE, "--seed is -1"),
        (["--max-length", "4096"], errors.EXIT_USAGE, "at most 64 tokens"),
        (["--task", "question-answering"], errors.EXIT_MODEL, "question-answering"),
        (["--eval", "nowhere.csv"], errors.EXIT_DATA, "nowhere.csv"),
        (["--recipe", "nowhere"], errors.EXIT_RECIPE, "no recipe 'nowhere'"),
        (["--out", "{files}/train.csv/out"], errors.EXIT_OUTPUT, "cannot write into"),
        (["--model", "{files}"], errors.EXIT_MODEL, "config"),
    ],
)
def test_wrong_options_are_one_line_before_any_training(files, tmp_path, capsys, more, code, words):
    given = args(files, tmp_path / "out", *(word.format(files=files) for word in more))
    assert run(given) == code
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 << 30), ("500 MB", 500_000_000), ("1048576", 1 << 20), ("1.5gib", 3 << 29)]
)
def test_sizes(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "8 XiB", "1e9", "9" * 40])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError):
        parse_memory(text)
