"""The compression benchmark: one-shot, gradual and compound pruning, their tables and their picture.

Every finished cell is a line of --results; a run that was stopped, even by kill -9, goes on where it was
(work folder: --work). One-shot pruning writes its own lines (--oneshot-results). Tables and the picture show
whatever is there. Each task is a folder of --data with train.jsonl and dev.jsonl; its dense teacher is
--teacher NAME=DIR, or --model fine-tuned on it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

import compression_compound as compound
import compression_gradual as gradual
from compression_cells import (
    Bench,
    Cell,
    open_bench,
    read_lines,
    run_cell,
    unfinished,
    write_line,
)
from compression_picture import draw
from compression_tables import (
    compound_table,
    gradual_table,
    of_dampening,
    of_gradients,
    oneshot_table,
    read_oneshot,
)
from edgebert.cli.console import console_reporter
from edgebert.progress import Reporter
from edgebert.stages import StageStore
from edgebert_compress.errors import TrainingError
from edgebert_compress.recipe import MatmulPrecision

PARTS = {"gradual": gradual, "compound": compound}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--part", required=True, choices=["oneshot", *PARTS, "table", "picture"])
    made.add_argument("--model", type=Path, help="encoder folder, for tasks without --teacher")
    made.add_argument("--teacher", action="append", default=[], metavar="NAME=DIR", help="once a task")
    made.add_argument("--data", type=Path, help="folder with a folder a task")
    made.add_argument("--tasks", nargs="+", default=["clinc150", "sst2"])
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--methods", nargs="+", help="of the gradual part; default: all")
    made.add_argument("--patterns", nargs="+", help="unstructured, 4-block, dense; default: all")
    made.add_argument("--sparsities", nargs="+", type=float, help="default: all of the part")
    made.add_argument("--layers", nargs="+", help="of the compound part: all, half; default: both")
    made.add_argument("--results", type=Path, default=Path("benchmarks/results/compression.jsonl"))
    made.add_argument("--oneshot-results", type=Path, default=Path("out/oneshot.jsonl"))
    made.add_argument("--svg", type=Path, default=Path("docs/oneshot.svg"))
    made.add_argument("--work", type=Path, default=Path("out/compression"), help="stages and snapshots")
    made.add_argument("--epochs-scale", type=float, default=1.0, help="factor on every training's length")
    made.add_argument("--learning-rate", type=float, help="peak while pruning; default: the part's own")
    either = made.add_mutually_exclusive_group()
    either.add_argument("--dampening", type=float, help="λ; default: the part's own")
    either.add_argument("--relative-dampening", type=float, help="as a multiple of mean squared gradients")
    made.add_argument("--gradients", type=int, help="m; default: the part's own")
    made.add_argument("--memory", type=int, help="bytes for pruning besides the model")
    made.add_argument(
        "--matmul-precision", choices=get_args(MatmulPrecision), help="of training and gradients"
    )
    made.add_argument("--threads", type=int, default=1)
    return made


def budget(given: argparse.Namespace) -> gradual.Budget:
    """The part's budget with what was given on the command line."""
    own = compound.BUDGET if given.part == "compound" else gradual.Budget()
    names = ("learning_rate", "dampening", "relative_dampening", "gradients", "matmul_precision")
    return replace(own, **{name: getattr(given, name) for name in names if getattr(given, name) is not None})


def wanted(given: argparse.Namespace) -> list[Cell]:
    """The cells of the part that were asked for. Raises SystemExit for what none of them has."""
    cells = PARTS[given.part].cells(given.tasks, given.seeds, given.epochs_scale)
    chosen = {
        "method": given.methods,
        "pattern": given.patterns,
        "sparsity": given.sparsities,
        "layers": given.layers,
    }
    for name, values in chosen.items():
        known = {getattr(cell, name) for cell in cells}
        for value in (value for value in values or () if value not in known):
            raise SystemExit(f"the {given.part} part has no {name} '{value}', only {sorted(known)}")
    return [
        cell
        for cell in cells
        if all(not values or getattr(cell, name) in values for name, values in chosen.items())
    ]


def teachers(given: argparse.Namespace) -> dict[str, Path]:
    """Task -> the folder its teacher is or comes from. Raises SystemExit where there is none."""
    named = {name: Path(folder) for name, _, folder in (text.partition("=") for text in given.teacher)}
    for task in given.tasks:
        if task not in named and given.model is None:
            raise SystemExit(f"no teacher for '{task}': give --teacher {task}=DIR or --model DIR")
    return {task: named.get(task, given.model) for task in given.tasks}


def run(given: argparse.Namespace, reporter: Reporter) -> None:
    """Every cell of the part that has no line yet. One that cannot be trained is told of and left out."""
    if given.data is None:
        raise SystemExit("--data is missing: the folder with a folder a task")
    cells, part, settings = wanted(given), PARTS[given.part], budget(given)
    store = StageStore(given.work)
    benches: dict[str, Bench] = {
        task: open_bench(folder, given.data / task, store, reporter)
        for task, folder in teachers(given).items()
    }
    rows = {task: len(bench.data.train) for task, bench in benches.items()}
    hashes = {task: bench.teacher.sha256 for task, bench in benches.items()}
    asked = ((cell, part.recipe(cell, settings, rows[cell.task])) for cell in cells)
    left = list(unfinished(asked, read_lines(given.results), hashes))
    for number, (cell, recipe) in enumerate(left, 1):
        reporter.note(f"cell {number} of {len(left)}: {cell}")
        try:
            line = run_cell(benches[cell.task], cell, recipe, given.memory)
        except TrainingError as error:  # such as a dampening that is too small: the others go on
            reporter.warn(f"cell {number} of {len(left)} has no figure: {error}")
            continue
        write_line(given.results, line)
        reporter.note(f"cell {number} of {len(left)}: {dict(line.figures)}")


def oneshot_command(given: argparse.Namespace) -> list[str]:
    """The arguments of compression_oneshot.py for the same teachers and data."""
    script = str(Path(__file__).with_name("compression_oneshot.py"))
    pairs = [part for task, folder in teachers(given).items() for part in ("--teacher", f"{task}={folder}")]
    more = [
        part
        for name, value in (
            ("--data", given.data),
            ("--dampening", given.dampening),
            ("--dampening", given.relative_dampening),
            ("--gradients", given.gradients),
            ("--memory", given.memory),
            ("--matmul-precision", given.matmul_precision),
        )
        if value is not None
        for part in (name, str(value))
    ]
    lists = [
        part
        for name, values in (
            ("--seeds", given.seeds),
            ("--patterns", given.patterns),
            ("--sparsities", given.sparsities),
        )
        if values
        for part in (name, *map(str, values))
    ]
    lines = ["--lines", str(given.oneshot_results), "--threads", str(given.threads)]
    lines += ["--relative"] if given.relative_dampening is not None else []
    return [sys.executable, script, *pairs, *more, *lines, *lists]


def oneshot_rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    """What one-shot pruning gave; with a λ or m on the command line, without those of another one."""
    rows = read_oneshot(given.oneshot_results)
    if given.gradients is not None:
        rows = of_gradients(rows, given.gradients)
    for dampening, relative in ((given.dampening, False), (given.relative_dampening, True)):
        if dampening is not None:
            rows = of_dampening(rows, dampening, relative)
    return rows


def tables(given: argparse.Namespace) -> str:
    """All tables of what is there, in Markdown."""
    lines, scale = read_lines(given.results), given.epochs_scale
    parts = [
        ("One-shot", oneshot_table(oneshot_rows(given))),
        ("Gradual", gradual_table(lines, scale)),
        ("Compound", compound_table(lines, scale)),
    ]
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts)


def main() -> None:
    given = parser().parse_args()
    if given.part == "oneshot":
        trained = {"--epochs-scale": given.epochs_scale != 1, "--learning-rate": given.learning_rate,
                   "--methods": given.methods, "--layers": given.layers}  # fmt: skip
        for name in (name for name, value in trained.items() if value):
            raise SystemExit(f"{name} is for the parts that train; one-shot pruning does not")
        raise SystemExit(subprocess.run(oneshot_command(given), check=False).returncode)
    if given.part == "table":
        print(tables(given))
    elif given.part == "picture":
        text = draw(oneshot_rows(given))
        given.svg.parent.mkdir(parents=True, exist_ok=True)
        partial = given.svg.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(given.svg)
    else:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        torch.set_num_threads(given.threads)
        with console_reporter() as reporter:
            run(given, reporter)


if __name__ == "__main__":
    main()
