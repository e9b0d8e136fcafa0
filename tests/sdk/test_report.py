"""Reports: the strict JSON form, the page's text, its charts, and how it looks in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.errors import OutputError, PackageError
from edgebert.figures import Report
from edgebert.report import charts, parse_report, report_json, words, write_report
from edgebert.report.charts import Curve, Row
from edgebert.report.html import report_html
from tests.sdk.sample_report import make_layers, make_report

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
HOSTILE = "<script>alert('x')</script>&\"</style>"


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return copy


def test_json_comes_back_the_same() -> None:
    for report in (make_report(), make_report(passed=False, baseline=False)):
        raw = report_json(report)
        assert parse_report(raw) == report
        assert report_json(parse_report(raw)) == raw


SAMPLE = make_report().to_dict()
FREE = [p for p in paths(SAMPLE) if p[0] != "recipe" or len(p) == 1]


@given(path=st.sampled_from(FREE), new=st.sampled_from([None, [], {}, {"a": 1}, [[]], True, "x", 1.5, 1e400]))
def test_a_value_of_another_type_is_refused(path: tuple[Any, ...], new: object) -> None:
    data = changed(SAMPLE, path, new)
    try:
        report = Report.from_dict(data)
    except PackageError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        # Accepted only where it means the same type: nothing is lost on the way back.
        assert report.to_dict() == data


@pytest.mark.parametrize("change", ["extra", "missing", "future", "list"])
def test_fields_are_neither_more_nor_less(change: str) -> None:
    data = json.loads(report_json(make_report()))
    if change == "extra":
        data["validation"]["surprise"] = 1
    elif change == "missing":
        del data["size"]["model_zip"]
    elif change == "future":
        data["format"] = 2
    expected = {
        "extra": "report.validation has the unknown field 'surprise'",
        "missing": "report.size lacks the field 'model_zip'",
        "future": "report format 2 is unknown",
        "list": r"report is \[\], not an object",
    }
    with pytest.raises(PackageError, match=expected[change]):
        Report.from_dict([] if change == "list" else data)


def test_numbers_without_a_json_form_are_refused() -> None:
    report = make_report()
    with pytest.raises(ValueError, match="nan"):
        report_json(replace(report, validation=replace(report.validation, drop=float("nan"))))


def test_write_report(tmp_path: Path) -> None:
    as_json, as_html = write_report(make_report(), tmp_path / "out")
    assert parse_report(as_json.read_bytes()) == make_report()
    assert as_html.read_text(encoding="utf-8") == report_html(make_report())
    with pytest.raises(OutputError, match="exists already"):
        write_report(make_report(), tmp_path / "out")
    write_report(make_report(passed=False), tmp_path / "out", force=True)
    assert "Gate failed" in as_html.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects tags, and fails on one that is closed out of turn."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile_report() -> Report:
    """A report in which every text is hostile."""
    data = SAMPLE
    for path in paths(SAMPLE):
        value = data
        for key in path:
            value = value[key]
        if isinstance(value, str):
            data = changed(data, path, HOSTILE + value)
    return Report.from_dict(data)


@pytest.mark.parametrize(
    "report", [make_report(), make_report(passed=False, baseline=False), hostile_report()]
)
def test_page_is_well_formed_and_runs_nothing(report: Report) -> None:
    page = report_html(report)
    tags = Tags(page).seen
    assert not {"script", "iframe", "object", "img", "link"} & set(tags)
    assert tags.count("title") >= 1 and tags.count("h1") == 1
    assert "http://" not in page and "https://" not in page and "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page


def test_page_says_what_was_measured() -> None:
    text = html.unescape(re.sub(r"<[^>]+>", " ", report_html(make_report()))).replace(words.NARROW, " ")
    for expected in (
        "96.52 %", "95.89 %", "−0.63 points", "7.41 MB", "1.51 MB", "4.90× smaller", "3.98× faster",
        "Validated on this x86 machine through LiteRT; not run on ARM.", "Gate passed", "layer-drop",
        "conversion to arm64", "avx512_vnni", '"pattern": "4-block"', "train.jsonl",
    ):  # fmt: skip
        assert expected in text, expected
    failed = report_html(make_report(passed=False))
    assert "Gate failed" in failed and "<strong>layer-drop</strong>" in failed and "Gate passed" not in failed


def test_a_report_with_little_in_it() -> None:
    report = replace(make_report(), bench=(), layers=(), notes=(), datasets=(), stages=())
    assert "Not measured." in report_html(report)


def numbers(chart: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, chart)]


def test_bars_are_to_scale() -> None:
    chart = str(charts.bar_chart([Row("a", 50, "50"), Row("b", 100, "100"), Row("c", 0, "0")], "d"))
    assert numbers(chart, r'class="bar"[^>]* width="([\d.]+)%"') == [50, 100, 0]
    assert str(charts.bar_chart([Row("a", 0, "0")], "d")).count("<rect") == 2


def test_dots_are_in_order_and_inside() -> None:
    rows = [Row("a", 0.97, ""), Row("b", 0.95, ""), Row("c", 0.96, "", strong=True)]
    chart = str(charts.dot_chart(rows, "d", limit=0.94))
    places = numbers(chart, r'<circle[^>]* cx="([\d.]+)%"')
    limit = numbers(chart, r'class="limit" x1="([\d.]+)%"')
    assert 0 < limit[0] < places[1] < places[2] < places[0] < 100 and len(set(limit)) == 1


@given(st.lists(st.floats(1e-4, 1e5), min_size=1, max_size=250))
def test_distribution_curve_rises_to_the_top(samples: list[float]) -> None:
    path = charts.step_path(samples, 2 * max(samples))
    heights = numbers(path, r"V([\d.]+)")
    assert heights == sorted(heights, reverse=True) and heights[-1] == 0 and len(heights) == len(samples)
    widths = numbers(path, r"H([\d.]+)")
    assert widths == sorted(widths) and widths[-2] <= 500.05
    charts.ecdf_chart([Curve("artifact", samples, samples[0])], "d")


def test_distribution_curve_leaves_out_what_is_past_the_end() -> None:
    assert charts.step_path([1.0, 3.0, 2.0, 50.0], 4.0) == "M0 1000H250.0V750.0H500.0V500.0H750.0V250.0H1000"


@given(st.floats(1e-6, 1e9))
def test_ticks_are_few_and_round(end: float) -> None:
    found = charts.ticks(end)
    assert found[0] == 0 and 2 <= len(found) <= 6
    steps = {round((b - a) / end, 6) for a, b in pairwise(found)}
    assert end < 1e-3 or len(steps) == 1


def test_long_labels_are_cut_and_kept_as_a_title() -> None:
    name = "x" * 80
    chart = str(charts.bar_chart([Row(name, 1, "1")], "d"))
    assert f"<title>{name}</title>" in chart and f"{'x' * 32}…" in chart


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.size(999), "999 B"), (words.size(1000), "1.00 kB"), (words.size(999_600), "1.00 MB"),
        (words.size(12_340_000), "12.3 MB"), (words.size(0), "0 B"), (words.milliseconds(0.8423), "0.842 ms"),
        (words.milliseconds(320.4), "320 ms"), (words.points(0.00634), "−0.63"),
        (words.points(-0.001), "+0.10"),
        (words.points(0.0), "0.00"), (words.faster(2.0), "2.00× faster"), (words.faster(0.5), "2.00× slower"),
        (words.faster(1.001), "as fast"), (words.smaller(100, 200), "2.00× larger"),
        (words.smaller(1600, 100), "16× smaller"), (words.duration(3.21), "3.21 s"),
        (words.duration(125), "2 min 05 s"), (words.duration(4320), "1 h 12 min"),
        (words.percent(0.5, 1), "50.0 %"),
    ],
)  # fmt: skip
def test_words(shown: str, expected: str) -> None:
    assert shown.replace(words.NARROW, " ") == expected


MEASURE = """<!doctype html><body style="margin:0">{frames}<script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, wide = page.documentElement.clientWidth;
    const outside = [...page.querySelectorAll("body *")].filter((e) =>
      !e.closest(".scroll") && !e.closest("title") && e.getBoundingClientRect().right > wide + 1);
    const texts = [...page.querySelectorAll(".chart text")].map((e) => e.getBoundingClientRect());
    let overlaps = 0;
    texts.forEach((a, i) => texts.slice(i + 1).forEach((b) => {{
      const beside = a.left >= b.right - 1 || b.left >= a.right - 1;
      if (!beside && a.top < b.bottom - 3 && b.top < a.bottom - 3) overlaps++;
    }}));
    return {{ asked: frame.clientWidth, scroll: page.documentElement.scrollWidth, title: page.title,
             outside: outside.map((e) => e.outerHTML.slice(0, 80)), overlaps,
             charts: page.querySelectorAll("svg.chart").length }};
  }});
  document.body.innerHTML = "<pre id=result></pre>";
  document.getElementById("result").textContent = JSON.stringify(found);
}});
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_page_fits_a_phone_and_a_desk_in_a_browser(tmp_path: Path) -> None:
    long = replace(make_report(model="a-model-with-a-very-long-name-" * 4), layers=make_layers(12))
    pages = [
        (report, width) for report in (make_report(), long, hostile_report()) for width in (360, 390, 1200)
    ]
    frames = "".join(
        f'<iframe style="border:0;width:{width}px;height:800px" '
        f'srcdoc="{html.escape(report_html(report))}"></iframe>'
        for report, width in pages
    )
    (tmp_path / "measure.html").write_text(MEASURE.format(frames=frames), encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900", "--virtual-time-budget=5000",
        "--dump-dom", (tmp_path / "measure.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=55, check=True).stdout
    result = re.search(r'<pre id="result">(.*?)</pre>', shown, re.DOTALL)
    assert result, shown[:500]
    for (report, width), found in zip(pages, json.loads(html.unescape(result[1])), strict=True):
        assert found["asked"] == width
        assert found["scroll"] <= width and found["outside"] == []
        assert found["title"] == f"EdgeBERT report: {report.model} for {report.target}"
        assert found["charts"] == 5 and found["overlaps"] == 0
