"""What length buckets cost an app: one LiteRT file with several lengths against a file for each.

    python benchmarks/litert_buckets.py QUANTIZED [--lengths 32 64 128 256 384] [--json FILE]

QUANTIZED is a compressed checkpoint. Each case is measured in a process of its own: bytes of the files,
private memory after every length that is used has answered, CPU milliseconds of loading, of each length's
first answer and of later ones (minimum of 15, one thread, all tokens real).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.litert_arm64 import TARGET

REPEATS = 15
SMAPS = Path("/proc/self/smaps_rollup")


def anonymous_mb() -> float:
    """Memory of this process that is no file's, in MB."""
    line = next(line for line in SMAPS.read_text().splitlines() if line.startswith("Anonymous:"))
    return int(line.split()[1]) / 1000


def measure(models: list[Path], used: list[int]) -> dict[str, Any]:
    """Open `models` and answer at every length of `used`, each by the first model that takes it."""
    before, start = anonymous_mb(), time.process_time()
    sessions = [TARGET.open(model, SessionOptions()) for model in models]
    loaded = time.process_time() - start
    times = {}
    for length in used:
        session = next(session for session in sessions if session.max_length >= length)
        ids = np.ones((1, length), np.int64)
        taken = []
        for _ in range(REPEATS + 1):
            start = time.process_time()
            session.run(ids, ids, ids * 0)
            taken.append(1000 * (time.process_time() - start))
        times[length] = {"first": round(taken[0], 1), "later": round(min(taken[1:]), 2)}
    return {
        "private_mb": round(anonymous_mb() - before, 1),
        "load_ms": round(1000 * loaded, 1),
        "ms_by_length": times,
    }


def in_own_process(models: list[Path], used: list[int]) -> dict[str, Any]:
    words = [sys.executable, __file__, "--case", json.dumps([[str(model) for model in models], used])]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(done.stdout)
    return {"files": len(models), "bytes": sum(model.stat().st_size for model in models), **found}


def report(checkpoint: Path, lengths: list[int], folder: Path) -> dict[str, Any]:
    spec = load_encoder_spec(checkpoint)

    def convert(*chosen: int) -> Path:
        path = folder / f"{'-'.join(map(str, chosen))}.tflite"
        if not path.exists():
            TARGET.convert(spec, path, ConvertOptions(lengths=chosen))
        return path

    shortest, longest = lengths[0], lengths[-1]
    cases = {
        "the longest alone": ([convert(longest)], [longest]),
        "one file, shortest and longest": ([convert(shortest, longest)], [shortest, longest]),
        "one file, all, only the shortest used": ([convert(*lengths)], [shortest]),
        "one file, all used": ([convert(*lengths)], lengths),
        "a file each, shortest and longest": ([convert(shortest), convert(longest)], [shortest, longest]),
        "a file each, all used": ([convert(length) for length in lengths], lengths),
    }
    return {name: in_own_process(models, used) for name, (models, used) in cases.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256, 384])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        models, used = json.loads(options.case)
        print(json.dumps(measure([Path(model) for model in models], used)))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(report(options.checkpoint, options.lengths, Path(folder)), indent=1) + "\n"
    if options.json:
        options.json.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
