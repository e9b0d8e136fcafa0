"""`edgebert validate`: measure a package on data and meet its golden examples, here or on a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebert.cli.output import (
    column_options,
    device_option,
    json_option,
    percent,
    print_json,
    print_notes,
    print_table,
    threads_option,
)
from edgebert.errors import EXIT_GATE, EXIT_OK
from edgebert.figures import DeviceFigures
from edgebert.validate import GoldenCheck, PackageValidation, check_examples, validate_package

if TYPE_CHECKING:
    from edgebert.data import Columns

METRIC_WORDS = {
    "macro_f1": "macro F1",
    "f1": "F1",
    "word_accuracy": "right tags",
    "exact_match": "exact match",
    "cosine": "cosine to the float model",
}


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--eval",
    "source",
    help="Data in the form of the package's task; for classes also a datasets id NAME[:CONFIG[:SPLIT]].",
)
@column_options
@click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1),
    help="Smallest value of the task's metric that passes; without it the package's own gate decides.",
)
@device_option
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Run so many examples, spread over the data, on the device; an emulated one takes seconds for each.",
)
@threads_option
@json_option
def command(
    package: Path,
    source: str | None,
    text_column: str,
    pair_column: str,
    label_column: str,
    min_accuracy: float | None,
    device: str | None,
    limit: int | None,
    threads: int,
    as_json: bool,
) -> int:
    """Check PACKAGE: its golden examples, and with --eval its metric. Exit code 2 when it fails."""
    from edgebert.data import Columns

    columns = Columns(text_column, pair_column, label_column)
    examples = read_examples(package, source, columns) if source is not None else []
    if min_accuracy is not None and not examples:
        raise click.UsageError("--min-accuracy needs --eval.")
    if limit is not None and (device is None or not examples):
        raise click.UsageError("--limit goes with --device and --eval.")
    result = (
        validate_package(package, examples, threads, min_accuracy)
        if device is None
        else on_device(device, package, examples, threads, min_accuracy, limit)
    )
    print_notes(result.notes)
    if as_json:
        print_json(to_json(result))
    else:
        print_table(None, ("check", "result"), to_rows(result))
    if result.passed:
        return EXIT_OK
    # Not raised: with --json the object above is all that stdout gets.
    problems = "; ".join(result.problems)
    click.echo(f"edgebert: package '{package}' fails: {problems}; build it again or do not ship it", err=True)
    return EXIT_GATE


def read_examples(path: Path, source: str, columns: Columns) -> list[Any]:
    """The data at `source` as the task of the package at `path` has it. Raises PackageError, DataError."""
    from edgebert.package import open_package
    from edgebert.tasks.package import task_of_package

    with open_package(path, verify=False) as package:
        task = task_of_package(package.manifest.task)
    if task.measured_against_model:
        check_examples(task, [source])
    return task.load(source, columns, "validation")


def on_device(
    spec: str,
    package: Path,
    examples: Sequence[Any],
    threads: int,
    min_accuracy: float | None,
    limit: int | None,
) -> PackageValidation:
    """Open the device and validate there. Raises DeviceError."""
    from edgebert.cli.console import console_reporter
    from edgebert.device_validate import validate_on_device
    from edgebert.devices.base import open_device

    with console_reporter() as reporter, open_device(spec) as device:
        return validate_on_device(package, examples, device, threads, min_accuracy, limit, reporter)


def to_json(result: PackageValidation) -> dict[str, object]:
    """The JSON object of the verb."""
    golden = result.golden
    return {
        "passed": result.passed,
        "problems": list(result.problems),
        "notes": list(result.notes),
        "figures": result.figures,
        "golden": {
            "examples": golden.examples,
            "wrong_ids": golden.wrong_ids,
            "wrong_runtime_ids": golden.wrong_runtime_ids,
            "wrong_classes": golden.wrong_classes,
            "max_difference": golden.max_difference,
            "tolerance": golden.tolerance,
        },
        **({} if result.device is None else {"device": result.device}),
    }


def runtime_rows(golden: GoldenCheck) -> list[tuple[str, str]]:
    """The row on the tokenizer inside the model, where it has one."""
    if golden.wrong_runtime_ids is None:
        return []
    same = golden.examples - golden.wrong_runtime_ids
    return [("golden examples with the same ids inside the model", f"{same} of {golden.examples}")]


def device_rows(device: DeviceFigures) -> list[tuple[str, str]]:
    """What was computed where, and how far it is from this machine."""
    facts = device.facts
    rows = [("device", f"{facts.name}: {facts.cpu}, {facts.architecture}, {facts.os}")]
    rows.append(("computed by", f"{device.runtime}, {device.kernels}"))
    if device.wrong_tokens is not None:
        total = device.golden_examples + device.examples
        rows.append(("texts with the same ids on the device", f"{total - device.wrong_tokens} of {total}"))
    if (host := device.host) is not None:
        rows += [
            ("same class as on this machine", f"{host.same_class} of {host.examples}"),
            ("logits equal to the bit", f"{host.identical} of {host.examples}"),
            ("largest difference to this machine", f"{host.max_difference:.3g}: {host.explanation}"),
        ]
    return rows


def to_rows(result: PackageValidation) -> list[tuple[str, str]]:
    """(check, result) rows for people."""
    golden, figures = result.golden, result.figures
    same_class = golden.examples - golden.wrong_classes
    same_ids = golden.examples - golden.wrong_ids
    rows = [
        ("golden examples with the same class", f"{same_class} of {golden.examples}"),
        ("golden examples with the same ids", f"{same_ids} of {golden.examples}"),
        *runtime_rows(golden),
        ("largest logit difference", f"{golden.max_difference:.3g} (allowed {golden.tolerance:g})"),
    ]
    if figures is not None:
        values = [(name, value) for name, value in vars(figures).items() if name != "examples"]
        first, *others = [(METRIC_WORDS.get(name, name), percent(value)) for name, value in values]
        rows += [(f"{first[0]} on {figures.examples} examples", first[1]), *others]
    if result.device is not None:
        rows += device_rows(result.device)
    return [*rows, ("verdict", "passed" if result.passed else "failed")]
