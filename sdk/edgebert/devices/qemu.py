"""ARM64 under qemu's user emulation: real AArch64 code, a CPU of choice, instruction counts, no real time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from edgebert.devices.base import Completed, DeviceFacts
from edgebert.devices.counting import counting_plugin, read_count
from edgebert.devices.facts import last_line
from edgebert.devices.folder import WorkFolder, run_bounded
from edgebert.devices.process import ProcessTimeoutError, TooMuchOutputError, run_process
from edgebert.devices.qemu_cpu import PROBE, cpuinfo_text, features, static_program
from edgebert.devices.qemu_root import COMMAND, build_root, find_root
from edgebert.devices.words import checked_args, checked_env
from edgebert.errors import DeviceError
from edgebert.machine import machine_facts
from edgebert.progress import Reporter

PROGRAM = "qemu-aarch64"
DEFAULT_CPU = "cortex-a76"
# Emulated SVE and SME are some twenty times slower than NEON, and no build here needs them.
CPU_WORDS = {"max": "max,sve=off,sme=off"}
PROBE_TIMEOUT = 60.0
IMPORT_TIMEOUT = 300.0
IMPORTS = "import numpy, tokenizers, ai_edge_litert.interpreter"
PYTHON = "python3"
PATH = ("usr/bin", "bin", "usr/sbin", "sbin")
# The same hashes, and so the same instructions, in every run of Python.
VARIABLES = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class QemuDevice:
    """Programs run in a temporary folder here. Only static ones run without the ARM64 root."""

    def __init__(self, spec: str, cpu: str) -> None:
        self._spec = spec
        self._cpu = cpu
        self._folder = WorkFolder(spec)
        self._features: tuple[str, ...] = ()
        self._view: Path | None = None

    @property
    def name(self) -> str:
        return self._spec

    def __enter__(self) -> Self:
        self._folder.make()
        try:
            self._features = self._probe()
            if root := find_root():
                self._view = root_view(root, self._folder.path / "root", self._cpu, self._features)
        except BaseException:
            self._folder.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.remove()

    def facts(self) -> DeviceFacts:
        """The emulated CPU on this machine's cores and memory; temperature and clock would mean nothing."""
        host = machine_facts()
        return DeviceFacts(
            name=self.name,
            architecture="aarch64",
            cpu=self._cpu,
            features=self._features or self._probe_alone(),
            cores=host.cores,
            memory_bytes=host.memory_bytes,
            os=f"{emulator_version()} on {host.os}",
            governor=None,
            temperature_c=None,
            frequency_mhz=None,
            emulated=True,
        )

    def put(self, local: Path, remote: str, executable: bool = False) -> None:
        self._folder.put(local, remote, executable)

    def get(self, remote: str, local: Path, limit: int) -> None:
        self._folder.get(remote, local, limit)

    def run(self, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        words = self._words(args, ())
        return self._folder.run(words, self._variables(env), timeout, args[0])

    def run_counted(
        self, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> tuple[Completed, int]:
        plugin, counts = counting_plugin(), self._folder.path / "counts"
        if "," in f"{plugin}{counts}":
            raise DeviceError(
                f"{PROGRAM} takes no comma in '{plugin}' and '{counts}'; set EDGEBERT_CACHE or TMPDIR"
            )
        counts.unlink(missing_ok=True)
        # the seed gives the guest the same random bytes each time
        words = self._words(args, ("-seed", "1", "-plugin", f"{plugin},out={counts}"))
        done = self._folder.run(words, self._variables(env), timeout, args[0])
        number = read_count(counts)
        if number is None:
            raise DeviceError(
                f"{args[0]!r} gave no instruction count on {self.name!r} (exit code {done.returncode}: "
                f"{last_line(done.stderr)}); counting needs an emulator before version 9 that takes plugins, "
                "as Debian 12's qemu-user"
            )
        return done, number

    def python(self) -> tuple[str, ...] | None:
        return (PYTHON,) if find_root() else None

    def prepare(self, reporter: Reporter) -> None:
        """Build the ARM64 root with Python, numpy, tokenizers and LiteRT."""
        emulator()
        reporter.note(f"the ARM64 root is in {build_root(self._check_root, reporter)}")

    def _words(self, args: Sequence[str], options: Sequence[str]) -> list[str]:
        words = checked_args(args)
        root = find_root()
        program = words[0]
        if not program.startswith("./"):
            if root is None:
                raise DeviceError(
                    f"{program!r} on {self.name!r} needs the ARM64 root; build it once: {COMMAND}"
                )
            program = str(find_program(root, program))
        return [*self._emulator_words(self._view), *options, program, *words[1:]]

    def _emulator_words(self, root: Path | None) -> list[str]:
        words = [emulator(), "-cpu", CPU_WORDS.get(self._cpu, self._cpu)]
        return [*words, "-L", str(root)] if root else words

    def _variables(self, env: Mapping[str, str] | None) -> dict[str, str]:
        work = str(self._folder.work)
        return {**VARIABLES, "HOME": work, "TMPDIR": work, **checked_env(env)}

    def _probe_alone(self) -> tuple[str, ...]:
        with self:
            return self._features

    def _probe(self) -> tuple[str, ...]:
        """Features of the emulated CPU. Raises DeviceError where the emulator does not work."""
        probe = self._folder.path / "probe"
        probe.write_bytes(static_program(PROBE))
        probe.chmod(0o700)
        words = [*self._emulator_words(None), str(probe)]
        try:
            done = run_process(words, timeout=PROBE_TIMEOUT, env=self._variables(None))
        except (ProcessTimeoutError, TooMuchOutputError) as error:
            raise DeviceError(f"{PROGRAM} does not work here: a program of 15 instructions hung") from error
        found = features(done.stdout)
        if done.returncode or found is None:
            raise DeviceError(
                f"{self.name!r} does not work: {last_line(done.stderr)}; "
                f"'{PROGRAM} -cpu help' lists the CPU models"
            )
        return found

    def _check_root(self, root: Path) -> None:
        found = self._features or self._probe_alone()
        with TemporaryDirectory() as name:
            self._try_root(root, root_view(root, Path(name) / "root", self._cpu, found))

    def _try_root(self, root: Path, view: Path) -> None:
        words = [*self._emulator_words(view), str(find_program(root, PYTHON)), "-c", IMPORTS]
        # bytecode is written this once: later imports are twice as fast
        variables = {key: value for key, value in VARIABLES.items() if key != "PYTHONDONTWRITEBYTECODE"}
        try:
            done = run_process(words, timeout=IMPORT_TIMEOUT, env=variables)
        except (ProcessTimeoutError, TooMuchOutputError) as error:
            raise DeviceError(f"importing LiteRT in the ARM64 root took over {IMPORT_TIMEOUT:g} s") from error
        if done.returncode:
            raise DeviceError(
                f"the ARM64 root '{root}' does not work, its Python said: {last_line(done.stderr)};"
                f" remove the folder and run: {COMMAND}"
            )


def qemu_device(spec: str) -> QemuDevice:
    """The factory of the scheme "qemu". Raises DeviceError for another architecture or option."""
    found = re.fullmatch(r"qemu:arm64(?:,cpu=([a-z0-9][a-z0-9-]{0,40}))?", spec)
    if not found:
        raise DeviceError(f"{spec[:100]!r} is no emulator; write qemu:arm64 or qemu:arm64,cpu=cortex-a53")
    return QemuDevice(spec, found[1] or DEFAULT_CPU)


def find_qemu() -> str | None:
    """Path of the emulator: $EDGEBERT_QEMU, else qemu-aarch64 on the PATH."""
    return shutil.which(os.environ.get("EDGEBERT_QEMU") or PROGRAM)


def emulator() -> str:
    if (found := find_qemu()) is None:
        raise DeviceError(f"{PROGRAM} is not installed; run: apt-get install qemu-user")
    return found


def emulator_version() -> str:
    """ "qemu 7.2.22"."""
    words = [emulator(), "--version"]
    done = run_bounded(
        partial(run_process, words, timeout=PROBE_TIMEOUT), PROGRAM, "qemu:arm64", PROBE_TIMEOUT
    )
    found = re.search(r"version (\d[\w.]{0,20})", done.stdout.decode(errors="replace"))
    return f"qemu {found[1]}" if found else "qemu"


def root_view(root: Path, view: Path, cpu: str, found: Sequence[str]) -> Path:
    """Make the folder `view`: everything of `root` by links, and the emulated CPU's own /proc/cpuinfo."""
    (view / "proc").mkdir(parents=True)
    for entry in root.iterdir():
        if entry.is_dir() and entry.name != "proc":
            (view / entry.name).symlink_to(entry)
    (view / "proc" / "cpuinfo").write_text(cpuinfo_text(cpu, found))
    return view


def find_program(root: Path, program: str) -> Path:
    """A program of the root by an absolute path or by the PATH. Raises DeviceError where it is not there."""
    places = [root / program.lstrip("/")] if program.startswith("/") else [root / p / program for p in PATH]
    for place in places:
        if place.is_file():
            return place
    raise DeviceError(
        f"{program!r} is not in the ARM64 root; put it on the device and run it as './{Path(program).name}'"
    )
