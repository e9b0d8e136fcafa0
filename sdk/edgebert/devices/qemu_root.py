"""The ARM64 root of the emulator: Debian's packages, unpacked only, with PyPI's wheels for AArch64.

Nothing of it runs while it is built, and no root rights are needed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from edgebert.devices.cache import building, cache_folder
from edgebert.devices.debian import step, unpack_packages
from edgebert.errors import DeviceError
from edgebert.progress import Reporter

ARCHITECTURE = "arm64"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "zlib1g", "coreutils", "dash")
# The versions installed here, so that the device computes with what the host computes with.
WHEELS = ("numpy", "ai-edge-litert", "tokenizers")
GLIBC = (17, 26, 27, 28, 31, 34, 35, 36)  # manylinux_2_N tags that Debian 12 and later satisfy
SIZE = "about 220 MB"
LAYOUT = 2  # raise when the way a root is built changes
DONE = "root.json"
UNUSED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var", "etc/apt")
COMMAND = "edgebert devices --prepare qemu:arm64"


def requirements() -> tuple[str, ...]:
    """What pip is asked for: the version installed here, else the range that the distribution declares."""
    return tuple(_requirement(name) for name in WHEELS)


def root_folder() -> Path:
    """Where the root for these packages and versions is, or would be; the name is a hash of its recipe."""
    recipe = json.dumps([LAYOUT, ARCHITECTURE, PACKAGES, requirements()])
    return cache_folder() / f"root-{ARCHITECTURE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def find_root() -> Path | None:
    """The finished root, None where it was not built yet."""
    folder = root_folder()
    return folder if (folder / DONE).is_file() else None


def build_root(check: Callable[[Path], None], reporter: Reporter) -> Path:
    """Build the root where it is missing; `check` uses it and raises DeviceError where it does not work.

    Raises DeviceError: a tool is missing, a download failed, the root does not work.
    """
    target = root_folder()
    with building(target) as folder:
        if folder is None:
            check(target)
            return target
        reporter.note(f"building the ARM64 root in {target} ({SIZE}), once")
        reporter.note("downloading Debian's arm64 packages")
        unpack_packages(folder, PACKAGES, ARCHITECTURE)
        for name in UNUSED:
            shutil.rmtree(folder / name, ignore_errors=True)
        python = python_version(folder)
        _install_wheels(folder, python, reporter)
        reporter.note("trying the root: importing numpy, tokenizers and LiteRT under emulation")
        check(folder)
        facts = {"packages": PACKAGES, "requirements": requirements(), "python": python}
        (folder / DONE).write_text(json.dumps(facts, indent=1) + "\n")
    return target


def python_version(root: Path) -> str:
    """ "3.11" of the one Python in the root."""
    for path in sorted((root / "usr" / "bin").glob("python3.*")):
        if found := re.fullmatch(r"python(3\.\d{1,2})", path.name):
            return found[1]
    raise DeviceError(f"the ARM64 root in '{root}' has no Python; its packages are not Debian's")


def pip_platforms() -> list[str]:
    tags = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in GLIBC)]
    return [word for tag in tags for word in ("--platform", tag)]


def _install_wheels(folder: Path, python: str, reporter: Reporter) -> None:
    digits = python.replace(".", "")
    reporter.note(f"downloading wheels for AArch64: {', '.join(requirements())}")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:",
             "--implementation", "cp", "--python-version", python, "--abi", f"cp{digits}", "--abi", "abi3",
             "--abi", "none", *pip_platforms(), "--target",
             str(folder / "usr" / "lib" / "python3" / "dist-packages"), *requirements()]  # fmt: skip
    step(words, "pip download for AArch64")


def _requirement(name: str) -> str:
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        declared = metadata.requires("edgebert") or []
        ranges = [line.split(";")[0].strip() for line in declared]
        return next((line for line in ranges if re.match(rf"{name}\b(?!-)", line)), name)
