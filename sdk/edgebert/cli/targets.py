"""`edgebert targets`: the support matrix, read from the targets themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from edgebert.cli.output import json_option, print_json, print_table
from edgebert_targets.base import SupportRow, Target, get_target, target_names

COLUMNS = ("target", "backend", "pattern", "faster", "smaller", "note")


@dataclass(frozen=True)
class MatrixRow:
    """One pattern on one backend; `speed` and `size` are "yes", "no" or "zipped only"."""

    target: str
    backend: str
    pattern: str
    speed: str
    size: str
    note: str


@click.command()
@click.option("--markdown", is_flag=True, help="Print the matrix as a Markdown table, without the notes.")
@json_option
def command(markdown: bool, as_json: bool) -> None:
    """Show for every installed target which compression pays there, in speed and in size."""
    if markdown:
        click.echo(render_support_markdown(), nl=False)
        return
    targets = [get_target(name) for name in target_names()]
    if as_json:
        print_json({"support": support_matrix(targets)})
        return
    for target in targets:
        rows = [cells(row)[2:] for row in support_matrix([target])]
        print_table(f"{target.name}: {target.backend}", COLUMNS[2:], rows)


def support_matrix(targets: Sequence[Target]) -> list[MatrixRow]:
    """All rows of all targets, in the targets' own order."""
    return [to_row(target, row) for target in targets for row in target.support()]


def to_row(target: Target, row: SupportRow) -> MatrixRow:
    return MatrixRow(target.name, target.backend, row.pattern, row.speed, row.size, row.note)


def cells(row: MatrixRow) -> tuple[str, ...]:
    return (row.target, row.backend, row.pattern, row.speed, row.size, row.note)


def render_support_markdown() -> str:
    """Pattern by backend as a Markdown table, as README.md holds it."""
    matrix = support_matrix([get_target(name) for name in target_names()])
    backends = dict.fromkeys((row.target, row.backend) for row in matrix)
    found = {(row.target, row.pattern): f"faster: {row.speed}, smaller: {row.size}" for row in matrix}
    lines = [
        ("pattern", *(f"`{target}` ({backend})" for target, backend in backends)),
        ("---",) * (len(backends) + 1),
        *(
            (pattern, *(found.get((target, pattern), "–") for target, _ in backends))
            for pattern in dict.fromkeys(row.pattern for row in matrix)
        ),
    ]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
