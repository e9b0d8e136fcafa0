"""Where the sources of the Android library are: beside the checkout's packages, or installed with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from edgebert.errors import MissingExtraError


def library_sources() -> Path:
    """The folder with `src/main` of the library. Raises MissingExtraError."""
    here = Path(__file__)
    for folder in (here.parent / "library", here.parents[3] / "apps" / "android" / "library"):
        if (folder / "src" / "main" / "cpp" / "CMakeLists.txt").is_file():
            return folder
    raise MissingExtraError(
        "the Android library's sources are not installed; "
        "install edgebert from a checkout with: pip install -e ."
    )


def engine_sources() -> Path:
    """The folder of the engine's C++ sources. Raises MissingExtraError."""
    folder = Path(str(files("edgebert_targets.int8_sparse").joinpath("engine")))
    if not (folder / "src" / "api.cpp").is_file():
        raise MissingExtraError(
            "the Android library is built from the engine's sources, which are not installed; "
            "install edgebert from a checkout with: pip install -e ."
        )
    return folder


def content_key(folders: Iterable[Path], facts: Iterable[str]) -> str:
    """SHA-256 (hex) over every file below `folders` and over `facts`: the name of what is built from them."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(f"{len(fact)} {fact}\n".encode())
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()
