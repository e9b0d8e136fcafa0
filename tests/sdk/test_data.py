"""Reading labelled text: every format, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.data import Columns, Example, data_hash, label_set, load_examples, write_jsonl
from edgebert.errors import DataError

ROWS = [Example("turn it on", None, "on"), Example('say "hi", now', None, "talk"), Example("a", "b", "on")]
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


def test_jsonl_csv_and_tsv_hold_the_same_examples(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": r.text, "text_pair": r.text_pair, "label": r.label}) for r in ROWS)
    )
    (tmp_path / "a.csv").write_text(
        'label,text,text_pair\non,turn it on,\ntalk,"say ""hi"", now",\non,a,b\n', encoding="utf-8-sig"
    )
    (tmp_path / "a.tsv").write_text('label\ttext\non\tturn it on\ntalk\tsay "hi", now\n')
    assert load_examples(tmp_path / "a.jsonl") == ROWS
    from_csv = load_examples(tmp_path / "a.csv")
    assert [(e.text, e.label) for e in from_csv] == [(e.text, e.label) for e in ROWS]
    assert from_csv[2].text_pair == "b"
    assert load_examples(tmp_path / "a.tsv") == ROWS[:2]


@given(st.lists(st.builds(Example, texts, st.none() | texts, texts), min_size=1, max_size=8))
def test_written_jsonl_reads_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Example]) -> None:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    write_jsonl(rows, path)
    assert load_examples(path) == rows
    assert data_hash(load_examples(path)) == data_hash(rows)


def test_other_column_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentence": "good", "sentence2": "bad", "y": 1}\n')
    assert load_examples(path, Columns("sentence", "sentence2", "y")) == [Example("good", "bad", "1")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": \n', "line 2: not valid JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        ("a.jsonl", b'\n[1]\n', "line 2: a list"),
        ("a.jsonl", b'{"text": "x"}\n', "line 1: no 'label'"),
        ("a.jsonl", b'{"text": 5, "label": "y"}\n', "must be strings"),
        ("a.jsonl", b'{"text": "  ", "label": "y"}\n', "line 1: 'text' is empty"),
        ("a.jsonl", b'{"text": "x", "label": 1.5}\n', "line 1: 'label' must be"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": "\xff"}', "line 2: not valid UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800", "label": "y"}\n', "line 1: 'text' is not valid Unicode"),
        ("a.jsonl", b'{"text": "x", "text_pair": "\\ud800", "label": "y"}\n', "'text_pair' is not valid"),
        ("a.jsonl", b'{"text": "x", "label": "\\udfff"}\n', "line 1: 'label' is not valid Unicode"),
        ("a.jsonl", b'{"text": "x", "label": ' + b"9" * 5000 + b"}\n", "a number of too many digits"),
        ("a.csv", b"text,label\nx,y\nx,y,z\n", "line 3: more fields"),
        ("a.csv", b"text,label\n\"x,y\n", "line 2"),
        ("a.csv", b"sentence,label\nx,y\n", "line 2: no 'text'"),
        ("a.tsv", b"text\tlabel\nx\n", "line 2: no 'label'"),
        ("a.jsonl", b"\n\n", "no examples"),
        ("a.txt", b"x\n", "unknown format '.txt'"),
    ],
)  # fmt: skip
def test_bad_files_are_told_with_their_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_examples(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["missing.jsonl", "/no/such/file.csv", "../x", "a b", ""])
def test_missing_file(source: str) -> None:
    with pytest.raises(DataError, match="no data file at"):
        load_examples(source)


def test_dataset_id_with_the_hub_mocked(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"sentence": ["fine", "poor"], "label": [1, 0]}, features=features)
    asked: list[object] = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: (asked.append((args, options)), rows)[1]
    )
    columns = Columns(text="sentence")
    assert load_examples("owner/name:sst2:test", columns) == [
        Example("fine", None, "good"),
        Example("poor", None, "bad"),
    ]
    load_examples("name", columns, split="validation")
    assert asked == [(("owner/name", "sst2"), {"split": "test"}), (("name", None), {"split": "validation"})]


def test_unreachable_dataset_id_is_one_line() -> None:
    with pytest.raises(DataError, match="cannot load dataset 'no-such-owner/no-such-set'") as caught:
        load_examples("no-such-owner/no-such-set", split="test")
    assert "\n" not in str(caught.value)


def test_labels_must_agree() -> None:
    train = [Example("a", None, "x"), Example("b", None, "y")]
    assert label_set(train, train[:1]) == ("x", "y")
    with pytest.raises(DataError, match="label 'z' of evaluation example 2"):
        label_set(train, [train[0], Example("c", None, "z")])
    with pytest.raises(DataError, match="only one label"):
        label_set(train[:1], [])
