"""One cell of the compression benchmark: what it asks for, how it is run, its line in the results file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from edgebert.compression import CheckpointStep, TaskData, compress, needed_length, tokenizer_folder
from edgebert.data import label_set, load_examples
from edgebert.progress import Reporter
from edgebert.source_model import SourceModel, match_labels, resolve_model
from edgebert.stages import StageStore
from edgebert.tokenizer import TextTokenizer
from edgebert_compress.recipe import FineTuneStage, Recipe, Training, TrainStage

MAX_TOKENS = 128
TEACHER = FineTuneStage(epochs=3, learning_rate=1e-4)
PACKAGES = ("edgebert", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Cell:
    """One model to make and measure. `layers`: all of them or half. `sparsity` 0 has the pattern "dense"."""

    part: Literal["gradual", "compound"]
    task: str
    seed: int
    method: str
    pattern: str
    sparsity: float
    layers: Literal["all", "half"]
    int8: bool
    epochs_scale: float


@dataclass(frozen=True)
class Line:
    """A finished cell. `recipe`, `teacher`: hashes of what it was made with; `figures`: see `figures_of`.

    `settings`: the stages in full and the tokens at which texts are cut.
    """

    cell: Cell
    recipe: str
    teacher: str
    figures: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Bench:
    """A task with its dense teacher, which every cell starts from and learns from."""

    teacher: SourceModel
    data: TaskData
    store: StageStore
    reporter: Reporter


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 over the stages (16 hex digits)."""
    return hashlib.sha256(json.dumps(recipe.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def read_lines(path: Path) -> list[Line]:
    """What the results file holds, in order; a last line that was cut off by a kill is left out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue
        found.append(Line(**{**row, "cell": Cell(**row["cell"])}))
    return found


def write_line(path: Path, line: Line) -> None:
    """Append `line`, on a line of its own even after one that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, 2) - 1))
        broken = file.read() not in (b"", b"\n")
        file.write((("\n" if broken else "") + json.dumps(asdict(line), sort_keys=True) + "\n").encode())


def unfinished(
    wanted: Iterator[tuple[Cell, Recipe]], lines: list[Line], teachers: Mapping[str, str]
) -> Iterator[tuple[Cell, Recipe]]:
    """Those of `wanted` that have no line of the same settings and teacher (task -> hash)."""
    done: dict[tuple[Cell, str], list[Any]] = {}
    for line in lines:
        done.setdefault((line.cell, line.teacher), []).append(line.settings["stages"])
    for cell, recipe in wanted:
        stages = recipe.as_dict()["stages"]
        if not any(agrees(recorded, stages) for recorded in done.get((cell, teachers[cell.task]), ())):
            yield cell, recipe


def agrees(recorded: Any, now: Any) -> bool:
    """Whether all that was recorded still holds. A setting that recipes gained since is no difference."""
    if isinstance(recorded, Mapping):
        return isinstance(now, Mapping) and all(
            key in now and agrees(value, now[key]) for key, value in recorded.items()
        )
    if isinstance(recorded, list):
        return len(recorded) == len(now) and all(map(agrees, recorded, now))
    return bool(recorded == now)


def open_bench(model: Path, folder: Path, store: StageStore, reporter: Reporter) -> Bench:
    """The task of `folder` (train.jsonl, dev.jsonl) with `model` as teacher.

    A plain encoder is fine-tuned first, with seed 0: all seeds start from one teacher.
    """
    train, dev = (load_examples(folder / f"{split}.jsonl") for split in ("train", "dev"))
    source = resolve_model(model)
    labels = label_set(train, dev)
    if source.labels is None:
        first = compress(
            source, _task_data(source, labels, train, dev, store), _no_change(), store, 0, reporter
        )[0]
        source = resolve_model(first.folder)
    labels = match_labels(source, labels)
    return Bench(source, _task_data(source, labels, train, dev, store), store, reporter)


def _no_change() -> Recipe:
    """A stage that does nothing: what comes before it is the teacher."""
    return Recipe("teacher", (TrainStage(training=Training(epochs=0)),), fine_tune=TEACHER)


def _task_data(
    model: SourceModel, labels: tuple[str, ...], train: list[Any], dev: list[Any], store: StageStore
) -> TaskData:
    limit = min(model.max_length, MAX_TOKENS)
    tokenizer = TextTokenizer.from_folder(tokenizer_folder(model, store), limit)
    return TaskData(labels, train, dev, needed_length(tokenizer, [*train, *dev], limit))


def run_cell(bench: Bench, cell: Cell, recipe: Recipe, memory: int | None) -> Line:
    """Make and measure one cell; stages that another cell made, and snapshots of a killed run, are used."""
    steps = compress(bench.teacher, bench.data, recipe, bench.store, cell.seed, bench.reporter, memory=memory)
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    settings = {"stages": recipe.as_dict()["stages"], "max_length": bench.data.max_length}
    return Line(
        cell, recipe_hash(recipe), bench.teacher.sha256, figures_of(steps, bench.data), settings, versions
    )


def figures_of(steps: list[CheckpointStep], data: TaskData) -> dict[str, Any]:
    """Of the last checkpoint: dev accuracy, the teacher's, the share of equal answers, the share of zeros.

    `seconds` (wall-clock) and `steps` (of the optimiser) are summed over the stages.
    """
    teacher, last = steps[0], steps[-1]
    same = last.logits.argmax(axis=1) == teacher.logits.argmax(axis=1)
    return {
        "accuracy": last.score,
        "teacher": teacher.score,
        "agreement": float(same.mean()),
        "zeros": last.facts["sparsity"],
        "seconds": round(sum(step.facts["seconds"] for step in steps[1:]), 1),
        "steps": sum(step.facts["steps"] for step in steps[1:]),
        "examples": len(data.evaluation),
    }
