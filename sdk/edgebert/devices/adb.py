"""An Android phone or board over adb."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgebert.devices.process import ProcessTimeoutError, TooMuchOutputError, run_process
from edgebert.devices.shell import ShellDevice
from edgebert.errors import DeviceError

# The one folder where a phone lets adb's user write and run programs.
FOLDER = "/data/local/tmp"
# A serial number, HOST:PORT, [IPV6]:PORT or an mDNS name; never the look of an option.
SPEC = re.compile(r"adb:(?P<serial>[A-Za-z0-9_\[][A-Za-z0-9_.:\[\]()%-]{0,127})")
LIST_TIMEOUT = 20.0


@dataclass(frozen=True)
class AdbConnection:
    """Files go by `adb push`; what comes back goes through the shell, which can stop at a limit."""

    name: str
    serial: str
    base: str = FOLDER

    @property
    def advice(self) -> str:
        return "look at: adb devices"

    def command(self, script: str, shared: Path | None = None, first: bool = False) -> list[str]:
        # -T: no terminal; adb's shell protocol then keeps stdout and stderr apart and binary
        return ["adb", "-s", self.serial, "shell", "-T", script]

    def push(self, local: Path, remote: str) -> list[str] | None:
        return ["adb", "-s", self.serial, "push", str(local), remote]


def adb_device(spec: str) -> ShellDevice:
    """The factory of the scheme "adb". Raises DeviceError for a malformed serial and without adb."""
    found = SPEC.fullmatch(spec)
    if not found:
        raise DeviceError(f"{spec[:100]!r} is no Android device; write adb:SERIAL as 'adb devices' shows it")
    if shutil.which("adb") is None:
        raise DeviceError("adb is not installed; run: apt-get install adb")
    return ShellDevice(AdbConnection(spec, found["serial"]))


def attached_serials() -> list[str]:
    """Serials of devices that adb can talk to now; none without adb."""
    if shutil.which("adb") is None:
        return []
    try:
        done = run_process(["adb", "devices"], timeout=LIST_TIMEOUT)
    except (DeviceError, ProcessTimeoutError, TooMuchOutputError):
        return []
    return serials(done.stdout.decode(errors="replace"))


def serials(listing: str) -> list[str]:
    """Those of the output of `adb devices` in the state "device" whose serial is one."""
    lines = [line.split("\t") for line in listing.splitlines()]
    return [line[0] for line in lines if line[1:] == ["device"] and SPEC.fullmatch(f"adb:{line[0]}")]
