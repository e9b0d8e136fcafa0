"""What packages know of each task: golden forms, decisions, rows on the way back to words, manifests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.build_source import check_inputs
from edgebert.builder import BuildOptions
from edgebert.device_files import answer_limit, unpack_answers
from edgebert.errors import DataError, DeviceError, PackageError, UsageError
from edgebert.evaluation import Evaluation, largest_difference, load_answers, save_answers
from edgebert.golden import GoldenExample, GoldenForm, dump_golden, parse_golden
from edgebert.manifest import METRICS, Gate, parse_manifest
from edgebert.models.tagger import tagging, words_in
from edgebert.pipeline import MODELS
from edgebert.tasks.embedding import cosine
from edgebert.tasks.masked_language_model import TextExample
from edgebert.tasks.package import PACKAGE_TASKS, equal_choices, get_package_task, outputs_of
from edgebert.tasks.rows import NO_OFFSETS, Row, pad_rows
from edgebert.tasks.token_classification import TokenExample, first_tokens, words_of
from tests.sdk.packages import make_manifest
from tests.sdk.task_tokenizers import TOKENIZERS, wordpiece

WORDS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip),
    min_size=1, max_size=20,
)  # fmt: skip


def row(*ids: int, example: int = 0) -> Row:
    return Row(ids, (0,) * len(ids), example, NO_OFFSETS)


def test_every_task_has_its_class_and_its_metrics() -> None:
    assert set(PACKAGE_TASKS) == set(MODELS) == set(METRICS)
    for name in PACKAGE_TASKS:
        task = get_package_task(name)
        assert task.name == name and task.metric in METRICS[name]
    with pytest.raises(UsageError, match="masked-language-model"):
        get_package_task("masked-language-model")


@pytest.mark.parametrize(
    ("name", "labels"),
    [("question-answering", ()), ("embedding", ()), ("token-classification", ("O", "B-X"))],
)
def test_manifests_of_every_task_come_back(name: str, labels: tuple[str, ...]) -> None:
    manifest = make_manifest(task=name, labels=labels, gate=Gate(get_package_task(name).metric, 0.9, 0.01))
    assert parse_manifest(manifest.to_json()) == manifest
    with pytest.raises(PackageError):
        parse_manifest(replace(manifest, gate=Gate("accuracy", 0.9, 0.01)).to_json())
    with pytest.raises(PackageError):
        parse_manifest(replace(manifest, labels=() if labels else ("a", "b")).to_json())
    with pytest.raises(PackageError, match="not known here"):
        parse_manifest(replace(manifest, task="poetry").to_json())


@given(st.integers(1, 3), st.booleans(), st.booleans(), st.data())
def test_golden_examples_of_any_form_come_back_exactly(
    outputs: int, per_token: bool, reference: bool, data: st.DataObject
) -> None:
    number = st.floats(allow_nan=False, allow_infinity=False, width=32)
    ids = tuple(data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=5)))
    count = outputs * (len(ids) if per_token else 1)
    values = [tuple(data.draw(st.lists(number, min_size=count, max_size=count))) for _ in range(2)]
    example = GoldenExample("a", None, ids, values[0], values[1] if reference else ())
    form = GoldenForm(outputs, per_token, reference)
    assert parse_golden(dump_golden([example, example]), form) == (example, example)
    assert parse_golden(dump_golden([example]), replace(form, outputs=None if not per_token else outputs))
    assert form.answer(example).shape == ((len(ids), outputs) if per_token else (outputs,))
    with pytest.raises(PackageError, match="line 1"):
        parse_golden(dump_golden([example]), replace(form, reference=not reference))
    with pytest.raises(PackageError, match="line 1"):
        parse_golden(dump_golden([example]), replace(form, outputs=outputs + 1))


def test_vectors_of_one_package_have_one_width() -> None:
    rows = [GoldenExample("a", None, (1,), (1.0,) * width, (1.0,) * width) for width in (3, 4)]
    with pytest.raises(PackageError, match="line 2 needs 3"):
        parse_golden(dump_golden(rows), GoldenForm(None, reference=True))


def test_a_choice_counts_as_equal_where_it_was_made_by_less_than_both_sides_may_be_off() -> None:
    recorded = np.array([[1.0, 2.0], [1.0, 1.9], [5.0, 0.0]], np.float32)
    found = np.array([[2.0, 1.0], [2.0, 1.0], [4.0, 1.0]], np.float32)
    assert equal_choices(found, recorded, 1).tolist() == [False, False, True]
    assert equal_choices(found, recorded, 1, 0.46).tolist() == [False, True, True]
    assert equal_choices(found, recorded, 1, 0.5).tolist() == [True, True, True]
    tags, answers = get_package_task("token-classification"), get_package_task("question-answering")
    assert tags.agreement(found, recorded) == pytest.approx(1 / 3)
    assert not tags.same(found, recorded, 0.46) and tags.same(found, recorded, 0.5)
    assert answers.agreement(recorded, recorded) == 1 and answers.agreement(-recorded, recorded) == 0


def test_cosine_by_hand() -> None:
    a, b = np.array([3, 4], np.float32), np.array([4, 3], np.float32)
    assert cosine(a, b) == pytest.approx(24 / 25)
    assert cosine(a, 2 * a) == pytest.approx(1) and cosine(a, -a) == pytest.approx(-1)
    nothing = np.zeros(2, np.float32)
    assert (cosine(nothing, nothing), cosine(a, nothing)) == (1, 0)
    task = get_package_task("embedding")
    examples = [TextExample("x"), TextExample("y")]
    found = task.figures([a, a], [], examples, (), right=[a, b])
    assert found.cosine == pytest.approx((1 + 24 / 25) / 2) and found.examples == 2  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="none to go by"):
        task.figures([a, a], [], examples, ())
    assert task.same(a, a, 0) and not task.same(a, b, 9)
    assert task.golden_tolerance(0.5, [a / 100]) == pytest.approx(0.01)
    assert task.golden_tolerance(0.0, [a]) == 0


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(6, 40), st.sampled_from(sorted(TOKENIZERS)))
def test_every_word_begins_in_one_row_at_its_own_first_character(
    tokens: list[str], length: int, kind: str
) -> None:
    """The oracle walks over the characters of the text."""
    example = TokenExample(tuple(tokens), ("O",) * len(tokens))
    assert [example.text[start:end] for start, end in example.spans] == tokens
    rows = get_package_task("token-classification").rows(TOKENIZERS[kind](), [example], length)
    seen: list[int] = []
    for one, first in zip(rows, first_tokens(rows, [example]), strict=True):
        owner = {at: word for word, (start, end) in enumerate(example.spans) for at in range(start, end)}
        walked = [owner.get(end - 1) if end > start >= 0 else None for start, end in one.offsets.tolist()]
        assert list(words_of(example, one.offsets)) == walked
        seen += [word for _, word in first]
    assert len(seen) == len(set(seen))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_words_cover_everything_but_blanks(text: str) -> None:
    found = words_in(text)
    covered = "".join(text[start:end] for start, end in found.spans)
    assert covered == "".join(text.split())
    assert all(a[1] <= b[0] for a, b in zip(found.spans, found.spans[1:], strict=False))


def test_entities_by_hand() -> None:
    text = "Ada Lovelace, in London"
    tags = [("B-PER", 0.9), ("I-PER", 0.7), ("O", 1.0), ("O", 1.0), ("B-LOC", 0.8)]
    found = tagging(words_in(text), tags)
    assert [(e.type, e.text, e.score, e.start, e.end) for e in found.entities] == [
        ("PER", "Ada Lovelace", 0.7, 0, 12), ("LOC", "London", 0.8, 17, 23),
    ]  # fmt: skip
    assert [(w.word, w.tag) for w in found.words][2] == (",", "O")


def test_chosen_examples_keep_their_rows_and_answers() -> None:
    task = get_package_task("question-answering")
    rows = [row(1), row(2, 3, example=1), row(4, example=1), row(5, example=2)]
    answers = [np.full((len(r.ids), 2), r.ids[0], np.float32) for r in rows]
    whole = Evaluation(task, (), ["a", "b", "c"], rows)
    part = whole.chosen([1, 2])
    assert (part.examples, [r.example for r in part.rows]) == (["b", "c"], [0, 0, 1])
    assert [a[0, 0] for a in whole.take(answers, [1, 2])] == [2, 4, 5]


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_answers_are_kept_exactly(tmp_path, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    answers = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
    if len(shape) == 2:
        answers[1] = answers[1][:1]  # one token is not one answer
    save_answers(answers, tmp_path)
    found = load_answers(tmp_path)
    assert [one.shape for one in found] == [one.shape for one in answers]
    assert all((a == b).all() for a, b in zip(found, answers, strict=True))
    assert largest_difference(answers, found) == 0


def test_padding_is_on_the_right() -> None:
    batch = pad_rows([row(5, 6, 7), row(8)], pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_runner_answers_of_tokens_have_a_row_a_token() -> None:
    raw = b"EBRUNOU1" + np.array([1, 2, 4, 7, 8], "<u4").tobytes() + np.arange(4, dtype="<f4").tobytes()
    (found,) = unpack_answers(raw, 1, 2, per_token=True)
    assert found.ids == (7, 8) and found.logits.tolist() == [[0, 1], [2, 3]]
    assert len(raw) == answer_limit(1, 2, 2, per_token=True)
    for floats in (1, 3, 4):
        with pytest.raises(DeviceError, match="4 logits"):
            unpack_answers(raw, 1, floats, per_token=True)


def test_outputs_of_each_task() -> None:
    labels = ("a", "b", "c")
    assert [outputs_of(get_package_task(name), labels) for name in PACKAGE_TASKS] == [3, 3, 2, None]


def test_a_text_of_which_the_tokenizer_leaves_nothing_is_still_a_row() -> None:
    rows = get_package_task("embedding").rows(wordpiece(), [TextExample("\u0301")], 32)
    assert len(rows) == 1 and len(rows[0].ids) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "embedding", "model": "m", "train": "t", "evaluation": "e"}, "leave out --train"),
        ({"task": "embedding", "model": "m", "evaluation": "e", "new_head": True}, "leave out --new-head"),
        ({"task": "embedding", "model": "m"}, "--eval missing; give --model and --eval"),
        ({"task": "question-answering"}, "--model and --train and --eval missing"),
        ({"task": "masked-language-model"}, "no packages for the task"),
        ({"evaluation": "e"}, "--model and --train missing"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_inputs(BuildOptions(targets=("x86",), **given))  # type: ignore[arg-type]
