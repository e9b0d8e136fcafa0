"""Tags on words: reading, alignment with tokens, and the F1 of entities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.errors import DataError, UsageError
from edgebert.tasks.base import get_compression_task
from edgebert.tasks.token_classification import TokenExample, entities, entity_f1
from tests.sdk.task_tokenizers import TOKENIZERS, wordpiece

TASK = get_compression_task("token-classification")
LABELS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
SENTENCE = TokenExample(
    ("Ada", "Lovelace", "met", "Babbage", "in", "London"), ("B-PER", "I-PER", "O", "B-PER", "O", "B-LOC")
)
words = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", []),
        ("B-PER I-PER O", [("PER", 0, 2)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER", [("PER", 0, 2)]),
        ("O I-PER", [("PER", 1, 2)]),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("B-PER I-PER I-LOC I-LOC B-LOC", [("PER", 0, 2), ("LOC", 2, 4), ("LOC", 4, 5)]),
        ("B-A-B I-A-B I-A", [("A-B", 0, 2), ("A", 2, 3)]),
        ("", []),
    ],
)
def test_entities_as_conlleval_reads_them(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == found


def test_f1_of_the_example_in_seqeval_s_description() -> None:
    """Two sentences, two true entities; one of two guesses is exact: precision = recall = 1/2."""
    truth = [
        ["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"],
        ["B-PER", "I-PER", "O"],
    ]
    guess = [
        ["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"],
        ["B-PER", "I-PER", "O"],
    ]
    assert entity_f1(truth, guess) == 0.5


def test_f1_in_closed_form() -> None:
    """3 true, 4 guessed, 2 shared: P = 1/2, R = 2/3, F1 = 4/7. Right words with a wrong type do not count."""
    truth = [["B-PER", "O", "B-LOC", "I-LOC", "O", "B-ORG"]]
    guess = [["B-PER", "B-PER", "B-LOC", "I-LOC", "O", "B-LOC"]]
    assert entity_f1(truth, guess) == pytest.approx(4 / 7)
    assert entity_f1(truth, truth) == 1
    assert entity_f1([["O"]], [["O"]]) == 0
    assert entity_f1([["O"]], [["B-PER"]]) == 0


@given(
    st.lists(st.lists(st.sampled_from(LABELS), min_size=1, max_size=12), min_size=1, max_size=6), st.randoms()
)
def test_f1_against_counting_by_hand(truth: list[list[str]], rng: object) -> None:
    """The oracle finds an entity by trying every stretch of words."""

    def brute(tags: list[str]) -> set[tuple[str, int, int]]:
        def begins(i: int) -> bool:
            before = tags[i - 1] if i else "O"
            return tags[i] != "O" and (tags[i][0] == "B" or before == "O" or before[2:] != tags[i][2:])

        return {
            (tags[a][2:], a, b)
            for a in range(len(tags))
            for b in range(a + 1, len(tags) + 1)
            if begins(a)
            and all(tags[i] != "O" and not begins(i) for i in range(a + 1, b))
            and (b == len(tags) or tags[b] == "O" or begins(b))
        }

    guess = [[rng.choice(LABELS) if rng.random() < 0.3 else tag for tag in row] for row in truth]  # type: ignore[attr-defined]
    hits = sum(len(brute(a) & brute(b)) for a, b in zip(truth, guess, strict=True))
    wanted, got = sum(len(brute(a)) for a in truth), sum(len(brute(b)) for b in guess)
    precision, recall = hits / got if got else 0, hits / wanted if wanted else 0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0
    assert entity_f1(truth, guess) == pytest.approx(f1)


def test_the_first_token_of_a_word_has_its_label() -> None:
    tokenizer = wordpiece()
    data = TASK.tokenize(tokenizer, [SENTENCE], LABELS, 64)
    pieces = [tokenizer.bare().id_to_token(i) for i in data.input_ids[0]]
    assert data.token_labels is not None
    labelled = [
        (piece, LABELS[label])
        for piece, label in zip(pieces, data.token_labels[0], strict=True)
        if label != -100
    ]
    assert [tag for _, tag in labelled] == list(SENTENCE.tags)
    assert not any(piece.startswith("##") for piece, _ in labelled)
    assert any(piece.startswith("##") for piece in pieces)  # or nothing was shown
    assert data.labels == (0,) and pieces[0] == "[CLS]" and pieces[-1] == "[SEP]"


@settings(max_examples=60, deadline=None)
@given(words, st.integers(6, 40), st.sampled_from(sorted(TOKENIZERS)), st.randoms(use_true_random=False))
def test_true_logits_give_back_every_tag(tokens: list[str], length: int, kind: str, rng: object) -> None:
    """However the words are cut and the text split into rows, labels come back to their words."""
    tags = [rng.choice(LABELS) for _ in tokens]  # type: ignore[attr-defined]
    example = TokenExample(tuple(tokens), tuple(tags))
    tokenizer = TOKENIZERS[kind]()
    data = TASK.tokenize(tokenizer, [example, SENTENCE], LABELS, length)
    assert data.token_labels is not None and data.windows is not None
    assert max(map(len, data.input_ids)) <= length
    logits = [
        (np.eye(len(LABELS), dtype=np.float32)[[max(label, 0) for label in row]],)
        for row in data.token_labels
    ]
    found = TASK.tags(logits, data, [example, SENTENCE], LABELS)  # type: ignore[attr-defined]
    alone = tokenizer.bare()
    for word, tag, got in zip(tokens, tags, found[0], strict=True):
        # a word of which the normaliser leaves nothing has no token to carry a label
        assert got == (tag if alone.encode(word, add_special_tokens=False).ids else "O")
    assert found[1] == list(SENTENCE.tags)
    every = [label for row in data.token_labels for label in row if label != -100]
    assert len(every) == sum(bool(alone.encode(w, add_special_tokens=False).ids) for w in tokens) + 6


def test_measure_is_the_f1_of_the_tags() -> None:
    data = TASK.tokenize(wordpiece(), [SENTENCE], LABELS, 64)
    assert data.token_labels is not None
    logits = np.zeros((len(data.input_ids[0]), len(LABELS)), np.float32)
    logits[:, LABELS.index("O")] = 1
    first = [place for place, label in enumerate(data.token_labels[0]) if label != -100]
    logits[first[5], LABELS.index("B-LOC")] = 2  # London is found, the two persons are not
    assert TASK.measure([(logits,)], data, [SENTENCE], LABELS) == pytest.approx(2 * 1 / (3 + 1))
    for predictions in ([], [(logits,)] * 2):
        with pytest.raises(DataError, match="predictions for 1 rows"):
            TASK.measure(predictions, data, [SENTENCE], LABELS)


def test_labels_and_length() -> None:
    assert TASK.labels([SENTENCE]) == ("B-LOC", "B-PER", "I-PER", "O")
    with pytest.raises(DataError, match="only the tag 'O'"):
        TASK.labels([TokenExample(("a",), ("O",))])
    assert TASK.needed_length(wordpiece(), [SENTENCE], 512) == 32
    assert TASK.needed_length(wordpiece(), [SENTENCE], 12) == 12
    with pytest.raises(UsageError, match="3 tokens are too few"):
        TASK.tokenize(wordpiece(), [SENTENCE], LABELS, 3)
    with pytest.raises(DataError, match="example 1 has the tag 'B-LOC', which the labels lack"):
        TASK.tokenize(wordpiece(), [SENTENCE], ("B-PER", "I-PER", "O"), 64)


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokens": SENTENCE.tokens, "tags": SENTENCE.tags}) + "\n\n")
    assert TASK.read(path) == [SENTENCE]


GOOD = '{"tokens": ["a"], "tags": ["O"]}\n'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"tokens": ["a"]}', "'tokens' and 'tags' must be lists"),
        ('{"tokens": "a", "tags": "O"}', "must be lists"),
        ('{"tokens": ["a", "b"], "tags": ["O"]}', "2 tokens and 1 tags"),
        ('{"tokens": [], "tags": []}', "0 tokens and 0 tags"),
        ('{"tokens": [1], "tags": ["O"]}', "'tokens' must be a string, not 1"),
        ('{"tokens": [" "], "tags": ["O"]}', "'tokens' is empty"),
        ('{"tokens": ["\\ud800"], "tags": ["O"]}', "lone surrogate"),
        ('{"tokens": ["a"], "tags": ["NOUN"]}', "the tag 'NOUN' is not O, B-TYPE or I-TYPE"),
        ('{"tokens": ["a"], "tags": ["B-"]}', "the tag 'B-' is not"),
        ('{"tokens": ["a"], "tags": [null]}', "'tags' must be a string"),
        ("[]", "a list, not an object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON (nested too deep)"),
        ('{"tokens": ' + "9" * 5000 + "}", "a number of too many digits"),
        ("\ufffe{}", "not valid JSON"),
    ],
)
def test_bad_lines_are_told_by_number(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD + line + "\n")
    with pytest.raises(DataError) as caught:
        TASK.read(path)
    assert says in str(caught.value) and f"{path}, line 2: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "no examples"), (b'{"a": "\xff"}', "line 1: not valid UTF-8")]
)
def test_bad_files(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        TASK.read(path)
    with pytest.raises(DataError, match="cannot read"):
        TASK.read(tmp_path / "missing.jsonl")


def test_unknown_task() -> None:
    with pytest.raises(UsageError, match="unknown task 'x'; use one of: text-classification, token-class"):
        get_compression_task("x")
