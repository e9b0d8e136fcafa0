"""AArch64 instructions of one inference of the engine, counted under QEMU.

A program that runs the model once and one that runs it twice differ by one inference, without loading.
Needs cmake, ninja, gcc, g++-aarch64-linux-gnu and a qemu-user that takes plugins (Debian's dynamic one).
Instructions are not time: they compare programs for a CPU that is not here.

    python benchmarks/arm64_instructions.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.devices.counting import counting_plugin
from edgebert_targets.int8_sparse.convert import write_model
from engine_models import GEOMETRIES, Case, random_encoder

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent / "targets" / "edgebert_targets" / "int8_sparse" / "engine"
CROSS = "aarch64-linux-gnu-"
KERNELS = {"neon-dotprod": "cortex-a76", "neon": "cortex-a53"}  # and the CPU that runs them
# The build tools come with the virtual environment.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
SMALLEST_SHARE = 0.005  # of a function that is listed


@dataclass(frozen=True)
class Counts:
    """Instructions by class ("all", "dot", "mmla", "memory", "simd", "branch") and by function."""

    classes: dict[str, int]
    functions: dict[str, int]


def run(*command: str | Path) -> str:
    words = [str(word) for word in command]
    if shutil.which(words[0], path=PATH) is None:
        raise SystemExit(f"{words[0]} is not installed; see the head of {Path(__file__).name}")
    return subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": PATH}
    ).stdout


def build_program(folder: Path) -> Path:
    """tests/logits.c with the engine, static: only then does QEMU know the functions' names."""
    build, out = folder / "engine", folder / "logits"
    run("cmake", "-G", "Ninja", "-S", ENGINE, "-B", build, "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={CROSS}g++")  # fmt: skip
    run("cmake", "--build", build, "--target", "objects")
    program = folder / "logits.o"
    run(f"{CROSS}gcc", "-O2", f"-I{ENGINE / 'include'}", "-c", ENGINE / "tests" / "logits.c", "-o", program)
    objects = sorted((build / "CMakeFiles" / "objects.dir").rglob("*.o"))
    run(f"{CROSS}g++", "-static", program, *objects, "-o", out)
    return out


def count(plugin: Path, program: Path, model: Path, isa: str, length: int, runs: int) -> Counts:
    """What the program executes, loading included, one thread and one sequence."""
    out = model.with_suffix(".counts")
    run("qemu-aarch64", "-cpu", KERNELS[isa], "-plugin", f"{plugin},out={out}", "-E", f"EDGEBERT_ISA={isa}",
        program, model, "1", str(runs), str(length))  # fmt: skip
    tables: dict[str, dict[str, int]] = {"class": {}, "symbol": {}}
    for line in out.read_text().splitlines():
        kind, name, number = line.split()
        tables[kind][name] = int(number)
    return Counts(tables["class"], tables["symbol"])


def inference(plugin: Path, program: Path, model: Path, isa: str, length: int) -> Counts:
    once, twice = (count(plugin, program, model, isa, length, runs) for runs in (1, 2))
    return Counts(
        {name: number - once.classes[name] for name, number in twice.classes.items()},
        {name: number - once.functions.get(name, 0) for name, number in twice.functions.items()},
    )


def readable(functions: dict[str, int]) -> dict[str, int]:
    """The largest functions by their names in the source, most instructions first."""
    least = SMALLEST_SHARE * sum(functions.values())
    largest = sorted((n for n in functions if functions[n] >= least), key=lambda n: -functions[n])
    names = run("c++filt", "-p", *largest).splitlines()
    short = (name.replace("edgebert::", "").replace("(anonymous namespace)::", "") for name in names)
    return dict(zip(short, (functions[name] for name in largest), strict=True))


def rows(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    plugin, program, model = counting_plugin(), build_program(folder), folder / "model.gguf"
    for sparsity in options.sparsity:
        write_model(random_encoder(Case(GEOMETRIES[options.geometry], sparsity)), model)
        for isa in options.kernels:
            found = inference(plugin, program, model, isa, options.length)
            print(
                f"{sparsity:4.0%} zeros, {isa}: {found.classes['all'] / 1e6:.1f} M instructions", flush=True
            )
            yield {
                "sparsity": sparsity,
                "kernels": isa,
                "cpu": KERNELS[isa],
                "instructions": found.classes,
                "functions": readable(found.functions),
            }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), default="minilm-l6")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.8, 0.0])
    parser.add_argument("--kernels", choices=sorted(KERNELS), nargs="+", default=list(KERNELS))
    parser.add_argument("--length", type=int, default=128, help="tokens of the one sequence")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "arm64_instructions.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "what": "AArch64 instructions of one inference, one thread, batch 1, random 4-block weights",
            "geometry": options.geometry,
            "length": options.length,
            "compiler": run(f"{CROSS}g++", "--version").splitlines()[0],
            "emulator": run("qemu-aarch64", "--version").splitlines()[0],
            "rows": list(rows(options, Path(folder))),
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
