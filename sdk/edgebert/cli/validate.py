"""`edgebert validate`: measure a package on labelled data and meet its golden examples."""

from __future__ import annotations

from pathlib import Path

import click

from edgebert.cli.output import (
    column_options,
    json_option,
    percent,
    print_json,
    print_notes,
    print_table,
    threads_option,
)
from edgebert.errors import EXIT_GATE, EXIT_OK
from edgebert.validate import GoldenCheck, PackageValidation, validate_package


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--eval",
    "source",
    help="Labelled data: a .jsonl, .csv or .tsv file, or a datasets id NAME[:CONFIG[:SPLIT]].",
)
@column_options
@click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1),
    help="Smallest accuracy, as a fraction, that passes; without it the package's own gate decides.",
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
    threads: int,
    as_json: bool,
) -> int:
    """Check PACKAGE: its golden examples, and with --eval its accuracy. Exit code 2 when it fails."""
    from edgebert.data import Columns, load_examples

    columns = Columns(text_column, pair_column, label_column)
    examples = load_examples(source, columns, split="validation") if source is not None else []
    if min_accuracy is not None and not examples:
        raise click.UsageError("--min-accuracy needs --eval.")
    result = validate_package(package, examples, threads, min_accuracy)
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
    }


def runtime_rows(golden: GoldenCheck) -> list[tuple[str, str]]:
    """The row on the tokenizer inside the model, where it has one."""
    if golden.wrong_runtime_ids is None:
        return []
    same = golden.examples - golden.wrong_runtime_ids
    return [("golden examples with the same ids inside the model", f"{same} of {golden.examples}")]


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
        rows += [
            (f"accuracy on {figures.examples} examples", percent(figures.accuracy)),
            ("macro F1", percent(figures.macro_f1)),
        ]
    return [*rows, ("verdict", "passed" if result.passed else "failed")]
