"""Markdown tables of the compression benchmark: mean ± standard deviation over the seeds that are there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compression_cells import Line
from compression_gradual import METHODS

MISSING = "not run"
COMPOUND = (("unstructured", False), ("4-block", False), ("4-block", True))
Groups = dict[tuple[Any, ...], dict[int, float]]


def read_oneshot(path: Path) -> list[dict[str, Any]]:
    """Cells and figures of one-shot pruning in one flat mapping each."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue
        found.append({**row["cell"], **row["figures"]})
    return found


def shown(values: Iterable[float], digits: int = 2) -> str:
    """ "95.20 ± 0.10 (3)": mean, sample standard deviation, number of seeds; or "not run"."""
    found = list(values)
    if not found:
        return MISSING
    spread = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.{digits}f}{spread} ({len(found)})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def oneshot_label(row: Mapping[str, Any]) -> str:
    """The method in words: "magnitude", "oBERT r = 4, joint"."""
    if row["method"] == "magnitude":
        return "magnitude"
    return f"oBERT r = {row['recomputations']}, {row['update']}"


def dampening_text(row: Mapping[str, Any]) -> str:
    """λ in words: "1e-07", "0.01 g²" where it is a multiple of the mean squared gradient; "–" for none."""
    if row["method"] == "magnitude":
        return "–"
    return f"{row['dampening']:g}{' g²' if row.get('relative') else ''}"


def oneshot_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Dev accuracy in per cent by method and sparsity. Magnitude draws nothing: one run is all seeds."""
    dense = {row["task"]: 100 * row["accuracy"] for row in rows if row["method"] == "dense"}
    groups: Groups = {}
    order: dict[tuple[Any, ...], None] = {}
    for row in (row for row in rows if row["method"] != "dense"):
        key = (row["task"], row["pattern"], row["method"] != "magnitude", row["recomputations"],
               row["update"], row["dampening"], dampening_text(row), oneshot_label(row))  # fmt: skip
        order[key] = None
        groups.setdefault((key, row["sparsity"]), {})[row["seed"]] = 100 * row["accuracy"]
    shares = sorted({row["sparsity"] for row in rows if row["method"] != "dense"})
    body = []
    for key in sorted(order):
        task, pattern, *_, dampening, label = key
        name = f"{task} (dense {dense[task]:.2f})" if task in dense else task
        values = [shown(groups.get((key, share), {}).values()) for share in shares]
        body.append([name, pattern, label, dampening, *values])
    return markdown(["task", "pattern", "method", "λ", *(f"{share:.0%}" for share in shares)], body)


def _groups(lines: Sequence[Line], part: str, scale: float, figure: str) -> Groups:
    """(task, method, pattern, sparsity, layers, int8) -> seed -> per cent; the last line of a cell counts."""
    found: Groups = {}
    for line in lines:
        c = line.cell
        if c.part == part and c.epochs_scale == scale:
            key = (c.task, c.method, c.pattern, c.sparsity, c.layers, c.int8)
            found.setdefault(key, {})[c.seed] = 100 * line.figures[figure]
    return found


def _teachers(lines: Sequence[Line], part: str, scale: float) -> dict[str, float]:
    """Task -> its teacher's dev accuracy in per cent, in the order of the lines."""
    return {
        line.cell.task: 100 * line.figures["teacher"]
        for line in lines
        if line.cell.part == part and line.cell.epochs_scale == scale
    }


def gradual_table(lines: Sequence[Line], scale: float = 1.0) -> str:
    """Dev accuracy and, in brackets after it, agreement with the teacher, in per cent."""
    accuracy = _groups(lines, "gradual", scale, "accuracy")
    agreement = _groups(lines, "gradual", scale, "agreement")
    body = []
    for task, dense in _teachers(lines, "gradual", scale).items():
        for pattern in ("unstructured", "4-block"):
            for method in METHODS:
                row = [f"{task} (teacher {dense:.2f})", pattern, method]
                for share in (0.8, 0.9):
                    key = (task, method, pattern, share, "all", False)
                    row.append(shown(accuracy.get(key, {}).values()))
                    same = agreement.get(key, {}).values()
                    row.append(f"{statistics.mean(same):.1f}" if same else "–")
                body.append(row)
    return markdown(["task", "pattern", "method", "80 %", "agrees", "90 %", "agrees"], body)


def margins(lines: Sequence[Line], scale: float = 1.0, better: str = "oBERT", base: str = "GMP*") -> str:
    """Points by which `better` is above `base`, seed by seed on the seeds that both have."""
    accuracy = _groups(lines, "gradual", scale, "accuracy")
    body = []
    for task in _teachers(lines, "gradual", scale):
        for pattern in ("unstructured", "4-block"):
            row = [task, pattern]
            for share in (0.8, 0.9):
                a, b = (
                    accuracy.get((task, method, pattern, share, "all", False), {})
                    for method in (better, base)
                )
                row.append(shown(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())))
            body.append(row)
    return markdown(["task", "pattern", f"{better} − {base}, 80 %", "90 %"], body)


def compound_table(lines: Sequence[Line], scale: float = 1.0) -> str:
    """Dev accuracy in per cent and the points that it lies below the teacher, as table 3 of the paper."""
    accuracy = _groups(lines, "compound", scale, "accuracy")
    body = []
    for task, dense in _teachers(lines, "compound", scale).items():
        for layers in ("all", "half"):
            for share in (0.0, 0.8, 0.9):
                row = [f"{task} (teacher {dense:.2f})", layers, f"{share:.0%}"]
                for pattern, int8 in COMPOUND:
                    key = (task, "oBERT", pattern if share else "dense", share, layers, int8)
                    values = accuracy.get(key, {}).values()
                    row.append(
                        shown(values) + (f", drop {dense - statistics.mean(values):+.2f}" if values else "")
                    )
                body.append(row)
    return markdown(["task", "layers", "sparsity", "unstructured", "4-block", "4-block + INT8"], body)
