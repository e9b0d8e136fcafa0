"""Training, pruning and prediction for every task, with a live teacher; transfer from one task to another."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.checkpoint import load
from edgebert_compress.data import silent
from edgebert_compress.errors import ModelError, RecipeError, TrainingError
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    FineTuneStage,
    PruneStage,
    QuantizeStage,
    Training,
    TrainStage,
)
from edgebert_compress.stages import run_stage
from edgebert_compress.tasks import MASKED_LANGUAGE_MODEL, QUESTION_ANSWERING, TEXT_CLASSIFICATION, get_task
from edgebert_compress.teacher import TeacherModel, distiller
from edgebert_compress.trainer import answer_stream, fine_tune, predict
from tests.compress.task_models import TASKS, make_task_checkpoint, random_data
from tests.factories import LABELS

DATA = random_data(24, seed=1)
SHORT = Training(epochs=2, learning_rate=1e-3, batch_size=8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {task: make_task_checkpoint(root / task, task) for task in TASKS}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_learns(sources, tmp_path, name):
    config = FineTuneStage(epochs=30, learning_rate=3e-3, batch_size=8)
    labels = LABELS if name.endswith("classification") else ()
    facts = fine_tune(
        sources[name], tmp_path / "out", DATA, labels, config, 0, silent, task=get_task(name)
    )  # fmt: skip
    losses = [loss for _, loss in facts.loss_curve]
    # random tokens cannot be guessed, but the guesses can become humble
    share = 0.95 if name == "masked-language-model" else 0.7
    assert np.mean(losses[-5:]) < share * np.mean(losses[:5])
    assert not facts.new_head


@pytest.mark.parametrize("name", TASKS)
def test_predictions_are_those_of_each_row_alone(sources, name):
    task, model = get_task(name), load(sources[name], name).model
    found = predict(sources[name], task, DATA, batch_size=5)
    streamed = list(answer_stream(model, task, DATA, batch_size=7))
    assert len(found) == len(streamed) == len(DATA)
    for index, heads in enumerate(found):
        with torch.inference_mode():
            alone = task.logits(model(**task.collate(model, DATA, [index]).inputs))
        assert len(heads) == len(alone) == len(streamed[index])
        for head, other, oracle in zip(heads, streamed[index], alone, strict=True):
            assert head.dtype == np.float32
            assert head.shape == oracle[0].shape
            np.testing.assert_allclose(head, oracle[0].numpy(), atol=2e-4)
            np.testing.assert_allclose(other, oracle[0].numpy(), atol=2e-4)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_takes_every_stage(sources, tmp_path, name):
    soft = Distillation(hardness=0.7, hidden=0.2, relations=0.1)
    stages = [
        DropLayersStage(keep=(1,), training=SHORT, distillation=soft),
        PruneStage(pattern="8-block", sparsity=0.5, steps=2, gradients=4, training=SHORT, distillation=soft),
        TrainStage(training=SHORT, distillation=soft),
        QuantizeStage(training=SHORT, distillation=soft),
    ]
    folder, teacher = sources[name], TeacherModel(sources[name])
    values = []
    for number, stage in enumerate(stages):
        facts = run_stage(
            folder, tmp_path / str(number), stage, DATA, teacher, 0, silent, task=get_task(name),
            evaluate=lambda model: 0.5,
        )  # fmt: skip
        folder = tmp_path / str(number)
        values.append(facts)
    assert [len(facts.metric_curve) for facts in values] == [2, 4, 2, 2]
    assert all(facts.distilled for facts in values)
    assert values[-1].sparsity == pytest.approx(0.5, abs=0.01)
    record = json.loads((folder / "compression.json").read_text())
    assert record["task"] == name
    assert record["layers_kept"] == [1]
    assert [stage["kind"] for stage in record["stages"]] == ["drop-layers", "prune", "train", "quantize"]
    assert record["stages"][1]["metric_curve"] == [[step, 0.5] for step in (0, 3, 3, 6)]
    for _, heads in zip(range(3), predict(folder, get_task(name), DATA), strict=False):
        assert all(np.isfinite(head).all() for head in heads)


@pytest.mark.parametrize("name", TASKS)
def test_mixed_precision_learns_the_same(sources, tmp_path, name):
    soft = Distillation(hardness=0.5, hidden=0.2, relations=0.1)
    losses = []
    for precision in ("highest", "bfloat16"):
        training = replace(SHORT, matmul_precision=precision)
        stage = TrainStage(training=training, distillation=soft)
        facts = run_stage(
            sources[name], tmp_path / precision, stage, DATA, TeacherModel(sources[name]), 0, silent,
            task=get_task(name),
        )  # fmt: skip
        losses.append([loss for _, loss in facts.loss_curve])
        weights = load(tmp_path / precision, name).model.parameters()
        assert {weight.dtype for weight in weights} == {torch.float32}
    exact, mixed = losses
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("name", TASKS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(sources, name):
    task, student = get_task(name), load(sources[name], name).model
    settings = Distillation(hardness=1.0, hidden=1.0, relations=1.0)

    def collate(model):
        return task.collate(model, DATA, [0, 1, 2], torch.Generator().manual_seed(1))

    batch = collate(student)
    with distiller(task, settings, student, TeacherModel(sources[name]), len(DATA)) as loss:
        own = loss.loss(student(**batch.inputs), batch, [0, 1, 2], collate)
    assert own.item() == pytest.approx(0, abs=1e-6)


def test_padding_is_no_answer(sources, tmp_path):
    """The distillation of a question does not depend on how long its neighbours in the batch are."""
    student = load(sources["question-answering"], "question-answering").model
    teacher = make_task_checkpoint(tmp_path / "t", "question-answering", seed=7)
    lengths = [len(row) for row in DATA.input_ids]
    short, long = int(np.argmin(lengths)), int(np.argmax(lengths))

    def loss_of(indices):
        def collate(model):
            return QUESTION_ANSWERING.collate(model, DATA, indices)

        batch = collate(student)
        with distiller(
            QUESTION_ANSWERING, Distillation(1.0, 2.0), student, TeacherModel(teacher), len(DATA)
        ) as loss:
            return loss.loss(student(**batch.inputs), batch, indices, collate).item()

    assert loss_of([short, long]) == pytest.approx((loss_of([short]) + loss_of([long])) / 2, rel=1e-4)


def test_sparse_transfer_keeps_the_zeros_and_trains_a_new_head(sources, tmp_path):
    """Upstream: a masked language model is pruned; downstream: its encoder learns to classify."""
    prune = PruneStage(pattern="4-block", sparsity=0.7, steps=2, gradients=4, training=SHORT)
    run_stage(
        sources["masked-language-model"], tmp_path / "up", prune, DATA, None, 0, silent,
        task=MASKED_LANGUAGE_MODEL,
    )  # fmt: skip
    stage = TrainStage(new_head=True, training=SHORT)
    for name in "ab":
        facts = run_stage(tmp_path / "up", tmp_path / name, stage, DATA, None, 0, silent, labels=LABELS)
    assert facts.sparsity == pytest.approx(0.7, abs=0.01)
    up, down = (load_file(tmp_path / name / "model.safetensors") for name in ("up", "a"))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    pruned = list(prunable_parameters(load(tmp_path / "a").model))
    for name in pruned:
        assert torch.equal(up[name] == 0, down[name] == 0), name
        assert not torch.equal(up[name], down[name])
    record = json.loads((tmp_path / "a/compression.json").read_text())
    assert record["task"] == TEXT_CLASSIFICATION.name
    assert [stage["kind"] for stage in record["stages"]] == ["prune", "train"]
    with pytest.raises(Exception, match="masked-language-model"):
        run_stage(tmp_path / "up", tmp_path / "c", replace(stage, new_head=False), DATA, None, 0, silent)


def test_only_the_named_tensors_are_pruned(sources, tmp_path):
    source = sources["text-classification"]
    first = PruneStage(
        method="magnitude", sparsity=0.5, steps=1, tensors=("*.0.output.dense.weight",), training=SHORT
    )
    second = PruneStage(
        method="magnitude", pattern="unstructured", ranking="tensor", sparsity=0.6, steps=1,
        tensors=("*.query.weight", "*key*"), training=SHORT,
    )  # fmt: skip
    run_stage(source, tmp_path / "1", first, DATA, None, 0, silent)
    facts = run_stage(tmp_path / "1", tmp_path / "2", second, DATA, None, 0, silent)
    weights = load_file(tmp_path / "2/model.safetensors")
    record = json.loads((tmp_path / "2/compression.json").read_text())["sparsity"]
    for name in prunable_parameters(load(tmp_path / "2").model):
        share = float((weights[name] == 0).float().mean())
        if name.endswith((".query.weight", ".key.weight")):
            assert share == pytest.approx(0.6, abs=1e-3)
            assert record[name]["pattern"] == "unstructured"
        elif name.endswith("layer.0.output.dense.weight"):
            assert share == 0.5
            assert record[name]["pattern"] == "4-block"
        else:
            assert share == 0
            assert name not in record
    assert [round(share, 3) for _, share in facts.sparsity_curve] == [0.6]
    with pytest.raises(RecipeError, match=r"'\*\.pooler\.\*', which matches none of the 12"):
        run_stage(source, tmp_path / "3", replace(first, tensors=("*.pooler.*",)), DATA, None, 0, silent)


@pytest.mark.parametrize(
    ("changes", "memory", "error", "words"),
    [
        ({"pattern": "32-block"}, None, ModelError, "blocks of 32 do not divide"),
        ({}, 1000, TrainingError, "memory"),
    ],
)
def test_what_cannot_be_pruned_is_told_before_the_training(tmp_path, changes, memory, error, words):
    source = make_task_checkpoint(tmp_path / "m", "text-classification", hidden=40)
    stage = PruneStage(pruning_start=0.5, pruning_share=0.6, training=SHORT, gradients=4, **changes)

    def no_step(phase, done, total, **figures):
        raise AssertionError(f"{phase} began")

    with pytest.raises(error, match=words) as caught:
        run_stage(source, tmp_path / "o", stage, DATA, None, 0, no_step, memory=memory)
    assert "\n" not in str(caught.value)


def test_a_gradient_that_is_not_finite_names_the_step(sources, tmp_path, monkeypatch):
    real = TEXT_CLASSIFICATION.loss

    def poisoned(self, outputs, batch):
        loss = real(outputs, batch)
        outputs.logits.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(type(TEXT_CLASSIFICATION), "loss", poisoned)
    with pytest.raises(TrainingError, match=r"gradient norm at step 1 of 6 \(train\) is nan") as caught:
        run_stage(
            sources["text-classification"], tmp_path / "o", TrainStage(training=SHORT), DATA, None, 0, silent
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()
