"""Resumable stages: computed once, never half there, never mistaken for another's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebert.errors import OutputError
from edgebert.stages import DONE_FILE, StageStore, stage_key


def counting(calls: list[int]) -> Any:
    def produce(out: Path) -> Mapping[str, Any]:
        calls.append(1)
        (out / "weights").write_bytes(b"123")
        return {"loss": 0.5}

    return produce


def test_second_run_takes_the_kept_result(tmp_path: Path) -> None:
    calls: list[int] = []
    first = StageStore(tmp_path).run("train", {"lr": 1}, counting(calls))
    second = StageStore(tmp_path).run("train", {"lr": 1}, counting(calls))
    assert (first.cached, second.cached, len(calls)) == (False, True, 1)
    assert first.folder == second.folder
    assert second.facts == {"loss": 0.5}
    assert (second.folder / "weights").read_bytes() == b"123"


def test_other_inputs_or_kind_run_again(tmp_path: Path) -> None:
    calls: list[int] = []
    store = StageStore(tmp_path)
    for kind, inputs in (("a", {"x": 1}), ("a", {"x": 2}), ("b", {"x": 1})):
        store.run(kind, inputs, counting(calls))
    assert len(calls) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_failed_stage_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def broken(out: Path) -> Mapping[str, Any]:
        (out / "half").write_text("written")
        raise error

    with pytest.raises(error):
        StageStore(tmp_path).run("train", {}, broken)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    calls: list[int] = []
    store = StageStore(tmp_path)
    folder = store.run("train", {}, counting(calls)).folder
    (folder / DONE_FILE).write_text('{"key": "x", "facts": {}}')
    assert not store.run("train", {}, counting(calls)).cached
    assert len(calls) == 2


def test_leftovers_of_killed_builds_go_and_of_living_ones_stay(tmp_path: Path) -> None:
    dead, living = tmp_path / ".4194305-train-x", tmp_path / f".{os.getpid()}-train-y"
    dead.mkdir()
    living.mkdir()
    StageStore(tmp_path)
    assert not dead.exists()
    assert living.exists()


def test_unwritable_work_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another with --work"):
        StageStore(tmp_path / "file" / "work")


def test_key_does_not_depend_on_order() -> None:
    assert stage_key("a", {"x": 1, "y": [2]}) == stage_key("a", {"y": [2], "x": 1})
    assert stage_key("a", {"x": 1}) != stage_key("a", {"x": "1"})
