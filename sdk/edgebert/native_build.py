"""Building programs from the package's own sources: where they are, how tools run, what names the result."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from edgebert.devices.process import ProcessTimeoutError, TooMuchOutputError, run_process
from edgebert.errors import EdgeBertError, MissingExtraError

TIMEOUT_S = 1800.0


def search_path() -> str:
    """PATH, before it the folder of this Python: build tools may live in its environment."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def engine_sources(what: str) -> Path:
    """The folder of the engine's sources, which `what` is built from. Raises MissingExtraError."""
    folder = Path(str(files("edgebert_targets.int8_sparse").joinpath("engine")))
    if not (folder / "src" / "api.cpp").is_file() or not (folder / "runner" / "main.cpp").is_file():
        raise MissingExtraError(
            f"{what} is built from the engine's sources, which are not installed; "
            "install edgebert from a checkout with: pip install -e ."
        )
    return folder


def engine_code(engine: Path, folders: Sequence[str]) -> list[tuple[str, Path]]:
    """CMakeLists.txt and the code below `folders` of the engine, by name relative to it."""
    inside = (path for name in folders for path in sorted((engine / name).rglob("*.*")))
    code = [path for path in inside if path.suffix in (".h", ".c", ".cpp")]
    return [(path.relative_to(engine).as_posix(), path) for path in (engine / "CMakeLists.txt", *code)]


def content_key(sources: Iterable[tuple[str, Path]], facts: Iterable[str]) -> str:
    """SHA-256 (hex) over files, under the names given, and over `facts`: names what is built from them."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(f"{len(fact)} {fact}\n".encode())
    for name, path in sources:
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def run_step(
    args: Sequence[str | Path],
    fails: Callable[[str], EdgeBertError],
    env: Mapping[str, str] | None = None,
) -> str:
    """What a program prints. Raises `fails` of its name and the first line that names an error."""
    name = Path(args[0]).name
    try:
        done = run_process(args, timeout=TIMEOUT_S, env={**os.environ, "PATH": search_path(), **(env or {})})
    except (ProcessTimeoutError, TooMuchOutputError) as error:
        raise fails(f"{name}: {error}") from None
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        first = next((line for line in lines if "rror" in line), lines[-1] if lines else "no message")
        raise fails(f"{name}: {first[:300]}")
    return output
