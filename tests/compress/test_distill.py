"""Distillation losses against closed forms and loops in float64, and on real models of every family."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert_compress.architecture import family, layer_list, model_type
from edgebert_compress.checkpoint import load
from edgebert_compress.distill import (
    answer_loss,
    hidden_loss,
    layer_map,
    logit_loss,
    relation_heads,
    relation_loss,
)
from edgebert_compress.errors import TrainingError
from edgebert_compress.recipe import Distillation
from edgebert_compress.tasks import QUESTION_ANSWERING, TEXT_CLASSIFICATION
from edgebert_compress.teacher import TeacherLogits, TeacherModel, Watch, distiller
from tests.compress.conftest import tokenized
from tests.factories import ARCHITECTURES, make_checkpoint


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(p, q):
    return (p * np.log(p / q)).sum(-1)


def tensors(*shape, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@settings(deadline=None)
@given(
    rows=st.integers(1, 6), classes=st.integers(2, 5), temperature=st.floats(0.5, 8), seed=st.integers(0, 99)
)
def test_logit_loss_is_the_divergence(rows, classes, temperature, seed):
    student, teacher = tensors(rows, classes, seed=seed)
    p, q = (softmax(x.numpy() / temperature) for x in (teacher, student))
    expected = divergence(p, q).mean() * temperature**2
    assert float(logit_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert float(logit_loss(student, student, temperature)) == pytest.approx(0, abs=1e-12)


def test_only_counted_rows_count():
    student, teacher = tensors(3, 4, 5)
    counted = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) > 0.4
    expected = np.mean([
        divergence(softmax(teacher[i, j].numpy() / 2), softmax(student[i, j].numpy() / 2)) * 4
        for i in range(3) for j in range(4) if counted[i, j]
    ])  # fmt: skip
    assert float(logit_loss(student, teacher, 2.0, counted)) == pytest.approx(expected, rel=1e-12)
    assert float(logit_loss(student, teacher, 2.0, torch.zeros(3, 4, dtype=torch.bool))) == 0
    assert float(logit_loss(student, teacher, 2.0)) == pytest.approx(
        float(logit_loss(student.reshape(12, 5), teacher.reshape(12, 5), 2.0)), rel=1e-12
    )


def test_heads_are_averaged_and_shapes_compared():
    a, b, c, d = tensors(2, 3, count=4)
    both = float(answer_loss((a, b), (c, d), 1.5))
    assert both == pytest.approx(float(logit_loss(a, c, 1.5) + logit_loss(b, d, 1.5)) / 2, rel=1e-12)
    with pytest.raises(TrainingError, match=r"\(2, 4\).*\(2, 3\)"):
        logit_loss(a, torch.zeros(2, 4), 1.0)


def test_hidden_loss_is_a_mean_over_attended_tokens():
    student, teacher = tensors(2, 3, 4, seed=1), tensors(2, 3, 4, seed=2)
    attended = torch.tensor([[True, True, False], [True, False, False]])
    loop = np.mean([
        (float(s[i, j, k]) - float(t[i, j, k])) ** 2
        for s, t in zip(student, teacher, strict=True)
        for i, j in ((0, 0), (0, 1), (1, 0)) for k in range(4)
    ])  # fmt: skip
    assert float(hidden_loss(student, teacher, attended)) == pytest.approx(loop, rel=1e-12)
    with pytest.raises(TrainingError, match="4 wide and the teacher 6"):
        hidden_loss(student, tensors(2, 3, 6), attended)


def relation_loop(student, teacher, heads, lengths):
    """One head, one token, one pair of tokens at a time."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        rows = []
        for text, length in enumerate(lengths):
            for head in range(heads):
                for token in range(length):
                    distributions = []
                    for x in (t, s):
                        size = x.shape[-1] // heads
                        part = x[text, :length, head * size : (head + 1) * size].numpy()
                        scores = [part[token] @ part[other] / math.sqrt(size) for other in range(length)]
                        distributions.append(softmax(np.array(scores)))
                    rows.append(divergence(*distributions))
        total += np.mean(rows)
    return total


@pytest.mark.parametrize(("wide", "heads"), [(8, 2), (12, 4), (8, 1)])
def test_relation_loss_is_minilm_v2s(wide, heads):
    student, teacher = tensors(2, 5, 8, count=3, seed=3), tensors(2, 5, wide, count=3, seed=4)
    attended = torch.arange(5) < torch.tensor([[5], [3]])
    expected = relation_loop(student, teacher, heads, [5, 3])
    assert float(relation_loss(student, teacher, heads, attended)) == pytest.approx(expected, rel=1e-10)
    assert float(relation_loss(student, student, heads, attended)) == pytest.approx(0, abs=1e-12)


def test_relation_gradients_are_finite_and_leave_padding_alone():
    student = [x.requires_grad_() for x in tensors(2, 5, 8, count=3)]
    attended = torch.arange(5) < torch.tensor([[5], [2]])
    relation_loss(student, tensors(2, 5, 8, count=3, seed=9), 2, attended).backward()
    for x in student:
        assert torch.isfinite(x.grad).all()
        assert not x.grad[1, 2:].any()
        assert x.grad[1, :2].any()


def test_relation_heads_divide_both_widths():
    assert relation_heads(384, 768, 12) == 12
    assert relation_heads(312, 768, 12) == 12
    assert relation_heads(100, 768, 12) == 4
    assert relation_heads(7, 768, 12) == 1


def test_layer_maps():
    assert layer_map((0, 2, 4, 6, 8, 11), 12) == (0, 2, 4, 6, 8, 11)
    assert layer_map(range(6), 12) == (1, 3, 5, 7, 9, 11)
    assert layer_map(range(4), 6) == (0, 2, 3, 5)
    assert layer_map(range(3), 3) == (0, 1, 2)
    assert layer_map((0, 11), 6) == (2, 5)  # kept from a deeper model than this teacher
    assert layer_map(range(4), 2) == (0, 0, 0, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_watched_is_what_the_model_computes(architecture, tmp_path):
    folder = make_checkpoint(tmp_path / "m", architecture, layers=3)
    model, data = load(folder).model, tokenized(folder, 3, 0)
    inputs = TEXT_CLASSIFICATION.collate(model, data, [0, 1, 2]).inputs
    watch = Watch(model, (0, 2), 1)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    for watched, index in zip(watch.states, (0, 2), strict=True):
        assert torch.equal(watched, states[index + 1])
    layer, linears = layer_list(model)[1], family(model_type(model))[1][:3]
    for watched, linear in zip(watch.projections, linears, strict=True):
        torch.testing.assert_close(watched, layer.get_submodule(linear)(states[1]))
    watch.close()
    with torch.no_grad():
        model(**TEXT_CLASSIFICATION.collate(model, data, [2]).inputs)
    assert torch.equal(watch.states[0], states[1])  # a closed watch sees nothing new


def batch_loss(student, teacher_source, settings, data, task=TEXT_CLASSIFICATION, kept=None):
    def collate(model):
        return task.collate(model, data, [0, 1, 2], torch.Generator().manual_seed(1))

    batch = collate(student)
    with distiller(task, settings, student, teacher_source, len(data), kept) as loss:
        return loss.loss(student(**batch.inputs), batch, [0, 1, 2], collate)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_parts_of_the_loss_add_up(architecture, tmp_path):
    """A student of another depth than its teacher, each term computed by itself from the models' outputs."""
    student_folder = make_checkpoint(tmp_path / "s", architecture, layers=2)
    teacher_folder = make_checkpoint(tmp_path / "t", architecture, layers=4, seed=1)
    student, teacher = load(student_folder).model, load(teacher_folder).model
    data = tokenized(student_folder, 3, 0)
    batch = TEXT_CLASSIFICATION.collate(student, data, [0, 1, 2])
    attended = batch.inputs["attention_mask"].bool()
    own, theirs = (model(**batch.inputs, output_hidden_states=True) for model in (student, teacher))
    linears = family(model_type(student))[1][:3]

    def projections(model, states, index):
        return [layer_list(model)[index].get_submodule(linear)(states[index]) for linear in linears]

    soft = logit_loss(own.logits, theirs.logits, 3.0)
    hidden = hidden_loss(
        own.hidden_states[1:], [theirs.hidden_states[index + 1] for index in (1, 3)], attended
    )
    related = relation_loss(
        projections(student, own.hidden_states, 1), projections(teacher, theirs.hidden_states, 3), 2, attended
    )
    expected = 0.4 * TEXT_CLASSIFICATION.loss(own, batch) + 0.6 * soft + 0.5 * hidden + 2 * related
    chosen = Distillation(hardness=0.6, temperature=3.0, hidden=0.5, relations=2.0)
    found = batch_loss(student, TeacherModel(teacher_folder), chosen, data)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    only_hidden = batch_loss(student, TeacherModel(teacher_folder), Distillation(0.0, hidden=1.0), data)
    torch.testing.assert_close(only_hidden, TEXT_CLASSIFICATION.loss(own, batch) + hidden)
    kept = batch_loss(student, TeacherModel(teacher_folder), Distillation(0.0, hidden=1.0), data, kept=(0, 2))
    by_index = hidden_loss(
        own.hidden_states[1:], [theirs.hidden_states[index + 1] for index in (0, 2)], attended
    )
    torch.testing.assert_close(kept, TEXT_CLASSIFICATION.loss(own, batch) + by_index)


def test_cached_logits_and_a_live_teacher_are_the_same(task):
    student = load(make_checkpoint(task.teacher.parent / "student", layers=1)).model
    settings = Distillation(0.7, 2.5)
    cached = batch_loss(student, TeacherLogits(task.teacher_logits), settings, task.train)
    live = batch_loss(student, TeacherModel(task.teacher), settings, task.train)
    torch.testing.assert_close(cached, live)


def test_a_teacher_of_another_family_gets_its_own_inputs(tmp_path):
    student_folder = make_checkpoint(tmp_path / "s", "distilbert")
    teacher_folder = make_checkpoint(tmp_path / "t", "bert")
    student, data = load(student_folder).model, tokenized(student_folder, 3, 0)
    teacher = load(teacher_folder).model
    theirs = teacher(**TEXT_CLASSIFICATION.collate(teacher, data, [0, 1, 2]).inputs).logits
    own = student(**TEXT_CLASSIFICATION.collate(student, data, [0, 1, 2]).inputs).logits
    found = batch_loss(student, TeacherModel(teacher_folder), Distillation(1.0, 2.0), data)
    torch.testing.assert_close(found, logit_loss(own, theirs, 2.0))


def test_teachers_that_do_not_fit_are_named(tmp_path, task):
    student = load(task.teacher).model
    narrow = make_checkpoint(tmp_path / "narrow", hidden=16)
    other = make_checkpoint(tmp_path / "other", labels=("a", "b", "c"))
    with pytest.raises(TrainingError, match="32 wide and the teacher 16"):
        batch_loss(student, TeacherModel(narrow), Distillation(0.5, hidden=1.0), task.train)
    assert batch_loss(student, TeacherModel(narrow), Distillation(0.0, relations=1.0), task.train) > 0
    with pytest.raises(TrainingError, match="labels a, b, c, the student light"):
        batch_loss(student, TeacherModel(other), Distillation(0.5), task.train)
    with pytest.raises(TrainingError, match="cannot be distilled from cached logits"):
        batch_loss(student, TeacherLogits(task.teacher_logits), Distillation(0.5, hidden=1.0), task.train)
    with pytest.raises(TrainingError, match="question-answering cannot be distilled"):
        cached = TeacherLogits(task.teacher_logits)
        with distiller(QUESTION_ANSWERING, Distillation(0.5), student, cached, len(task.train)):
            pass
