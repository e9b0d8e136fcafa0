"""The benchmark against fake engines: turns, clean-up, failures. No test looks at how long anything took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgebert import bench
from edgebert.bench import BenchError, BenchPlan, EngineSpec, benchmark, compare, full_inputs, summarize
from edgebert.errors import UsageError
from edgebert.figures import MAX_SAMPLES
from edgebert_targets.errors import ArtifactError, UnknownTargetError
from tests.sdk.fake_engine import engine, fake

__all__ = ["fake"]


def events(spec: EngineSpec) -> list[list[str]]:
    return [line.split() for line in spec.model.with_suffix(".log").read_text().splitlines()]


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]


INPUTS = full_inputs([[1, 5, 6, 2], [1, 7, 2], [1, 8, 9, 10, 2]], 8)


def test_rounds_alternate_and_every_engine_gets_the_same_examples(fake: Path) -> None:
    a, b = engine(fake, "a"), engine(fake, "b")
    result = benchmark([a, b], INPUTS, BenchPlan(threads=2, rounds=3, runs_per_round=4, warmup=2))
    runs = sorted(
        (int(time), spec.name, example)
        for spec in (a, b)
        for time, word, *_, example in events(spec)
        if word == "run"
    )
    order = [name for _, name, _ in runs]
    assert order == ["a"] * 2 + ["b"] * 2 + (["a"] * 5 + ["b"] * 5) * 3
    assert [e for _, n, e in runs if n == "a"] == [e for _, n, e in runs if n == "b"]
    assert {e for _, _, e in runs} == {"5", "7", "8"}  # every example is used
    assert events(a)[0][1] == "open" and events(a)[0][3] == "2"  # the thread count arrives
    assert list(result.latency) == ["a", "b"]
    for latency in result.latency.values():
        assert (latency.runs, latency.length, latency.batch, latency.threads) == (12, 8, 1, 2)
        assert 0 < latency.samples_ms[0] <= latency.p50_ms <= latency.p90_ms <= latency.p99_ms
        assert latency.peak_memory_bytes > 5_000_000 and latency.load_ms > 0 and latency.throughput_per_s > 0
    assert not children()


def test_an_engine_is_stopped_while_the_other_runs(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = bench.one_round

    def watched(worker: bench.Worker, turn: int, plan: BenchPlan) -> dict[str, object]:
        seen.append(sorted(p.status() for p in children() if p.pid != worker.process.pid))
        return real(worker, turn, plan)

    monkeypatch.setattr(bench, "one_round", watched)
    benchmark([engine(fake, "a"), engine(fake, "b")], INPUTS, BenchPlan(rounds=2, runs_per_round=1))
    assert seen == [[psutil.STATUS_STOPPED]] * 4


def test_speed_ratio_is_the_median_of_the_rounds() -> None:
    result = bench.BenchResult({}, {"fast": (1.0, 2.0, 1.0), "slow": (3.0, 4.0, 50.0)})
    assert result.speed_ratio("fast", "slow") == 3.0  # of 3, 2 and 50
    assert result.speed_ratio("slow", "fast") == pytest.approx(1 / 3)


def test_compare_with_and_without_a_baseline(fake: Path) -> None:
    plan = BenchPlan(rounds=2, runs_per_round=2)
    fast, slow = engine(fake, "fast", sleep_s=0.0), engine(fake, "slow", sleep_s=0.02)
    both = compare(fast, slow, INPUTS, plan, where="here", note="n")
    assert both.baseline is not None and both.speed_ratio is not None and both.speed_ratio > 1
    alone = compare(fast, None, INPUTS, plan, where="here")
    assert alone.baseline is None and alone.speed_ratio is None


@pytest.mark.parametrize(
    ("facts", "error", "message"),
    [
        ({"die_at": 4}, BenchError, r"engine 'x' ended with code 7: out of cheese; "),
        ({"fail_at": 4}, BenchError, r"engine 'x' failed: RuntimeError: two lines; run 'edgebert doctor'"),
        ({"hang_at": 4}, BenchError, r"engine 'x' gave no answer in 1 s; use a smaller --length"),
        ({"damaged": True}, ArtifactError, r"^model is damaged$"),
    ],
)
def test_a_failing_engine_is_one_line_and_leaves_no_process(
    fake: Path, facts: dict[str, object], error: type[Exception], message: str
) -> None:
    plan = BenchPlan(rounds=2, runs_per_round=2, warmup=2, timeout_s=1)
    with pytest.raises(error, match=message) as caught:
        benchmark([engine(fake, "ok"), engine(fake, "x", **facts)], INPUTS, plan)
    assert "\n" not in str(caught.value)
    assert not children()


def test_a_killed_engine_is_named_with_its_signal(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killing(worker: bench.Worker, turn: int, plan: BenchPlan) -> dict[str, object]:
        worker.process.kill()
        return worker.ask(op="run", first=0, count=1, batch=1)

    monkeypatch.setattr(bench, "one_round", killing)
    with pytest.raises(BenchError, match="'x' was killed by SIGKILL"):
        benchmark([engine(fake, "x")], INPUTS, BenchPlan(rounds=1, runs_per_round=1))
    assert not children()


def test_an_unknown_target_keeps_its_error(fake: Path) -> None:
    with pytest.raises(UnknownTargetError, match="unknown target 'nope'"):
        benchmark([EngineSpec("x", "nope", fake)], INPUTS, BenchPlan())


INTERRUPTED = """
import sys
from pathlib import Path
from edgebert.bench import BenchPlan, EngineSpec, benchmark, full_inputs
engines = [EngineSpec(name, "fake", Path(sys.argv[1]) / f"{name}.json") for name in ("a", "b")]
print("ready", flush=True)
try:
    benchmark(engines, full_inputs([[1, 2, 3]], 8), BenchPlan(rounds=10**6, runs_per_round=1))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_ctrl_c_and_a_killed_parent_leave_no_process(fake: Path, how: signal.Signals, code: int) -> None:
    if how == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux kills the children of a killed parent")
    specs = [engine(fake, "a"), engine(fake, "b")]
    parent = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(fake)])
    wait_until(lambda: all(s.model.with_suffix(".log").exists() and len(events(s)) > 9 for s in specs))
    workers = [int(events(spec)[0][2]) for spec in specs]
    assert all(psutil.pid_exists(pid) for pid in workers)
    os.kill(parent.pid, how)
    assert parent.wait(10) == code
    wait_until(lambda: not any(running(pid) for pid in workers))


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds: float = 20) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "value"), [("threads", 0), ("batch", 0), ("rounds", 0), ("runs_per_round", -1), ("warmup", -1)]
)
def test_counts_that_make_no_sense(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"{name} is {value}; use"):
        benchmark([EngineSpec("x", "fake", Path("x"))], INPUTS, replace(BenchPlan(), **{name: value}))


def test_engine_names_must_differ() -> None:
    spec = EngineSpec("x", "fake", Path("x"))
    with pytest.raises(UsageError, match="different names"):
        benchmark([spec, spec], INPUTS, BenchPlan())


def test_a_length_over_the_limit(fake: Path) -> None:
    with pytest.raises(UsageError, match="length 65 is over the longest that 'a' takes; use --length 64"):
        benchmark([engine(fake, "a")], full_inputs([[1, 5, 2]], 65), BenchPlan())


@pytest.mark.parametrize("length", [3, 4, 7, 8, 50])
def test_full_inputs_keep_the_ends_and_have_no_padding(length: int) -> None:
    inputs = full_inputs([[101, 7, 8, 9, 102], [101, 102], [101, 5, 102]], length)
    assert inputs.input_ids.shape == (2, length)  # the example without content is left out
    assert inputs.input_ids.dtype == np.int64
    assert (inputs.input_ids[:, 0] == 101).all() and (inputs.input_ids[:, -1] == 102).all()
    expected = [7, 8, 9] * length
    assert inputs.input_ids[0, 1:-1].tolist() == expected[: length - 2]
    assert (inputs.attention_mask == 1).all() and (inputs.token_type_ids == 0).all()


def test_full_inputs_need_something_to_work_with() -> None:
    with pytest.raises(UsageError, match="0 examples"):
        full_inputs([[1, 2]], 8)
    with pytest.raises(UsageError, match="2 tokens"):
        full_inputs([[1, 5, 2]], 2)


def test_summary_against_hand_made_percentiles() -> None:
    times = list(np.random.default_rng(0).permutation(np.arange(1.0, 1002.0)))  # 1 … 1001, shuffled
    latency = summarize(times, BenchPlan(batch=4), length=16, peak_memory_bytes=1, load_ms=2.0)
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == (501.0, 901.0, 991.0)
    assert latency.mean_ms == 501.0 and latency.throughput_per_s == round(4000 / 501, 2)
    assert latency.runs == 1001 and len(latency.samples_ms) == MAX_SAMPLES
    assert latency.samples_ms[0] == 1.0 and latency.samples_ms[-1] == 1001.0
    assert list(latency.samples_ms) == sorted(latency.samples_ms)
