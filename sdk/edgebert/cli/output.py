"""How verbs print: one JSON object with --json, plain tables for people otherwise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
COLUMNS = (
    ("text", "text", "the text"),
    ("pair", "text_pair", "the second text"),
    ("label", "label", "the label"),
)


def json_option(function: F) -> F:
    """The --json flag that every verb has; its parameter is `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")(function)


def threads_option(function: F) -> F:
    """The --threads option of verbs that run a model."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        default=1,
        show_default=True,
        help="Threads that the runtime uses for one model.",
    )(function)


def device_option(function: F) -> F:
    """The --device option of verbs that run a model elsewhere; the parameter is `device`."""
    return click.option(
        "--device",
        help="Run it on: local, qemu:arm64, ssh://[user@]host[:port], adb:SERIAL; see 'edgebert devices'.",
    )(function)


def column_options(function: F) -> F:
    """The names of the data's columns; the parameters are `text_column`, `pair_column`, `label_column`."""
    for name, default, what in reversed(COLUMNS):
        option = click.option(
            f"--{name}-column", default=default, show_default=True, help=f"Column of {what}."
        )
        function = option(function)
    return function


def print_json(value: object) -> None:
    """Print `value` (dataclasses and paths allowed) as one JSON object."""
    click.echo(json.dumps(value, default=_plain, ensure_ascii=True, indent=2))


def print_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()
) -> None:
    """Print a table; `right` are the numbers of right-aligned columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        # Text, not str: labels and names may hold square brackets, which rich takes for markup.
        table.add_row(*(Text(clean(str(cell))) for cell in row))
    Console(soft_wrap=False).print(table)


def print_notes(notes: Sequence[str]) -> None:
    """Notes go to stderr, so that stdout holds results alone."""
    for note in notes:
        click.echo(f"note: {clean(note)}", err=True)


def clean(text: str) -> str:
    """`text` without control characters, which a package's names could use against the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")
