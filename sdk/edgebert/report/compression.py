"""The report of `edgebert compress`: what every stage did, with its curves, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from edgebert.figures import DatasetFigures
from edgebert.machine import MachineFacts
from edgebert.report import charts, words

FORMAT = 1
MAX_POINTS = 400  # of one line; more would only make the page heavy
Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class StageCurves:
    """One checkpoint of the chain. `value`: of the metric, in [0, 1]. Curves are (training step, value)."""

    name: str
    kind: str
    description: str
    value: float
    steps: int
    seconds: float
    layers: int | None
    sparsity: float | None
    loss_curve: Points
    metric_curve: Points
    sparsity_curve: Points


@dataclass(frozen=True)
class CompressionReport:
    """Everything that report.json of a compression holds. `recipe` as `Recipe.as_dict` gives it."""

    model: str
    task: str
    metric: str
    seed: int
    recipe: Mapping[str, Any]
    datasets: tuple[DatasetFigures, ...]
    stages: tuple[StageCurves, ...]
    size_bytes: int
    created_with: Mapping[str, str]
    machine: MachineFacts
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"format": FORMAT, "kind": "compression", **asdict(self)}

    @property
    def drop(self) -> float:
        """The metric of the teacher minus that of the result."""
        return self.stages[0].value - self.stages[-1].value


def write_compression_report(report: CompressionReport, folder: Path) -> None:
    """Write report.json and report.html into `folder`."""
    text = json.dumps(report.to_dict(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.html").write_text(compression_html(report), encoding="utf-8")


def compression_html(report: CompressionReport) -> str:
    """One self-contained page, no script, no network; everything that came from outside is escaped."""
    from edgebert.report.html import page, style_sheet

    return page("compression.html").render(
        report=report,
        style=style_sheet(),
        stages=[(stage, stage_charts(stage, report.metric)) for stage in report.stages],
        recipe=json.dumps(dict(report.recipe), indent=2, ensure_ascii=False),
        machine=[
            ("CPU", report.machine.cpu),
            ("Architecture", report.machine.architecture),
            ("Memory", words.size(report.machine.memory_bytes)),
            ("System", report.machine.os),
            ("Python", report.machine.python),
            *sorted(report.created_with.items()),
        ],
    )


def stage_charts(stage: StageCurves, metric: str) -> list[tuple[str, Markup]]:
    """A title and a chart for each curve that the stage has: loss, metric, sparsity."""
    found = []
    end = max(1, stage.steps, *(step for step, _ in (*stage.loss_curve, *stage.metric_curve)))
    loss = stage.loss_curve
    if len(loss) > 1:
        high = max(value for _, value in loss) or 1.0
        described = f"Loss over {stage.steps} steps, from {loss[0][1]:.3g} to {loss[-1][1]:.3g}"
        found.append(("Loss", charts.line_chart(thin(loss), described, (0.0, high), words.digits, end)))
    if len(stage.metric_curve) > 1:
        curve = stage.metric_curve
        values = [value for _, value in curve]
        # A scale narrower than one point would make noise look like a landslide.
        spread = max(max(values) - min(values), 0.01)
        centre = (max(values) + min(values)) / 2
        span = (max(0.0, centre - 0.6 * spread), min(1.0, centre + 0.6 * spread))
        described = f"{metric} over {stage.steps} steps, from {values[0]:.3g} to {values[-1]:.3g}"
        title = f"{metric.capitalize()}, zoomed in"
        found.append((title, charts.line_chart(thin(curve), described, span, words.percent, end)))
    if stage.sparsity_curve:
        steps = staircase(stage.sparsity_curve, end)
        described = "Share of zeros: " + ", ".join(
            f"{v:.1%} from step {s}" for s, v in thin(stage.sparsity_curve, 12)
        )
        chart = charts.line_chart(steps, described, (0.0, 1.0), lambda value: words.percent(value, 0), end)
        found.append(("Zeros", chart))
    return found


def staircase(curve: Sequence[tuple[int, float]], end: int) -> list[tuple[float, float]]:
    """The corners of a curve that jumps at its points and stays until `end`."""
    corners: list[tuple[float, float]] = [(0.0, 0.0)]
    for step, value in thin(curve):
        corners += [(step, corners[-1][1]), (step, value)]
    return [*corners, (end, corners[-1][1])]


def thin(curve: Sequence[tuple[int, float]], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most some `most` points of a curve, evenly, its last one among them."""
    every = -(-len(curve) // most)
    return [point for number, point in enumerate(curve) if number % every == 0 or number == len(curve) - 1]
