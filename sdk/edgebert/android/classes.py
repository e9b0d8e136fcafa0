"""classes.jar of the Android library, compiled against stand-ins for Android's classes; same bytes always."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgebert.android.sources import library_files, library_sources
from edgebert.android.tools import need, run_tool
from edgebert.devices.cache import building, cache_folder
from edgebert.native_build import content_key

JAR = "classes.jar"
FIXED_DATE = (1980, 1, 1, 0, 0, 0)
INSTALL = "apt-get install openjdk-17-jdk-headless"


def classes_jar() -> Path:
    """The library's classes for Java 8. Raises MissingExtraError (no JDK) and AndroidError."""
    javac = need(["javac"], INSTALL)
    sources = library_sources() / "src"
    version = run_tool([javac, "-version"], "the library's classes").strip()
    code = [file for root in ("main", "stubs") for file in library_files(sources / root / "java")]
    key = content_key(code, [version])
    folder = cache_folder().parent / "android" / f"classes-{key[:20]}"
    if not (folder / JAR).is_file():
        with building(folder) as made:
            if made is not None:
                _build(javac, sources, made)
    return folder / JAR


def _build(javac: Path, sources: Path, made: Path) -> None:
    options = [
        "-source",
        "8",
        "-target",
        "8",
        "-encoding",
        "UTF-8",
        "-Xlint:all,-options",
        "-Werror",
        "-g:source,lines",
    ]
    stubs, classes = made / "stubs", made / "classes"
    for out, root in ((stubs, "stubs"), (classes, "main")):
        out.mkdir()
        code = sorted((sources / root / "java").rglob("*.java"))
        run_tool([javac, *options, "-cp", stubs, "-d", out, *code], "the library's classes")
    write_jar(classes, made / JAR)


def write_jar(folder: Path, out: Path) -> None:
    """A jar of the class files below `folder`, sorted, with fixed dates."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as jar:
        for path in sorted(folder.rglob("*.class")):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), FIXED_DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            jar.writestr(entry, path.read_bytes())
