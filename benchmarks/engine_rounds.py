"""Measuring engines in turns: one process each, all loaded, all but one stopped (SIGSTOP)."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgebert.bench import START_TIMEOUT_S, EngineSpec, Worker
from engine_forms import RUNNERS, FormError, Forms
from engine_models import Case
from peers.environments import python_of

HERE = Path(__file__).resolve().parent
Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Entry:
    """One thing to measure. `isa`: the kernels of this project's engine, "" for its own choice."""

    engine: str
    case: Case
    isa: str = ""

    @property
    def label(self) -> str:
        return f"{self.engine}@{self.isa}" if self.isa else self.engine


@dataclass(frozen=True)
class Cell:
    """Entries that are measured against each other, at one length, batch and number of threads."""

    entries: tuple[Entry, ...]
    length: int
    batch: int
    threads: int


@dataclass(frozen=True)
class Plan:
    """`rounds` turns of `runs` timed inferences each, after `warmup` untimed ones. `cpus`: one a thread."""

    rounds: int
    runs: int
    warmup: int
    cpus: tuple[int, ...]
    timeout_s: float = 900.0


@dataclass(frozen=True)
class Measured:
    """Figures of an entry. `wall_ms`, `cpu_ms`: each round's median. `logits` [inputs, batch, classes]."""

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    least_wall_ms: float
    least_cpu_ms: float
    load_ms: float
    peak_bytes: int
    facts: dict[str, Any]
    logits: NDArray[np.float64]

    def rounds(self, clock: Clock) -> tuple[float, ...]:
        return self.wall_ms if clock == "wall" else self.cpu_ms

    def least(self, clock: Clock) -> float:
        return self.least_wall_ms if clock == "wall" else self.least_cpu_ms

    def ratio(self, baseline: Measured, clock: Clock) -> float:
        """Median over rounds of baseline time / own time: over 1 means faster than the baseline."""
        pairs = zip(baseline.rounds(clock), self.rounds(clock), strict=True)
        return statistics.median(slow / fast for slow, fast in pairs)


class EngineWorker(Worker):
    """A worker in the environment of its engine; peers get `sdk` and `targets` to import."""

    def __init__(self, entry: Entry, model: Path, peers: Path, timeout_s: float) -> None:
        runner = RUNNERS[entry.engine]
        python = python_of(peers, runner.environment) if runner.environment else Path(sys.executable)
        self.spec = EngineSpec(f"{entry.label} {entry.case.name}", entry.engine, model)
        self.timeout_s = timeout_s
        self.buffer = b""
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        environment = {**os.environ, "NM_DISABLE_ANALYTICS": "true"}
        if runner.environment:
            environment["PYTHONPATH"] = os.pathsep.join(
                str(HERE.parent / name) for name in ("sdk", "targets")
            )
        if entry.isa:
            environment["EDGEBERT_ISA"] = entry.isa
        self.process = subprocess.Popen(
            [python, "-P", HERE / "engine_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            start_new_session=True,
        )


def token_ids(cell: Cell, count: int = 2) -> NDArray[np.int64]:
    """Random ids [count, batch, length] of every case's vocabulary, no padding."""
    vocabulary = min(entry.case.geometry.vocabulary for entry in cell.entries)
    return np.random.default_rng(cell.length).integers(0, vocabulary, (count, cell.batch, cell.length))


def measure(
    cell: Cell, plan: Plan, forms: Callable[[Case], Forms], say: Callable[[str], None]
) -> tuple[dict[Entry, Measured], dict[Entry, str]]:
    """Figures of every entry that works, and why the others do not."""
    ids = token_ids(cell).tolist()
    opened: dict[Entry, tuple[EngineWorker, dict[str, Any], NDArray[np.float64]]] = {}
    failed: dict[Entry, str] = {}
    turns: dict[Entry, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        for entry in cell.entries:
            say(f"opening {entry.label} {entry.case.name}, length {cell.length}, threads {cell.threads}")
            try:
                if cell.length > entry.case.geometry.positions:
                    raise FormError(f"the model takes at most {entry.case.geometry.positions} tokens")
                model = forms(entry.case).path(entry.engine, cell.length)
                worker = EngineWorker(entry, model, forms(entry.case).peers, plan.timeout_s)
                stack.enter_context(worker)
                opened[entry] = (worker, *prepare(worker, entry, cell, plan, ids))
                turns[entry] = []
                worker.stop()
            except Exception as error:  # whatever one engine does, the others are measured
                failed[entry] = " ".join(str(error).split()) or type(error).__name__
                say(f"{entry.label} is left out: {failed[entry]}")
        for turn in range(plan.rounds):
            for entry, (worker, _, _) in opened.items():
                worker.resume()
                turns[entry].append(worker.ask(op="run", warmup=plan.warmup, count=plan.runs))
                worker.stop()
            say(f"round {turn + 1} of {plan.rounds}")
    return {
        entry: summarize(turns[entry], facts, logits) for entry, (_, facts, logits) in opened.items()
    }, failed


def prepare(
    worker: EngineWorker, entry: Entry, cell: Cell, plan: Plan, ids: list[Any]
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Open the model in the worker and run every input once: its reply to opening, and the logits."""
    worker.receive(START_TIMEOUT_S)
    runner = RUNNERS[entry.engine]
    reply = worker.ask(
        op="open",
        runtime=runner.runtime,
        model=str(worker.spec.model),
        threads=cell.threads,
        cpus=plan.cpus[-cell.threads :],
        batch=cell.batch,
        length=cell.length,
        **runner.options,
    )
    return reply, np.array(worker.ask(op="inputs", ids=ids)["logits"])


def summarize(
    replies: Sequence[dict[str, Any]], opened: dict[str, Any], logits: NDArray[np.float64]
) -> Measured:
    return Measured(
        wall_ms=tuple(statistics.median(reply["wall_ms"]) for reply in replies),
        cpu_ms=tuple(statistics.median(reply["cpu_ms"]) for reply in replies),
        least_wall_ms=min(min(reply["wall_ms"]) for reply in replies),
        least_cpu_ms=min(min(reply["cpu_ms"]) for reply in replies),
        load_ms=opened["load_ms"],
        peak_bytes=replies[-1]["peak_bytes"],
        facts=opened["facts"],
        logits=logits,
    )
