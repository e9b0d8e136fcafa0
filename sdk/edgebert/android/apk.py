"""An APK from Java sources, resources and packages, without Google's SDK: same inputs and key, same bytes.

Models and libraries are stored, at multiples of 4 KB and 16 KB, so that Android maps them in place.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edgebert.android.aar import alignment_field
from edgebert.android.apk_tools import ApkTools, apk_tools
from edgebert.android.classes import FIXED_DATE, classes_jar
from edgebert.android.native import ABIS, LIBRARY, native_library
from edgebert.android.tools import run_tool
from edgebert.atomic import atomic_file
from edgebert.devices.cache import building, cache_folder
from edgebert.errors import AndroidError
from edgebert.golden import FILE as GOLDEN_FILE
from edgebert.package import open_package

MIN_SDK, TARGET_SDK = 24, 34
STORED_ALIGNMENT = {".so": 16384, ".gguf": 4096}
KEY_ALIAS = "edgebert"
KEY_PASSWORD = "android"  # noqa: S105  the password that every debug key has


def build_apk(app: Path, packages: Mapping[str, Path], out: Path, *, force: bool) -> None:
    """Write the APK of the project `app` (src/main below it) with each package's model as asset NAME.gguf.

    It is signed with a debug key of this machine: good for trying, to be signed again for a store.
    Raises MissingExtraError (tools), AndroidError (a step fails, a package of another target), OutputError.
    """
    tools = apk_tools()
    main = app / "src" / "main"
    with tempfile.TemporaryDirectory() as name, atomic_file(out, force) as written:
        work = Path(name)
        bare = _link_resources(tools, main, work)
        _compile(tools, main, work)
        entries = _entries(bare, work / "classes.dex", packages)
        unsigned = work / "unsigned.apk"
        _write(unsigned, entries)
        _sign(tools, unsigned, written, _debug_key(tools))
        check_alignment(written)


def _link_resources(tools: ApkTools, main: Path, work: Path) -> Path:
    """The APK with manifest and resources only, and R.java beside it."""
    compiled, bare = work / "resources.zip", work / "bare.apk"
    run_tool([tools.aapt2, "compile", "--dir", main / "res", "-o", compiled], "the app's resources")
    run_tool(
        [
            tools.aapt2, "link", "-I", tools.framework, "--manifest", main / "AndroidManifest.xml",
            "--min-sdk-version", str(MIN_SDK), "--target-sdk-version", str(TARGET_SDK),
            "--java", work / "generated", "-o", bare, compiled,
        ],
        "the app's resources",
    )  # fmt: skip
    return bare


def _compile(tools: ApkTools, main: Path, work: Path) -> None:
    """`work`/classes.dex of the app and the library."""
    classes = work / "classes"
    classes.mkdir()
    sources = [*sorted((main / "java").rglob("*.java")), *sorted((work / "generated").rglob("*.java"))]
    run_tool(
        [
            tools.javac, "-source", "8", "-target", "8", "-encoding", "UTF-8", "-Xlint:all,-options",
            "-Werror", "-bootclasspath", tools.android_jar, "-cp", classes_jar(), "-g:source,lines",
            "-d", classes, *sources,
        ],
        "the app's classes",
    )  # fmt: skip
    run_tool(
        [
            tools.java, "-cp", tools.dx, "com.android.dx.command.Main", "--dex",
            f"--min-sdk-version={MIN_SDK}", f"--output={work / 'classes.dex'}", classes, classes_jar(),
        ],
        "the app's dex file",
    )  # fmt: skip


def _entries(bare: Path, dex: Path, packages: Mapping[str, Path]) -> dict[str, bytes]:
    with zipfile.ZipFile(bare) as resources:
        entries = {name: resources.read(name) for name in resources.namelist()}
    entries["classes.dex"] = dex.read_bytes()
    for abi in ABIS:
        entries[f"lib/{abi}/{LIBRARY}"] = native_library(abi).read_bytes()
    for name, path in packages.items():
        with open_package(path) as opened:
            if opened.manifest.model_file != "model.gguf":
                raise AndroidError(
                    f"'{path}' is a package for {opened.manifest.target}; build one with --target int8-sparse"
                )
            if opened.manifest.task != "text-classification":
                raise AndroidError(
                    f"'{path}' is a package for {opened.manifest.task}; the demo app classifies texts"
                )
            entries[f"assets/{name}.gguf"] = opened.model_path().read_bytes()
            entries[f"assets/{name}.golden.jsonl"] = opened.read_bytes(GOLDEN_FILE)
    return entries


def _write(out: Path, entries: Mapping[str, bytes]) -> None:
    """Every entry with the fixed date. resources.arsc must be stored too: Android 11 refuses it otherwise."""
    with zipfile.ZipFile(out, "w") as apk:
        for name, content in sorted(entries.items()):
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            alignment = STORED_ALIGNMENT.get(Path(name).suffix, 4 if name == "resources.arsc" else 0)
            entry.compress_type = zipfile.ZIP_STORED if alignment else zipfile.ZIP_DEFLATED
            if alignment:
                position = apk.fp.tell() + 30 + len(name.encode())  # type: ignore[union-attr]
                entry.extra = alignment_field(position, alignment)
            apk.writestr(entry, content)


def _sign(tools: ApkTools, unsigned: Path, out: Path, keystore: Path) -> None:
    """With the schemes 1, 2 and 3, so that Android 7 and the newest both check it."""
    signed = unsigned.with_name("signed.apk")
    run_tool(
        [
            tools.apksigner, "sign", "--ks", keystore, "--ks-key-alias", KEY_ALIAS,
            "--ks-pass", f"pass:{KEY_PASSWORD}", "--min-sdk-version", str(MIN_SDK),
            "--v1-signing-enabled", "true", "--v2-signing-enabled", "true", "--v3-signing-enabled", "true",
            "--v4-signing-enabled", "false", "--out", signed, unsigned,
        ],
        "the APK's signature",
    )  # fmt: skip
    shutil.copyfile(signed, out)


def _debug_key(tools: ApkTools) -> Path:
    """A key of this machine's user, made once: good for trying the app, not for a store."""
    folder = cache_folder().parent / "android" / "debug-key"
    if not (folder / "debug.p12").is_file():
        with building(folder) as made:
            if made is not None:
                run_tool(
                    [
                        tools.keytool, "-genkeypair", "-keystore", made / "debug.p12", "-storetype", "PKCS12",
                        "-storepass", KEY_PASSWORD, "-alias", KEY_ALIAS, "-keyalg", "RSA", "-keysize", "2048",
                        "-validity", "10000", "-dname", "CN=EdgeBERT debug key",
                    ],
                    "the debug key",
                )  # fmt: skip
    return folder / "debug.p12"


def check_alignment(apk: Path) -> None:
    """Models and libraries are stored and aligned. Raises AndroidError naming the first that is not."""
    with zipfile.ZipFile(apk) as archive, apk.open("rb") as raw:
        for entry in archive.infolist():
            alignment = STORED_ALIGNMENT.get(Path(entry.filename).suffix)
            if alignment is None:
                continue
            raw.seek(entry.header_offset + 26)
            sizes = raw.read(4)
            start = entry.header_offset + 30 + sum(int.from_bytes(sizes[i : i + 2], "little") for i in (0, 2))
            if entry.compress_type != zipfile.ZIP_STORED or start % alignment:
                raise AndroidError(f"{entry.filename} is not stored at a multiple of {alignment} bytes")
