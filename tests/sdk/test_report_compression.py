"""The report of a compression: every figure in JSON, the curves on a page that is well-formed and safe."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from edgebert.figures import DatasetFigures
from edgebert.machine import machine_facts
from edgebert.progress import Eta, clock_text
from edgebert.report.charts import LINE_SHARE
from edgebert.report.compression import (
    CompressionReport,
    StageCurves,
    compression_html,
    stage_charts,
    staircase,
    thin,
    write_compression_report,
)

PRUNED = StageCurves(
    name="prune 80% 4-block (obert)",
    kind="prune",
    description="4 epochs",
    value=0.88,
    steps=200,
    seconds=61.0,
    layers=6,
    sparsity=0.8,
    loss_curve=((10, 0.9), (100, 0.5), (200, 0.4)),
    metric_curve=((50, 0.8), (200, 0.88)),
    sparsity_curve=((0, 0.3), (50, 0.7), (100, 0.8)),
)
TEACHER = StageCurves("teacher", "teacher", "as given", 0.9, 0, 0.0, None, None, (), (), ())
REPORT = CompressionReport(
    model="<script>alert(1)</script>",
    task="text-classification",
    metric="accuracy",
    seed=3,
    recipe={"name": "mine & yours", "description": "<b>", "stages": []},
    datasets=(DatasetFigures("train.csv", "train", 1234, "ab" * 32),),
    stages=(TEACHER, PRUNED),
    size_bytes=1_500_000,
    created_with={"torch": "2"},
    machine=machine_facts(),
    notes=("a note",),
)


class Balance(HTMLParser):
    """Fails on a tag that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br", "rect", "circle", "line", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("rect", "circle", "line", "path"):
            assert self.open.pop() == tag


def test_the_page_is_whole_safe_and_without_network():
    html = compression_html(REPORT)
    checker = Balance()
    checker.feed(html)
    assert checker.open == []
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert not re.findall(r"(?:src|href)=", html)
    assert "prefers-color-scheme: dark" in html
    assert "−2.00 points" in html
    assert html.count("<svg class") == 3
    for word in ("Loss", "Accuracy, zoomed in", "Zeros", "1,234 examples"):
        assert word in html


def test_the_json_holds_every_point(tmp_path):
    write_compression_report(REPORT, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text())
    assert (read["format"], read["kind"], read["seed"]) == (1, "compression", 3)
    assert read["stages"][1]["sparsity_curve"] == [[0, 0.3], [50, 0.7], [100, 0.8]]
    assert (tmp_path / "report.html").read_text() == compression_html(REPORT)


def path_points(chart: str) -> list[tuple[float, float]]:
    path = re.search(r' d="M([^"]+)"', chart)
    assert path
    return [tuple(float(number) for number in pair.split()) for pair in path[1].split("L")]


def test_lines_lie_where_the_figures_are():
    charts = dict(stage_charts(PRUNED, "accuracy"))
    # x: step of 200 in thousandths; y: from the top, loss on a scale from 0 to its maximum of 0.9
    expected = [(1000 * LINE_SHARE * s / 200, 1000 * (1 - v / 0.9)) for s, v in PRUNED.loss_curve]
    assert path_points(charts["Loss"]) == [pytest.approx(point, abs=0.1) for point in expected]
    zeros = path_points(charts["Zeros"])
    assert zeros[0] == (0, 1000)
    assert zeros[-1] == pytest.approx((1000 * LINE_SHARE, 200))
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(zeros))


def test_a_stage_without_curves_has_no_charts():
    assert stage_charts(TEACHER, "f1") == []
    flat = replace(PRUNED, metric_curve=((0, 1.0), (5, 1.0)), loss_curve=((1, 0.0), (2, 0.0)))
    assert len(stage_charts(flat, "f1")) == 3


def test_long_curves_keep_their_ends():
    curve = tuple((step, 0.5) for step in range(10_001))
    few = thin(curve, 100)
    assert len(few) <= 102
    assert (few[0], few[-1]) == (curve[0], curve[-1])
    assert staircase(((4, 0.5),), 9) == [(0.0, 0.0), (4, 0.0), (4, 0.5), (9, 0.5)]


def test_the_eta_is_the_rest_at_the_speed_so_far(monkeypatch):
    now = 100.0
    monkeypatch.setattr("edgebert.progress.time.monotonic", lambda: now)
    eta = Eta()
    assert eta.text("train", 10, 100) == ""
    now = 130.0
    assert eta.text("train", 40, 100) == "ETA 01:00"
    now = 131.0
    assert eta.text("other", 5, 10) == ""
    assert eta.text("train", 3, 7) == ""  # as pruning steps are told of
    now = 160.0
    assert eta.text("train", 50, 100) == "ETA 01:15"  # the other phase belongs to the time it takes
    now = 170.0
    assert eta.text("train", 10, 100) == ""
    now = 180.0
    assert eta.text("train", 20, 100) == "ETA 01:20"
    assert eta.text("train", 100, 100) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "00:00"), (65, "01:05"), (3725, "1:02:05"), (59.6, "01:00")]
)
def test_clock(seconds, text):
    assert clock_text(seconds) == text
