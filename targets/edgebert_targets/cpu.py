"""Which instructions the running CPU has, as Linux names them in /proc/cpuinfo."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgebert_targets.errors import WrongCpuError

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


def require_any(cpu: Cpu, wanted: tuple[str, ...]) -> None:
    """Raise WrongCpuError unless `cpu` has one of `wanted`; other architectures than x86-64 pass.

    x86 without VNNI adds u8 × s8 products in saturating 16 bits, ARM adds them exactly. Where the system
    does not list features (not Linux), the answer is no: refusing is better than silently wrong classes.
    """
    if not wanted or cpu.architecture != "x86_64" or cpu.has_any(wanted):
        return
    names = " or ".join(wanted)
    if cpu.features is None:
        raise WrongCpuError(
            f"this system does not say whether its CPU has {names}, which the INT8 model needs;"
            " run it on Linux or build without INT8"
        )
    raise WrongCpuError(
        f"this CPU lacks {names}, which the INT8 model needs to add exactly;"
        " run it on a newer CPU or build without INT8"
    )
