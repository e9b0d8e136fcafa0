"""The engine for WebAssembly, run by Node: the same bits where there is neither SIMD of ours nor a thread."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgebert_targets.int8_sparse.capi import library_path
from edgebert_targets.int8_sparse.convert import write_model
from tests.targets.engine_specs import RandomEncoder
from tests.targets.test_engine_arm64 import ENGINE, compile_logits, run

LENGTHS = ("5", "64", "1", "33")
FLAGS = (
    "--target=wasm32-wasi", "-O1", "-msimd128", "-ffp-contract=off", "-D_WASI_EMULATED_MMAN",
    "-Wall", "-Wextra", "-Werror", f"-I{ENGINE / 'include'}", f"-I{ENGINE / 'src'}",
)  # fmt: skip
RUN = """
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";
const [module, folder, ...args] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args: ["logits", ...args], preopens: { "/model": folder } });
const { instance } = await WebAssembly.instantiate(readFileSync(module), wasi.getImportObject());
process.exitCode = wasi.start(instance);
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("clang-14", "clang++-14", "wasm-ld-14", "node", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if not Path("/usr/lib/wasm32-wasi").is_dir() or not list(Path("/usr/lib/llvm-14").rglob("libc++.a")):
        pytest.skip("needs wasi-libc and libc++-14-dev-wasm32")
    out = tmp_path_factory.mktemp("wasm")
    cpp = ["-std=c++17", "-fno-exceptions", '-DEDGEBERT_VERSION="wasm"']
    sources = [*sorted((ENGINE / "src").glob("*.cpp")), ENGINE / "src" / "arch" / "scalar.cpp"]
    objects = [out / f"{source.stem}.o" for source in sources]
    for source, object_file in zip(sources, objects, strict=True):
        run("clang++-14", *FLAGS, *cpp, "-c", source, "-o", object_file)
    run("clang-14", *FLAGS, "-c", ENGINE / "tests" / "logits.c", "-o", out / "logits.o")
    run("clang++-14", FLAGS[0], "-o", out / "logits.wasm", out / "logits.o", *objects, "-lwasi-emulated-mman")
    (out / "run.mjs").write_text(RUN)
    return out / "logits.wasm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    spec = RandomEncoder(0.3).spec(
        layers=2, hidden=48, heads=3, intermediate=900, vocabulary=100, positions=70
    )
    write_model(spec, path)
    return path


def in_node(program: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", "--no-warnings", str(program.with_name("run.mjs")), str(program), str(model.parent)]
    command += [f"/model/{model.name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_same_bits(program: Path, model: Path, tmp_path: Path) -> None:
    native = compile_logits("gcc", library_path(), tmp_path / "logits")
    expected = run(native, model, "1", "1", *LENGTHS).split()[1:]
    done = in_node(program, model, "1", "1", *LENGTHS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["scalar", *expected]


def test_more_threads_than_there_are_is_an_error(program: Path, model: Path) -> None:
    done = in_node(program, model, "2", "1", "3")
    assert done.returncode == 1
    assert "2 threads asked for; WebAssembly has one" in done.stderr
