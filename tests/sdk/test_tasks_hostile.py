"""Whatever a data file holds, a task reads it or says in one line what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.errors import DataError
from edgebert.tasks.base import TASKS, get_compression_task

KEYS = st.sampled_from(
    ["text", "label", "tokens", "tags", "question", "context", "answers", "answer_start",
     "data", "paragraphs", "qas"]
)  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", " ", "O", "B-X", "a b", "\ud800"])
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5)
)


def read_or_refuse(task: str, path: Path) -> None:
    try:
        examples = get_compression_task(task).read(path)
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert examples


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(values, max_size=3), suffix=st.sampled_from([".jsonl", ".json"]))
def test_any_json(
    tmp_path_factory: pytest.TempPathFactory, task: str, rows: list[object], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("data") / f"a{suffix}"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    if suffix == ".jsonl" or task == "question-answering":
        read_or_refuse(task, path)


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=60), suffix=st.sampled_from([".jsonl", ".txt", ".json", ".csv", ".tsv"]))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, task: str, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.mktemp("data") / f"a{suffix}"
    path.write_bytes(content)
    read_or_refuse(task, path)
