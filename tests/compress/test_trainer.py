"""The training loop, the teacher's head, prediction and batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel

from edgebert_compress.checkpoint import load
from edgebert_compress.data import TokenizedDataset, batch_order, collate, silent
from edgebert_compress.loading import load_model
from edgebert_compress.recipe import FineTuneStage, Training
from edgebert_compress.tasks import TEXT_CLASSIFICATION
from edgebert_compress.trainer import fine_tune, predict_logits, train_model
from edgebert_compress.training_run import Batches, Job, optimizer
from tests.compress.conftest import precision_in_use, tokenized
from tests.factories import LABELS, make_checkpoint


def test_the_teacher_learns(task):
    assert task.accuracy(task.teacher) > 0.85


def test_a_body_without_a_head_gets_a_new_one(task, tmp_path):
    raw = make_checkpoint(tmp_path / "raw")
    AutoModel.from_pretrained(raw, dtype=torch.float32).save_pretrained(tmp_path / "body")
    (tmp_path / "body/tokenizer.json").write_bytes((raw / "tokenizer.json").read_bytes())
    steps = []
    facts = fine_tune(
        tmp_path / "body", tmp_path / "out", tokenized(raw, 64, 0), LABELS, FineTuneStage(epochs=1), 0,
        lambda phase, done, total, **figures: steps.append((phase, done, total)),
    )  # fmt: skip
    assert facts.new_head
    assert steps[-1] == ("fine-tune", 2, 2)
    assert load(tmp_path / "out").labels == LABELS
    assert (tmp_path / "out/tokenizer.json").is_file()


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("a", "b"), ("light", "timer", "music", "other")])
def test_other_labels_get_a_new_head(task, labels):
    torch.manual_seed(0)
    model, new_head = load_model(task.teacher, "text-classification", labels)
    old, kept_head = load_model(task.teacher, "text-classification", LABELS)
    assert (new_head, kept_head) == (True, False)
    assert model.classifier.out_features == len(labels)
    assert not torch.equal(model.classifier.weight[:2], old.classifier.weight[:2])
    assert torch.equal(model.bert.pooler.dense.weight, old.bert.pooler.dense.weight)


def test_predictions_come_back_in_order(task):
    logits = predict_logits(task.teacher, task.held_out, batch_size=7)
    model = load(task.teacher).model
    with torch.inference_mode():
        for index in range(0, 200, 23):
            row = model(**collate(task.held_out, [index], torch.device("cpu"))).logits.numpy()[0]
            np.testing.assert_allclose(logits[index], row, atol=1e-4)
    assert logits.dtype == np.float32


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=200),
    size=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_batches_hold_everything_once(lengths, size, seed):
    data = TokenizedDataset(tuple((1,) * n for n in lengths), None, (0,) * len(lengths), 0)
    batches = batch_order(data, size, torch.Generator().manual_seed(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    assert len(batches) == -(-len(lengths) // size)


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 9))
def test_batches_can_be_skipped(count, size, seed):
    data = TokenizedDataset(tuple((1,) * (n % 7 + 1) for n in range(20)), None, (0,) * 20, 0)
    one, other = Batches(data, size, seed), Batches(data, size, seed)
    for _ in range(count):
        next(one)
    other.skip(count)
    assert one.drawn == other.drawn == count
    assert [next(one) for _ in range(5)] == [next(other) for _ in range(5)]


def test_padding_is_masked():
    data = TokenizedDataset(((5, 6), (7,)), ((0, 1), (0,)), (0, 1), 9)
    inputs = {name: value.tolist() for name, value in collate(data, [1, 0], torch.device("cpu")).items()}
    assert inputs == {
        "input_ids": [[7, 9], [5, 6]],
        "attention_mask": [[1, 0], [1, 1]],
        "token_type_ids": [[0, 0], [0, 1]],
    }


def test_only_a_new_head_learns_faster(task):
    model = load(task.teacher).model
    groups = optimizer(model, FineTuneStage(learning_rate=1e-4), head_rate=10).param_groups
    rates = {id(parameter): group["peak"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        fast = name.startswith(("classifier", "bert.pooler"))
        assert rates[id(parameter)] == pytest.approx(1e-3 if fast else 1e-4)
    assert {group["peak"] for group in optimizer(model, FineTuneStage(learning_rate=1e-4)).param_groups} == {
        1e-4
    }


@pytest.mark.parametrize("lower", ["medium", "bfloat16"])
def test_only_training_steps_may_multiply_less_precisely(task, lower):
    model = load(task.teacher).model
    used = {True: set(), False: set()}  # in training, in the measurement after it
    model.register_forward_hook(lambda m, *_: used[m.training].add(precision_in_use()))

    def measure(trained):
        predictions = trained(**TEXT_CLASSIFICATION.collate(trained, task.held_out, [0]).inputs)
        return float(predictions.logits.detach().sum())

    job = Job(TEXT_CLASSIFICATION, task.held_out, evaluate=measure)
    train_model(model, Training(epochs=1, batch_size=64, matmul_precision=lower), job)
    assert used == {True: {lower}, False: {"highest"}}
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_random_state_of_the_caller_is_left_alone(task, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fine_tune(task.teacher, tmp_path / "out", task.held_out, LABELS, FineTuneStage(epochs=1), 5, silent)
    assert torch.equal(torch.rand(3), expected)
