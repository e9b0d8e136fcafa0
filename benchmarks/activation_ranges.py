"""Static against dynamic activation ranges: INT8 on dev by calibration, before and after training.

Accuracy, agreement with the float model and KL divergence from it, which says more than a few answers.
Each task is a folder with train.jsonl and dev.jsonl, its teacher a classifier (--teacher NAME=DIR). Attention
stays float throughout. Training is that of a quantize stage: distilled from the teacher, 3e-5, no decay.
A run that was stopped goes on with the rows of --json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from compression_oneshot import Bench
from edgebert_compress import quantize
from edgebert_compress.calibration import calibrate
from edgebert_compress.recipe import Calibration, QuantizeStage, Training
from edgebert_compress.tasks import TEXT_CLASSIFICATION
from edgebert_compress.teacher import TeacherModel
from edgebert_compress.trainer import model_logits, train_model
from edgebert_compress.training_run import Holding, Job, steps_an_epoch

METHODS: tuple[Calibration, ...] = get_args(Calibration)
EXAMPLES = QuantizeStage().examples


def train(model: Any, bench: Bench, teacher: Path, steps: int, seed: int) -> None:
    """As a quantize stage does, for `steps` optimiser steps."""
    stage = QuantizeStage()
    training = Training(
        epochs=steps / steps_an_epoch(bench.train, stage.training),
        learning_rate=stage.training.learning_rate,
        weight_decay=stage.training.weight_decay,
    )
    source = TeacherModel(teacher)
    job = Job(TEXT_CLASSIFICATION, bench.train, seed, distillation=stage.distillation, teacher=source)
    train_model(model, training, job, Holding({}, {}))


def quality(model: Any, bench: Bench, dense: Tensor) -> dict[str, float]:
    """On dev: share of right answers and of the dense model's, and nats away from its answers."""
    logits = torch.from_numpy(model_logits(model, bench.dev))
    answers = logits.argmax(dim=1)
    away = kl_div(log_softmax(logits, 1), log_softmax(dense, 1), log_target=True, reduction="batchmean")
    return {
        "accuracy": (answers == torch.tensor(bench.dev.labels)).float().mean().item(),
        "agreement": (answers == dense.argmax(dim=1)).float().mean().item(),
        "divergence": away.item(),
    }


def measure(
    bench: Bench, teacher: Path, dense: Tensor, method: str, examples: int, steps: int, seed: int
) -> dict[str, Any]:
    """One row. `method`: a calibration or "dynamic"; `steps`: of training, 0 for none."""
    model = copy.deepcopy(bench.model)
    quantize.prepare(model, "float")
    started = time.perf_counter()
    if method != "dynamic":
        chosen = cast(Calibration, method)
        calibrate(model, chosen, TEXT_CLASSIFICATION, bench.train, examples=examples, seed=seed)
    calibrated = time.perf_counter()
    if steps:
        train(model, bench, teacher, steps, seed)
    trained = time.perf_counter()
    quantize.fix(model, quantize.export(model), quantize.static_ranges(model) or None)
    return {
        "examples": examples, **quality(model, bench, dense),
        "calibration_seconds": round(calibrated - started, 1),
        "training_seconds": round(trained - calibrated, 1),
    }  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a task and form, mean over the seeds."""
    lines = ["| task | activations | steps | accuracy | as float | divergence | seeds |", "|---" * 7 + "|"]
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"], row["steps"]), []).append(row)
    for (task, method, steps), found in sorted(groups.items(), key=lambda item: (item[0][0], item[0][2])):
        values = [100 * row["accuracy"] for row in found]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        agreement, divergence = (
            statistics.fmean(row[key] for row in found) for key in ("agreement", "divergence")
        )
        lines.append(
            f"| {task} | {method} | {steps or '–'} | {statistics.fmean(values):.2f} %{spread} "
            f"| {agreement:.2%} | {divergence:.4f} | {len(found)} |"
        )
    return "\n".join(lines)


def cells(
    steps: Sequence[int], seeds: Sequence[int], methods: Sequence[str]
) -> Iterator[tuple[str, int, int]]:
    """(method, steps, seed); without training nothing is learned, and dynamic ranges need no seed."""
    for count, seed, method in product(steps, seeds, methods):
        if count or not (method == "learned" or (method == "dynamic" and seed != seeds[0])):
            yield method, count, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", action="append", required=True, metavar="NAME=DIR", help="once a task")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder a task")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="to calibrate on")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 200])
    parser.add_argument("--methods", nargs="+", default=["dynamic", *METHODS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/activation_ranges.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    if arguments.json.is_file():
        rows = json.loads(arguments.json.read_text())["rows"]
    done = {(row["task"], row["method"], row["steps"], row["seed"]) for row in rows}

    def add(task: str, method: str, steps: int, seed: int, figures: Mapping[str, Any]) -> None:
        rows.append({"task": task, "method": method, "steps": steps, "seed": seed, **figures})
        print(rows[-1], flush=True)
        text = json.dumps({"threads": arguments.threads, "rows": rows}, indent=1)
        arguments.json.write_text(text + "\n")

    for entry in arguments.teacher:
        task, folder = entry.split("=", 1)
        bench = Bench(task, Path(folder), arguments.data)
        dense = torch.from_numpy(model_logits(bench.model, bench.dev))
        if (task, "float", 0, 0) not in done:
            add(task, "float", 0, 0, quality(bench.model, bench, dense))
        for method, steps, seed in cells(arguments.steps, arguments.seeds, arguments.methods):
            if (task, method, steps, seed) not in done:
                figures = measure(bench, Path(folder), dense, method, arguments.examples, steps, seed)
                add(task, method, steps, seed, figures)
    print(table(rows))


if __name__ == "__main__":
    main()
