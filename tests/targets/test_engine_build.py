"""The engine as it is built: what the library exports and needs, other compilers and CPUs, the packages."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from edgebert_targets.int8_sparse import capi
from edgebert_targets.int8_sparse.library import Engine, version
from tests.targets.engine_model import model_file, spec

__all__ = ["model_file", "spec"]

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "targets" / "edgebert_targets" / "int8_sparse" / "engine"
HEADER = ENGINE / "include" / "edgebert.h"
EXAMPLE = ENGINE / "examples" / "classify.c"
TEXTS = ["turn on the light", "play my song", "set a timer for ten minutes", "Zürich?"]
# The build tools come with the virtual environment.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
ALLOWED = re.compile(r"lib(c|m|pthread)\.so\.\d+|ld-linux-.*\.so\.\d+")


def declared() -> set[str]:
    """Functions that the header declares."""
    return set(re.findall(r"EB_API [^;(]*?(eb_\w+)\(", HEADER.read_text()))


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PATH": PATH, **environment},
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def tool(*names: str) -> None:
    """Skip the test where one of `names` is not installed."""
    for name in names:
        if shutil.which(name, path=PATH) is None:
            pytest.skip(f"needs {name}")


def needed(library: Path) -> set[str]:
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", library)))


def classify(command: list[str | Path], model: Path) -> str:
    return run(*command, model, *TEXTS)


def test_every_source_is_built() -> None:
    listed = (ENGINE / "CMakeLists.txt").read_text()
    for path in (ENGINE / "src").rglob("*.cpp"):
        name = path.relative_to(ENGINE / "src").as_posix().removeprefix("arch/")
        assert f"src/{name}\n" in listed or f"arch_source({name}" in listed, name


# The installed library


def test_only_the_header_s_functions_are_exported() -> None:
    tool("nm")
    lines = run("nm", "-D", "--defined-only", capi.library_path()).splitlines()
    assert {line.split()[-1] for line in lines} == declared()
    assert set(capi.SIGNATURES) == declared()


def test_it_needs_libc_and_libm_alone() -> None:
    tool("readelf")
    names = needed(capi.library_path())
    assert names and all(ALLOWED.fullmatch(name) for name in names), names
    flags = run("readelf", "-lW", capi.library_path())
    assert re.search(r"GNU_STACK.* RW ", flags), "an executable stack"


def test_it_is_small() -> None:
    assert capi.library_path().stat().st_size < 1_000_000


def test_its_version_is_the_package_s() -> None:
    assert version() == metadata.version("edgebert")


# The C program of the documents


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tool("cc")
    program = tmp_path_factory.mktemp("example") / "classify"
    library = capi.library_path()
    run("cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}", EXAMPLE, library,
        f"-Wl,-rpath,{library.parent}", "-o", program)  # fmt: skip
    return program


def test_the_example_is_short_and_answers_as_python_does(example: Path, model_file: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40
    rows = [line.split("\t") for line in classify([example], model_file).splitlines()]
    assert [row[2] for row in rows] == TEXTS
    with Engine.open(model_file) as engine, engine.session() as session:
        best = [engine.labels[int(session.run_text(text).argmax())] for text in TEXTS]
    assert [row[0] for row in rows] == best


def test_the_example_says_what_is_wrong(example: Path, tmp_path: Path) -> None:
    done = subprocess.run([example, tmp_path / "absent", "a"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "absent" in done.stderr and "No such file" in done.stderr


def test_the_header_is_c_and_c_plus_plus() -> None:
    tool("cc", "c++")
    for compiler, language in (("cc", "c99"), ("c++", "c++11")):
        run(compiler, f"-std={language}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
            "-x", "c" if compiler == "cc" else "c++", HEADER)  # fmt: skip


# Other compilers and CPUs


def configure(build: Path, *options: str) -> None:
    run("cmake", "-G", "Ninja", "-S", ENGINE, "-B", build, *options)


def cross(build: Path) -> Path:
    """The library for 64-bit ARM."""
    configure(build, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
              "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++")  # fmt: skip
    run("cmake", "--build", build)
    return build / "libedgebert.so"


def test_no_compiler_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("cmake", "ninja"):
        tool(name)
        (tmp_path / name).symlink_to(shutil.which(name, path=PATH) or "")
    done = subprocess.run(
        [tmp_path / "cmake", "-G", "Ninja", "-S", ENGINE, "-B", tmp_path / "build"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "no C++ compiler found: install one (Debian, Ubuntu: apt-get install g++) or set CXX" in said


@pytest.mark.slow
def test_the_documented_commands_build_and_run(example: Path, model_file: Path, tmp_path: Path) -> None:
    tool("cmake", "cc", "c++")
    (tmp_path / "targets").symlink_to(ROOT / "targets")
    model = tmp_path / "out" / "home-intents" / "int8-sparse" / "model.gguf"
    model.parent.mkdir(parents=True)
    model.symlink_to(model_file)
    text = (ROOT / "docs" / "engine.md").read_text().split("<!-- c -->\n```sh\n")[1].split("```")[0]
    found = run("bash", "-euc", text, cwd=tmp_path).splitlines()[-1]
    assert found == run(example, model, found.split("\t")[2]).strip()


@pytest.mark.slow
def test_clang_builds_it_and_it_answers_the_same(example: Path, model_file: Path, tmp_path: Path) -> None:
    tool("cmake", "ninja", "clang++-14")
    configure(tmp_path, "-DCMAKE_CXX_COMPILER=clang++-14")
    run("cmake", "--build", tmp_path)
    expected = classify([example], model_file)
    found = run(example, model_file, *TEXTS, LD_PRELOAD=str(tmp_path / "libedgebert.so"))
    assert found == expected


@pytest.mark.slow
def test_arm64_builds_it_and_it_answers_the_same(example: Path, model_file: Path, tmp_path: Path) -> None:
    tool("cmake", "ninja", "aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc", "qemu-aarch64", "readelf")
    library = cross(tmp_path)
    assert all(ALLOWED.fullmatch(name) for name in needed(library))
    program = tmp_path / "classify"
    run(
        "aarch64-linux-gnu-gcc",
        f"-I{HEADER.parent}",
        EXAMPLE,
        library,
        f"-Wl,-rpath,{tmp_path}",
        "-o",
        program,
    )
    expected = classify([example], model_file)
    for cpu in ("cortex-a53", "cortex-a76"):
        command = ["qemu-aarch64", "-cpu", cpu, "-L", "/usr/aarch64-linux-gnu", program]
        assert classify(command, model_file) == expected


@pytest.mark.slow
def test_files_with_their_own_instructions_share_no_code(tmp_path: Path) -> None:
    """An inline function compiled with AVX-512 could otherwise be linked for CPUs without it."""
    tool("cmake", "ninja", "nm")
    configure(tmp_path)
    entries = json.loads((tmp_path / "compile_commands.json").read_text())
    special = [entry for entry in entries if "/arch/" in entry["file"] and "scalar" not in entry["file"]]
    assert special
    for entry in special:
        command = shlex.split(entry["command"])
        run(*command, cwd=Path(entry["directory"]))
        symbols = run("nm", "-C", command[command.index("-o") + 1], cwd=Path(entry["directory"]))
        shared = [line for line in symbols.splitlines() if re.search(r" [WVu] ", line)]
        assert not shared, f"{entry['file']}: {shared}"


# Packages


def build_package(what: str, source: Path, out: Path) -> None:
    code = "import sys; from scikit_build_core import build; getattr(build, sys.argv[1])(sys.argv[2])"
    run(sys.executable, "-c", code, f"build_{what}", out, cwd=source)


@pytest.mark.slow
def test_a_wheel_from_the_source_package_is_whole(model_file: Path, tmp_path: Path) -> None:
    tool("cmake", "ninja")
    build_package("sdist", ROOT, tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as source:
        source.extractall(tmp_path / "source", filter="data")
    build_package("wheel", next((tmp_path / "source").iterdir()), tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    assert re.fullmatch(r"edgebert-[\d.]+-py3-none-(linux|manylinux)_.*\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    ours = {
        path.relative_to(ROOT / folder).as_posix()
        for folder in ("sdk", "compress", "targets")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "engine" not in path.parts
    }
    # The sources that runners for devices and the Android library are built from.
    android = ROOT / "apps" / "android" / "library"
    sources = {
        f"{place}/{path.relative_to(folder).as_posix()}"
        for place, folder in (
            ("edgebert_targets/int8_sparse/engine", ENGINE),
            ("edgebert/android/library", android),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }
    left_out = ("engine/examples/", "engine/fuzz/", "engine/tests/", "engine/tools/", "library/src/test/")
    sources = {name for name in sources if not any(part in name for part in left_out)}
    wanted = ours | sources | {"edgebert_targets/int8_sparse/libedgebert.so"}
    assert wanted == {name for name in inside if ".dist-info/" not in name}
    code = """
import sys
from importlib import resources
import edgebert.demo.home_intents, edgebert_compress
from edgebert_targets.int8_sparse.library import Engine
assert "site" in edgebert_compress.__file__
assert (resources.files(edgebert_compress) / "recipes" / "int8.yaml").is_file()
assert (resources.files(edgebert.demo.home_intents) / "model" / "vocab.txt").is_file()
print(*Engine.open(sys.argv[1]).labels)
"""
    # -S leaves out the import hook of the editable installation.
    libraries = metadata.distribution("numpy").locate_file("")
    found = run(sys.executable, "-S", "-c", code, model_file, PYTHONPATH=f"{tmp_path / 'site'}:{libraries}")
    with Engine.open(model_file) as engine:
        assert tuple(found.split()) == engine.labels
