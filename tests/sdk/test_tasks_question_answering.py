"""Questions on a text: windows, the way back to characters, and SQuAD's figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgebert.errors import DataError, UsageError
from edgebert.tasks.question_answering import QuestionAnswering, best_span, token_span
from edgebert.tasks.squad import QuestionExample, exact_match, normalized, span_figures, word_f1
from tests.sdk.task_tokenizers import TOKENIZERS, wordpiece

TASK = QuestionAnswering()
CONTEXT = "Ada Lovelace met Charles Babbage in London, on the 5th of June 1833."
WHO = QuestionExample("Who met Babbage?", CONTEXT, ("Ada Lovelace", "Ada"), (0, 0))
WHERE = QuestionExample("Where did she meet him?", CONTEXT, ("London",), (36,))
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip)


def one_hot(data, position: int, value: float = 5.0):
    """Start and end logits that point at the stored spans; windows without an answer stay at 0."""
    found = []
    for ids, span in zip(data.input_ids, data.spans, strict=True):
        row = np.zeros(len(ids), np.float32)
        if span != (0, 0):
            row[span[position]] = value
        found.append(row)
    return found


def perfect(data):
    return list(zip(one_hot(data, 0), one_hot(data, 1), strict=True))


def test_one_window_holds_question_and_text() -> None:
    tokenizer = wordpiece()
    data = TASK.tokenize(tokenizer, [WHO, WHERE], (), 64)
    assert len(data) == 2 and data.labels == (0, 0)
    assert data.windows is not None and data.spans is not None
    for row, (window, asked) in enumerate(zip(data.windows, (WHO, WHERE), strict=True)):
        ids, types = tokenizer.encode_ids(asked.question, asked.context)
        assert data.input_ids[row] == tuple(ids)
        assert data.token_type_ids is not None and data.token_type_ids[row] == tuple(types)
        start, end = data.spans[row]
        assert CONTEXT[window.offsets[start, 0] : window.offsets[end, 1]] == asked.answers[0]
        assert (window.offsets[:, 0] >= 0).tolist() == [
            bool(kind) and place < len(types) - 1 for place, kind in enumerate(types)
        ]


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_windows_are_those_of_the_library(kind: str) -> None:
    """The oracle is the truncation of `tokenizers`, for a question that is short enough."""
    context = CONTEXT * 9
    tokenizer = TOKENIZERS[kind]()
    data = TASK.tokenize(tokenizer, [QuestionExample(WHO.question, context, (), ())], (), 60)
    oracle = tokenizer.bare()
    left = 60 - oracle.num_special_tokens_to_add(True) - len(oracle.encode(WHO.question, None, False, False))
    oracle.enable_truncation(60, stride=left // 2, strategy="only_second")
    first = oracle.encode(WHO.question, context)
    wanted = [first, *first.overflowing]
    assert list(data.input_ids) == [tuple(row.ids) for row in wanted]
    assert data.windows is not None and data.token_type_ids is not None
    for row, window, types in zip(wanted, data.windows, data.token_type_ids, strict=True):
        assert types == tuple(row.type_ids) or not tokenizer.token_types
        inside = [offset for offset, part in zip(row.offsets, row.sequence_ids, strict=True) if part == 1]
        assert window.offsets[window.offsets[:, 0] >= 0].tolist() == [list(offset) for offset in inside]


@settings(max_examples=80, deadline=None)
@given(
    context=texts,
    question=texts,
    start=st.integers(0, 59),
    size=st.integers(1, 20),
    length=st.integers(12, 40),
    kind=st.sampled_from(sorted(TOKENIZERS)),
)
@example("a b c d e f g h i j k l m n o p", "q", 14, 3, 12, "wordpiece")
def test_windows_cover_the_text_and_answers_come_back(
    context: str, question: str, start: int, size: int, length: int, kind: str
) -> None:
    letters = [place for place, letter in enumerate(context) if not letter.isspace()]
    start = letters[start % len(letters)]
    answer = context[start : start + size]
    asked = QuestionExample(question, context, (answer,), (start,))
    tokenizer = TOKENIZERS[kind]()
    bare = tokenizer.bare()
    data = TASK.tokenize(tokenizer, [asked, WHO], (), length)
    assert max(map(len, data.input_ids)) <= length
    assert data.windows is not None and data.spans is not None
    # every token of the context is in some window, in order, and windows overlap
    whole = bare.encode(context, add_special_tokens=False)
    seen: list[tuple[int, tuple[int, int]]] = []
    rows = [row for row, window in enumerate(data.windows) if window.example == 0]
    for row in rows:
        places = np.flatnonzero(data.windows[row].offsets[:, 0] >= 0)
        here = [
            (
                data.input_ids[row][i],
                (int(data.windows[row].offsets[i, 0]), int(data.windows[row].offsets[i, 1])),
            )
            for i in places
        ]
        joined = next(k for k in range(len(seen) + 1) if seen[k:] == here[: len(seen) - k])
        assert row == rows[0] or joined < len(seen) or not here
        seen += here[len(seen) - joined :]
    assert seen == list(zip(whole.ids, whole.offsets, strict=True))
    # character by character: the span runs from the first to the last token that holds part of the answer
    wanted = range(start, start + len(answer.rstrip()))
    for row in rows:
        held = {
            place: range(int(a), int(b))
            for place, (a, b) in enumerate(data.windows[row].offsets)
            if b > a >= 0
        }
        covered = [place for place, part in held.items() if any(letter in part for letter in wanted)]
        low = 0 if row == rows[0] else min(part.start for part in held.values())
        high = len(context) if row == rows[-1] else max(part.stop for part in held.values())
        complete = covered and all(low <= letter < high for letter in wanted)
        assert data.spans[row] == ((min(covered), max(covered)) if complete else (0, 0))


def test_an_answer_in_a_later_window_is_found_there() -> None:
    filler = "The loom weaves flowers. " * 12
    context = filler + CONTEXT
    asked = QuestionExample("Where did she meet him?", context, ("London",), (len(filler) + 36,))
    data = TASK.tokenize(wordpiece(), [asked], (), 48)
    assert data.spans is not None and len(data) > 3
    assert data.spans[0] == (0, 0) and any(span != (0, 0) for span in data.spans)
    assert TASK.answers(perfect(data), data, [asked]) == ["London"]
    assert TASK.measure(perfect(data), data, [asked], ()) == 1


def test_the_best_window_wins() -> None:
    context = "weaves " * 40
    asked = QuestionExample("Who?", context, ("weaves",), (0,))
    data = TASK.tokenize(wordpiece(), [asked], (), 24)
    assert data.windows is not None
    logits = [(np.zeros(len(ids), np.float32), np.zeros(len(ids), np.float32)) for ids in data.input_ids]
    chosen, place = len(data) - 2, len(data.input_ids[-2]) - 2
    logits[chosen][0][place], logits[chosen][1][place] = 1.0, 1.0
    logits[0][0][1] = logits[0][1][1] = 9.0  # a token of the question cannot be an answer
    start, end = data.windows[chosen].offsets[place]
    assert TASK.answers(logits, data, [asked]) == [context[start:end]] == ["weaves"]
    with pytest.raises(DataError, match=f"1 predictions for {len(data)} rows"):
        TASK.answers(logits[:1], data, [asked])


def test_no_answer_is_an_answer_only_where_the_data_has_such() -> None:
    nothing = QuestionExample("When was the engine built?", CONTEXT, (), ())
    data = TASK.tokenize(wordpiece(), [nothing], (), 64)
    assert data.spans == ((0, 0),)
    logits = [(np.zeros(len(data.input_ids[0]), np.float32),) * 2]
    logits[0][0][0] = 3.0
    assert TASK.answers(logits, data, [nothing]) == [""]
    assert TASK.measure(logits, data, [nothing], ()) == 1
    answered = TASK.tokenize(wordpiece(), [WHO], (), 64)
    logits = [(np.zeros(len(answered.input_ids[0]), np.float32),) * 2]
    logits[0][0][0] = 3.0
    assert TASK.answers(logits, answered, [WHO]) != [""]


@settings(max_examples=100)
@given(
    scores=st.lists(
        st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.booleans()), min_size=1, max_size=25
    ),
    longest=st.integers(1, 30),
)
def test_best_span_against_all_pairs(scores: list[tuple[int, int, bool]], longest: int) -> None:
    start = np.array([s for s, _, _ in scores], np.float32)
    end = np.array([e for _, e, _ in scores], np.float32)
    offsets = np.array(
        [(i, i + 1) if usable else (-1, -1) for i, (_, _, usable) in enumerate(scores)], np.int32
    )
    every = [
        (float(start[a]) + float(end[b]), a, b)
        for a in range(len(scores))
        for b in range(a, min(a + longest, len(scores)))
        if scores[a][2] and scores[b][2]
    ]
    score, first, last = best_span(start, end, offsets, longest)
    if not every:
        assert (score, first, last) == (-np.inf, 0, 0)
    else:
        assert (score, first, last) in every and score == max(every)[0]
        assert first == min(a for value, a, _ in every if value == score)


def test_a_span_that_the_window_cuts_is_none() -> None:
    offsets = np.array([[-1, -1], [0, 3], [4, 8], [-1, -1]], np.int32)

    def span(text: str, start: int, last: bool = False) -> tuple[int, int]:
        asked = QuestionExample("q", "abc defg hij", (text,), (start,))
        return token_span(offsets, asked, first=True, last=last)

    assert span("abc", 0) == (1, 1)
    assert span("bc de", 1) == (1, 2)
    assert span(" defg", 3) == (2, 2)
    assert span("defg h", 4) == (0, 0)
    assert span("defg h", 4, last=True) == (2, 2)  # the tokenizer has dropped the rest of the text
    assert span("hij", 9, last=True) == (0, 0)
    nothing = QuestionExample("q", "abc", (), ())
    assert token_span(offsets, nothing, first=True, last=True) == (0, 0)
    assert token_span(offsets[:1], QuestionExample("q", "abc", ("abc",), (0,)), first=True, last=True) == (
        0,
        0,
    )


def test_normalisation_and_figures() -> None:
    """Worked by hand from the description of SQuAD's evaluation."""
    assert normalized("The  Analytical-Engine, a loom!") == "analyticalengine loom"
    assert normalized("An answer: another theatre") == "answer another theatre"
    assert exact_match("the London.", "London") == 1
    assert exact_match("in London", "London") == 0
    assert word_f1("in London", "London") == pytest.approx(2 / 3)
    assert word_f1("London London", "London") == pytest.approx(2 / 3)  # a word counts as often as it is there
    assert word_f1("x y", "z") == 0 and word_f1("", "z") == 0 and word_f1("", "the") == 1
    figures = span_figures(["Ada", "in London"], [WHO, WHERE])
    assert figures.exact_match == 0.5  # the second true answer of the first question fits
    assert figures.f1 == pytest.approx((1 + 2 / 3) / 2)
    assert figures.examples == 2


def test_figures_of_predictions() -> None:
    data = TASK.tokenize(wordpiece(), [WHO, WHERE], (), 64)
    figures = TASK.figures([np.stack(row, axis=-1) for row in perfect(data)], data.windows, [WHO, WHERE], ())
    assert (figures.exact_match, figures.f1) == (1, 1)


def test_long_questions_are_cut_and_short_lengths_refused() -> None:
    asked = QuestionExample("who met " * 100, CONTEXT, ("London",), (36,))
    data = TASK.tokenize(wordpiece(), [asked], (), 160)
    separator = data.input_ids[0].index(3)
    assert separator - 1 == 64
    with pytest.raises(UsageError, match="4 tokens are too few"):
        TASK.tokenize(wordpiece(), [WHO], (), 4)
    TASK.tokenize(wordpiece(), [WHO], (), 5)
    assert TASK.needed_length(wordpiece(), [WHO], 512) <= 64
    assert TASK.needed_length(wordpiece(), [QuestionExample("q", "a " * 5000, (), ())], 512) == 384
    assert TASK.labels([WHO]) == ()


def squad(**changes) -> str:
    question = {"id": "1", "question": WHERE.question, "answers": [{"text": "London", "answer_start": 36}]}
    question |= changes
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": CONTEXT, "qas": [question]}]}]})


def test_both_formats_hold_the_same_questions(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(squad())
    row = {
        "question": WHERE.question,
        "context": CONTEXT,
        "answers": {"text": ["London"], "answer_start": [36]},
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert TASK.read(tmp_path / "a.json") == TASK.read(tmp_path / "a.jsonl") == [WHERE]
    (tmp_path / "b.json").write_text(squad(answers=[]))
    assert TASK.read(tmp_path / "b.json")[0].answers == ()


PLACE = ", data[0], paragraphs[0], qas[0]"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{\n"data": [\n', "line 3: not valid JSON"),
        ("[" * 200_000, "nested too deep"),
        ("[]", "a list, not an object with 'data'"),
        ("{}", "no list 'data'"),
        ('{"data": [5]}', "data[0]: a int, not an object"),
        ('{"data": [{}]}', "data[0]: no list 'paragraphs'"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "no examples"),
        ('{"data": []}', "no examples"),
        (squad(question=""), f"{PLACE}: 'question' is empty"),
        (squad(question=None), f"{PLACE}: 'question' must be a string"),
        (squad(answers=None), f"{PLACE}: no list 'answers'"),
        (squad(answers=[{}]), f"{PLACE}: 'answer text' must be a string, not None"),
        (
            squad(answers=[{"text": "Paris", "answer_start": 36}]),
            f"{PLACE}: the context does not have 'Paris'",
        ),
        (squad(answers=[{"text": "London", "answer_start": 35}]), "at answer_start 35"),
        (squad(answers=[{"text": "Ada", "answer_start": -71}]), "at answer_start -71"),
        (squad(answers=[{"text": "Ada", "answer_start": "0"}]), "at answer_start '0'"),
        (squad(answers=[{"text": "Ada", "answer_start": False}]), "at answer_start False"),
        (squad(answers=[{"text": "Ada", "answer_start": 10**400}]), "at answer_start 1000"),
        (squad(question="\ud800"), "lone surrogate"),
    ],
)
def test_bad_squad_files(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        TASK.read(path)
    assert says in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "q", "context": "c", "answers": []}, "'answers' must be an object"),
        ({"question": "q", "context": "c", "answers": {"text": ["c"]}}, "needs text and answer_start"),
        (
            {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [0, 1]}},
            "one start for",
        ),
        ({"question": "q", "answers": {"text": [], "answer_start": []}}, "'context' must be a string"),
    ],
)
def test_bad_lines(tmp_path: Path, row: dict[str, object], says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        TASK.read(path)
    assert says in str(caught.value) and "line 2" in str(caught.value)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown format '\.csv'"):
        TASK.read(tmp_path / "a.csv")
