"""The archive (.aar) that an app takes in: classes, native libraries and one package's model as assets.

Same package, same library: same bytes. The model is stored, not deflated, at a multiple of 4 bytes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgebert.android.classes import FIXED_DATE, classes_jar
from edgebert.android.native import ABIS, LIBRARY, native_library
from edgebert.android.sources import library_sources
from edgebert.atomic import atomic_dir
from edgebert.errors import AndroidError, UsageError
from edgebert.golden import FILE as GOLDEN_FILE
from edgebert.package import Package, open_package

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
ENGINE_MODEL = "model.gguf"
LITERT_MODEL = "model.tflite"
# What Google's runtime needs beside the model when the app brings its own tokenizer.
LITERT_ASSETS = ("tokenizer.json", "labels.json", GOLDEN_FILE)
METADATA = "META-INF/com/android/build/gradle/aar-metadata.properties"
AAR_METADATA = b"aarFormatVersion=1.0\naarMetadataVersion=1.0\nminCompileSdk=24\n"
MIN_SDK = 24
# How an app asks the engine's library, by task; it has no call for the tags of words.
CALLS = {
    "text-classification": 'println(model.classify("…")[0])          // one of: ${labels}, …',
    "question-answering": 'println(model.answer("a question", "the text that it is about").text())',
    "embedding": 'println(model.embed("…").size)',
}
SELF_TEST = (
    '4. Prove it on the device: `SelfTest.run(model, context.assets.open("${name}.golden.jsonl")).passed()`.'
)
# The self-test compares one answer a text.
SELF_TESTED = ("text-classification", "embedding")


@dataclass(frozen=True)
class Archive:
    """What was written: the archive, its entries by size in bytes, and the asset that the app opens."""

    path: Path
    asset: str
    entries: Mapping[str, int]


def package_for_android(package: Path, out: Path, name: str, *, force: bool) -> Archive:
    """Write `out`/NAME.aar, a Gradle snippet and a README for the int8-sparse or arm64 `package`.

    Raises UsageError (a name Android would refuse), AndroidError (a package of another target or task),
    MissingExtraError (build tools), and what `open_package` and `atomic_dir` raise.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is no resource name; use lower-case letters, digits and '_', as in home_intents"
        )
    with open_package(package) as opened:
        model = opened.manifest.model_file
        if model not in (ENGINE_MODEL, LITERT_MODEL):
            raise AndroidError(
                f"a package for '{opened.manifest.target}' does not run on Android; build one with "
                "--target int8-sparse (our engine) or --target arm64 (LiteRT)"
            )
        task = opened.manifest.task
        if model == ENGINE_MODEL and task not in CALLS:
            raise AndroidError(
                f"the Android library has no call for {task}; build the package with --target arm64 (LiteRT)"
            )
        asset = f"{name}.{model.rpartition('.')[2]}"
        entries = _engine_entries(opened, name) if model == ENGINE_MODEL else _litert_entries(opened, name)
        with atomic_dir(out, force) as folder:
            write_archive(folder / f"{name}.aar", entries)
            template = "gradle-engine.md" if model == ENGINE_MODEL else "gradle-litert.md"
            text = (library_sources() / "templates" / template).read_text(encoding="utf-8")
            few = ", ".join(opened.manifest.labels[:3])
            values = {
                "call": CALLS.get(task, ""),
                "proof": SELF_TEST if task in SELF_TESTED else "",
                "name": name,
                "asset": asset,
                "labels": few if model == ENGINE_MODEL or not few else f" ({few}, …)",
            }
            (folder / "README.md").write_text(fill(text, values), encoding="utf-8")
    return Archive(out / f"{name}.aar", asset, {entry: len(content) for entry, content in entries.items()})


def _common() -> dict[str, bytes]:
    main = library_sources() / "src" / "main"
    return {
        "AndroidManifest.xml": (main / "AndroidManifest.xml").read_bytes(),
        "R.txt": b"",
        "proguard.txt": (main / "proguard.txt").read_bytes(),
        METADATA: AAR_METADATA,
    }


def _engine_entries(opened: Package, name: str) -> dict[str, bytes]:
    return {
        **_common(),
        "classes.jar": classes_jar().read_bytes(),
        **{f"jni/{abi}/{LIBRARY}": native_library(abi).read_bytes() for abi in ABIS},
        f"assets/{name}.gguf": opened.model_path().read_bytes(),
        f"assets/{name}.golden.jsonl": opened.read_bytes(GOLDEN_FILE),
    }


def _litert_entries(opened: Package, name: str) -> dict[str, bytes]:
    """Without classes of ours: Google's runtime opens the model, its own or the app's tokenizer feeds it."""
    return {
        **_common(),
        "classes.jar": b"PK\x05\x06" + bytes(18),  # the empty zip
        f"assets/{name}.tflite": opened.model_path().read_bytes(),
        **{f"assets/{name}.{file}": opened.read_bytes(file) for file in LITERT_ASSETS},
        f"assets/{name}.manifest.json": json.dumps(
            {"package": opened.manifest.package_id, "labels": list(opened.manifest.labels)},
            ensure_ascii=False,
        ).encode(),
    }


def write_archive(out: Path | IO[bytes], entries: Mapping[str, bytes]) -> None:
    """A zip of `entries`, sorted, with fixed dates; what is in assets/ stored at a multiple of 4 bytes."""
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in sorted(entries.items()):
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if name.startswith("assets/") else zipfile.ZIP_DEFLATED
            if entry.compress_type == zipfile.ZIP_STORED:
                entry.extra = alignment_field(archive.fp.tell() + 30 + len(name.encode()), 4)  # type: ignore[union-attr]
            archive.writestr(entry, content)


def alignment_field(position: int, alignment: int) -> bytes:
    """An extra field that moves content from `position` to the next multiple of `alignment`.

    As Android's own tools write it: id 0xD935, the alignment, zeros.
    """
    padding = -(position + 6) % alignment
    return (
        (0xD935).to_bytes(2, "little")
        + (2 + padding).to_bytes(2, "little")
        + alignment.to_bytes(2, "little")
        + bytes(padding)
    )


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each ${key} replaced."""
    for key, value in values.items():
        text = text.replace("${" + key + "}", value)
    return text
