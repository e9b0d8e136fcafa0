"""Raw text for masked language modelling, and one view on all four tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebert.data import Example
from edgebert.errors import DataError, EdgeBertError, ModelError, UsageError
from edgebert.tasks.base import TASKS, get_compression_task
from edgebert.tasks.masked_language_model import MaskedLanguageModel, TextExample
from edgebert.tasks.text_classification import TextClassification
from edgebert.tokenizer import TextTokenizer
from edgebert_compress.tasks import TASKS as TRAINED
from edgebert_compress.tasks.masked_language_model import hide_tokens
from tests.sdk.task_tokenizers import TOKENIZERS, bytelevel, wordpiece

TASK = MaskedLanguageModel()
TEXT = "The Analytical Engine weaves algebraic patterns as the loom weaves flowers."


def test_both_formats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{TEXT}\r\n\n  \nWho met Babbage?", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{TEXT}"}}\n{{"text": "Who met Babbage?", "more": 1}}\n')
    wanted = [TextExample(TEXT), TextExample("Who met Babbage?")]
    assert TASK.read(tmp_path / "a.txt") == TASK.read(tmp_path / "a.jsonl") == wanted
    assert TASK.labels(wanted) == ()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\n \n", "no examples"),
        ("a.txt", b"a\nb\n\xff\n", "line 3: not valid UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"words": "x"}\n', "line 2: 'text' must be a string, not None"),
        ("a.jsonl", b'{"text": ""}\n', "line 1: 'text' is empty"),
        ("a.jsonl", b'{"text": "\\udc80"}\n', "line 1: 'text' is not valid Unicode"),
        ("a.csv", b"text\nx\n", "unknown format '.csv'"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        TASK.read(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_a_long_text_goes_on_in_the_next_row(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    data = TASK.tokenize(tokenizer, [TextExample(TEXT * 5), TextExample("Who?")], (), 16)
    bare = tokenizer.bare()
    whole = bare.encode(TEXT * 5)
    inner = [i for row in data.input_ids[:-1] for i in row[1:-1]]
    assert inner == whole.ids[1:-1] and max(map(len, data.input_ids)) == 16
    assert data.input_ids[-1] == tuple(bare.encode("Who?").ids)
    assert {whole.ids[0], whole.ids[-1], tokenizer.pad_id, data.mask_token_id} == set(data.special_ids)
    assert len(data.labels) == len(data)


def test_measure_counts_hidden_tokens_only() -> None:
    """Logits that know every second hidden token, and nothing of the others."""
    tokenizer = wordpiece()
    vocabulary = tokenizer.bare().get_vocab_size()
    data = TASK.tokenize(tokenizer, [TextExample(TEXT), TextExample(TEXT * 3)], (), 32)
    known = total = 0
    predictions = []
    for index, ids in enumerate(data.input_ids):
        _, labels = hide_tokens(data, index, vocabulary)
        logits = np.zeros((len(ids), vocabulary), np.float32)
        logits[:, 0] = 1  # the padding token, never right
        for place, label in enumerate(labels):
            if label != -100:
                total += 1
                if total % 2:
                    known += 1
                    logits[place, label] = 2
        predictions.append((logits,))
    assert total > 3
    assert TASK.measure(iter(predictions), data, [], ()) == known / total
    for wrong in (predictions[:-1], [*predictions, predictions[0]]):
        with pytest.raises(DataError, match="predictions for"):
            TASK.measure(wrong, data, [], ())


def test_a_tokenizer_without_a_mask() -> None:
    raw = wordpiece().bare().to_str().replace("[MASK]", "[HIDE]")
    tokenizer = TextTokenizer.from_json(raw.encode(), max_length=32, pad_id=0, token_types=True)
    with pytest.raises(ModelError, match="no mask token"):
        TASK.tokenize(tokenizer, [TextExample(TEXT)], (), 32)


def test_texts_of_which_nothing_is_left() -> None:
    with pytest.raises(DataError, match="nothing that the tokenizer knows"):
        TASK.tokenize(wordpiece(), [TextExample("\x01\x02")], (), 32)
    with pytest.raises(UsageError, match="3 tokens are too few"):
        TASK.tokenize(wordpiece(), [TextExample(TEXT)], (), 3)


def test_every_training_task_has_its_data() -> None:
    assert list(TASKS) == list(TRAINED)
    for name in TASKS:
        task = get_compression_task(name)
        assert task.name == name and task.metric in ("accuracy", "f1", "masked accuracy")


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_file_is_one_line(tmp_path: Path, name: str) -> None:
    for suffix in (".jsonl", ".json", ".txt", ".csv"):
        with pytest.raises(EdgeBertError) as caught:
            get_compression_task(name).read(tmp_path / f"missing{suffix}")
        assert "\n" not in str(caught.value)


ROWS = [Example("Who met Babbage?", None, "who"), Example("Where?", "In London, on the 5th of June", "where")]


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_classification_rows_are_those_of_the_tokenizer(kind: str) -> None:
    task, tokenizer = TextClassification(), TOKENIZERS[kind]()
    labels = task.labels(ROWS)
    assert labels == ("where", "who")
    data = task.tokenize(tokenizer, ROWS, labels, 12)
    cutting = TextTokenizer(tokenizer.bare(), 12, tokenizer.pad_id, tokenizer.token_types)
    for row, given in enumerate(ROWS):
        ids, types = cutting.encode_ids(given.text, given.text_pair)
        assert data.token_type_ids is not None
        assert (data.input_ids[row], data.token_type_ids[row]) == (tuple(ids), tuple(types))
    assert data.labels == (1, 0) and data.pad_token_id == tokenizer.pad_id
    assert tokenizer.max_length == 64  # the caller's tokenizer is as it was
    logits = [(np.array([0.2, 0.1], np.float32),), (np.array([0.9, 0.1], np.float32),)]
    assert task.measure(logits, data, ROWS, labels) == 0.5
    with pytest.raises(DataError, match="example 1 has the label 'who'"):
        task.tokenize(tokenizer, ROWS, ("where", "when"), 12)
    with pytest.raises(DataError, match="only the label"):
        task.labels(ROWS[:1])
    assert task.needed_length(bytelevel(), ROWS, 512) % 16 == 0
