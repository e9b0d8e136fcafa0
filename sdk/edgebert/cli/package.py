"""`edgebert package`: a package in the form that an app takes in."""

from __future__ import annotations

from pathlib import Path

import click

from edgebert.android.aar import package_for_android
from edgebert.cli.output import json_option, megabytes, print_json, print_table
from edgebert.errors import UsageError


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--android", is_flag=True, help="An Android archive (.aar) with a Gradle snippet.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--name", help="Name of the archive and its model; default: made from the package's name.")
@click.option("--force", is_flag=True, help="Replace the folder if it exists.")
@json_option
def command(package: Path, android: bool, out: Path, name: str | None, force: bool, as_json: bool) -> None:
    """Turn PACKAGE into what an app takes in."""
    if not android:
        raise UsageError("say for which platform: --android is the one there is")
    archive = package_for_android(package, out, name or resource_name(package), force=force)
    if as_json:
        print_json({"archive": str(archive.path), "asset": archive.asset, "entries": dict(archive.entries)})
        return
    rows = [(entry, megabytes(size)) for entry, size in sorted(archive.entries.items())]
    print_table(str(archive.path), ("entry", "size"), rows, (1,))
    click.echo(f"how to use it: {archive.path.with_name('README.md')}")


def resource_name(package: Path) -> str:
    """The package's file name with what Android refuses in a resource's name replaced."""
    stem = package.resolve().name.removesuffix(".zip").lower()
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in stem).strip("_")
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")
