"""The measuring process of one engine; `engine.py` starts it, with the Python of the engine's environment.

Speaks the JSON lines of `edgebert.bench_worker`: "open" answers with what the engine says about itself,
"run" with wall and CPU milliseconds of every inference. Needs numpy and the engine's own runtime.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert.bench_worker import Handlers, Ids, Request, answer, die_with_parent, peak_memory_bytes

Inputs = tuple[Ids, Ids, Ids]  # ids, attention mask, token types: int64 [batch, length]
Run = Callable[[Inputs], NDArray[np.float32]]


@dataclass(frozen=True)
class Opened:
    """`run` gives logits; `facts` is what the engine reports: version, kernels, precision."""

    run: Run
    facts: dict[str, Any]


def open_onnxruntime(request: Request) -> Opened:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = request["threads"]
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    session = ort.InferenceSession(request["model"], settings, providers=["CPUExecutionProvider"])
    names = ("input_ids", "attention_mask", "token_type_ids")

    def run(inputs: Inputs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return logits

    return Opened(run, {"version": ort.__version__})


def open_target(request: Request) -> Opened:
    """A target of this project by its name."""
    from edgebert_targets.base import SessionOptions, get_target

    target = get_target(request["target"])
    session = target.open(Path(request["model"]), SessionOptions(threads=request["threads"]))
    return Opened(lambda inputs: session.run(*inputs), {"version": target.backend_version()})


def open_edgebert(request: Request) -> Opened:
    """This project's engine; EDGEBERT_ISA chooses its kernels."""
    from edgebert_targets.int8_sparse import library

    session = library.Engine.open(request["model"]).session(request["threads"])
    lengths = np.full(request["batch"], request["length"], np.int32)

    def run(inputs: Inputs) -> NDArray[np.float32]:
        flat = inputs[0].astype(np.int32).ravel()
        return session.run_flat(flat, np.zeros_like(flat), lengths)

    return Opened(run, {"version": library.version(), "isa": library.isa()})


def open_openvino(request: Request) -> Opened:
    import openvino as ov  # type: ignore[import-not-found]

    core = ov.Core()
    model = core.read_model(request["model"])
    model.reshape({port.any_name: [request["batch"], request["length"]] for port in model.inputs})
    settings = {"INFERENCE_NUM_THREADS": request["threads"], "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", {**settings, **request["settings"]})
    infer = compiled.create_infer_request()
    kernels: dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) == "FullyConnected":
            kind = facts["primitiveType"].astype(str)
            kernels[kind] = kernels.get(kind, 0) + 1
    names = ("input_ids", "attention_mask", "token_type_ids")

    def run(inputs: Inputs) -> NDArray[np.float32]:
        result = infer.infer(dict(zip(names, inputs, strict=True)))
        logits: NDArray[np.float32] = result[compiled.output(0)]
        return logits

    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return Opened(
        run,
        {
            "version": ov.__version__.split("-")[0],
            "precision": precision,
            "kernels": kernels,
            "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
        },
    )


def open_deepsparse(request: Request) -> Opened:
    # Before the import: it would report to its maker.
    os.environ["NM_DISABLE_ANALYTICS"] = "true"
    import deepsparse  # type: ignore[import-not-found]

    shape = [request["batch"], request["length"]]
    engine = deepsparse.Engine(
        request["model"],
        batch_size=request["batch"],
        num_cores=request["threads"],
        input_shapes=str([shape, shape, shape]),
    )
    if engine.fraction_of_supported_ops != 1.0:
        share = engine.fraction_of_supported_ops
        raise RuntimeError(f"DeepSparse runs {share:.0%} of the operators; the graph has a wrong form")
    return Opened(
        lambda inputs: engine.run(list(inputs))[0],
        {
            "version": deepsparse.__version__,
            "isa": engine.cpu_avx_type,
            "vnni": engine.cpu_vnni,
            "fraction_of_supported_ops": engine.fraction_of_supported_ops,
            "threads": engine.num_cores,
        },
    )


OPENERS: dict[str, Callable[[Request], Opened]] = {
    "edgebert": open_edgebert,
    "onnxruntime": open_onnxruntime,
    "target": open_target,
    "openvino": open_openvino,
    "deepsparse": open_deepsparse,
}


class Engine:
    """One engine, its inputs, and the requests it understands."""

    def __init__(self) -> None:
        self.opened: Opened | None = None
        self.inputs: list[Inputs] = []

    def open(self, request: Request) -> Request:
        """Open the model on `threads` cores, all pinned to `cpus`; `facts` and the time it took."""
        os.sched_setaffinity(0, request["cpus"])
        begin = time.perf_counter_ns()
        self.opened = OPENERS[request["runtime"]](request)
        load_ms = (time.perf_counter_ns() - begin) / 1e6
        return {"facts": self.opened.facts, "load_ms": load_ms}

    def set_inputs(self, request: Request) -> Request:
        """Take token ids [inputs, batch, length], all tokens real; answer with the logits of each."""
        assert self.opened is not None, "open comes first"
        for batch in np.asarray(request["ids"], dtype=np.int64):
            self.inputs.append((batch, np.ones_like(batch), np.zeros_like(batch)))
        return {"logits": [np.asarray(self.opened.run(batch)).tolist() for batch in self.inputs]}

    def run(self, request: Request) -> Request:
        """Time `count` inferences after `warmup` untimed ones."""
        assert self.opened is not None and self.inputs, "open and inputs come first"
        wall: list[float] = []
        cpu: list[float] = []
        gc.collect()
        gc.disable()
        for turn in range(request["warmup"] + request["count"]):
            inputs = self.inputs[turn % len(self.inputs)]
            used, begin = time.process_time_ns(), time.perf_counter_ns()
            self.opened.run(inputs)
            end = time.perf_counter_ns()
            wall.append((end - begin) / 1e6)
            cpu.append((time.process_time_ns() - used) / 1e6)
        gc.enable()
        skip = request["warmup"]
        return {"wall_ms": wall[skip:], "cpu_ms": cpu[skip:], "peak_bytes": peak_memory_bytes()}


def main() -> None:
    die_with_parent()
    # Runtimes print to stdout as they like: keep it for replies and send everything else to stderr.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    engine = Engine()
    handlers: Handlers = {"open": engine.open, "inputs": engine.set_inputs, "run": engine.run}
    print('{"ok": true}', file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(handlers, line)), file=replies, flush=True)


if __name__ == "__main__":
    main()
