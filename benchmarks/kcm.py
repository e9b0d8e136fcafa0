"""The fast path: dev accuracy, zeros and seconds of pruning heads and FFN units without any training.

Each task is a folder with train.jsonl and dev.jsonl, its teacher a classifier (--teacher NAME=DIR).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from compression_oneshot import Bench
from edgebert_compress import quantize
from edgebert_compress.kcm import SAMPLES, fast_compress
from edgebert_compress.tasks import TEXT_CLASSIFICATION


def measure(
    task: str, teacher: Path, data: Path, keep: float, samples: int, seed: int, dense: float | None
) -> dict[str, Any]:
    """One row: accuracy before (unless known), after, and after post-training INT8, in [0, 1]."""
    bench = Bench(task, teacher, data)
    dense = bench.accuracy() if dense is None else dense
    facts = fast_compress(
        bench.model, TEXT_CLASSIFICATION, bench.train, keep=keep, samples=samples, seed=seed
    )
    accuracy = bench.accuracy()
    weights = list(bench.parameters.values())
    zeros = sum(int((value == 0).sum()) for value in weights) / sum(value.numel() for value in weights)
    quantize.prepare(bench.model, "int8")
    quantize.fix(bench.model, quantize.export(bench.model))
    return {
        "task": task, "keep": keep, "seed": seed, "samples": samples, "dense": dense, "accuracy": accuracy,
        "int8": bench.accuracy(), "zeros": zeros, "seconds": round(facts.seconds, 1),
        "facts": facts.figures(),
    }  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a task and share, mean over the seeds."""
    lines = [
        "| task | kept work | dense | pruned | pruned, INT8 | zeros | seconds | seeds |",
        "|---" * 8 + "|",
    ]
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["keep"]), []).append(row)
    for (task, keep), found in groups.items():
        mean = {
            key: statistics.fmean(row[key] for row in found)
            for key in ("dense", "accuracy", "int8", "zeros", "seconds")
        }
        values = [100 * row["accuracy"] for row in found]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        lines.append(
            f"| {task} | {keep:.0%} | {mean['dense']:.2%} | {mean['accuracy']:.2%}{spread} "
            f"| {mean['int8']:.2%} | {mean['zeros']:.1%} | {mean['seconds']:.0f} | {len(found)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", action="append", required=True, metavar="NAME=DIR", help="once a task")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder a task")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.75, 0.6])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/kcm.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    teachers = dict(entry.split("=", 1) for entry in arguments.teacher)
    rows: list[dict[str, Any]] = []
    for task, keep, seed in product(teachers, arguments.keep, arguments.seeds):
        known = next((row["dense"] for row in rows if row["task"] == task), None)
        teacher = Path(teachers[task])
        rows.append(measure(task, teacher, arguments.data, keep, arguments.samples, seed, known))
        print({key: value for key, value in rows[-1].items() if key != "facts"}, flush=True)
    print(table(rows))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"threads": arguments.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
