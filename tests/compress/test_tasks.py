"""The four tasks against transformers' own losses and a plain batch builder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert_compress.architecture import HEADS, WITH_TOKEN_TYPES, prunable_parameters
from edgebert_compress.data import TokenizedDataset, silent
from edgebert_compress.errors import TrainingError
from edgebert_compress.loading import load_model
from edgebert_compress.recipe import Training
from edgebert_compress.tasks import TASKS as KNOWN
from edgebert_compress.tasks import get_task
from edgebert_compress.tasks.masked_language_model import hide_tokens
from edgebert_compress.trainer import train_model
from edgebert_compress.training_run import Job
from tests.compress.task_models import SPECIAL_IDS, TASKS, Folders, make_task_checkpoint, random_data
from tests.factories import ARCHITECTURES, vocabulary

DATA = random_data(24, seed=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(folders):
    class Models(dict):
        def __missing__(self, key):
            self[key] = load_model(folders[key], key[0])[0]
            return self[key]

    return Models()


def test_every_task_has_a_name():
    assert tuple(KNOWN) == TASKS
    assert all(get_task(name).name == name for name in TASKS)
    with pytest.raises(TrainingError, match="unknown task 'summaries'; known: text-classification"):
        get_task("summaries")


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_loss_and_logits_are_those_of_transformers(folders, models, task, family):
    """The oracle is the model class of transformers, fed labels by hand."""
    ours, model = get_task(task), models[task, family]
    oracle = getattr(transformers, HEADS[task]).from_pretrained(folders[task, family], dtype=torch.float32)
    oracle.eval()
    batch = ours.collate(model, DATA, [3, 0, 11, 7])
    with torch.no_grad():
        outputs = model(**batch.inputs)
        wanted = oracle(**batch.inputs, **batch.targets)
    assert ours.loss(outputs, batch).item() == pytest.approx(wanted.loss.item(), rel=1e-6)
    heads = ours.logits(outputs)
    if task == "question-answering":
        assert torch.equal(heads[0], wanted.start_logits) and torch.equal(heads[1], wanted.end_logits)
    else:
        assert len(heads) == 1 and torch.equal(heads[0], wanted.logits)
    counted = ours.counted(batch)
    assert counted is None or counted.shape == heads[0].shape[:-1]


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_the_gradient_reaches_every_prunable_weight(models, task, family):
    ours, model = get_task(task), models[task, family]
    batch = ours.collate(model, DATA, range(8))
    model.zero_grad()
    ours.loss(model(**batch.inputs), batch).backward()
    assert all(bool(weight.grad.abs().sum() > 0) for weight in prunable_parameters(model).values())
    model.zero_grad()


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_batches_against_a_plain_builder(models, task, family):
    indices = [5, 2, 9]
    batch = get_task(task).collate(models[task, family], DATA, indices)
    rows = [DATA.input_ids[i] for i in indices]
    longest = max(map(len, rows))
    mask = np.zeros((3, longest), int)
    ids = np.zeros((3, longest), int)
    types = np.zeros((3, longest), int)
    for r, i in enumerate(indices):
        mask[r, : len(rows[r])] = 1
        ids[r, : len(rows[r])] = rows[r]
        types[r, : len(rows[r])] = DATA.token_type_ids[i]
    assert np.array_equal(batch.inputs["attention_mask"], mask)
    assert ("token_type_ids" in batch.inputs) == (family in WITH_TOKEN_TYPES)
    if family in WITH_TOKEN_TYPES:
        assert np.array_equal(batch.inputs["token_type_ids"], types)
    if task != "masked-language-model":
        assert np.array_equal(batch.inputs["input_ids"], ids)
    if task == "text-classification":
        assert batch.targets["labels"].tolist() == [DATA.labels[i] for i in indices]
    if task == "question-answering":
        starts, ends = zip(*(DATA.spans[i] for i in indices), strict=True)
        assert batch.targets["start_positions"].tolist() == list(starts)
        assert batch.targets["end_positions"].tolist() == list(ends)
    if task == "token-classification":
        for r, i in enumerate(indices):
            padding = [-100] * (longest - len(rows[r]))
            assert batch.targets["labels"][r].tolist() == [*DATA.token_labels[i], *padding]
    if task == "masked-language-model":
        labels = batch.targets["labels"].numpy()
        shown = batch.inputs["input_ids"].numpy()
        assert np.array_equal(np.where(labels != -100, labels, shown), ids)
        assert not np.isin(ids[labels != -100], list(SPECIAL_IDS)).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=200), st.integers(0, 1 << 20))
def test_hidden_tokens(ids, index):
    data = TokenizedDataset((tuple(ids),) * 1, None, (0,), 0, mask_token_id=4, special_ids=SPECIAL_IDS)
    shown, labels = hide_tokens(data, 0, 41, torch.Generator().manual_seed(index))
    free = [i for i, token in enumerate(ids) if token not in SPECIAL_IDS]
    chosen = [i for i, label in enumerate(labels) if label != -100]
    assert len(chosen) == (max(1, round(0.15 * len(free))) if free else 0)
    assert set(chosen) <= set(free)
    for i, token in enumerate(ids):
        assert labels[i] == (token if i in chosen else -100)
        assert i in chosen or shown[i] == token
        assert 0 <= shown[i] < 41


def test_eighty_ten_ten():
    """One long text: 15 % chosen exactly; shares of the three fates within 4 sigma."""
    ids = tuple(5 + i % 1000 for i in range(200_000))
    data = TokenizedDataset((ids,), None, (0,), 0, mask_token_id=4, special_ids=SPECIAL_IDS)
    shown, labels = hide_tokens(data, 0, 1005, torch.Generator().manual_seed(0))
    chosen = [i for i, label in enumerate(labels) if label != -100]
    assert len(chosen) == 30_000
    masked = sum(shown[i] == 4 for i in chosen) / 30_000
    kept = sum(shown[i] == ids[i] for i in chosen) / 30_000
    assert abs(masked - 0.8) < 4 * (0.8 * 0.2 / 30_000) ** 0.5 + 0.001
    assert abs(kept - 0.1) < 4 * (0.1 * 0.9 / 30_000) ** 0.5 + 0.001
    others = [shown[i] for i in chosen if shown[i] not in (4, ids[i])]
    assert len(set(others)) > 900  # spread over the vocabulary


def test_without_a_generator_the_draw_belongs_to_the_example(models):
    task, model = get_task("masked-language-model"), models["masked-language-model", "bert"]
    alone = task.collate(model, DATA, [7])
    among = task.collate(model, DATA, [3, 7, 1])
    size = len(DATA.input_ids[7])
    assert torch.equal(alone.inputs["input_ids"][0, :size], among.inputs["input_ids"][1, :size])
    assert torch.equal(alone.targets["labels"][0, :size], among.targets["labels"][1, :size])


def test_with_a_generator_the_draw_goes_on(models):
    task, model = get_task("masked-language-model"), models["masked-language-model", "bert"]
    generator = torch.Generator().manual_seed(3)
    first, second = (task.collate(model, DATA, range(24), generator).targets["labels"] for _ in range(2))
    again = task.collate(model, DATA, range(24), torch.Generator().manual_seed(3)).targets["labels"]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_batch_without_a_counted_token_has_loss_zero_and_no_gradient(models):
    task, model = get_task("token-classification"), models["token-classification", "bert"]
    data = replace(DATA, token_labels=tuple((-100,) * len(ids) for ids in DATA.input_ids))
    batch = task.collate(model, data, [0, 1])
    loss = task.loss(model(**batch.inputs), batch)
    loss.backward()
    assert loss.item() == 0
    assert not any(bool(p.grad.abs().any()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("task", TASKS)
def test_sound_data_passes_the_check(models, task):
    for family in ARCHITECTURES:
        get_task(task).check(DATA, models[task, family])


LONG = len(vocabulary())


@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        ("text-classification", {"labels": (3,) * 24}, r"label 3 is outside 0\.\.2"),
        ("text-classification", {"input_ids": ((LONG,),) * 24}, f"the token {LONG}, the model knows"),
        ("text-classification", {"input_ids": ((-1,),) * 24}, "the token -1, the model knows"),
        ("text-classification", {"input_ids": ((),) * 24}, "no tokens"),
        ("token-classification", {"token_labels": None}, "24 texts but 0 rows of token labels"),
        ("token-classification", {"token_labels": ((0,),) * 24}, "tokens but 1 labels"),
        (
            "token-classification",
            {"token_labels": tuple((3,) * len(ids) for ids in DATA.input_ids)},
            r"label 3, outside 0\.\.2",
        ),
        (
            "token-classification",
            {"token_labels": tuple((-100,) * len(ids) for ids in DATA.input_ids)},
            "no token of the training set has a label",
        ),
        ("question-answering", {"spans": None}, "24 texts but 0 answer spans"),
        ("question-answering", {"spans": ((3, 2),) * 24}, "answer at tokens 3 to 2"),
        ("question-answering", {"spans": ((0, 99),) * 24}, "answer at tokens 0 to 99"),
        ("masked-language-model", {"mask_token_id": None}, "the mask token is None"),
        ("masked-language-model", {"mask_token_id": LONG}, f"the mask token is {LONG}"),
        ("masked-language-model", {"special_ids": frozenset(range(LONG))}, "special tokens only"),
    ],
)
def test_unusable_data(models, task, change, says):
    with pytest.raises(TrainingError, match=says) as caught:
        get_task(task).check(replace(DATA, **change), models[task, "bert"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_longest_row_that_a_model_takes(models, family):
    """Up to what the check allows, transformers computes; from there on it does not."""
    model = models["text-classification", family]
    task = get_task("text-classification")
    longest = 65 if family == "roberta" else 64
    fits = TokenizedDataset(((5,) * longest,), None, (0,), 0)
    task.check(fits, model)
    with torch.no_grad():
        model(**task.collate(model, fits, [0]).inputs)
    above = TokenizedDataset(((5,) * (longest + 1),), None, (0,), 0)
    with pytest.raises(TrainingError, match=f"{longest + 1} tokens, the model has room for {longest}"):
        task.check(above, model)
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
        model(**task.collate(model, above, [0]).inputs)


@pytest.mark.parametrize("task", TASKS)
def test_no_examples(models, task):
    empty = TokenizedDataset((), (), (), 0, (), (), 4, SPECIAL_IDS)
    with pytest.raises(TrainingError, match="0 examples"):
        get_task(task).check(empty, models[task, "bert"])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_learned(tmp_path, task):
    """A model that sees the same rows again and again gets them right (MLM: new hidden tokens each time)."""
    ours = get_task(task)
    torch.manual_seed(0)
    folder = make_task_checkpoint(tmp_path / "m", task, hidden=64, intermediate=128)
    model, _ = load_model(folder, task)
    data = random_data(16, seed=1)
    if task == "masked-language-model":  # one word over and over: what is hidden shows in the rest
        data = replace(data, input_ids=tuple((2, *[ids[1]] * (len(ids) - 2), 3) for ids in data.input_ids))
    training = Training(epochs=200, learning_rate=2e-3, batch_size=16)
    facts = train_model(model, training, Job(ours, data, 0, silent))
    first, last = facts.loss_curve[0][1], facts.loss_curve[-1][1]
    assert last < 0.25 * first
    batch = ours.collate(model, data, range(len(data)))
    with torch.no_grad():
        heads = ours.logits(model(**batch.inputs))
    for head, target in zip(heads, batch.targets.values(), strict=True):
        counted = target != -100
        assert (head.argmax(-1)[counted] == target[counted]).float().mean() > 0.8
