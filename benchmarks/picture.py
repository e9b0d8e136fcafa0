"""The README's picture of results, drawn from the JSON that real_models.py writes."""

from __future__ import annotations

import argparse
import json
from html import escape
from pathlib import Path
from typing import Any

WIDTH, ROW, TOP, LEFT = 860, 64, 96, 190
PANELS = (("Latency, median", "ms"), ("Model file", "MB"))
PANEL_WIDTH, GAP = 250, 40
STYLE = """
text{font:13px system-ui,sans-serif;fill:#1f2328}.h{font-size:20px;font-weight:600}
.s{fill:#59636e;font-size:12px}
.before{fill:#a8b0b8}.after{fill:#0f766e}.b{font-weight:600}rect.page{fill:#fff}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9aa4af}.before{fill:#5a646e}.after{fill:#2dd4bf}
rect.page{fill:#0d1117}}
"""


def rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What the picture shows of each task and target."""
    found = []
    for task, targets in figures.items():
        for target, report in sorted(targets.items(), reverse=True):
            bench, checked = report["bench"][0], report["validation"]
            before, after = report["stages"][0]["size_raw_bytes"] / 1e6, report["size"]["model_raw"] / 1e6
            found.append({
                "name": f"{task} · {target}",
                "accuracy": f"{100 * checked['teacher']:.1f} → {100 * checked['artifact']:.1f} %",
                "pairs": (
                    (bench["baseline"]["p50_ms"], bench["artifact"]["p50_ms"], bench["speed_ratio"]),
                    (before, after, before / after),
                ),
            })  # fmt: skip
    return found


def draw(items: list[dict[str, Any]], caption: str) -> str:
    """The SVG: for each row the accuracy in words and a before and an after bar in each panel."""
    height = TOP + ROW * len(items) + 40
    tops = [max(item["pairs"][i][0] for item in items) for i in range(len(PANELS))]
    body = [
        f'<text class="h" x="20" y="36">Before and after: {len(items)} default builds</text>',
        '<text class="s" x="20" y="58">grey: the fp32 teacher in ONNX Runtime (size: in the same format) · '
        "green: the package</text>",
    ]
    for i, (title, unit) in enumerate(PANELS):
        body.append(f'<text class="b" x="{panel_x(i)}" y="{TOP - 10}">{title}, {unit}</text>')
    for k, item in enumerate(items):
        y = TOP + k * ROW
        body.append(f'<text class="b" x="20" y="{y + 22}">{escape(item["name"])}</text>')
        body.append(f'<text class="s" x="20" y="{y + 40}">accuracy {item["accuracy"]}</text>')
        for i, (before, after, ratio) in enumerate(item["pairs"]):
            for j, (value, kind) in enumerate(((before, "before"), (after, "after"))):
                width = max(2.0, (PANEL_WIDTH - 70) * value / tops[i])
                label = f"{value:.2f}" if kind == "before" else f"{value:.2f} ({ratio:.1f}x)"
                bar = f'x="{panel_x(i)}" y="{y + 8 + 20 * j}" width="{width:.1f}" height="14" rx="3"'
                body.append(
                    f'<rect class="{kind}" {bar}/>'
                    f'<text class="{"s" if kind == "before" else "b"}" x="{panel_x(i) + width + 6:.1f}" '
                    f'y="{y + 20 + 20 * j}">{label}</text>'
                )
    body.append(f'<text class="s" x="20" y="{height - 14}">{escape(caption)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Accuracy, latency and size before and after the default build"><style>{STYLE}</style>'
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="10"/>{"".join(body)}</svg>\n'
    )


def panel_x(i: int) -> int:
    return LEFT + 40 + i * (PANEL_WIDTH + GAP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/real_models.json"))
    parser.add_argument("--svg", type=Path, default=Path("docs/results.svg"))
    arguments = parser.parse_args()
    figures = json.loads(arguments.json.read_text())
    machine = next(iter(next(iter(figures.values())).values()))["machine"]
    where = f"{machine['cpu']}, {machine['architecture']}, batch 1, one thread"
    caption = f"{where}; arm64 artifacts run in LiteRT for x86-64 here"
    arguments.svg.write_text(draw(rows(figures), caption))


if __name__ == "__main__":
    main()
