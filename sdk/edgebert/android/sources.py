"""Where the sources of the Android library are: beside the checkout's packages, or installed with them."""

from __future__ import annotations

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


def library_files(folder: Path) -> list[tuple[str, Path]]:
    """Every file below `folder`, sorted, by name relative to it."""
    return [
        (path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()
    ]
