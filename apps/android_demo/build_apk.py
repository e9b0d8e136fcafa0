"""Build the demo app: `build_apk.py --model home=out/home/int8-sparse --out demo.apk`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgebert.android.apk import build_apk
from edgebert.errors import EdgeBertError, UsageError

APP = Path(__file__).resolve().parent / "app"


def named_packages(words: tuple[str, ...]) -> dict[str, Path]:
    """NAME=PACKAGE words as a mapping. Raises UsageError."""
    found = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not path or not name.isascii() or not name.isidentifier():
            raise UsageError(f"'{word}' is not NAME=PACKAGE with a plain name; for instance home=out/home")
        found[name] = Path(path)
    return found


@click.command()
@click.option("--model", "words", multiple=True, required=True, help="NAME=PACKAGE; repeat for a choice.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The APK to write.")
@click.option("--force", is_flag=True, help="Replace the APK if it exists.")
def command(words: tuple[str, ...], out: Path, force: bool) -> None:
    """Build the demo app with models from packages for int8-sparse."""
    try:
        build_apk(APP, named_packages(words), out, force=force)
    except EdgeBertError as error:
        click.echo(f"build_apk: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command()
