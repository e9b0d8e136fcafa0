"""Latency, throughput and memory of engines on this machine, one process an engine, measured in turns.

Only one process runs at a time: the others are stopped (SIGSTOP), because the runtimes' thread pools spin
for a while after an inference and would take the cores from the engine under the clock.
"""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import EXIT_MODEL, EdgeBertError, UsageError
from edgebert.figures import MAX_SAMPLES, BenchFigures, Latency

START_TIMEOUT_S = 120.0


class BenchError(EdgeBertError):
    """An engine's process died, hung or failed while it was measured."""

    exit_code = EXIT_MODEL


@dataclass(frozen=True)
class EngineSpec:
    """One thing to measure: `name` is how results are keyed; `target` runs the file `model`."""

    name: str
    target: str
    model: Path


@dataclass(frozen=True)
class BenchInputs:
    """Three int64 arrays [examples, length], as Session.run takes them."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


@dataclass(frozen=True)
class BenchPlan:
    """How to measure: `rounds` turns of `runs_per_round` timed runs an engine, after `warmup` untimed ones.

    `batch` examples a run. `timeout_s` limits each answer of an engine, loading and one round included.
    """

    threads: int = 1
    batch: int = 1
    rounds: int = 7
    runs_per_round: int = 20
    warmup: int = 5
    timeout_s: float = 600.0


@dataclass(frozen=True)
class BenchResult:
    """`latency`: by engine name. `round_p50_ms`: the median time of each round, by engine name."""

    latency: Mapping[str, Latency]
    round_p50_ms: Mapping[str, tuple[float, ...]]

    def speed_ratio(self, engine: str, baseline: str) -> float:
        """Median over rounds of baseline time / engine time: over 1 means that `engine` is faster."""
        pairs = zip(self.round_p50_ms[baseline], self.round_p50_ms[engine], strict=True)
        return statistics.median(slow / fast for slow, fast in pairs)


def full_inputs(examples: Sequence[Sequence[int]], length: int) -> BenchInputs:
    """Token ids of real `examples` repeated or cut to exactly `length` tokens, so that no token is padding.

    The first and last token ([CLS], [SEP]) keep their places. Raises UsageError when there is nothing to use.
    """
    rows = [full_row(ids, length) for ids in examples if len(ids) >= 3]
    if not rows or length < 3:
        raise UsageError(f"cannot make inputs of {length} tokens from {len(rows)} examples; use length >= 3")
    ids = np.array(rows, dtype=np.int64)
    return BenchInputs(ids, np.ones_like(ids), np.zeros_like(ids))


def full_row(ids: Sequence[int], length: int) -> list[int]:
    """One example as `length` ids: first, its middle going round, last."""
    middle = list(ids[1:-1])
    repeated = (middle * (length // len(middle) + 1))[: length - 2]
    return [ids[0], *repeated, ids[-1]]


class Worker:
    """A measuring process. Use as a context manager: leaving it kills the process, whatever happened."""

    def __init__(self, spec: EngineSpec, timeout_s: float) -> None:
        self.spec = spec
        self.timeout_s = timeout_s
        self.buffer = b""
        # Not a pipe: nobody would drain it while a request runs.
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # -P keeps the current folder off sys.path; an own session leaves the terminal's Ctrl-C to the parent.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgebert.bench_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            if pipe is not None:
                # The process may have died with a request half written.
                with suppress(BrokenPipeError):
                    pipe.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return its reply; raises what the engine raised, or BenchError."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.death() from None
        return self.receive(self.timeout_s)

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next reply line, waiting at most `timeout_s`."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise BenchError(
                    f"engine '{self.spec.name}' gave no answer in {timeout_s:g} s; "
                    "use a smaller --length or fewer runs"
                )
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self.death()
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if not reply["ok"]:
            raise engine_error(self.spec.name, reply["kind"], reply["error"])
        return reply

    def death(self) -> BenchError:
        """What to say about a process that ended by itself."""
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        last = self.last_words()
        return BenchError(
            f"the process of engine '{self.spec.name}' {how}{': ' + last if last else ''}; "
            f"check '{self.spec.model.name}' with 'edgebert inspect' and free memory"
        )

    def last_words(self) -> str:
        """The last line that the process wrote to stderr, at most 200 characters."""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - 4096))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def stop(self) -> None:
        """Stop the process and wait until it stands still (or is dead, which the next request reports)."""
        self.process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):
            # WNOWAIT leaves the exit code of a dead process for Popen.
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def engine_error(name: str, kind: str, message: str) -> Exception:
    """The targets' own exception where `kind` is one, so that exit codes stay the same."""
    from edgebert_targets import errors as target_errors

    known = getattr(target_errors, kind, None)
    if isinstance(known, type) and issubclass(known, target_errors.TargetError):
        return known(message)
    return BenchError(
        f"engine '{name}' failed: {kind}: {message}; run 'edgebert doctor' to check this machine"
    )


def benchmark(
    engines: Sequence[EngineSpec],
    inputs: BenchInputs,
    plan: BenchPlan,
    on_round: Callable[[], None] | None = None,
) -> BenchResult:
    """Measure `engines` in turns: every round runs each engine `plan.runs_per_round` times, in order.

    Raises UsageError for counts that make no sense or a length over an engine's limit, BenchError when an
    engine's process fails, and what targets raise when opening (MissingExtraError, WrongCpuError, …).
    """
    check(engines, plan)
    opened: dict[str, dict[str, Any]] = {}
    turns: dict[str, list[dict[str, Any]]] = {spec.name: [] for spec in engines}
    with ExitStack() as stack:
        workers = []
        for spec in engines:
            worker = stack.enter_context(Worker(spec, plan.timeout_s))
            opened[spec.name] = prepare(worker, inputs, plan)
            worker.stop()
            workers.append(worker)
        for turn in range(plan.rounds):
            for worker in workers:
                worker.resume()
                turns[worker.spec.name].append(one_round(worker, turn, plan))
                worker.stop()
            if on_round:
                on_round()
    length = inputs.input_ids.shape[1]
    latency = {
        name: summarize(
            [ms for reply in replies for ms in reply["ms"]],
            plan,
            length=length,
            peak_memory_bytes=replies[-1]["peak_bytes"],
            load_ms=opened[name]["load_ms"],
        )
        for name, replies in turns.items()
    }
    medians = {
        name: tuple(statistics.median(reply["ms"]) for reply in replies) for name, replies in turns.items()
    }
    return BenchResult(latency, medians)


def check(engines: Sequence[EngineSpec], plan: BenchPlan) -> None:
    """Raises UsageError for a count below one (warm-up: below zero) or names that repeat."""
    for name in ("threads", "batch", "rounds", "runs_per_round"):
        value = getattr(plan, name)
        if value < 1:
            raise UsageError(f"{name} is {value}; use 1 or more")
    if plan.warmup < 0:
        raise UsageError(f"warmup is {plan.warmup}; use 0 or more")
    names = [spec.name for spec in engines]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"engines {names} must have different names, and there must be one at least")


def prepare(worker: Worker, inputs: BenchInputs, plan: BenchPlan) -> dict[str, Any]:
    """Open the artifact in the worker, hand it the inputs and warm it up; the reply to opening."""
    worker.receive(START_TIMEOUT_S)
    spec, length = worker.spec, inputs.input_ids.shape[1]
    opened = worker.ask(op="open", target=spec.target, model=str(spec.model), threads=plan.threads)
    if length > opened["max_length"]:
        raise UsageError(
            f"length {length} is over the longest that '{spec.name}' takes; "
            f"use --length {opened['max_length']} or less"
        )
    worker.ask(
        op="inputs",
        input_ids=inputs.input_ids.tolist(),
        attention_mask=inputs.attention_mask.tolist(),
        token_type_ids=inputs.token_type_ids.tolist(),
    )
    if plan.warmup:
        worker.ask(op="run", first=0, count=plan.warmup, batch=plan.batch)
    return opened


def one_round(worker: Worker, turn: int, plan: BenchPlan) -> dict[str, Any]:
    """The reply to one engine's timed runs of round `turn`; every engine gets the same examples in it."""
    first = turn * plan.runs_per_round * plan.batch
    # One untimed run wakes the threads and refills the caches that the other engine used.
    worker.ask(op="run", first=first, count=1, batch=plan.batch)
    return worker.ask(op="run", first=first, count=plan.runs_per_round, batch=plan.batch)


def summarize(
    ms: Sequence[float], plan: BenchPlan, *, length: int, peak_memory_bytes: int, load_ms: float
) -> Latency:
    """Percentiles (linear between ranks) of run times; throughput counts examples a second."""
    values = np.sort(np.asarray(ms, dtype=np.float64))
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    mean = float(values.mean())
    kept = values
    if len(values) > MAX_SAMPLES:
        kept = values[np.linspace(0, len(values) - 1, MAX_SAMPLES).round().astype(int)]
    return Latency(
        p50_ms=round(p50, 4),
        p90_ms=round(p90, 4),
        p99_ms=round(p99, 4),
        mean_ms=round(mean, 4),
        throughput_per_s=round(1000 * plan.batch / mean, 2),
        runs=len(values),
        threads=plan.threads,
        length=length,
        batch=plan.batch,
        peak_memory_bytes=peak_memory_bytes,
        load_ms=round(load_ms, 3),
        samples_ms=tuple(round(float(v), 4) for v in kept),
    )


def compare(
    artifact: EngineSpec,
    baseline: EngineSpec | None,
    inputs: BenchInputs,
    plan: BenchPlan,
    *,
    where: str,
    note: str = "",
    on_round: Callable[[], None] | None = None,
) -> BenchFigures:
    """The figures of `artifact`, beside `baseline` where given."""
    if baseline is None:
        result = benchmark([artifact], inputs, plan, on_round)
        return BenchFigures(result.latency[artifact.name], None, None, where, note)
    result = benchmark([artifact, baseline], inputs, plan, on_round)
    return BenchFigures(
        artifact=result.latency[artifact.name],
        baseline=result.latency[baseline.name],
        speed_ratio=round(result.speed_ratio(artifact.name, baseline.name), 3),
        where=where,
        note=note,
    )
