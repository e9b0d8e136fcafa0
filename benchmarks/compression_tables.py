"""Markdown tables of the compression benchmark: mean ± standard deviation over the seeds that are there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

from compression_cells import Line
from compression_compound import LAYERS
from compression_gradual import METHODS, PATTERNS, SPARSITIES
from edgebert_compress.recipe import MatmulPrecision

MISSING = "–"
TITLES = {"clinc150": "CLINC150", "sst2": "SST-2"}
COMPOUND = {
    ("unstructured", False): "unstructured",
    ("4-block", False): "4-block",
    ("4-block", True): "4-block + INT8",
}
Groups = dict[tuple[Any, ...], dict[int, float]]


def read_oneshot(path: Path) -> list[dict[str, Any]]:
    """Cells and figures of one-shot pruning in one flat mapping each, from lines or from a table's .json."""
    if not path.is_file():
        return []
    if path.suffix == ".json":
        return list(json.loads(path.read_text(encoding="utf-8"))["cells"])
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue
        found.append({**row["cell"], **row["figures"]})
    return found


def of_dampening(rows: Sequence[Mapping[str, Any]], dampening: float, relative: bool) -> list[Any]:
    """`rows` without those of another λ; what needs none stays."""
    wanted = (dampening, relative)
    return [
        row
        for row in rows
        if row["method"] != "obert" or (row["dampening"], row.get("relative", False)) == wanted
    ]


def of_gradients(rows: Sequence[Mapping[str, Any]], gradients: int) -> list[Any]:
    """`rows` without those of another m; what needs none stays."""
    return [row for row in rows if row["method"] != "obert" or row["gradients"] == gradients]


def shown(values: Iterable[float], digits: int = 2) -> str:
    """ "95.20 ± 0.10 (3)": mean, sample standard deviation, number of seeds; "–" where nothing ran."""
    found = list(values)
    if not found:
        return MISSING
    spread = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.{digits}f}{spread} ({len(found)})"


def percent(share: float) -> str:
    """ "80 %" of 0.8."""
    return f"{100 * share:.0f} %"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def oneshot_label(row: Mapping[str, Any]) -> str:
    """The method in words: "magnitude", "oBERT r = 4, m = 256, joint"."""
    if row["method"] == "magnitude":
        return "magnitude"
    return f"oBERT r = {row['recomputations']}, m = {row['gradients']}, {row['update']}"


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
        place = PATTERNS.index(row["pattern"])
        key = (row["task"], place, row["pattern"], row["method"] != "magnitude",
               row["recomputations"], row["gradients"], row["update"], row["dampening"],
               dampening_text(row), oneshot_label(row))  # fmt: skip
        order[key] = None
        groups.setdefault((key, row["sparsity"]), {})[row["seed"]] = 100 * row["accuracy"]
    shares = sorted({row["sparsity"] for row in rows if row["method"] != "dense"})
    body = []
    for key in sorted(order):
        task, _, pattern, *_, dampening, label = key
        name = TITLES.get(task, task) + (f" (dense {dense[task]:.2f})" if task in dense else "")
        values = [shown(groups.get((key, share), {}).values()) for share in shares]
        body.append([name, pattern, label, dampening, *values])
    return markdown(["task", "pattern", "method", "λ", *map(percent, shares)], body)


def _precision(line: Line) -> str:
    """In which the first stage trained; a line from before there was a choice does not say it."""
    return str(line.settings["stages"][0]["training"].get("matmul_precision", "highest"))


def _groups(lines: Sequence[Line], part: str, scale: float) -> Groups:
    """(task, method, pattern, sparsity, layers, int8) -> seed -> per cent; the last line of a cell counts."""
    found: Groups = {}
    for line in lines:
        c = line.cell
        if c.part == part and c.epochs_scale == scale:
            key = (c.task, c.method, c.pattern, c.sparsity, c.layers, c.int8)
            found.setdefault(key, {})[c.seed] = 100 * line.figures["accuracy"]
    return found


def _teachers(lines: Sequence[Line], part: str, scale: float) -> dict[str, float]:
    """Task -> its teacher's dev accuracy in per cent, in the order of the names."""
    found = {
        line.cell.task: 100 * line.figures["teacher"]
        for line in lines
        if line.cell.part == part and line.cell.epochs_scale == scale
    }
    return dict(sorted(found.items()))


def gradual_table(
    lines: Sequence[Line], scale: float = 1.0, better: str = "oBERT", base: str = "GMP*"
) -> str:
    """Dev accuracy in per cent, a column a method that has run anywhere, a row each precision of training.

    The last column is the points by which `better` is above `base`, on the seeds that both have.
    """
    by_precision = {
        name: _groups([line for line in lines if _precision(line) == name], "gradual", scale)
        for name in get_args(MatmulPrecision)
    }
    ran = {key[1] for accuracy in by_precision.values() for key in accuracy}
    methods = [name for name in METHODS if name in ran]
    body = []
    for (task, dense), share, pattern, (precision, accuracy) in product(
        _teachers(lines, "gradual", scale).items(), sorted(SPARSITIES), PATTERNS, by_precision.items()
    ):
        found = {name: accuracy.get((task, name, pattern, share, "all", False), {}) for name in methods}
        if not any(found.values()):
            continue
        a, b = found.get(better, {}), found.get(base, {})
        margin = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
        values = [shown(by_seed.values()) for by_seed in (*found.values(), dict(enumerate(margin)))]
        name = TITLES.get(task, task)
        body.append([name, f"{dense:.2f}", percent(share), pattern, f"`{precision}`", *values])
    header = ["task", "teacher", "sparsity", "pattern", "precision", *methods, f"{better} − {base}"]
    return markdown(header, body)


def compound_table(lines: Sequence[Line], scale: float = 1.0) -> str:
    """Dev accuracy in per cent and how many points below the teacher it lies, as table 3 of the paper."""
    accuracy = _groups(lines, "compound", scale)
    body = []
    for (task, dense), layers, share in product(
        _teachers(lines, "compound", scale).items(), LAYERS, (0.0, *sorted(SPARSITIES))
    ):
        found = [
            accuracy.get((task, "oBERT", pattern if share else "dense", share, layers, int8), {}).values()
            for pattern, int8 in COMPOUND
        ]
        if any(found):
            values = [
                shown(one) + (f", drop {dense - statistics.mean(one):.2f}" if one else "") for one in found
            ]
            body.append([TITLES.get(task, task), layers, f"{dense:.2f}", percent(share), *values])
    return markdown(["task", "layers", "teacher", "sparsity", *COMPOUND.values()], body)
