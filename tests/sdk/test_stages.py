"""Resumable stages: computed once, never half there, never mistaken for another's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebert.errors import OutputError
from edgebert.stages import DONE_FILE, LOCK_FILE, StageStore, stage_key


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


KEY = stage_key("train", {})


def snapshotting(store: StageStore, ending: BaseException | None = None) -> Any:
    def produce(out: Path) -> Mapping[str, Any]:
        folder = store.resume_folder(KEY)
        seen = sorted(path.name for path in folder.iterdir() if path.name != LOCK_FILE)
        (folder / f"snapshot-{len(seen) + 1}").mkdir()
        if ending is not None:
            raise ending
        return {"seen": seen}

    return produce


def test_snapshots_outlive_an_interruption_and_go_with_the_end(tmp_path: Path) -> None:
    for _ in range(2):
        store = StageStore(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            store.run("train", {}, snapshotting(store, KeyboardInterrupt()))
    store = StageStore(tmp_path)
    assert store.run("train", {}, snapshotting(store)).facts["seen"] == ["snapshot-1", "snapshot-2"]
    assert [path.name for path in tmp_path.iterdir()] == [f"train-{KEY[:20]}"]


def test_an_interruption_without_snapshots_leaves_no_folder(tmp_path: Path) -> None:
    store = StageStore(tmp_path)

    def produce(out: Path) -> Mapping[str, Any]:
        store.resume_folder(KEY)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run("train", {}, produce)
    assert list(tmp_path.iterdir()) == []


def test_two_builds_do_not_share_snapshots_and_the_first_to_finish_wins(tmp_path: Path) -> None:
    first, second = StageStore(tmp_path), StageStore(tmp_path)

    def produce(out: Path) -> Mapping[str, Any]:
        mine = first.resume_folder(KEY)
        (mine / "snapshot-1").mkdir()
        theirs = second.run("train", {}, snapshotting(second))
        assert (theirs.facts["seen"], theirs.cached) == ([], False)
        assert (mine / "snapshot-1").is_dir()
        return {"seen": "never asked for"}

    assert first.run("train", {}, produce).facts == {"seen": []}
    assert [path.name for path in tmp_path.iterdir()] == [f"train-{KEY[:20]}"]


def test_a_killed_builds_snapshots_are_free_at_once(tmp_path: Path) -> None:
    """Its lock ends with it, even while another process has its number, here our own."""
    code = (
        "import sys; from pathlib import Path; from edgebert.stages import StageStore\n"
        "store = StageStore(Path(sys.argv[1])); folder = store.resume_folder(sys.argv[2])\n"
        "(folder / 'snapshot-1').mkdir(); print('ready', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), KEY]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        living = StageStore(tmp_path)
        assert not list(living.resume_folder(KEY).iterdir())
        holder.kill()
        holder.wait()
    store = StageStore(tmp_path)
    assert (store.resume_folder(KEY) / "snapshot-1").is_dir()
    assert store.run("train", {}, snapshotting(store)).facts["seen"] == ["snapshot-1"]


def test_killed_between_the_end_and_tidying_up(tmp_path: Path) -> None:
    StageStore(tmp_path).run("train", {}, lambda out: {})
    left = tmp_path / f"resume-{KEY[:20]}"
    (left / "snapshot-3").mkdir(parents=True)
    assert StageStore(tmp_path).run("train", {}, counting([])).cached
    assert not left.exists()


def test_a_follower_waits_for_the_leader_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = StageStore(tmp_path), StageStore(tmp_path)

    def together(out: Path) -> Mapping[str, Any]:
        assert follower.resume_folder(KEY, follow=True) == tmp_path / f"resume-{KEY[:20]}"
        leader.run("train", {}, lambda out: {"from": "leader"})
        return {"from": "follower"}

    assert follower.run("train", {}, together, follow=True).facts == {"from": "leader"}
    assert [path.name for path in tmp_path.iterdir()] == [f"train-{KEY[:20]}"]
    monkeypatch.setattr("edgebert.stages.PATIENCE", 0.0)
    with pytest.raises(OutputError, match="on a disk that all processes share"):
        follower.run("train", {"x": 1}, lambda out: {}, follow=True)


def test_a_build_that_was_overtaken_takes_the_others_result(tmp_path: Path) -> None:
    first, second = StageStore(tmp_path), StageStore(tmp_path)

    def slow(out: Path) -> Mapping[str, Any]:
        second.run("train", {}, lambda out: {"by": "second"})
        return {"by": "first"}

    assert first.run("train", {}, slow).facts == {"by": "second"}
