"""What a device is, from what it says of itself. That may be anything; nothing here fails on it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from edgebert.devices.base import DeviceFacts
from edgebert.machine import ARCHITECTURE_NAMES, features_of_interest, parse_cpuinfo

# What is read, by name: files (glob patterns of absolute paths) and commands of a POSIX shell.
FILES = {
    "cpuinfo": "/proc/cpuinfo",
    "meminfo": "/proc/meminfo",
    "os-release": "/etc/os-release",
    "governor": "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    "frequency": "/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq",
    "zones": "/sys/class/thermal/thermal_zone*/type",
    "temperature": "/sys/class/thermal/thermal_zone*/temp",
}
COMMANDS = {
    "architecture": "uname -m",
    "kernel": "uname -sr",
    "cores": "nproc",
    "android": "getprop ro.build.version.release",
    "model": "getprop ro.product.model",
}
READING_LIMIT = 1 << 18  # bytes of one reading: a cpuinfo of some hundred cores
LONGEST = 100  # characters of a name
PLAUSIBLE_C = (-40.0, 150.0)
PLAUSIBLE_MHZ = (1.0, 20_000.0)
MOST_CORES = 4096
MOST_MEMORY = 1 << 50


def read_here() -> dict[str, bytes]:
    """The readings of `FILES` on this machine; what cannot be read is empty."""
    return {name: b"\n".join(map(_read, _paths(pattern))) for name, pattern in FILES.items()}


def device_facts(name: str, readings: Mapping[str, bytes], emulated: bool = False) -> DeviceFacts:
    """Facts from readings (keys of `FILES` and `COMMANDS`, missing ones are unknown)."""
    text = {key: value[:READING_LIMIT].decode(errors="replace") for key, value in readings.items()}
    machine = plain(text.get("architecture", "")).lower()
    architecture = ARCHITECTURE_NAMES.get(machine, machine) or "unknown"
    cpu, flags = parse_cpuinfo(text.get("cpuinfo", ""))
    model = plain(text.get("model", ""))
    return DeviceFacts(
        name=name,
        architecture=architecture,
        cpu=plain(f"{model}: {cpu}" if model and cpu else cpu or model) or architecture,
        features=features_of_interest(flags, architecture),
        cores=core_count(text),
        memory_bytes=memory_bytes(text.get("meminfo", "")),
        os=system_name(text),
        governor=governor(text.get("governor", "")),
        temperature_c=temperature(text.get("zones", ""), text.get("temperature", "")),
        frequency_mhz=frequency(text.get("frequency", ""), text.get("cpuinfo", "")),
        emulated=emulated,
    )


def plain(text: str) -> str:
    """One printable line of at most `LONGEST` characters."""
    start = text[: 10 * LONGEST]
    return " ".join("".join(c if c.isprintable() else " " for c in start).split())[:LONGEST]


def last_line(stderr: bytes) -> str:
    """The last line that a program said, made printable."""
    lines = [plain(line) for line in stderr.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no reason given")


def core_count(text: Mapping[str, str]) -> int:
    """Cores by nproc, else by the entries of cpuinfo; 1 where neither makes sense."""
    told = plain(text.get("cores", ""))
    if re.fullmatch(r"\d{1,4}", told) and 1 <= int(told) <= MOST_CORES:
        return int(told)
    listed = len(re.findall(r"^processor\s*:", text.get("cpuinfo", ""), re.M))
    return min(max(listed, 1), MOST_CORES)


def memory_bytes(meminfo: str) -> int | None:
    """MemTotal of /proc/meminfo in bytes."""
    found = re.search(r"^MemTotal:\s+(\d{1,15}) kB", meminfo, re.M)
    size = 1024 * int(found[1]) if found else 0
    return size if 0 < size <= MOST_MEMORY else None


def system_name(text: Mapping[str, str]) -> str:
    if android := plain(text.get("android", "")):
        return plain(f"Android {android}")
    found = re.search(r"^PRETTY_NAME=(.*)$", text.get("os-release", ""), re.M)
    return plain(found[1].strip().strip("\"'")) if found else plain(text.get("kernel", "")) or "unknown"


def governor(text: str) -> str | None:
    """The cores' governors, joined where they differ."""
    names = dict.fromkeys(line for line in map(plain, text.splitlines()) if re.fullmatch(r"\w{1,20}", line))
    return " + ".join(list(names)[:4]) or None


def temperature(zones: str, values: str) -> float | None:
    """The hottest CPU zone in degrees Celsius; of all zones where none is called a CPU's.

    Linux reports millidegrees; a few boards report whole degrees.
    """
    found = []
    kinds, lines = zones.split("\n"), values.split("\n")
    kinds = [kind for kind in kinds if kind.strip()]
    lines = [line for line in lines if line.strip()]
    for number, line in enumerate(lines):
        value = _number(line)
        degrees = value / 1000 if value is not None and abs(value) >= 1000 else value
        if degrees is not None and PLAUSIBLE_C[0] <= degrees <= PLAUSIBLE_C[1]:
            kind = kinds[number].lower() if len(kinds) == len(lines) else ""
            found.append((bool(re.search(r"cpu|soc|pkg|core", kind)), degrees))
    of_cpu = [degrees for cpu, degrees in found if cpu]
    return max(of_cpu or [degrees for _, degrees in found], default=None)


def frequency(values: str, cpuinfo: str) -> float | None:
    """The fastest core's clock in MHz, from cpufreq (kHz), else from "cpu MHz" of an x86 cpuinfo."""
    clocks = [value / 1000 for value in map(_number, values.splitlines()) if value is not None]
    clocks = clocks or [
        float(told) for told in re.findall(r"^cpu MHz\s*:\s*(\d{1,6}(?:\.\d{1,6})?)$", cpuinfo, re.M)
    ]
    return max((clock for clock in clocks if PLAUSIBLE_MHZ[0] <= clock <= PLAUSIBLE_MHZ[1]), default=None)


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if re.fullmatch(r"-?\d{1,12}", text) and math.isfinite(float(text)) else None


def _paths(pattern: str) -> list[Path]:
    root = Path("/")
    # "cpu10" after "cpu9": zones and values must keep one order, whatever it is
    return sorted(root.glob(pattern.lstrip("/")))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(READING_LIMIT).strip()
    except OSError:
        return b""
