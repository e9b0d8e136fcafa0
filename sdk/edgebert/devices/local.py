"""This machine as a device."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from edgebert.devices.base import Completed, DeviceFacts
from edgebert.devices.facts import device_facts, read_here
from edgebert.devices.folder import WorkFolder
from edgebert.devices.words import checked_args, checked_env
from edgebert.errors import DeviceError
from edgebert.machine import architecture, usable_cores


class LocalDevice:
    """Runs programs of a temporary folder here, with this process's environment."""

    name = "local"

    def __init__(self) -> None:
        self._folder = WorkFolder(self.name)

    def __enter__(self) -> Self:
        self._folder.make()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.remove()

    def facts(self) -> DeviceFacts:
        told = {
            "architecture": architecture(),
            "kernel": f"{platform.system()} {platform.release()}",
            "cores": str(usable_cores()),
        }
        return device_facts(self.name, {**read_here(), **{key: text.encode() for key, text in told.items()}})

    def put(self, local: Path, remote: str, executable: bool = False) -> None:
        self._folder.put(local, remote, executable)

    def get(self, remote: str, local: Path, limit: int) -> None:
        self._folder.get(remote, local, limit)

    def run(self, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        words = checked_args(args)
        variables = {**os.environ, **checked_env(env)}
        return self._folder.run(words, variables, timeout, words[0])

    def python(self) -> tuple[str, ...] | None:
        return (sys.executable,) if sys.executable and find_spec("ai_edge_litert") else None


def local_device(spec: str) -> LocalDevice:
    """The factory of the scheme "local"."""
    if spec != "local":
        raise DeviceError(f"{spec[:100]!r}: the local device takes no options; write 'local'")
    return LocalDevice()
