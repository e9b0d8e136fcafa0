"""Which instructions the running CPU has, as Linux names them in /proc/cpuinfo."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cpu:
    """`architecture` as `uname -m` says it; `features` None: this system does not list them."""

    architecture: str
    features: frozenset[str] | None

    def has_any(self, wanted: Iterable[str]) -> bool:
        """Whether at least one of `wanted` is known to be there."""
        return self.features is not None and not self.features.isdisjoint(wanted)


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Features that every processor in `text` has: the line is `flags` on x86, `Features` on ARM."""
    processors = [
        frozenset(value.split())
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if key.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*processors) if processors else frozenset()


def running_cpu(cpuinfo: Path = CPUINFO) -> Cpu:
    """The CPU of this machine."""
    names = {"amd64": "x86_64", "arm64": "aarch64"}
    machine = platform.machine()
    architecture = names.get(machine.lower(), machine)
    try:
        return Cpu(architecture, parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return Cpu(architecture, None)
