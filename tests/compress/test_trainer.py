"""The training loop, the teacher's head, prediction, batches, schedules and the distillation loss."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel

from edgebert_compress.checkpoint import load, load_classifier
from edgebert_compress.data import TokenizedDataset, batch_order, collate, silent
from edgebert_compress.distill import combined_loss, distillation_loss
from edgebert_compress.layer_drop import layers_to_keep, spread
from edgebert_compress.recipe import Distillation, DropLayersStage, FineTuneStage
from edgebert_compress.schedule import cubic_sparsity, cyclic_rate, linear_rate, pruning_points
from edgebert_compress.trainer import fine_tune, optimizer, predict_logits
from tests.compress.conftest import tokenized
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
    model, new_head = load_classifier(task.teacher, labels)
    old, kept_head = load_classifier(task.teacher, LABELS)
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


def test_padding_is_masked():
    data = TokenizedDataset(((5, 6), (7,)), ((0, 1), (0,)), (0, 1), 9)
    inputs = {name: value.tolist() for name, value in collate(data, [1, 0], torch.device("cpu")).items()}
    assert inputs == {
        "input_ids": [[7, 9], [5, 6]],
        "attention_mask": [[1, 0], [1, 1]],
        "token_type_ids": [[0, 0], [0, 1]],
    }


def test_distillation_is_the_divergence():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 4, 3))

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(teacher / 2.5), softmax(student / 2.5)
    expected = (p * np.log(p / q)).sum() / 4 * 2.5**2
    got = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), 2.5)
    assert float(got) == pytest.approx(expected, rel=1e-12)
    labels = torch.tensor([0, 1, 2, 0])
    task_loss = -np.log(softmax(student)[np.arange(4), labels.numpy()]).mean()
    mixed = combined_loss(
        torch.from_numpy(student), labels, torch.from_numpy(teacher), Distillation(0.3, 2.5)
    )
    assert float(mixed) == pytest.approx(0.7 * task_loss + 0.3 * expected, rel=1e-12)
    assert float(combined_loss(torch.from_numpy(student), labels, None, Distillation(0.3))) == pytest.approx(
        task_loss, rel=1e-12
    )


def test_cubic_sparsity_gives_the_published_steps():
    published = [70, 78.4, 84.1, 87.5, 89.3, 89.9, 90]
    assert [round(100 * s, 1) for s in cubic_sparsity(0.7, 0.9, 7)] == published
    assert [round(100 * s, 1) for s in cubic_sparsity(0.3, 0.8, 7)] == [30, 51.1, 65.2, 73.8, 78.1, 79.8, 80]
    assert cubic_sparsity(0.3, 0.8, 1) == (0.8,)


def test_pruning_points_start_at_once_and_leave_time_to_recover():
    assert pruning_points(100, 5, 0.6) == (0, 15, 30, 45, 60)
    assert pruning_points(2, 5, 0.6) == (0, 0, 0, 0, 1)


def test_learning_rates():
    assert [linear_rate(step, 10, 0.2) for step in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 0.125]
    cycle = [cyclic_rate(step, 20, (0, 10)) for step in range(20)]
    assert cycle[0] == cycle[10] == 1.0
    assert cycle[9] == pytest.approx(0.19)
    assert cycle[19] == pytest.approx(0.1)
    assert all(0 < share <= 1 for share in cycle)


def test_kept_layers():
    assert spread(12, 6) == (0, 2, 4, 6, 8, 11)
    assert spread(12, 3) == (0, 6, 11)
    for depth, count in ((12, 8), (6, 4), (4, 3), (24, 16)):
        assert layers_to_keep(DropLayersStage(), depth) == spread(depth, count)
    assert layers_to_keep(DropLayersStage(layers="half"), 1) == (0,)


@given(st.integers(1, 48).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_spread_keeps_the_first_and_the_last(pair):
    depth, count = pair
    kept = spread(depth, count)
    assert len(set(kept)) == count
    assert list(kept) == sorted(kept)
    assert kept[0] == 0
    assert count == 1 or kept[-1] == depth - 1


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


def test_the_random_state_of_the_caller_is_left_alone(task, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fine_tune(task.teacher, tmp_path / "out", task.held_out, LABELS, FineTuneStage(epochs=1), 5, silent)
    assert torch.equal(torch.rand(3), expected)
