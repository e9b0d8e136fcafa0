"""Charts as inline SVG that stretch with the page while their text keeps its size.

Places along x are percentages and along y pixels, so one drawing serves a phone and a desk. Colours are
classes of the page's style sheet. Every text goes through Markup.format, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

# Characters that fit on one line of the smallest phone beside each other.
MAX_LINE = 34
# How far to the right a line goes; the labels of its scale stand beyond it.
LINE_SHARE = 0.84


@dataclass(frozen=True)
class Row:
    """One line of a bar or dot chart: `shown` is the value in words; `strong` marks the row that counts."""

    label: str
    value: float
    shown: str
    strong: bool = False


@dataclass(frozen=True)
class Curve:
    """Run times in ms; `kind` is the style: "artifact" or "baseline"."""

    kind: str
    samples_ms: Sequence[float]
    p50_ms: float


def svg(height: float, description: str, body: Sequence[Markup]) -> Markup:
    """A drawing as wide as its place; `description` is what a screen reader says."""
    return Markup('<svg class="chart" width="100%" height="{:g}" role="img" aria-label="{}">{}</svg>').format(
        height, description, Markup("").join(body)
    )


def bar_chart(rows: Sequence[Row], description: str, top: float | None = None) -> Markup:
    """Horizontal bars from zero to `top` (the largest value where not given), label and value above each."""
    top = top if top is not None else max((row.value for row in rows), default=0.0)
    step, body = 38, []
    for i, row in enumerate(rows):
        y, width = i * step, 100 * min(row.value / top, 1.0) if top > 0 else 0.0
        body.append(row_text(row, y))
        body.append(
            Markup(
                '<rect class="track" x="0" y="{0}" width="100%" height="8" rx="4"/>'
                '<rect class="bar" x="0" y="{0}" width="{1:.2f}%" height="8" rx="4"/>'
            ).format(y + 20, width)
        )
    return svg(step * len(rows), description, body)


def dot_chart(rows: Sequence[Row], description: str, limit: float | None = None) -> Markup:
    """A dot a row on one zoomed scale; `limit` is a tick across every row (the lowest value allowed)."""
    values = [row.value for row in rows] + ([limit] if limit is not None else [])
    low, high = min(values), max(values)
    # A scale narrower than one point would make noise look like a landslide.
    spread = max(high - low, 0.01)
    centre = (high + low) / 2
    low, high = centre - 0.56 * spread, centre + 0.56 * spread

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    step, body = 40, []
    for i, row in enumerate(rows):
        y = i * step + 26
        body.append(row_text(row, i * step))
        body.append(Markup('<rect class="track" x="0" y="{}" width="100%" height="2"/>').format(y - 1))
        if limit is not None:
            body.append(
                Markup('<line class="limit" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>').format(
                    place(limit), y - 7, y + 7
                )
            )
        body.append(
            Markup('<circle class="dot{}" cx="{:.2f}%" cy="{}" r="6"/>').format(
                " strong" if row.strong else "", place(row.value), y
            )
        )
    return svg(step * len(rows), description, body)


def row_text(row: Row, y: float) -> Markup:
    """Label at the left and value at the right, on the line that starts at `y`; a long label is cut."""
    room = max(MAX_LINE - len(row.shown), 8)
    cut = row.label if len(row.label) <= room else row.label[: room - 1] + "…"
    return Markup(
        '<text class="label{}" x="0" y="{}">{}<title>{}</title></text>'
        '<text class="value" x="100%" y="{}">{}</text>'
    ).format(" strong" if row.strong else "", y + 13, cut, row.label, y + 13, row.shown)


def ecdf_chart(curves: Sequence[Curve], description: str) -> Markup:
    """The share of runs that ended within x ms, a step curve an engine, with a dot at each median.

    The scale starts at zero and ends a little after the slowest engine's 99th percentile, or after twice its
    90th, so that a few runs on a busy machine do not squeeze the rest. The y labels stand at the right, where
    the curves have already reached the top.
    """
    head, height, foot = 18, 180, 24
    slowest = max(min(rank(c.samples_ms, 0.99), 2 * rank(c.samples_ms, 0.9)) for c in curves)
    end = slowest / 0.86
    body = []
    for share in (0, 25, 50, 75, 100):
        y = head + height * (1 - share / 100)
        body.append(Markup('<line class="grid" x1="0" x2="100%" y1="{0:g}" y2="{0:g}"/>').format(y))
        body.append(Markup('<text class="tick end" x="100%" y="{:g}">{} %</text>').format(y - 4, share))
    for i, tick in enumerate(ticks(end)):
        anchor = " start" if i == 0 else " middle"
        body.append(
            Markup('<text class="tick{}" x="{:.2f}%" y="{}">{:g}{}</text>').format(
                anchor, 100 * tick / end, head + height + 17, tick, " ms" if i == 0 else ""
            )
        )
    for curve in curves:
        body.append(
            Markup(
                '<svg x="0" y="{}" width="100%" height="{}" viewBox="0 0 1000 1000" '
                'preserveAspectRatio="none"><path class="curve {}" d="{}"/></svg>'
            ).format(head, height, curve.kind, step_path(curve.samples_ms, end))
        )
    for curve in curves:
        body.append(
            Markup('<circle class="median {}" cx="{:.2f}%" cy="{:g}" r="5"/>').format(
                curve.kind, min(100 * curve.p50_ms / end, 100.0), head + height / 2
            )
        )
    return svg(head + height + foot, description, body)


def line_chart(
    points: Sequence[tuple[float, float]],
    description: str,
    span: tuple[float, float],
    shown: Callable[[float], str],
    end: float,
) -> Markup:
    """One line through (x, y) points, x from 0 to `end`, on a scale from `span[0]` to `span[1]`.

    The labels of the scale, in the words of `shown`, stand right of the line; a dot marks its end.
    """
    head, height, foot = 18, 110, 22
    low, high = span
    end /= LINE_SHARE

    def x(value: float) -> float:
        return 1000 * value / end

    def y(value: float) -> float:
        return 1000 * (1 - (value - low) / (high - low))

    body = []
    for share in (0.0, 0.5, 1.0):
        place = head + height * (1 - share)
        body.append(Markup('<line class="grid" x1="0" x2="100%" y1="{0:g}" y2="{0:g}"/>').format(place))
        body.append(
            Markup('<text class="tick end" x="100%" y="{:g}">{}</text>').format(
                place - 4, shown(low + share * (high - low))
            )
        )
    for number, tick in enumerate(ticks(end)):
        anchor = " start" if number == 0 else " middle"
        body.append(
            Markup('<text class="tick{}" x="{:.2f}%" y="{}">{}{:g}</text>').format(
                anchor, 100 * tick / end, head + height + 17, "step " if number == 0 else "", tick
            )
        )
    path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    body.append(
        Markup(
            '<svg x="0" y="{}" width="100%" height="{}" viewBox="0 0 1000 1000" '
            'preserveAspectRatio="none"><path class="curve artifact" d="{}"/></svg>'
        ).format(head, height, path)
    )
    last = points[-1]
    body.append(
        Markup('<circle class="median artifact" cx="{:.2f}%" cy="{:.2f}" r="4.5"/>').format(
            x(last[0]) / 10, head + height * y(last[1]) / 1000
        )
    )
    return svg(head + height + foot, description, body)


def rank(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of all do not exceed."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def step_path(samples: Sequence[float], end: float) -> str:
    """The empirical distribution of `samples` as an SVG path in a 1000 by 1000 box; x ends at `end`."""
    values = sorted(samples)
    parts = ["M0 1000"]
    for i, value in enumerate(values, start=1):
        if value > end:
            break
        parts.append(f"H{1000 * value / end:.1f}V{1000 * (1 - i / len(values)):.1f}")
    return "".join(parts) + "H1000"


def ticks(end: float, most: int = 5) -> list[float]:
    """Round numbers from zero below 93 % of `end`: 1, 2 or 5 times a power of ten apart, at most `most`."""
    rough = end / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= rough)
    return [round(step * i, 10) for i in range(most + 1) if step * i < 0.93 * end]
