"""Checks of what callers hand to a device: file names, command words, variables. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from edgebert.errors import DeviceError

LONGEST_NAME = 1024  # bytes of a whole path; every file system of a board takes it
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def checked_remote(remote: str) -> str:
    """`remote` as a plain relative path ("./a/b" is "a/b").

    Raises DeviceError for one that is empty, absolute, too long, or leads out of the work folder.
    """
    path = PurePosixPath(remote)
    bad = "\0" in remote or path.is_absolute() or ".." in path.parts or not path.parts
    # A leading dot in the first part is where devices keep their own files.
    if bad or path.parts[0].startswith(".") or len(_utf8(remote)) > LONGEST_NAME:
        raise DeviceError(
            f"{remote[:100]!r} is no file of the device's work folder; give a relative path without '..'"
        )
    return str(path)


def checked_args(args: Sequence[str]) -> list[str]:
    """The words of a command. A program of the work folder comes back as "./name".

    Raises DeviceError for no words, a NUL, text that UTF-8 cannot hold, and a program like an option.
    """
    if not args or not args[0] or args[0].startswith("-"):
        raise DeviceError(f"{list(args)[:1]!r} names no program to run on the device")
    for word in args:
        if "\0" in word:
            raise DeviceError(f"an argument for the device holds a NUL byte: {word[:100]!r}")
        _utf8(word)
    program = args[0]
    if "/" in program and not program.startswith("/"):
        program = f"./{checked_remote(program)}"
    return [program, *args[1:]]


def checked_env(env: Mapping[str, str] | None) -> dict[str, str]:
    """Variables with names that every shell takes. Raises DeviceError for others and for a NUL."""
    for name, value in (env or {}).items():
        if not VARIABLE.fullmatch(name) or "\0" in value:
            raise DeviceError(f"{name[:100]!r} is no environment variable that a device can set")
        _utf8(value)
    return dict(env or {})


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DeviceError(f"text for the device is not valid Unicode: {text[:100]!r}") from error
