"""`report.html`: one self-contained page, no script, no network, made from a Report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from edgebert.figures import BenchFigures, LayerFigures, Report
from edgebert.report import charts, words
from edgebert.report.charts import Curve, Row
from edgebert.report.device import device_rows

MAX_BENCH_CHARTS = 4


def report_html(report: Report) -> str:
    """The page as text; everything that came from outside is escaped."""
    template = page("template.html")
    return template.render(
        report=report,
        style=style_sheet(),
        tiles=tiles(report),
        conditions=conditions,
        accuracy_chart=accuracy_chart(report),
        latency_charts=[(b, latency_chart(b)) for b in report.bench if b.baseline][:MAX_BENCH_CHARTS],
        size_chart=size_chart(report),
        sparsity_chart=sparsity_chart(report.layers),
        recipe=json.dumps(dict(report.recipe), indent=2, ensure_ascii=False),
        machine=machine_rows(report),
        device=device_rows(report.device, report.validation.metric),
    )


def page(name: str) -> Template:
    """A template of this folder, with the words that reports use as filters; it escapes everything."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        bytes=words.size,
        ms=words.milliseconds,
        percent=words.percent,
        points=words.points,
        ratio=words.ratio,
        faster=words.faster,
        duration=words.duration,
        digits=words.digits,
    )
    return environment.from_string(_file(name))


def style_sheet() -> Markup:
    """The style of every report, for both themes."""
    return Markup(_file("style.css"))  # noqa: S704 - our own file


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def tiles(report: Report) -> list[dict[str, str]]:
    """The headline: accuracy, size and latency, each before, after, and the change in words."""
    check = report.validation
    found = [
        {
            "name": f"{check.metric.capitalize()} on {check.examples:,} examples",
            "before": words.percent(check.teacher),
            "after": words.percent(check.artifact),
            "change": f"{words.points(check.drop)} points",
            "note": f"allowed: {words.points(check.max_drop)} points",
        }
    ]
    before = report.stages[0].size_raw_bytes if report.stages else 0
    found.append(
        {
            "name": "Model file",
            "before": words.size(before) if before else "",
            "after": words.size(report.size.model_raw),
            "change": words.smaller(before, report.size.model_raw) if before else "",
            "note": f"{words.size(report.size.model_zip)} zipped",
        }
    )
    if report.bench:
        found.append(latency_tile(report.bench[0]))
    return found


def latency_tile(bench: BenchFigures) -> dict[str, str]:
    """Median latency; the ratio is the one measured in turns, not that of the two medians shown."""
    return {
        "name": "Latency, median",
        "before": words.milliseconds(bench.baseline.p50_ms) if bench.baseline else "",
        "after": words.milliseconds(bench.artifact.p50_ms),
        "change": words.faster(bench.speed_ratio) if bench.speed_ratio else "",
        "note": conditions(bench),
    }


def conditions(bench: BenchFigures) -> str:
    """ "128 tokens, 1 thread"."""
    figures = bench.artifact
    threads = f"{figures.threads} thread" + ("s" if figures.threads != 1 else "")
    batch = f", batches of {figures.batch}" if figures.batch != 1 else ""
    return f"{figures.length} tokens, {threads}{batch}"


def accuracy_chart(report: Report) -> Markup:
    """A dot a stage, the artifact last, with the gate as a tick."""
    check = report.validation
    rows = [Row(s.name, s.accuracy, words.percent(s.accuracy)) for s in report.stages]
    label = f"as {report.backend} runs it"
    rows.append(Row(label, check.artifact, words.percent(check.artifact), strong=True))
    described = "; ".join(f"{row.label} {row.shown}" for row in rows)
    return charts.dot_chart(
        rows, f"{check.metric.capitalize()} by stage: {described}", check.teacher - check.max_drop
    )


def latency_chart(bench: BenchFigures) -> Markup:
    """The distribution of run times of the artifact and the teacher."""
    curves = [Curve("artifact", bench.artifact.samples_ms, bench.artifact.p50_ms)]
    description = f"Share of runs by time: this model has a median of {bench.artifact.p50_ms:.3g} ms"
    if bench.baseline:
        curves.insert(0, Curve("baseline", bench.baseline.samples_ms, bench.baseline.p50_ms))
        description += f", the teacher {bench.baseline.p50_ms:.3g} ms"
    return charts.ecdf_chart(curves, description)


def size_chart(report: Report) -> Markup:
    """A bar a part of the artifact, with its share of the file."""
    total = report.size.model_raw or 1
    rows = [
        Row(name, count, f"{words.size(count)} · {words.percent(count / total, 1)}")
        for name, count in report.size.parts
    ]
    return charts.bar_chart(rows, "Size by part: " + "; ".join(f"{r.label} {r.shown}" for r in rows))


def sparsity_chart(layers: Sequence[LayerFigures]) -> Markup:
    """A bar a part: the share of zeros among all its weights."""
    zeros: dict[str, float] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        count = math.prod(layer.shape)
        zeros[layer.part] = zeros.get(layer.part, 0.0) + layer.sparsity * count
        counts[layer.part] = counts.get(layer.part, 0) + count
    rows = []
    for part, count in counts.items():
        share = zeros[part] / max(count, 1)
        rows.append(Row(part, share, words.percent(share, 1)))
    described = "; ".join(f"{row.label} {row.shown}" for row in rows)
    return charts.bar_chart(rows, f"Share of zero weights by part: {described}", top=1.0)


def machine_rows(report: Report) -> list[tuple[str, Any]]:
    """What the figures were measured on, as (name, value) rows."""
    machine = report.machine
    return [
        ("CPU", machine.cpu),
        ("Architecture", machine.architecture),
        ("Cores used at most", machine.cores),
        ("INT8 and vector features", ", ".join(machine.features) or "none of interest"),
        ("Memory", words.size(machine.memory_bytes)),
        ("System", machine.os),
        ("Python", machine.python),
        *sorted(report.created_with.items()),
    ]
