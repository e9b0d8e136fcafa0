"""Runs a LiteRT model on a device. It is sent there as a file and needs numpy and ai_edge_litert alone.

    script.py facts
    script.py run MODEL IN.npz OUT THREADS tokens|sequence NAME,NAME
    script.py bench MODEL LENGTH THREADS REPEATS WARMUP
    script.py count MODEL LENGTH REPEATS WARMUP

IN.npz: int32 arrays [examples, tokens] by the names of the model's inputs; "attention_mask" is always there.
OUT: the outputs of these names side by side, float32 little-endian, of each row in its order: once, or for
each of its tokens. One JSON object goes to stdout.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

SIGNATURE = "length_"
# AArch64: "hint #42; ret" and "hint #43; ret", no-ops that tell an emulator's counter where a region is.
REGION_CODE = (0xD503255F, 0xD65F03C0, 0xD503257F, 0xD65F03C0)


class Model:
    """A loaded file; each row runs at the smallest length that holds it."""

    def __init__(self, path: str, threads: int) -> None:
        begin = time.perf_counter_ns()
        self.interpreter: Any = Interpreter(model_path=path, num_threads=threads)
        self.load_ns = time.perf_counter_ns() - begin
        names = self.interpreter.get_signature_list()
        self.lengths = sorted(int(name[len(SIGNATURE) :]) for name in names if name.startswith(SIGNATURE))
        self.runners: dict[int, Any] = {}

    def runner(self, tokens: int) -> tuple[int, Any]:
        """The smallest length of at least `tokens`, and its signature's runner."""
        length = next((length for length in self.lengths if length >= tokens), None)
        if length is None:
            raise SystemExit(f"{tokens} tokens, the model takes {self.lengths}")
        if length not in self.runners:
            self.runners[length] = self.interpreter.get_signature_runner(f"{SIGNATURE}{length}")
        return length, self.runners[length]

    def inputs(self, row: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The runner and the padded inputs, int32 [1, length], of one row of int32 [tokens] arrays."""
        used = max(int(row["attention_mask"].sum()), 1)
        length, runner = self.runner(used)
        padded = {}
        for name in runner.get_input_details():
            padded[name] = np.zeros((1, length), np.int32)
            padded[name][0, :used] = row[name][:used]
        return runner, padded


def run(path: str, source: str, out: str, threads: int, kind: str, names: str) -> dict[str, Any]:
    """Answer every row of `source`: for each of its tokens if `kind` is "tokens"."""
    model = Model(path, threads)
    with np.load(source, allow_pickle=False) as arrays:
        named = {name: arrays[name] for name in arrays.files}
    answers = []
    for i in range(len(named["attention_mask"])):
        row = {name: values[i] for name, values in named.items()}
        runner, inputs = model.inputs(row)
        outputs = runner(**inputs)
        tokens = max(int(row["attention_mask"].sum()), 1) if kind == "tokens" else 1
        parts = [outputs[name][0] if kind == "tokens" else outputs[name] for name in names.split(",")]
        answers.append(np.concatenate([part.reshape(len(part), -1)[:tokens] for part in parts], axis=1))
    np.concatenate(answers).astype("<f4").tofile(out)
    return {"examples": len(answers)}


def timed_call(path: str, length: int, threads: int, warmup: int) -> tuple[Model, Callable[[], Any]]:
    """A call of the model on `length` tokens, made `warmup` times already."""
    model = Model(path, threads)
    ones = np.ones(length, np.int32)
    row = {"input_ids": ones, "attention_mask": ones, "token_type_ids": np.zeros(length, np.int32)}
    runner, inputs = model.inputs(row)
    for _ in range(warmup):
        runner(**inputs)
    return model, lambda: runner(**inputs)


def bench(path: str, length: int, threads: int, repeats: int, warmup: int) -> dict[str, Any]:
    """Time `repeats` inferences."""
    model, call = timed_call(path, length, threads, warmup)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - begin)
    return {"load_ns": model.load_ns, "peak_bytes": peak_bytes(), "ns": times}


def count(path: str, length: int, repeats: int, warmup: int) -> dict[str, Any]:
    """Run `repeats` inferences in one region that the emulator counts."""
    _, call = timed_call(path, length, 1, warmup)
    begin_region, end_region, _page = regions()
    begin_region()
    for _ in range(repeats):
        call()
    end_region()
    return {"counted": repeats}


def regions() -> tuple[Callable[[], None], Callable[[], None], mmap.mmap]:
    """Functions that execute the two markers, and the page that they lie in."""
    if platform.machine() not in ("aarch64", "arm64"):
        raise SystemExit(f"regions are marked on AArch64 only, not on {platform.machine()}")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(np.array(REGION_CODE, "<u4").tobytes())
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(None)
    return function(address), function(address + 8), page


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(words: list[str]) -> None:
    """Run the command and print its object."""
    command, rest = words[0], words[1:]
    if command == "facts":
        reply: dict[str, Any] = {"version": version("ai-edge-litert")}
    elif command == "run":
        reply = run(rest[0], rest[1], rest[2], int(rest[3]), rest[4], rest[5])
    elif command == "bench":
        reply = bench(rest[0], *map(int, rest[1:]))
    elif command == "count":
        reply = count(rest[0], *map(int, rest[1:]))
    else:
        raise SystemExit(f"unknown command {command!r}")
    print(json.dumps(reply))


if __name__ == "__main__":
    main(sys.argv[1:])
