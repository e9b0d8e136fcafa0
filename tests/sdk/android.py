"""A package for the Android tests, and a desktop JVM that runs the library's own classes and .so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebert.android.classes import classes_jar
from edgebert.android.native import ABIS, LIBRARY, find_tools, native_library
from edgebert.android.sources import library_sources
from edgebert.devices.cache import building, cache_folder
from edgebert.devices.debian import unpack_packages
from edgebert.errors import MissingExtraError
from edgebert.golden import record_golden
from edgebert.manifest import Backend, Cpu
from edgebert.package import PackageContents, write_package
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import ConvertOptions, SessionOptions, get_target
from edgebert_targets.encoder import EncoderSpec, load_encoder_spec
from tests.factories import make_checkpoint, task_sentences
from tests.sdk.packages import make_manifest
from tests.targets.quantized import quantize_checkpoint

JARS = Path("/usr/share/java")
JUNIT = ("junit4.jar", "hamcrest-core.jar", "json-android.jar")
# What stands in for bionic when the APK's own library runs on a desktop.
DESKTOP = {"libc.so": "libc.so.6", "libm.so": "libm.so.6"}


def missing() -> str:
    """Why these tests cannot run here, empty when they can."""
    for jar in JUNIT:
        if not (JARS / jar).is_file():
            return f"{jar} is not installed (junit4, libandroid-json-org-java)"
    if shutil.which("java") is None:
        return "no Java is installed (openjdk-17-jdk-headless)"
    try:
        for abi in ABIS:
            find_tools(abi)
    except MissingExtraError as error:
        return str(error)
    return ""


def checkpoint_spec(folder: Path) -> EncoderSpec:
    """A tiny quantised BERT with its tokenizer, from `folder`/checkpoint."""
    checkpoint = make_checkpoint(folder / "checkpoint")
    quantize_checkpoint(checkpoint)
    return load_encoder_spec(checkpoint)


def engine_package(folder: Path) -> Path:
    """A package for int8-sparse with 12 golden examples, one of them a pair."""
    spec, target = checkpoint_spec(folder), get_target("int8-sparse")
    model = folder / "model.gguf"
    target.convert(spec, model, ConvertOptions())
    manifest = make_manifest(
        target="int8-sparse", backend=Backend(target.backend, target.backend_version()),
        cpu=Cpu(target.cpu_architectures), model_file="model.gguf", inputs=(), golden_tolerance=0.0,
    )  # fmt: skip
    tokenizer = TextTokenizer.from_folder(folder / "checkpoint", manifest.tokenizer.max_length)
    session = target.open(model, SessionOptions())
    texts = [text for text, _ in task_sentences(10)] + ["Zürich 🏠 日本", "stop the music"]
    pairs: list[str | None] = [*[None] * (len(texts) - 1), "play my song"]
    golden = record_golden(session, tokenizer, texts, pairs)
    session.close()
    contents = PackageContents(manifest, model, folder / "checkpoint", golden, "{}", "<!doctype html>")
    write_package(folder / "home", contents, as_zip=False, force=False)
    return folder / "home"


@dataclass(frozen=True)
class DesktopJvm:
    """Java with the library's classes, its tests' classes and the APK's x86_64 library."""

    tests: Path
    native: Path
    libraries: Path
    java: tuple[str, ...] = ("java",)

    def run(
        self,
        main: str,
        arguments: Sequence[str],
        properties: Mapping[str, str],
        stdin: str = "",
        preload: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        classpath = [self.tests, classes_jar(), *(JARS / jar for jar in JUNIT)]
        return subprocess.run(
            [
                *self.java, "-Xcheck:jni", f"-Djava.library.path={self.native}",
                *(f"-D{name}={value}" for name, value in properties.items()),
                "-cp", os.pathsep.join(map(str, classpath)), main, *arguments,
            ],
            input=stdin, capture_output=True, text=True, timeout=300, check=False,
            env={
                **os.environ, "LD_LIBRARY_PATH": str(self.libraries), "LC_ALL": "C.UTF-8",
                "LD_PRELOAD": str(preload or ""),
            },
        )  # fmt: skip


def desktop_jvm(folder: Path) -> DesktopJvm:
    tests, native, libraries = folder / "tests", folder / "native", folder / "libraries"
    for path in (tests, native, libraries):
        path.mkdir()
    sources = library_sources() / "src"
    stubs = sorted((sources / "stubs" / "java" / "android").rglob("*.java"))
    classpath = os.pathsep.join([str(classes_jar()), *(str(JARS / jar) for jar in JUNIT)])
    subprocess.run(
        ["javac", "-encoding", "UTF-8", "-nowarn", "-cp", classpath, "-d", str(tests),
         *map(str, stubs), *map(str, sorted((sources / "test" / "java").rglob("*.java")))],
        check=True, capture_output=True,
    )  # fmt: skip
    shutil.copyfile(native_library("x86_64"), native / LIBRARY)
    for name, real in DESKTOP.items():
        (libraries / name).symlink_to(_system_library(real))
    return DesktopJvm(tests, native, libraries)


def emulated_jvm(folder: Path, jvm: DesktopJvm) -> DesktopJvm:
    """The same on AArch64: Debian's Java for it, unpacked into the cache once, under qemu."""
    root = cache_folder() / "java-arm64"
    with building(root) as made:
        if made is not None:
            unpack_packages(made, ["openjdk-17-jre-headless"], "arm64")
    native, libraries = folder / "native-arm64", folder / "libraries-arm64"
    for path in (native, libraries):
        path.mkdir()
    shutil.copyfile(native_library("arm64-v8a"), native / LIBRARY)
    for name, real in DESKTOP.items():
        (libraries / name).symlink_to(root / "lib" / "aarch64-linux-gnu" / real)
    program = root / "usr" / "lib" / "jvm" / "java-17-openjdk-arm64" / "bin" / "java"
    emulator = ("qemu-aarch64", "-cpu", "cortex-a76", "-L", str(root), "-E", f"LD_LIBRARY_PATH={libraries}")
    options = ("-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xmx512m")
    return DesktopJvm(jvm.tests, native, libraries, (*emulator, str(program), *options))


def _system_library(name: str) -> Path:
    for folder in ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"):
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise FileNotFoundError(name)
