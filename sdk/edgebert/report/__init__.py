"""A build's report: `report.json` with every figure and `report.html` to read, both made from a Report."""

from __future__ import annotations

import json
from pathlib import Path

from edgebert.atomic import atomic_file
from edgebert.figures import Report
from edgebert.strict_json import parse_json

MAX_REPORT_BYTES = 16 << 20


def report_json(report: Report) -> bytes:
    """The bytes of report.json: UTF-8, sorted keys, two-space indent. ValueError for NaN and infinity."""
    text = json.dumps(report.to_dict(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def parse_report(raw: bytes) -> Report:
    """Read report.json from its bytes. Raises PackageError naming what is wrong."""
    from edgebert.errors import PackageError

    if len(raw) > MAX_REPORT_BYTES:
        raise PackageError(f"report.json has {len(raw)} bytes, at most {MAX_REPORT_BYTES} are allowed")
    return Report.from_dict(parse_json(raw, "report.json"))


def write_report(report: Report, folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write report.json and report.html into `folder` and return their paths. Raises OutputError."""
    from edgebert.report.html import report_html

    contents = {"report.json": report_json(report), "report.html": report_html(report).encode()}
    for name, content in contents.items():
        with atomic_file(folder / name, force) as temporary:
            temporary.write_bytes(content)
    return folder / "report.json", folder / "report.html"
