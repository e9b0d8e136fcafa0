"""The measuring process of a benchmark: one engine, told what to do by JSON lines on stdin.

Requests: {"op": "open"}, {"op": "inputs"}, {"op": "run"}; each gets one JSON line back, {"ok": true, …} or
{"ok": false, "kind": "ArtifactError", "error": "…"}. End of stdin ends the process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.base import Session, SessionOptions, get_target

PR_SET_PDEATHSIG = 1
Request = dict[str, Any]
Handlers = Mapping[str, Callable[[Request], Request]]
Ids = NDArray[np.int64]


class Engine:
    """One session, its inputs (three int64 arrays [examples, length]) and the requests it understands."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.inputs: tuple[Ids, Ids, Ids] | None = None

    def open(self, request: Request) -> Request:
        """Open the artifact; `load_ms` leaves out what importing the runtime takes."""
        target = get_target(request["target"])
        target.backend_version()
        begin = time.perf_counter_ns()
        self.session = target.open(Path(request["model"]), SessionOptions(threads=request["threads"]))
        load_ms = (time.perf_counter_ns() - begin) / 1e6
        return {"load_ms": load_ms, "max_length": self.session.max_length}

    def set_inputs(self, request: Request) -> Request:
        input_ids, attention_mask, token_type_ids = (
            np.asarray(request[name], dtype=np.int64)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        self.inputs = (input_ids, attention_mask, token_type_ids)
        return {}

    def run(self, request: Request) -> Request:
        """Time `count` inferences of `batch` examples each, from example `first` on, going round."""
        assert self.session is not None and self.inputs is not None, "open and inputs come first"
        batches = batches_of(self.inputs, request["first"], request["count"], request["batch"])
        return {"ms": timed_runs(self.session, batches), "peak_bytes": peak_memory_bytes()}


def batches_of(
    inputs: tuple[Ids, Ids, Ids], first: int, count: int, batch: int
) -> list[tuple[Ids, Ids, Ids]]:
    """`count` batches cut before the clock starts, so that only the engine is timed."""
    rows = (first + np.arange(count * batch)).reshape(count, batch) % len(inputs[0])
    return [(inputs[0][row], inputs[1][row], inputs[2][row]) for row in rows]


def timed_runs(session: Session, batches: list[tuple[Ids, Ids, Ids]]) -> list[float]:
    """Milliseconds of each inference, wall clock."""
    times: list[float] = []
    gc.collect()
    gc.disable()
    for input_ids, attention_mask, token_type_ids in batches:
        begin = time.perf_counter_ns()
        session.run(input_ids, attention_mask, token_type_ids)
        times.append((time.perf_counter_ns() - begin) / 1e6)
    gc.enable()
    return times


def peak_memory_bytes() -> int:
    """Peak resident memory of this process in bytes.

    VmHWM starts anew at exec; ru_maxrss, the fallback, may show what the parent used before.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def answer(handlers: Handlers, line: str) -> Request:
    """The reply to one request line; whatever an engine raises becomes one line of text."""
    try:
        request = json.loads(line)
        return {"ok": True, **handlers[request["op"]](request)}
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return {"ok": False, "kind": type(error).__name__, "error": text}


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until stdin ends."""
    engine = Engine()
    handlers: Handlers = {"open": engine.open, "inputs": engine.set_inputs, "run": engine.run}
    print(json.dumps({"ok": True}), file=replies, flush=True)
    for line in requests:
        print(json.dumps(answer(handlers, line)), file=replies, flush=True)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent goes, even while it is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    die_with_parent()
    # Runtimes print to stdout as they like: keep it for replies and send everything else to stderr.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
