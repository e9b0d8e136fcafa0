"""libedgebert_jni.so for an Android ABI, built by clang and lld without the NDK and kept in the cache."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgebert.android.sources import library_files, library_sources
from edgebert.android.tools import need, run_tool
from edgebert.devices.cache import building, cache_folder
from edgebert.errors import AndroidError, MissingExtraError
from edgebert.native_build import content_key, engine_code, engine_sources

LIBRARY = "libedgebert_jni.so"
MAX_BYTES = 1_000_000
HEADERS = {
    "arm64-v8a": Path("/usr/aarch64-linux-gnu/include"),
    "x86_64": Path("/usr/include/x86_64-linux-gnu"),
}
ABIS = tuple(HEADERS)
INSTALL = "apt-get install clang-14 lld-14 g++ g++-aarch64-linux-gnu openjdk-17-jdk-headless"


@dataclass(frozen=True)
class NativeTools:
    """What compiles: clang with its resource folder, g++'s header version, and the folder of jni.h."""

    clang: Path
    resources: Path
    gxx_version: str
    jni: Path
    cmake: Path
    ninja: Path


def native_library(abi: str) -> Path:
    """The stripped library for `abi`, "arm64-v8a" or "x86_64"; 16 KB pages, needs libc.so and libm.so only.

    Raises MissingExtraError (a compiler or its headers), AndroidError (the build fails or is too large).
    """
    if abi not in HEADERS:
        raise AndroidError(f"unknown Android ABI '{abi}'; choose one of: {', '.join(ABIS)}")
    tools = find_tools(abi)
    engine, library = engine_sources("the Android library"), library_sources() / "src" / "main" / "cpp"
    version = run_tool([tools.clang, "--version"], "the Android library").partition("\n")[0]
    sources = [*engine_code(engine, ("include", "src")), *library_files(library)]
    key = content_key(sources, [abi, version, tools.gxx_version])
    folder = cache_folder().parent / "android" / f"native-{abi}-{key[:20]}"
    if not (folder / LIBRARY).is_file():
        _build(tools, abi, engine, library, folder)
    return folder / LIBRARY


def find_tools(abi: str) -> NativeTools:
    """Raises MissingExtraError with what installs the part that is missing."""
    clang = need(["clang++-14", "clang++"], INSTALL)
    need(["ld.lld-14", "ld.lld"], INSTALL)
    jvm = need(["javac"], INSTALL).resolve().parents[1] / "include"
    if not (jvm / "jni.h").is_file():
        raise MissingExtraError(f"{jvm} has no jni.h; run: {INSTALL}")
    headers = HEADERS[abi]
    folder = headers / "c++" if abi == "arm64-v8a" else headers.parent / "c++"
    versions = [path.name for path in folder.glob("[0-9]*")]
    if not versions:
        raise MissingExtraError(f"the C++ headers for {abi} are not installed; run: {INSTALL}")
    resources = run_tool([clang, "-print-resource-dir"], "the Android library").strip()
    return NativeTools(
        clang, Path(resources), max(versions, key=int), jvm,
        need(["cmake"], "pip install cmake"), need(["ninja"], "pip install ninja"),
    )  # fmt: skip


def _build(tools: NativeTools, abi: str, engine: Path, library: Path, folder: Path) -> None:
    with building(folder) as made:
        if made is None:
            return
        stand_ins = [_stand_in(tools, abi, library, name, made) for name in ("libc", "libm")]
        build = made / "build"
        run_tool(
            [
                tools.cmake, "-G", "Ninja", "-S", library, "-B", build, "-DCMAKE_BUILD_TYPE=Release",
                f"-DCMAKE_MAKE_PROGRAM={tools.ninja}",
                f"-DCMAKE_TOOLCHAIN_FILE={library / 'freestanding' / 'toolchain.cmake'}",
                f"-DCMAKE_CXX_COMPILER={tools.clang}", f"-DEDGEBERT_ENGINE={engine}",
                f"-DEDGEBERT_ANDROID_ABI={abi}", f"-DEDGEBERT_GXX_VERSION={tools.gxx_version}",
                f"-DEDGEBERT_CLANG_RESOURCES={tools.resources}", f"-DEDGEBERT_JNI_INCLUDE={tools.jni}",
                f"-DEDGEBERT_BIONIC={' '.join(map(str, stand_ins))}",
            ],
            f"the library for {abi}",
        )  # fmt: skip
        run_tool([tools.cmake, "--build", build, "--target", "edgebert_jni"], f"the library for {abi}")
        check_library(build / LIBRARY)
        (build / LIBRARY).replace(made / LIBRARY)
        shutil.rmtree(build)


def _stand_in(tools: NativeTools, abi: str, library: Path, name: str, out: Path) -> Path:
    """A library of `name` with symbols only: the linker learns from it what the device's own offers."""
    triple = "aarch64" if abi == "arm64-v8a" else "x86_64"
    source, path = library / "freestanding" / "bionic" / f"{name}.c", out / f"{name}.so"
    run_tool(
        [
            tools.clang, f"--target={triple}-linux-android24", "-x", "c", "-ffreestanding", "-fno-builtin",
            "-w", "-fPIC", "-shared", "-nostdlib", "-fuse-ld=lld", f"-Wl,-soname,{name}.so",
            "-o", path, source,
        ],
        f"the library for {abi}",
    )  # fmt: skip
    return path


def check_library(path: Path) -> None:
    """What must hold of a library before it is shipped. Raises AndroidError naming what does not."""
    size = path.stat().st_size
    if size >= MAX_BYTES:
        raise AndroidError(f"{path.name} has {size} bytes; it must stay under {MAX_BYTES}")
    raw = path.read_bytes()
    if raw[:4] != b"\x7fELF":
        raise AndroidError(f"{path.name} is no ELF file")
    alignments = load_alignments(raw)
    if not alignments or min(alignments) < 16384:
        raise AndroidError(f"{path.name} has segments aligned to {alignments}; Android 15 wants 16384")
    if re.search(rb"libc\+\+|libstdc\+\+|libgcc", raw):
        raise AndroidError(f"{path.name} needs a C++ runtime that apps would have to ship")


def load_alignments(raw: bytes) -> list[int]:
    """Alignments of the loaded segments of a 64-bit little-endian ELF file."""
    offset, size, count = (
        int.from_bytes(raw[32:40], "little"),
        int.from_bytes(raw[54:56], "little"),
        int.from_bytes(raw[56:58], "little"),
    )
    headers = [raw[offset + i * size : offset + (i + 1) * size] for i in range(count)]
    return [int.from_bytes(h[48:56], "little") for h in headers if int.from_bytes(h[:4], "little") == 1]
