"""Gradients of the task loss: the right ones, the same on every replay, and errors that name the cause."""

import pytest
import torch
from torch import nn

from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.data import TokenizedDataset, collate
from edgebert_compress.errors import TrainingError
from edgebert_compress.gradients import TaskGradients, task_source
from edgebert_compress.loading import load_model
from edgebert_compress.tasks import TEXT_CLASSIFICATION
from tests.compress.conftest import precision_in_use, tokenized
from tests.factories import LABELS, make_checkpoint

BATCHES = [[0, 1, 2], [3], [4, 5]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("gradients") / "raw", layers=2)


@pytest.fixture
def model(folder) -> nn.Module:
    torch.manual_seed(0)
    return load_model(folder, "text-classification", LABELS, new_head=True)[0]


@pytest.fixture(scope="module")
def data(folder) -> TokenizedDataset:
    return tokenized(folder, 12, seed=0)


def test_they_are_the_gradients_of_the_mean_loss_without_dropout(model, data):
    model.train()  # the pass itself must turn dropout off
    names = list(prunable_parameters(model))[1:3]
    found = list(TaskGradients(model, TEXT_CLASSIFICATION, data, BATCHES).gradients(names))
    assert [list(each) for each in found] == [names] * 3
    for indices, each in zip(BATCHES, found, strict=True):
        model.eval().zero_grad()
        logits = model(**collate(data, indices, torch.device("cpu"))).logits
        nn.functional.cross_entropy(logits, torch.tensor([data.labels[i] for i in indices])).backward()
        for name in names:
            torch.testing.assert_close(each[name], model.get_parameter(name).grad, rtol=1e-4, atol=1e-7)


def test_a_replay_gives_the_same_bits_whatever_it_is_asked_for(model, data):
    names = list(prunable_parameters(model))
    passed = TaskGradients(model, TEXT_CLASSIFICATION, data, BATCHES)
    with torch.no_grad():  # as pruning runs
        whole = list(passed.gradients(names))
        part = list(passed.gradients(names[2:5]))
    for every, some in zip(whole, part, strict=True):
        for name in names[2:5]:
            assert torch.equal(every[name], some[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_source_goes_on_with_the_next_mini_batches(model, data):
    source = task_source(model, TEXT_CLASSIFICATION, data, iter([[0], [1], [2], [3]]))
    passes = [source(2), source(2)]
    assert [(each.count, each.batches) for each in passes] == [(2, [[0], [1]]), (2, [[2], [3]])]


@pytest.mark.parametrize("lower", ["medium", "bfloat16"])
def test_the_products_of_gradients_may_be_less_precise(model, data, lower):
    names = list(prunable_parameters(model))
    used = set()
    model.register_forward_hook(lambda *_: used.add(precision_in_use()))
    exact, rounded = (
        list(TaskGradients(model, TEXT_CLASSIFICATION, data, BATCHES, precision=precision).gradients(names))
        for precision in ("highest", lower)
    )
    assert used == {"highest", lower}
    assert torch.get_float32_matmul_precision() == "highest"
    for one, other in zip(exact, rounded, strict=True):
        for name in names:  # bfloat16 keeps 8 bits
            error = (one[name] - other[name]).norm() / one[name].norm()
            assert error < 0.1
            assert other[name].dtype == torch.float32
            assert lower == "medium" or error > 1e-4


def test_progress_is_reported(model, data):
    seen = []
    batches = [[index] for index in range(11)]
    passed = TaskGradients(model, TEXT_CLASSIFICATION, data, batches, lambda *row: seen.append(row))
    list(passed.gradients(list(prunable_parameters(model))[:1]))
    assert seen == [("gradients", 10, 11), ("gradients", 11, 11)]


def test_a_loss_that_is_not_finite_names_the_mini_batch(model, data):
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    passed = TaskGradients(model, TEXT_CLASSIFICATION, data, BATCHES)
    with pytest.raises(TrainingError, match="gradient mini-batch 1 of 3 is nan"):
        list(passed.gradients(list(prunable_parameters(model))))


def test_a_parameter_outside_the_loss_is_named(model, data):
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    passed = TaskGradients(model, TEXT_CLASSIFICATION, data, BATCHES)
    with pytest.raises(TrainingError, match="does not depend on spare"):
        list(passed.gradients(["spare"]))
