"""CPU seconds of a training step and of one Fisher gradient by `matmul_precision`, in turns.

Each task is a folder with train.jsonl and dev.jsonl, its model a classifier (--teacher NAME=DIR); batches are
those of a prune stage by default. It learns from labels: the cached answers of a teacher cost nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch

from compression_oneshot import Bench
from compression_tables import TITLES
from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.gradients import TaskGradients
from edgebert_compress.recipe import MatmulPrecision, PruneStage, Training
from edgebert_compress.tasks import TEXT_CLASSIFICATION
from edgebert_compress.teacher import distiller
from edgebert_compress.training_run import Batches, Holding, Job, Run

PRECISIONS: tuple[MatmulPrecision, ...] = get_args(MatmulPrecision)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process, in all its threads."""
    before = time.process_time()
    work()
    return time.process_time() - before


def measure(bench: Bench, rounds: int) -> dict[str, dict[str, float]]:
    """Precision -> medians over `rounds` of a step and of a gradient, in seconds of CPU.

    The same batches go through twice and count the second time: kernels are made anew for a new length, of
    which a whole training has few.
    """
    task, names = TEXT_CLASSIFICATION, list(prunable_parameters(bench.model))
    order = Batches(bench.train, PruneStage().gradient_batch_size, seed=0)
    batches = [next(order) for _ in range(rounds)]
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(2):
        runs = {precision: training_of(bench, precision) for precision in PRECISIONS}
        seconds = {precision: {"step": [], "gradient": []} for precision in PRECISIONS}
        for batch in batches:
            for precision, run in runs.items():
                seconds[precision]["step"].append(cpu_seconds(lambda run=run: run.train_step("training")))
                one = TaskGradients(bench.model, task, bench.train, [batch], precision=precision)
                taken = cpu_seconds(lambda one=one: list(one.gradients(names)))
                seconds[precision]["gradient"].append(taken)
    return {
        precision: {name: statistics.median(values) for name, values in found.items()}
        for precision, found in seconds.items()
    }


def training_of(bench: Bench, precision: MatmulPrecision) -> Run:
    """A training of a copy of the model, from its first batch on."""
    model, task = copy.deepcopy(bench.model), TEXT_CLASSIFICATION
    with distiller(task, None, model, None, len(bench.train)) as loss:
        job = Job(task, bench.train, 0)
        return Run(model, Training(matmul_precision=precision), job, Holding({}, {}), loss, 1.0)


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """As Markdown; how many times as fast as `highest` in brackets."""
    lines = ["| task | precision | training step, s | Fisher gradient, s |", "|---|---|---|---|"]
    for task, values in found.items():
        exact = values["highest"]
        for precision, one in values.items():
            cells = [f"{one[name]:.3f} ({exact[name] / one[name]:.2f}x)" for name in ("step", "gradient")]
            lines.append(f"| {TITLES.get(task, task)} | `{precision}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--teacher", action="append", required=True, metavar="TASK=DIR")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder a task")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {}
    for text in given.teacher:
        task, _, folder = text.partition("=")
        found[task] = measure(Bench(task, Path(folder), given.data), given.rounds)
    print(table(found))
    if given.json is not None:
        record = {
            "rounds": given.rounds,
            "threads": given.threads,
            "torch": torch.__version__,
            "seconds": found,
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
