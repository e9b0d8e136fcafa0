"""Facts about the machine that figures were measured on: CPU, features for INT8, memory, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# Features that decide which INT8 kernels run, as Linux names them in /proc/cpuinfo.
FEATURES_OF_INTEREST = {
    "x86_64": ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    "aarch64": ("asimd", "asimddp", "i8mm", "sve"),
}
LIBRARIES = (
    "edgebert",
    "numpy",
    "tokenizers",
    "onnxruntime",
    "ai-edge-litert",
    "torch",
    "transformers",
    "onnx",
    "flatbuffers",
    "gguf",
)
ARCHITECTURE_NAMES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
# ARM kernels print numbers in place of a name: (implementer, part) from the Arm Cortex and Neoverse manuals.
ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse N1",
    ("0x41", "0xd40"): "Neoverse V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd49"): "Neoverse N2",
    ("0x41", "0xd4f"): "Neoverse V2",
}


@dataclass(frozen=True)
class MachineFacts:
    """`cores`: logical cores that this process may use. `features`: those of interest that the CPU has."""

    cpu: str
    architecture: str
    cores: int
    memory_bytes: int
    os: str
    python: str
    features: tuple[str, ...]

    def summary(self) -> str:
        """One line for people: "AMD EPYC, 2 cores, x86_64"."""
        cores = f"{self.cores} core" + ("s" if self.cores != 1 else "")
        return f"{self.cpu}, {cores}, {self.architecture}"


def architecture() -> str:
    """The CPU architecture under its Linux name: "x86_64", "aarch64", or what the system says."""
    name = platform.machine().lower()
    return ARCHITECTURE_NAMES.get(name, name)


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """CPU name ("" when unknown) and feature flags from the text of /proc/cpuinfo, x86 or ARM.

    A big.LITTLE ARM lists several parts: the name joins them, the flags are those that every core has.
    """
    names: list[str] = []
    flags: list[frozenset[str]] = []
    implementer = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if key in ("flags", "Features"):
            flags.append(frozenset(value.split()))
        elif key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            names.append(ARM_PARTS.get((implementer, value), f"ARM {implementer} part {value}"))
        elif key == "model name":
            names.append(value)
    return " + ".join(dict.fromkeys(names)), frozenset.intersection(*flags) if flags else frozenset()


def features_of_interest(flags: Iterable[str], architecture: str) -> tuple[str, ...]:
    """Those of `FEATURES_OF_INTEREST` for `architecture` that are in `flags`, in the table's order."""
    present = frozenset(flags)
    return tuple(name for name in FEATURES_OF_INTEREST.get(architecture, ()) if name in present)


def os_name() -> str:
    """The system's name and version, from os-release on Linux."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}".strip()


def usable_cores() -> int:
    """Logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> MachineFacts:
    """Facts about this machine; `cpuinfo` may be absent (not Linux), then no feature is known."""
    import psutil

    try:
        name, flags = parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        name, flags = "", frozenset()
    arch = architecture()
    return MachineFacts(
        cpu=name or platform.processor() or arch,
        architecture=arch,
        cores=usable_cores(),
        memory_bytes=int(psutil.virtual_memory().total),
        os=os_name(),
        python=platform.python_version(),
        features=features_of_interest(flags, arch),
    )


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of the installed ones among `names`, read from their metadata: nothing is imported."""
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
