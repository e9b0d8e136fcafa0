"""Outputs that appear whole or not at all: written to a temporary sibling, renamed when complete."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgebert.errors import DiskFullError, EdgeBertError, OutputError


@contextmanager
def atomic_dir(out: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `out` that becomes `out` when the body ends and goes on any exception.

    With `force` an existing folder is replaced. Missing parents are made, and removed again on failure.
    Raises OutputError (exists, cannot be written), DiskFullError.
    """
    out = _checked(out, force, "folder")
    if out.is_dir() and _holds_user(out):
        raise OutputError(
            f"'{out}' holds the working or home folder and is not replaced; choose another folder"
        )
    with _translated(out), _parents(out):
        temporary = _sibling(out, "tmp")
        try:
            temporary.mkdir()
            yield temporary
            _swap_dir(temporary, out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def atomic_file(out: Path, force: bool) -> Iterator[Path]:
    """Yield a new file beside `out` that becomes `out` when the body ends and is removed on any exception.

    With `force` an existing file is replaced. Raises as `atomic_dir`.
    """
    out = _checked(out, force, "file")
    with _translated(out), _parents(out):
        temporary = _sibling(out, "tmp")
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            temporary.replace(out)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def _checked(out: Path, force: bool, kind: str) -> Path:
    out = Path(os.path.abspath(out))  # noqa: PTH100  a link at `out` is replaced, not followed
    if os.path.lexists(out):
        if not force:
            raise OutputError(f"'{out}' exists already; choose another path or add --force to replace it")
        if out.is_symlink() or out.is_dir() != (kind == "folder"):
            raise OutputError(f"'{out}' exists and is not a plain {kind}; choose another path")
    return out


def _holds_user(out: Path) -> bool:
    """Replacing these would delete far more than an earlier output."""
    real = out.resolve()
    inside = [Path.cwd().resolve()]
    with suppress(RuntimeError):
        inside.append(Path.home().resolve())
    return any(path.is_relative_to(real) for path in inside)


def _sibling(out: Path, suffix: str) -> Path:
    # Named here, not by tempfile, so that the folder gets the user's own permissions and not 0700.
    return out.with_name(f".{out.name[:80]}.{secrets.token_hex(6)}.{suffix}")


def _swap_dir(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
        return
    old = _sibling(out, "old")
    out.rename(old)
    try:
        temporary.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:  # innermost first
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def _translated(out: Path) -> Iterator[None]:
    try:
        yield
    except EdgeBertError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"disk full while writing '{out}'; free some space and run the same command again"
            ) from error
        # An OSError about some other place (a missing input) is the caller's to explain.
        where = Path(error.filename) if isinstance(error.filename, str) else None
        if where is not None and not where.is_relative_to(out.parent) and where not in out.parents:
            raise
        raise OutputError(
            f"cannot write '{out}': {error.strerror or error}; choose another folder"
        ) from error
