"""`edgebert build`: the whole road from a model to proven packages."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from edgebert.builder import BuildOptions, BuildResult, TargetResult, build_packages
from edgebert.data import Columns
from edgebert.figures import Report
from edgebert_targets.base import get_target

# Without a terminal a long phase says where it is this often, in seconds.
LINE_EVERY = 60.0


class ConsoleReporter:
    """Notes and warnings as lines on stderr; then one live bar on a terminal, elsewhere a line a minute."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self.console = console
        self.bars = bars
        self.phase = ""
        self.task: TaskID | None = None
        self.last_line = time.monotonic()

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def progress(self, phase: str, done: int, total: int, **figures: float) -> None:
        text = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
        if not self.console.is_terminal:
            if time.monotonic() - self.last_line >= LINE_EVERY:
                self.last_line = time.monotonic()
                self.note(f"{phase}: {done} of {total}{', ' + text if text else ''}")
            return
        if self.task is None or phase != self.phase:
            if self.task is not None:
                self.bars.remove_task(self.task)
            self.phase, self.task = phase, self.bars.add_task(phase, total=total, figures=text)
        self.bars.update(self.task, completed=done, total=total, figures=text)


@contextmanager
def console_reporter() -> Iterator[ConsoleReporter]:
    """A reporter on stderr, so that stdout holds results only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[figures]}", markup=False))  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield ConsoleReporter(console, bars)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def result_table(results: tuple[TargetResult, ...]) -> Table:
    """Before and after, a column a target."""
    table = Table(title="Before → after", title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(result.target)
    reports = [result.report for result in results]
    rows: list[tuple[str, list[str]]] = [
        ("accuracy", [f"{r.validation.teacher:.2%} → {r.validation.artifact:.2%}" for r in reports]),
        ("size", [arrow(r.stages[0].size_raw_bytes, r.size.model_raw) for r in reports]),
        ("size zipped", [arrow(r.stages[0].size_zip_bytes, r.size.model_zip) for r in reports]),
        ("latency p50", [latency_text(report) for report in reports]),
        ("agrees with PyTorch", [f"{r.validation.agreement_with_pytorch:.2%}" for r in reports]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def arrow(before: int, after: int) -> str:
    return f"{megabytes(before)} → {megabytes(after)}"


def latency_text(report: Report) -> str:
    """The fp32 teacher's median in ONNX Runtime and the package's, measured side by side."""
    first = report.bench[0]
    after = f"{first.artifact.p50_ms:.2f} ms"
    if first.baseline is None:
        return after
    return f"{first.baseline.p50_ms:.2f} ms → {after} ({first.speed_ratio:.1f}x)"


def as_json(result: BuildResult) -> dict[str, Any]:
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
@click.option("--train", help="Training data: .jsonl, .csv, .tsv, or a datasets id NAME[:CONFIG[:SPLIT]].")
@click.option("--eval", "evaluation", help="Evaluation data, same forms; the gate counts on it.")
@click.option("--target", "targets", multiple=True, help="Target to build for; may be given several times.")
@click.option("--recipe", help="Name of a built-in recipe or a YAML file. Default: what pays on the target.")
@click.option(
    "--max-drop", default=0.01, show_default=True, help="Largest accepted loss of accuracy, 0 to 1."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the packages, one below it a target."
)
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps finished stages.")
@click.option("--zip", "as_zip", is_flag=True, help="Write each package as one stored .zip.")
@click.option("--force", is_flag=True, help="Overwrite packages that exist.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
@click.option("--max-length", type=int, help="Cut texts at this many tokens. Default: what the data needs.")
@click.option("--threads", type=int, help="Threads for training. Default: all cores.")
@click.option("--new-head", is_flag=True, help="Ignore the model's head and train a new one.")
@click.option("--text-column", default="text", show_default=True, help="Column of the text.")
@click.option("--pair-column", default="text_pair", show_default=True, help="Column of the second text.")
@click.option("--label-column", default="label", show_default=True, help="Column of the label.")
@click.option("--json", "json_output", is_flag=True, help="Print one JSON object.")
def command(
    text_column: str, pair_column: str, label_column: str, json_output: bool, targets: tuple[str, ...],
    **options: Any,
) -> None:  # fmt: skip
    """Compress, convert, prove and package a model for one or more targets."""
    columns = Columns(text_column, pair_column, label_column)
    with console_reporter() as reporter:
        result = build_packages(BuildOptions(targets=targets, columns=columns, **options), reporter)
    if json_output:
        click.echo(json.dumps(as_json(result)))
        return
    Console().print(result_table(result.targets))
    for built in result.targets:
        inside = (
            "report.html inside" if built.package.suffix == ".zip" else f"report: {built.package}/report.html"
        )
        click.echo(f"{built.target}: {built.package}  ({inside})")
        if platform.machine() not in get_target(built.target).cpu_architectures:
            click.echo(f"  {built.report.validation.where}")
    click.echo(f'Try it: edgebert run {result.targets[0].package} "some text"')
