"""`edgebert build`: the whole road from a model to proven packages."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import click

from edgebert.builder import BuildOptions, BuildResult, TargetResult, build_packages
from edgebert.cli.ask import get_verb
from edgebert.cli.console import console_reporter
from edgebert.cli.output import column_options, device_option, json_option, megabytes, print_json, print_table
from edgebert.data import Columns
from edgebert.figures import Report
from edgebert.tasks.package import PACKAGE_TASKS
from edgebert_targets.base import get_target


def result_rows(results: tuple[TargetResult, ...]) -> list[tuple[str, ...]]:
    """Before and after, a column a target."""
    reports = [result.report for result in results]
    return [
        (
            metric_text(reports),
            *(f"{r.validation.teacher:.2%} → {r.validation.artifact:.2%}" for r in reports),
        ),
        ("size", *(arrow(r.stages[0].size_raw_bytes, r.size.model_raw) for r in reports)),
        ("size zipped", *(arrow(r.stages[0].size_zip_bytes, r.size.model_zip) for r in reports)),
        ("latency p50", *(latency_text(report) for report in reports)),
        *device_line(reports),
        ("agrees with PyTorch", *(f"{r.validation.agreement_with_pytorch:.2%}" for r in reports)),
    ]


def metric_text(reports: list[Report]) -> str:
    """The metric of the task, which all targets share."""
    return reports[0].validation.metric if reports else "accuracy"


def device_line(reports: list[Report]) -> list[tuple[str, ...]]:
    """Accuracy where the packages were proven, when that was on a device."""
    found = [report.device for report in reports]
    if not any(found):
        return []
    cells = ["" if d is None or d.accuracy is None else f"{d.accuracy:.2%} of {d.examples}" for d in found]
    return [(f"on {next(d.facts.name for d in found if d)}", *cells)]


def arrow(before: int, after: int) -> str:
    return f"{megabytes(before)} → {megabytes(after)}"


def latency_text(report: Report) -> str:
    """The fp32 teacher's median in ONNX Runtime and the package's, measured side by side."""
    first = report.bench[0]
    after = f"{first.artifact.p50_ms:.2f} ms"
    if first.baseline is None:
        return after
    return f"{first.baseline.p50_ms:.2f} ms → {after} ({first.speed_ratio:.1f}x)"


def json_result(result: BuildResult) -> dict[str, Any]:
    """The result as one JSON object: a path and the whole report for every target."""
    return {
        "packages": {r.target: str(r.package) for r in result.targets},
        "reports": {r.target: r.report.to_dict() for r in result.targets},
        "warnings": list(result.warnings),
    }


@click.command()
@click.option(
    "--model", help="Folder or hub id of a Hugging Face encoder. Default: the bundled home-intents."
)
@click.option(
    "--task", type=click.Choice(list(PACKAGE_TASKS)),
    help="What the model is for. Default: what its head says, else text-classification.",
)  # fmt: skip
@click.option("--train", help="Training data in the task's form, such as .jsonl with text and label.")
@click.option("--eval", "evaluation", help="Evaluation data, same forms; the gate counts on it.")
@click.option("--target", "targets", multiple=True, help="Target to build for; may be given several times.")
@click.option("--recipe", help="Name of a built-in recipe or a YAML file. Default: what pays on the target.")
@click.option(
    "--max-drop", default=0.01, show_default=True, help="Largest accepted loss of the task's metric, 0 to 1."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the packages, one below it a target."
)
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps finished stages.")
@click.option("--zip", "as_zip", is_flag=True, help="Write each package as one stored .zip.")
@click.option("--force", is_flag=True, help="Overwrite packages that exist.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
@click.option("--max-length", type=int, help="Cut texts at this many tokens. Default: what the data needs.")
@click.option(
    "--length", "lengths", type=int, multiple=True,
    help="arm64: a shorter length that the model takes without padding to the longest; repeatable.",
)  # fmt: skip
@click.option("--threads", type=int, help="Threads for training. Default: all cores.")
@click.option("--new-head", is_flag=True, help="Ignore the model's head and train a new one.")
@device_option
@click.option(
    "--device-limit", type=int, help="Run so many evaluation examples on the device, and the gate on them."
)
@column_options
@json_option
def command(
    text_column: str,
    pair_column: str,
    label_column: str,
    as_json: bool,
    targets: tuple[str, ...],
    **options: Any,
) -> None:
    """Compress, convert, prove and package a model for one or more targets."""
    columns = Columns(text_column, pair_column, label_column)
    with console_reporter() as reporter:
        result = build_packages(BuildOptions(targets=targets, columns=columns, **options), reporter)
    if as_json:
        print_json(json_result(result))
        return
    names = [built.target for built in result.targets]
    print_table("Before → after", ("", *names), result_rows(result.targets))
    for built in result.targets:
        inside = "inside" if built.package.suffix == ".zip" else str(built.package / "report.html")
        click.echo(f"{built.target}: {built.package}  (report: {inside})")
        if platform.machine() not in get_target(built.target).cpu_architectures:
            click.echo(f"  {built.report.validation.where}")
    click.echo(
        f"Try it: edgebert run {result.targets[0].package} {example_words(result.targets[0].report.task)}"
    )


def example_words(task: str) -> str:
    """Arguments of `edgebert run` to try a package with."""
    return get_verb(task).example
