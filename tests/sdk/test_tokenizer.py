"""The tokenizer against transformers, which the model was trained with."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebert.errors import DataError, ModelError, UsageError
from edgebert.tokenizer import TextTokenizer
from tests.factories import WORDS, make_checkpoint
from tests.sdk.packages import make_tokenizer_folder

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SENTENCE = st.lists(st.sampled_from([*WORDS, "Zürich", "🙂", "[SEP]", "[PAD]", "日本"]), max_size=30).map(
    " ".join
)
TEXT = ANY_TEXT | SENTENCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=["bert", "roberta"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param)


@cache
def reference_tokenizer(checkpoint: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(checkpoint)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.tuples(TEXT, st.none() | TEXT), min_size=1, max_size=4), length=st.integers(5, 40))
def test_same_batch_as_transformers(
    checkpoint: Path, rows: list[tuple[str, str | None]], length: int
) -> None:
    reference = reference_tokenizer(checkpoint)
    batch = TextTokenizer.from_folder(checkpoint, length).encode([a for a, _ in rows], [b for _, b in rows])
    # In lists: given alone, transformers takes an empty second text for none.
    options = {"truncation": "longest_first", "max_length": length}
    expected = [reference([a], None if b is None else [b], **options) for a, b in rows]
    flat = [{name: values[0] for name, values in row.items()} for row in expected]
    padded = reference.pad(flat, padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch.input_ids, padded["input_ids"])
    np.testing.assert_array_equal(batch.attention_mask, padded["attention_mask"])
    types = padded.get("token_type_ids", np.zeros_like(padded["input_ids"]))
    np.testing.assert_array_equal(batch.token_type_ids, types)
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.token_type_ids.dtype == np.int64


def test_families_without_token_types_get_zeros(tmp_path: Path, folder: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert TextTokenizer.from_folder(tmp_path, 20).encode(["a"], ["b"]).token_type_ids.any()
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    tokenizer = TextTokenizer.from_folder(tmp_path, 20)
    assert not tokenizer.encode(["a"], ["b"]).token_type_ids.any()
    assert tokenizer.encode_ids("a", "b")[1] == [0] * 5


def test_batch_rows_are_the_unpadded_ids(folder: Path) -> None:
    tokenizer = TextTokenizer.from_folder(folder, 12)
    texts, pairs = ["turn on", "", "play " * 50], [None, "x", "stop the music"]
    batch = tokenizer.encode(texts, pairs)
    for i, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        ids, types = tokenizer.encode_ids(text, pair)
        n = batch.attention_mask[i].sum()
        assert batch.attention_mask[i].tolist() == [1] * n + [0] * (12 - n)
        assert batch.input_ids[i, :n].tolist() == ids
        assert batch.token_type_ids[i, :n].tolist() == types
        assert set(batch.input_ids[i, n:].tolist()) <= {tokenizer.pad_id}


def test_pad_id_comes_from_the_configured_token(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "[MASK]"}}))
    tokenizer = TextTokenizer.from_folder(tmp_path, 12)
    assert tokenizer.pad_id == 4
    assert tokenizer.encode(["a", "a a a"]).input_ids[0, -1] == 4


def test_lowercase_is_read_from_the_normalizer(folder: Path, tmp_path: Path) -> None:
    assert TextTokenizer.from_folder(folder, 12).lowercase
    body = json.loads((folder / "tokenizer.json").read_text())
    for normalizer, expected in [
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}, True),
        ({"type": "NFC"}, False),
        (None, False),
    ]:
        (tmp_path / "tokenizer.json").write_text(json.dumps({**body, "normalizer": normalizer}))
        assert TextTokenizer.from_folder(tmp_path, 12).lowercase is expected


def test_no_texts(folder: Path) -> None:
    assert TextTokenizer.from_folder(folder, 12).encode([]).input_ids.shape == (0, 0)


def test_bad_texts_are_counted_from_first(folder: Path) -> None:
    tokenizer = TextTokenizer.from_folder(folder, 12)
    with pytest.raises(DataError, match="text 12 is not valid Unicode"):
        tokenizer.encode(["fine", "\ud800"], first=11)
    with pytest.raises(DataError, match="text 1 is of type int"):
        tokenizer.encode([3])  # type: ignore[list-item]
    with pytest.raises(DataError, match="2 texts but 1 second"):
        tokenizer.encode(["a", "b"], ["c"])


def test_length_below_the_special_tokens_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="allow at least 5"):
        TextTokenizer.from_folder(folder, 4)
    assert len(TextTokenizer.from_folder(folder, 5).encode_ids("turn on the light", "play a song")[0]) == 5


def test_vocabulary_without_the_unknown_token(folder: Path, tmp_path: Path) -> None:
    body = json.loads((folder / "tokenizer.json").read_text())
    body["added_tokens"] = []
    del body["model"]["vocab"]["[UNK]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(body))
    with pytest.raises(ModelError, match="the tokenizer fails"):
        TextTokenizer.from_folder(tmp_path, 12).encode(["日本"])


def test_bad_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        TextTokenizer.from_folder(tmp_path, 12)
    for raw in ("{", "{}", '{"version": "1.0"}', "[]"):
        (tmp_path / "tokenizer.json").write_text(raw)
        with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read") as caught:
            TextTokenizer.from_folder(tmp_path, 12)
        assert "\n" not in str(caught.value)
