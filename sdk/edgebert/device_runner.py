"""`edgebert-runner` for a device: taken from the user's cache, or built there from the engine's sources."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgebert.devices.cache import building, cache_folder
from edgebert.errors import DeviceError, MissingExtraError
from edgebert.machine import architecture as this_architecture
from edgebert.native_build import content_key, engine_code, engine_sources, run_step, search_path

NAME = "edgebert-runner"
# Debian's cross compilers by architecture; zig names them as they are.
GNU = {"aarch64": "aarch64-linux-gnu-g++", "x86_64": "x86_64-linux-gnu-g++"}
PACKAGES = {"aarch64": "g++-aarch64-linux-gnu", "x86_64": "g++-x86-64-linux-gnu"}


@dataclass(frozen=True)
class Compiler:
    """`command` compiles C++ for the device; `environment` is what it needs besides."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def runner_for(architecture: str) -> Path:
    """The static program for `architecture` ("aarch64", "x86_64"), built when the cache has none.

    The cache is keyed by the sources and the compiler. Raises MissingExtraError (no sources, compiler or
    CMake) and DeviceError (the compiler fails, the cache cannot be written).
    """
    if architecture not in GNU:
        raise MissingExtraError(
            f"the engine has no runner for '{architecture}' devices; it has one for {' and '.join(GNU)}"
        )
    sources, compiler = engine_sources("a device's runner"), find_compiler(architecture)
    folder = cache_folder() / f"runner-{architecture}-{_key(sources, compiler)[:20]}"
    if not (folder / NAME).is_file():
        _build(sources, compiler, architecture, folder)
    return folder / NAME


def find_compiler(architecture: str) -> Compiler:
    """zig (static musl) where it is installed, else GNU. Raises MissingExtraError with what installs one."""
    zig = shutil.which("zig", path=search_path())
    command = (sys.executable, "-m", "ziglang") if importlib.util.find_spec("ziglang") else (zig or "",)
    if command[0]:
        target = (*command, "c++", "-target", f"{architecture}-linux-musl")
        return Compiler(target, {"ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig")})
    native = ("c++",) if architecture == this_architecture() and sys.platform == "linux" else ()
    for name in (GNU[architecture], *native):
        if found := shutil.which(name, path=search_path()):
            return Compiler((found,))
    raise MissingExtraError(
        f"no C++ compiler for {architecture} devices is installed; "
        f"run: apt-get install {PACKAGES[architecture]}, or: pip install ziglang==0.17.1"
    )


def _key(sources: Path, compiler: Compiler) -> str:
    """The name of what `compiler`, with its version, makes of `sources`."""
    version = _run([*compiler.command, "--version"], compiler).partition("\n")[0]
    return content_key(engine_code(sources, ("include", "runner", "src")), [*compiler.command, version])


def _build(sources: Path, compiler: Compiler, architecture: str, folder: Path) -> None:
    cmake = shutil.which("cmake", path=search_path())
    make = shutil.which("ninja", path=search_path()) or shutil.which("make", path=search_path())
    if cmake is None or make is None:
        raise MissingExtraError("the runner is built with CMake and ninja; run: pip install cmake ninja")
    with building(folder) as made:
        if made is None:
            return
        build = made / "build"
        _run(
            [
                cmake, "-G", "Ninja" if Path(make).name == "ninja" else "Unix Makefiles",
                "-S", str(sources), "-B", str(build),
                "-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={architecture}",
                f"-DCMAKE_CXX_COMPILER={';'.join(compiler.command)}",
                "-DEDGEBERT_RUNNER=ON", "-DEDGEBERT_WERROR=OFF",
            ],
            compiler,
        )  # fmt: skip
        _run([cmake, "--build", str(build), "--target", NAME], compiler)
        (build / NAME).replace(made / NAME)
        shutil.rmtree(build)


def _run(command: list[str], compiler: Compiler) -> str:
    """What `command` prints. Raises DeviceError with the first line that names an error."""
    return run_step(
        command,
        lambda why: DeviceError(
            f"the device's runner cannot be built: {why}; try another compiler (docs/devices.md)"
        ),
        compiler.environment,
    )
