"""Instruction counts under the emulator, through a small plugin that is compiled once."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from importlib import resources
from pathlib import Path

from edgebert.devices.cache import building, cache_folder
from edgebert.devices.process import ProcessTimeoutError, run_process
from edgebert.errors import DeviceError

SOURCE = "count_instructions.c"
# qemu itself defines the functions that the plugin calls
FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC", "-pthread", "-Wl,--unresolved-symbols=ignore-all")
COMPILE_TIMEOUT = 120.0


def counting_plugin() -> Path:
    """The compiled plugin, from the cache where it is there. Raises DeviceError without a C compiler."""
    source = resources.files("edgebert.devices").joinpath(SOURCE).read_bytes()
    folder = cache_folder() / f"counting-{hashlib.sha256(source + repr(FLAGS).encode()).hexdigest()[:12]}"
    plugin = folder / "count_instructions.so"
    if plugin.is_file():
        return plugin
    compiler = find_c_compiler()
    with building(folder) as part:
        if part is not None:
            (part / SOURCE).write_bytes(source)
            words = [*compiler, *FLAGS, str(part / SOURCE), "-o", str(part / plugin.name)]
            try:
                done = run_process(words, timeout=COMPILE_TIMEOUT)
            except ProcessTimeoutError as error:
                raise DeviceError(
                    f"compiling the instruction counter took over {COMPILE_TIMEOUT:g} s"
                ) from error
            if done.returncode:
                said = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[0]
                raise DeviceError(
                    f"the instruction counter cannot be compiled with {compiler[0]}: {said[:300]}"
                )
    return plugin


def find_c_compiler() -> list[str]:
    """Words of $CC, else cc, gcc or clang. Raises DeviceError where none is there."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for words in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(words[0]):
            return words
    raise DeviceError("counting instructions needs a C compiler; install gcc, or set CC")


def read_count(path: Path) -> int | None:
    """All counted instructions in a file that the plugin wrote; None where it wrote none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        match line.split():
            case ["class", "all", number] if number.isdigit():
                return int(number)
    return None
