"""Finding or building a device's runner: what is missing is one line, the cache holds whole programs only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgebert import device_runner
from edgebert.device_runner import find_compiler, runner_for
from edgebert.errors import DeviceError, MissingExtraError
from edgebert.native_build import engine_sources, search_path

COMPILER = """#!/bin/sh
case "$*" in *--version*) echo "g++ {version}"; exit 0;; esac
echo "made-up.cpp:1: error: no such thing" >&2
exit 1
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH besides this Python's own, and an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "uname"):
        (folder / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("EDGEBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return folder


def add_compiler(folder: Path, version: str = "1") -> None:
    program = folder / "aarch64-linux-gnu-g++"
    program.write_text(COMPILER.format(version=version))
    program.chmod(0o755)


def test_no_compiler_says_what_to_install(tools: Path) -> None:
    with pytest.raises(MissingExtraError) as raised:
        runner_for("aarch64")
    said = str(raised.value)
    assert "apt-get install g++-aarch64-linux-gnu" in said and "pip install ziglang" in said


def test_an_architecture_without_a_runner(tools: Path) -> None:
    with pytest.raises(MissingExtraError, match="no runner for 'riscv64' devices"):
        runner_for("riscv64")


def test_zig_is_taken_before_gnu(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_compiler(tools)
    assert find_compiler("aarch64").command == (str(tools / "aarch64-linux-gnu-g++"),)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    found = find_compiler("aarch64")
    assert found.command[1:] == ("-m", "ziglang", "c++", "-target", "aarch64-linux-musl")
    assert found.environment["ZIG_GLOBAL_CACHE_DIR"].endswith("cache/devices/zig")


@pytest.mark.skipif(shutil.which("cmake", path=search_path()) is None, reason="needs cmake")
def test_a_compiler_that_fails_is_one_line_and_leaves_nothing(tools: Path, tmp_path: Path) -> None:
    add_compiler(tools)
    with pytest.raises(DeviceError) as raised:
        runner_for("aarch64")
    assert "the device's runner cannot be built" in str(raised.value) and "\n" not in str(raised.value)
    left = [path for path in (tmp_path / "cache" / "devices").iterdir() if path.suffix != ".lock"]
    assert left == []


def test_a_finished_program_is_taken_from_the_cache(tools: Path, tmp_path: Path) -> None:
    add_compiler(tools)
    key = device_runner._key(engine_sources("a runner"), find_compiler("aarch64"))[:20]
    folder = tmp_path / "cache" / "devices" / f"runner-aarch64-{key}"
    folder.mkdir(parents=True)
    (folder / "edgebert-runner").write_bytes(b"a program")
    assert runner_for("aarch64") == folder / "edgebert-runner"


def test_sources_and_compiler_decide_the_key(tools: Path, tmp_path: Path) -> None:
    add_compiler(tools)
    copy = tmp_path / "engine"
    shutil.copytree(engine_sources("a runner"), copy)
    compiler = find_compiler("aarch64")
    key = device_runner._key(copy, compiler)
    assert key == device_runner._key(engine_sources("a runner"), compiler)
    (copy / "src" / "notes.md").write_text("no source")
    assert key == device_runner._key(copy, compiler)
    source = copy / "runner" / "main.cpp"
    source.write_text(source.read_text() + "\n")
    assert key != device_runner._key(copy, compiler)
    add_compiler(tools, version="2")
    assert device_runner._key(engine_sources("a runner"), compiler) != key


def test_without_sources_it_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgebert.native_build.files", lambda package: tmp_path)
    with pytest.raises(MissingExtraError, match="pip install -e"):
        runner_for("aarch64")
