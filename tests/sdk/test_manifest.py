"""The manifest: what goes in comes out, and nothing that the format does not name gets in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.errors import PackageError
from edgebert.golden import GoldenExample, GoldenForm, dump_golden, parse_golden
from edgebert.manifest import (
    Backend,
    Cpu,
    FileEntry,
    Gate,
    InputTensor,
    Manifest,
    Source,
    StageMetrics,
    TokenizerSettings,
    parse_manifest,
)
from tests.sdk.packages import make_manifest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NUMBER = st.one_of(st.floats(-1e6, 1e6), st.integers(-1000, 1000))
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAME = st.from_regex(r"[a-z0-9_][a-z0-9._-]{0,10}[a-z0-9_]", fullmatch=True)
FILES = st.dictionaries(NAME, st.tuples(st.integers(0, 1 << 40), SHA), max_size=5).map(
    lambda files: tuple(FileEntry(name, *files[name]) for name in sorted(files))
)
MANIFESTS = st.builds(
    Manifest,
    task=st.just("text-classification"),
    labels=st.lists(TEXT, min_size=2, max_size=5, unique=True).map(tuple),
    target=TEXT,
    backend=st.builds(Backend, TEXT, TEXT),
    cpu=st.builds(Cpu, st.lists(TEXT).map(tuple), st.lists(TEXT).map(tuple)),
    model_file=NAME,
    inputs=st.lists(
        st.builds(InputTensor, TEXT, TEXT, st.lists(st.integers(1, 512) | TEXT, max_size=3).map(tuple)),
        max_size=3,
    ).map(tuple),
    lengths=st.sets(st.integers(1, 512), max_size=4).map(lambda lengths: tuple(sorted(lengths))),
    tokenizer=st.builds(
        TokenizerSettings,
        max_length=st.integers(3, 512),
        pad_id=st.integers(0, 30000),
        token_types=st.booleans(),
        lowercase=st.booleans(),
        truncation=st.just("longest_first"),
        padding_side=st.just("right"),
    ),
    source=st.builds(Source, TEXT, SHA, st.dictionaries(TEXT, SHA, max_size=2)),
    recipe=st.dictionaries(TEXT, JSON, max_size=4),
    seeds=st.dictionaries(TEXT, st.integers(0, 1 << 40), max_size=2),
    metrics=st.lists(
        st.builds(StageMetrics, TEXT, st.dictionaries(TEXT, NUMBER, max_size=3)), max_size=3
    ).map(tuple),
    gate=st.builds(Gate, st.sampled_from(["accuracy", "macro_f1"]), NUMBER, NUMBER),
    golden_tolerance=NUMBER,
    files=FILES,
)


@settings(max_examples=150, deadline=None)
@given(MANIFESTS)
def test_round_trip(manifest: Manifest) -> None:
    raw = manifest.to_json()
    again = parse_manifest(raw)
    assert again == manifest
    assert again.to_json() == raw
    assert again.package_id == manifest.package_id


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_one_line(raw: bytes) -> None:
    with pytest.raises(PackageError) as caught:
        parse_manifest(raw)
    assert "\n" not in str(caught.value)


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown key": lambda b: b.update(extra=1),
    "unknown key inside": lambda b: b["gate"].update(extra=1),
    "missing key": lambda b: b.pop("target"),
    "missing key inside": lambda b: b["tokenizer"].pop("pad_id"),
    "text for a number": lambda b: b["gate"].update(max_drop="0.01"),
    "true for a number": lambda b: b["gate"].update(max_drop=True),
    "number for a text": lambda b: b.update(task=1),
    "empty text": lambda b: b.update(target=""),
    "one label": lambda b: b.update(labels=["a"]),
    "a label twice": lambda b: b.update(labels=["a", "a"]),
    "text for labels": lambda b: b.update(labels="ab"),
    "lengths out of order": lambda b: b.update(lengths=[64, 32]),
    "length zero": lambda b: b.update(lengths=[0]),
    "length as float": lambda b: b.update(lengths=[1.5]),
    "max_length too large": lambda b: b["tokenizer"].update(max_length=1 << 40),
    "other truncation": lambda b: b["tokenizer"].update(truncation="only_first"),
    "other padding": lambda b: b["tokenizer"].update(padding_side="left"),
    "other metric": lambda b: b["gate"].update(metric="__class__"),
    "model outside": lambda b: b.update(model_file="../model.onnx"),
    "recipe is a list": lambda b: b.update(recipe=[]),
    "format true": lambda b: b.update(format=True),
    "files is an object": lambda b: b.update(files={}),
    "too many files": lambda b: b.update(
        files=[{"name": f"f{i:04}", "size": 0, "sha256": "0" * 64} for i in range(65)]
    ),
    "huge number": lambda b: b["gate"].update(max_drop=1e300),
}


@pytest.mark.parametrize("how", BAD)
def test_bad_field_is_refused(how: str) -> None:
    body = json.loads(make_manifest().to_json())
    BAD[how](body)
    with pytest.raises(PackageError, match=r"manifest\.json"):
        parse_manifest(json.dumps(body).encode())


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}']
)
def test_json_that_other_readers_read_otherwise_is_refused(text: str) -> None:
    with pytest.raises(PackageError, match="not valid JSON"):
        parse_manifest(text.encode())


def test_nan_cannot_be_written() -> None:
    manifest = replace(make_manifest(), golden_tolerance=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest.to_json()


def test_the_reports_do_not_change_the_identity_and_other_files_do() -> None:
    files = (FileEntry("model.onnx", 1, "0" * 64), FileEntry("report.json", 1, "0" * 64))
    one = make_manifest(files=files)
    report = make_manifest(files=(files[0], FileEntry("report.json", 2, "1" * 64)))
    model = make_manifest(files=(FileEntry("model.onnx", 1, "1" * 64), files[1]))
    assert one.package_id == report.package_id != model.package_id


def test_gate_allows_exactly_the_drop() -> None:
    gate = Gate("accuracy", 0.95, 0.01)
    assert gate.allows(0.94)
    assert not gate.allows(0.9399)


GOLDEN = st.builds(
    GoldenExample,
    text=st.text(st.characters(exclude_categories=["Cs"])),
    text_pair=st.none() | TEXT,
    ids=st.lists(st.integers(0, 50000), min_size=1, max_size=9).map(tuple),
    logits=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=3, max_size=3).map(
        tuple
    ),
)


@settings(deadline=None)
@given(st.lists(GOLDEN, max_size=4))
def test_golden_round_trip_is_exact(rows: list[GoldenExample]) -> None:
    again = parse_golden(dump_golden(rows), GoldenForm(3))
    assert list(again) == rows
    assert [v.hex() for r in again for v in r.logits] == [v.hex() for r in rows for v in r.logits]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"text": "a", "ids": [1]}',
        '{"text": 1, "ids": [1], "logits": ["0x1p+0", "0x1p+0"]}',
        '{"text": "a", "ids": [-1], "logits": ["0x1p+0", "0x1p+0"]}',
        '{"text": "a", "ids": [], "logits": ["0x1p+0", "0x1p+0"]}',
        '{"text": "a", "ids": [1], "logits": ["0x1p+0"]}',
        '{"text": "a", "ids": [1], "logits": ["inf", "0x1p+0"]}',
        '{"text": "a", "ids": [1], "logits": ["0x1p+99999", "0x1p+0"]}',
        '{"text": "a", "ids": [1], "logits": [1.0, 2.0]}',
        '{"text": "a", "ids": [1], "logits": ["0x1p+0", "0x1p+0"], "more": 1}',
    ],
)
def test_bad_golden_line_is_named(line: str) -> None:
    good = '{"text": "a", "ids": [1], "logits": ["0x1p+0", "0x1p+0"]}\n'
    with pytest.raises(PackageError, match="line 2"):
        parse_golden((good + line).encode(), GoldenForm(2))
