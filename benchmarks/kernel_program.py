"""Compiles a C++ program together with the engine's kernels, each file with the flags of its build."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import edgebert_targets

ENGINE = Path(edgebert_targets.__file__).parent / "int8_sparse" / "engine"
CPUS = {"x86_64": "x86", "aarch64": "arm"}  # as compilers name them -> folder of arch/
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off")


def kernel_sources(folder: str) -> dict[Path, list[str]]:
    """Files of arch/ for one kind of CPU, and the compiler flags that CMakeLists.txt gives them."""
    calls = re.findall(r"arch_source\((\S+\.cpp)([^)]*)\)", (ENGINE / "CMakeLists.txt").read_text())
    files = {ENGINE / "src" / "arch" / name: flags.split() for name, flags in calls}
    return {
        path: flags for path, flags in files.items() if path.exists() and path.parent.name in (folder, "arch")
    }


def build(
    source: Path, out: Path, *, compiler: str = "g++", options: Sequence[str] = (), kernel_level: str = "-O3"
) -> Path:
    """Compile `source`, the kernels and the choice among them into the program `out`.

    `kernel_level` is the optimisation of the kernels, `options` are for everything.

    Raises FileNotFoundError without the compiler, CalledProcessError when it fails.
    """
    if shutil.which(compiler) is None:
        raise FileNotFoundError(f"no C++ compiler {compiler}: install it")
    machine = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    kernels = kernel_sources(CPUS[machine.split("-")[0]])
    command = [compiler, *FLAGS, *options, f"-I{ENGINE / 'include'}", f"-I{ENGINE / 'src'}"]
    chosen = [f"-DEDGEBERT_HAVE_{_macro(path)}" for path in kernels]
    parts = [(path, [kernel_level, *flags]) for path, flags in kernels.items()]
    parts += [(ENGINE / "src" / "cpu.cpp", chosen), (ENGINE / "src" / "error.cpp", []), (source, [])]
    objects = []
    for path, flags in parts:
        objects.append(out.parent / f"{out.name}-{path.stem}.o")
        subprocess.run([*command, *flags, "-c", str(path), "-o", str(objects[-1])], check=True)
    subprocess.run([*command, *map(str, objects), "-o", str(out)], check=True)
    return out


def _macro(path: Path) -> str:
    name = str(path.relative_to(ENGINE / "src" / "arch"))
    return re.sub(r"\W", "_", name).upper()
