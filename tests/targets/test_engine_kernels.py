"""The engine's kernels: every instruction set against the scalar kernels, bit by bit, and against float64."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from kernel_program import CPUS, ENGINE, build, kernel_sources

TEST = ENGINE / "tests" / "kernel_test.cpp"
X86 = ("scalar", "avx2", "avx-vnni", "avx512-vnni")
ARM = ("scalar", "neon", "neon-dotprod")
HERE = X86 if CPUS.get(platform.machine()) == "x86" else ARM
SANITIZERS = ("-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
MISSING = 77  # exit status: no such kernels in the program, or the CPU cannot run them


def run(command: Sequence[str | Path], isa: str, seed: int = 1) -> None:
    done = subprocess.run([*command, isa, str(seed)], capture_output=True, text=True, check=False)
    if done.returncode == MISSING and "this CPU lacks" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok   {isa}: " in done.stdout


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(TEST, tmp_path_factory.mktemp("kernels") / "kernel_test")


@pytest.fixture(scope="session")
def checked_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kernels") / "kernel_test"
    return build(TEST, out, options=SANITIZERS, kernel_level="-O1")


@pytest.fixture(scope="session")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    out = tmp_path_factory.mktemp("kernels") / "kernel_test"
    return build(TEST, out, compiler="aarch64-linux-gnu-g++", options=["-static"])


def test_every_kernel_file_is_compiled() -> None:
    for folder in CPUS.values():
        files = set((ENGINE / "src" / "arch" / folder).glob("*.cpp"))
        assert files and files < set(kernel_sources(folder))


@pytest.mark.parametrize("isa", HERE)
def test_the_same_bits(program: Path, isa: str) -> None:
    run([program], isa)


def test_unknown_kernels_are_refused(program: Path) -> None:
    done = subprocess.run([program, "sse9"], capture_output=True, text=True, check=False)
    assert done.returncode == MISSING
    assert "sse9" in done.stdout and "scalar" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("isa", HERE)
def test_no_byte_beside_the_buffers(checked_program: Path, isa: str) -> None:
    run([checked_program], isa, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "isa"), [("cortex-a53", "neon"), ("cortex-a76", "neon-dotprod")])
def test_the_same_bits_on_arm(arm_program: Path, cpu: str, isa: str) -> None:
    run(["qemu-aarch64", "-cpu", cpu, arm_program], isa)
