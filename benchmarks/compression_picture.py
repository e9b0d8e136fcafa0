"""The picture of one-shot pruning: accuracy against sparsity, a line a method, a panel a task and pattern."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from compression_tables import dampening_text, oneshot_label

PANEL, HEIGHT, GAP, LEFT, TOP = 380, 230, 60, 60, 118
LEGEND_COLUMNS, LEGEND_ROW, GRID = 3, 20, 20
# Colours that stay apart for colour-blind readers; methods of one colour differ by their dashes.
STYLE = """
text{font:12px system-ui,sans-serif;fill:#1f2328}.h{font-size:18px;font-weight:600}.b{font-weight:600}
.s{fill:#59636e}.end{text-anchor:end}.mid{text-anchor:middle}
line.grid{stroke:#d8dee4}line.dense{stroke:#59636e;stroke-dasharray:2 4}
.m{fill:none;stroke-width:2.2;stroke-linejoin:round}.e{stroke-width:1.4}rect.page{fill:#fff}
.c0{stroke:#6e7781}.c1{stroke:#0f766e}.c2{stroke:#b45309}.c3{stroke:#6d28d9}
.k0{fill:#6e7781}.k1{fill:#0f766e}.k2{fill:#b45309}.k3{fill:#6d28d9}
.d1{stroke-dasharray:7 4}.d2{stroke-dasharray:2 3}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9aa4af}line.grid{stroke:#30363d}
line.dense{stroke:#9aa4af}rect.page{fill:#0d1117}.c0{stroke:#9aa4af}.c1{stroke:#2dd4bf}.c2{stroke:#f59e0b}
.c3{stroke:#b794f6}.k0{fill:#9aa4af}.k1{fill:#2dd4bf}.k2{fill:#f59e0b}.k3{fill:#b794f6}}
"""
COLOURS = {"": 0, "summed": 1, "joint": 2, "eliminating": 3}  # by update; magnitude has none
DASHES = {0: 0, 1: 0, 4: 1, 16: 2}  # by recomputations
Curves = dict[str, dict[float, list[float]]]  # method -> sparsity -> accuracies in per cent


def named(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """(curve, row) without the dense ones. λ is in a curve's name where a panel has several of a method."""
    cells = [row for row in rows if row["method"] != "dense"]
    used: dict[tuple[str, str, str], set[str]] = {}
    for row in cells:
        used.setdefault((row["task"], row["pattern"], oneshot_label(row)), set()).add(dampening_text(row))
    several = {method for (_, _, method), values in used.items() if len(values) > 1}

    def name(row: Mapping[str, Any]) -> str:
        method = oneshot_label(row)
        return f"{method}, λ {dampening_text(row)}" if method in several else method

    return [(name(row), row) for row in cells]


def panels(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Curves]:
    """(task, pattern) -> curves, in the order in which they first appear."""
    found: dict[tuple[str, str], Curves] = {}
    for curve, row in named(rows):
        points = found.setdefault((row["task"], row["pattern"]), {}).setdefault(curve, {})
        points.setdefault(row["sparsity"], []).append(100 * row["accuracy"])
    return found


def classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Curve -> its colour and its dashes, sorted as the legend shows them."""
    methods = {(row["recomputations"], COLOURS[row["update"]], curve) for curve, row in named(rows)}
    return {label: (colour, DASHES.get(times, 0)) for times, colour, label in sorted(methods)}


def floors(found: Mapping[tuple[str, str], Curves]) -> dict[str, int]:
    """Task -> where its panels begin: the multiple of GRID below its lowest mean."""
    lowest: dict[str, int] = {}
    for (task, _), curves in found.items():
        means = [statistics.mean(values) for curve in curves.values() for values in curve.values()]
        lowest[task] = min(lowest.get(task, 100 - GRID), int(min(means) // GRID) * GRID)
    return lowest


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """The SVG; points are means over seeds, bars one sample standard deviation to each side."""
    kinds, found = classes(rows), panels(rows)
    dense = {row["task"]: 100 * row["accuracy"] for row in rows if row["method"] == "dense"}
    legend = -(-len(kinds) // LEGEND_COLUMNS) * LEGEND_ROW
    width = LEFT + 2 * PANEL + GAP + 30
    top = TOP + legend
    height = top + -(-len(found) // 2) * (HEIGHT + 74)
    body = [
        '<text class="h" x="20" y="34">One-shot pruning without retraining</text>',
        '<text class="s" x="20" y="56">dev accuracy in per cent against the share of pruned encoder '
        "weights · mean over seeds, bars one standard deviation · dotted: dense teacher</text>",
    ]
    for number, (label, (colour, dash)) in enumerate(kinds.items()):
        x, y = 20 + number % LEGEND_COLUMNS * 280, 84 + number // LEGEND_COLUMNS * LEGEND_ROW
        body.append(
            f'<path class="m c{colour} d{dash}" d="M{x} {y - 4}h34"/><circle class="k{colour}" cx="{x + 17}" '
            f'cy="{y - 4}" r="3.5"/><text x="{x + 42}" y="{y}">{escape(label)}</text>'
        )
    for number, ((task, pattern), curves) in enumerate(found.items()):
        origin = (LEFT + number % 2 * (PANEL + GAP), top + number // 2 * (HEIGHT + 74))
        title = f"{task}, {pattern}"
        body.append(panel(title, curves, kinds, dense.get(task), origin, floors(found)[task]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Accuracy after one-shot pruning, by sparsity and method"><style>{STYLE}</style>'
        f'<rect class="page" width="{width}" height="{height}" rx="10"/>{"".join(body)}</svg>\n'
    )


def panel(
    title: str,
    curves: Curves,
    kinds: Mapping[str, tuple[int, int]],
    dense: float | None,
    origin: tuple[float, float],
    floor: int = 0,
) -> str:
    """One plot from `floor` to 100 with its axes; `origin`: its upper left corner."""
    left, top = origin
    shares = sorted({share for curve in curves.values() for share in curve})
    first, last = shares[0], shares[-1]
    unit = HEIGHT / (100 - floor)

    def place(share: float, value: float) -> tuple[float, float]:
        across = (share - first) / (last - first) if last > first else 0.5
        return left + 14 + (PANEL - 28) * across, top + unit * (100 - value)

    body = [f'<text class="b" x="{left}" y="{top - 14}">{escape(title)}</text>']
    for value in range(floor, 101, GRID):
        y = top + unit * (100 - value)
        body.append(f'<line class="grid" x1="{left}" x2="{left + PANEL}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text class="s end" x="{left - 8}" y="{y + 4:.1f}">{value}</text>')
    for share in shares:
        x, _ = place(share, 0)
        body.append(f'<text class="s mid" x="{x:.1f}" y="{top + HEIGHT + 20}">{100 * share:g} %</text>')
    if dense is not None:
        _, y = place(first, dense)
        body.append(f'<line class="dense" x1="{left}" x2="{left + PANEL}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for label, (colour, dash) in kinds.items():
        points = []
        for share, values in sorted(curves.get(label, {}).items()):
            x, y = place(share, statistics.mean(values))
            points.append(f"{x:.1f} {y:.1f}")
            body.append(f'<circle class="k{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>')
            if len(values) > 1:
                reach = unit * statistics.stdev(values)
                body.append(f'<path class="e c{colour}" d="M{x:.1f} {y - reach:.1f}v{2 * reach:.1f}"/>')
        if points:
            body.append(f'<path class="m c{colour} d{dash}" d="M{"L".join(points)}"/>')
    return "".join(body)
