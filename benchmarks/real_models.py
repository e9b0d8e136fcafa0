"""Default builds of real tasks for x86 and arm64: accuracy, agreement, size, speed, as JSON and as a table.

Each task is a folder with train.jsonl and dev.jsonl. The builds are resumable: a second run with the same
--work takes finished stages from it and only measures again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgebert.builder import BuildOptions, build_packages
from edgebert.cli.console import console_reporter
from edgebert.errors import GateError
from edgebert.figures import Report
from edgebert.report import parse_report

TARGETS = ("x86", "arm64")


def build_task(name: str, arguments: argparse.Namespace) -> list[Report]:
    """The reports of one task, one a target, whether the gate passed or not. `home-intents` is bundled."""
    out = arguments.out / name
    source: dict[str, Any] = {}
    if name != "home-intents":
        folder = arguments.data / name
        source = {"model": str(arguments.model), "train": str(folder / "train.jsonl"),
                  "evaluation": str(folder / "dev.jsonl")}  # fmt: skip
    options = BuildOptions(
        TARGETS,
        **source,
        out=out,
        work=arguments.work,
        force=True,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    with console_reporter() as reporter:
        try:
            return [result.report for result in build_packages(options, reporter).targets]
        except GateError as error:
            reporter.warn(str(error))
    folders = [out / target for target in TARGETS], [out / f"{target}-report" for target in TARGETS]
    found = [ok if ok.is_dir() else failed for ok, failed in zip(*folders, strict=True)]
    return [parse_report((folder / "report.json").read_bytes()) for folder in found]


def condensed(report: Report) -> dict[str, Any]:
    """The report's figures without the samples of single runs and the list of tensors."""
    figures = report.to_dict()
    del figures["layers"], figures["notes"]
    for bench in figures["bench"]:
        for engine in ("artifact", "baseline"):
            if bench[engine]:
                del bench[engine]["samples_ms"]
    return figures


def table(tasks: dict[str, list[Report]]) -> str:
    """One Markdown row a task and target."""
    lines = [
        "| task | target | teacher | compressed, PyTorch | artifact | agrees with PyTorch "
        "| model MB | zipped MB | fp32 teacher, ms | artifact, ms | faster | gate (1 point) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, reports in tasks.items():
        for r in reports:
            v, bench, first = r.validation, r.bench[0], r.stages[0]
            slow = f"{bench.baseline.p50_ms:.2f}" if bench.baseline else "–"
            lines.append(
                f"| {name} | {r.target} | {v.teacher:.2%} | {v.compressed_pytorch:.2%} | {v.artifact:.2%} "
                f"| {v.agreement_with_pytorch:.2%} "
                f"| {first.size_raw_bytes / 1e6:.1f} → {r.size.model_raw / 1e6:.1f} "
                f"| {first.size_zip_bytes / 1e6:.1f} → {r.size.model_zip / 1e6:.1f} | {slow} "
                f"| {bench.artifact.p50_ms:.2f} | {bench.speed_ratio or 0:.2f}x "
                f"| {'passed' if v.passed else 'failed'} |"
            )
    return "\n".join(lines)


def stage_table(tasks: dict[str, list[Report]]) -> str:
    """One Markdown row a stage: what it cost in accuracy and bought in size and speed."""
    lines = [
        "| task | target | stage | accuracy | cost, points | model MB | zipped MB | median ms | faster |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, reports in tasks.items():
        for r in reports:
            for s in r.stages:
                faster = f"{s.speed_vs_previous:.2f}x" if s.speed_vs_previous else "–"
                lines.append(
                    f"| {name} | {r.target} | {s.name} | {s.accuracy:.2%} | {100 * s.accuracy_cost:+.2f} "
                    f"| {s.size_raw_bytes / 1e6:.1f} | {s.size_zip_bytes / 1e6:.1f} "
                    f"| {s.latency_p50_ms or 0:.2f} | {faster} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="encoder folder; not needed for home-intents alone")
    parser.add_argument("--data", type=Path, help="folder with a folder a task")
    parser.add_argument("--tasks", nargs="+", default=["home-intents", "clinc150", "sst2"])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--work", type=Path, help="folder of finished stages")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/real_models.json"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="threads for training")
    arguments = parser.parse_args()
    tasks = {name: build_task(name, arguments) for name in arguments.tasks}
    figures = {name: {r.target: condensed(r) for r in reports} for name, reports in tasks.items()}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    print(table(tasks), stage_table(tasks), sep="\n\n")


if __name__ == "__main__":
    main()
