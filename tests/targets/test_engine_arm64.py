"""The engine for 64-bit ARM, cross-compiled and run under QEMU: the same logits as here, bit by bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgebert_targets.int8_sparse.capi import library_path
from edgebert_targets.int8_sparse.convert import write_model
from edgebert_targets.int8_sparse.library import available_isas
from tests.targets.engine_specs import RandomEncoder

ENGINE = Path(__file__).parents[2] / "targets" / "edgebert_targets" / "int8_sparse" / "engine"
# The build tools come with the virtual environment.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
SYSTEM = "/usr/aarch64-linux-gnu"
# Every remainder of a tile of 64 tokens and of a group of 16; more than one pass of 512 tokens.
LENGTHS = ("5", "64", "128", "1", "33", "100", "48", "150")
KERNELS = [("cortex-a76", "neon-dotprod"), ("cortex-a76", "neon"), ("cortex-a53", "neon"),
           ("cortex-a76", "scalar")]  # fmt: skip

pytestmark = pytest.mark.slow


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH, **environment},
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def compile_logits(compiler: str, library: Path, out: Path) -> Path:
    run(compiler, f"-I{ENGINE / 'include'}", ENGINE / "tests" / "logits.c", library,
        f"-Wl,-rpath,{library.parent}", "-o", out)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("cmake", "ninja", "aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc", "qemu-aarch64"):
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"needs {tool}")
    build = tmp_path_factory.mktemp("arm64")
    run("cmake", "-G", "Ninja", "-S", ENGINE, "-B", build, "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++")  # fmt: skip
    run("cmake", "--build", build)
    return compile_logits("aarch64-linux-gnu-gcc", build / "libedgebert.so", build / "logits")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    return compile_logits("gcc", library_path(), tmp_path_factory.mktemp("native") / "logits")


@pytest.fixture(scope="module", params=[0.3, 1.0], ids=["sparse", "dense"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes that no vector divides; two slabs of columns; chunks of rows that are not full."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    encoder = RandomEncoder(request.param).spec(
        layers=2, hidden=48, heads=3, intermediate=900, vocabulary=100, positions=160
    )
    write_model(encoder, path)
    return path


def arm_logits(program: Path, cpu: str, isa: str, model: Path, threads: int, lengths: Sequence[str]) -> str:
    emulator = ("qemu-aarch64", "-cpu", cpu, "-L", SYSTEM)
    return run(*emulator, program, model, str(threads), "1", *lengths, EDGEBERT_ISA=isa)


@pytest.fixture(scope="module")
def expected(program: Path, model: Path) -> list[str]:
    """Logits of the scalar kernels on this machine, which all others here repeat."""
    answers = {
        isa: run(program, model, "1", "1", *LENGTHS, EDGEBERT_ISA=isa).split() for isa in available_isas()
    }
    assert all(names[0] == isa and names[1:] == answers["scalar"][1:] for isa, names in answers.items())
    assert len(set(answers["scalar"][1:])) == 3 * len(LENGTHS)
    return answers["scalar"][1:]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("cpu", "isa"), KERNELS)
def test_the_same_bits(
    arm_program: Path, model: Path, expected: list[str], cpu: str, isa: str, threads: int
) -> None:
    if isa == "scalar" and threads > 1:
        pytest.skip("one emulated run of the slow kernels is enough")
    assert arm_logits(arm_program, cpu, isa, model, threads, LENGTHS).split() == [isa, *expected]


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_share_a_tile(arm_program: Path, program: Path, model: Path, threads: int) -> None:
    wanted = run(program, model, "1", "1", "40", EDGEBERT_ISA="scalar").split()[1:]
    answer = arm_logits(arm_program, "cortex-a76", "neon-dotprod", model, threads, ["40"])
    assert answer.split() == ["neon-dotprod", *wanted]


@pytest.mark.parametrize(("cpu", "isa"), [("cortex-a76", "neon-dotprod"), ("cortex-a53", "neon")])
def test_the_best_kernels_are_chosen(arm_program: Path, model: Path, cpu: str, isa: str) -> None:
    assert arm_logits(arm_program, cpu, "", model, 1, ["3"]).split()[0] == isa


def test_kernels_that_the_cpu_lacks_are_refused(arm_program: Path, model: Path) -> None:
    done = subprocess.run(
        ["qemu-aarch64", "-cpu", "cortex-a53", "-L", SYSTEM, arm_program, model, "1", "1", "3"],
        capture_output=True, text=True, env={**os.environ, "EDGEBERT_ISA": "neon-dotprod"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "'neon-dotprod', which this CPU lacks; choose one of: neon,scalar" in done.stderr
