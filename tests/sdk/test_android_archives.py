"""The .aar and the demo APK: what is in them, that they are the same each time, and what is refused."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.android import aar
from edgebert.android.aar import alignment_field, package_for_android, write_archive
from edgebert.android.apk_tools import FRAMEWORK
from edgebert.cli.dispatch import run
from edgebert.cli.package import resource_name
from edgebert.errors import AndroidError, OutputError, UsageError
from tests.sdk.android import engine_package, missing
from tests.sdk.packages import FakeTarget, make_package, target  # noqa: F401  a fixture

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "apps" / "android_demo"
no_tools = pytest.mark.skipif(bool(missing()), reason=missing())
APK_PROGRAMS = ("aapt2", "aapt", "apksigner", "zipalign", "dexdump")
absent = [name for name in APK_PROGRAMS if shutil.which(name) is None]
no_apk_tools = pytest.mark.skipif(
    bool(absent) or not FRAMEWORK.is_file(), reason=f"not installed: {absent or FRAMEWORK}"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_package(tmp_path_factory.mktemp("package"))


def content_start(raw: bytes, entry: zipfile.ZipInfo) -> int:
    sizes = raw[entry.header_offset + 26 : entry.header_offset + 30]
    return (
        entry.header_offset + 30 + int.from_bytes(sizes[:2], "little") + int.from_bytes(sizes[2:], "little")
    )


@given(position=st.integers(0, 1 << 40), alignment=st.sampled_from([1, 4, 4096, 16384]))
def test_alignment_fields_move_content_to_a_multiple(position: int, alignment: int) -> None:
    field = alignment_field(position, alignment)
    assert (position + len(field)) % alignment == 0
    assert int.from_bytes(field[2:4], "little") == len(field) - 4 < 2 * alignment + 4
    assert int.from_bytes(field[4:6], "little") == alignment


@given(
    st.dictionaries(
        st.from_regex(r"(assets/)?[a-z]{1,12}(\.[a-z]{2})?", fullmatch=True), st.binary(max_size=300)
    )
)
def test_archives_read_back_with_assets_in_place(entries: dict[str, bytes]) -> None:
    out = io.BytesIO()
    write_archive(out, entries)
    raw = out.getvalue()
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == entries
        for entry in archive.infolist():
            if entry.filename.startswith("assets/"):
                assert entry.compress_type == zipfile.ZIP_STORED
                assert content_start(raw, entry) % 4 == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [("out/home-intents", "home_intents"), ("Größe 1.zip", "gr__e_1"), ("1", "model_1"), ("日本", "model")],
)
def test_names_become_resource_names(path: str, name: str) -> None:
    assert resource_name(Path(path)) == name
    assert aar.NAME.fullmatch(name)


def test_what_cannot_go_to_android_is_refused(
    tmp_path: Path,
    target: FakeTarget,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = make_package(tmp_path)
    with pytest.raises(AndroidError, match="int8-sparse"):
        package_for_android(package, tmp_path / "out", "home", force=False)
    for name in ("Home", "", "a-b", "../x", "a" * 64):
        with pytest.raises(UsageError, match="resource name"):
            package_for_android(package, tmp_path / "out", name, force=False)
    assert not (tmp_path / "out").exists()
    assert run(["package", str(package), "--out", str(tmp_path / "out")]) == UsageError.exit_code
    assert "--android" in capsys.readouterr().err


@pytest.mark.slow
@no_tools
def test_an_archive_holds_the_library_and_the_packages_model(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "android"
    assert run(["package", str(package), "--android", "--out", str(out), "--name", "home"]) == 0
    archive = out / "home.aar"
    with zipfile.ZipFile(archive) as entries:
        names = set(entries.namelist())
        model = entries.read("assets/home.gguf")
        manifest = entries.read("AndroidManifest.xml").decode()
        with zipfile.ZipFile(io.BytesIO(entries.read("classes.jar"))) as classes:
            inside = set(classes.namelist())
    assert model == (package / "model.gguf").read_bytes()
    assert {
        "R.txt", "proguard.txt", "classes.jar", "assets/home.golden.jsonl", aar.METADATA,
        "jni/arm64-v8a/libedgebert_jni.so", "jni/x86_64/libedgebert_jni.so",
    } <= names  # fmt: skip
    assert "uses-permission" not in manifest
    assert "ai/edgebert/EdgeBert.class" in inside
    assert not any(name.startswith(("android/", "org/")) for name in inside)
    readme = (out / "README.md").read_text()
    assert "home.gguf" in readme
    assert "${" not in readme
    before = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(OutputError, match="--force"):
        package_for_android(package, out, "home", force=False)
    package_for_android(package, out, "home", force=True)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == before


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@no_tools
@no_apk_tools
def test_the_demo_apk_is_signed_aligned_and_complete(package: Path, tmp_path: Path) -> None:
    apk = tmp_path / "demo.apk"
    build = [
        sys.executable, str(DEMO / "build_apk.py"), "--model", f"home={package}",
        "--model", f"other={package}", "--out", str(apk),
    ]  # fmt: skip
    subprocess.run(build, check=True)
    badging = output("aapt", "dump", "badging", apk)
    assert "name='ai.edgebert.demo'" in badging
    assert "sdkVersion:'24'" in badging
    assert "targetSdkVersion:'34'" in badging
    assert "native-code: 'arm64-v8a' 'x86_64'" in badging
    assert "uses-permission" not in badging
    assert "'de'" in badging
    for minimum, scheme in (("24", "v2"), ("24", "v3"), ("21", "v1")):
        verified = output("apksigner", "verify", "-v", "--min-sdk-version", minimum, apk)
        assert re.search(rf"Verified using {scheme} scheme .*: true", verified), (scheme, verified)
    subprocess.run(["zipalign", "-c", "-p", "4", str(apk)], check=True)
    raw = apk.read_bytes()
    with zipfile.ZipFile(apk) as archive:
        for entry in archive.infolist():
            alignment = {".so": 16384, ".gguf": 4096}.get(Path(entry.filename).suffix)
            if alignment:
                assert entry.compress_type == zipfile.ZIP_STORED
                assert content_start(raw, entry) % alignment == 0
        assert archive.read("assets/home.gguf") == (package / "model.gguf").read_bytes()
        (tmp_path / "classes.dex").write_bytes(archive.read("classes.dex"))
    dex = output("dexdump", tmp_path / "classes.dex")
    for name in ("ai/edgebert/EdgeBert", "ai/edgebert/Native", "ai/edgebert/demo/MainActivity"):
        assert f"'L{name};'" in dex
    again = subprocess.run(build, capture_output=True, text=True, check=False)
    assert again.returncode == OutputError.exit_code
    assert "--force" in again.stderr
    subprocess.run([*build, "--force"], check=True)
    assert apk.read_bytes() == raw


def test_texts_of_the_app_are_there_in_both_languages() -> None:
    resources = DEMO / "app" / "src" / "main" / "res"
    pattern = re.compile(r'<string name="(\w+)">(.*)</string>')
    english, german = (
        dict(pattern.findall((resources / folder / "strings.xml").read_text()))
        for folder in ("values", "values-de")
    )
    assert english.keys() == german.keys()
    placeholders = re.compile(r"%\d\$[sd]")
    for name, text in english.items():
        assert placeholders.findall(text) == placeholders.findall(german[name]), name


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_documents_way_to_sign_an_update_works(tmp_path: Path) -> None:
    """The statement is what ModelStore reads, the signature one that it accepts (SHA256withECDSA)."""
    text = (ROOT / "docs" / "android.md").read_text()
    block = text[text.index("  openssl ecparam") :].split("```")[0]
    model = b"a model" * 1000
    (tmp_path / "model.gguf").write_bytes(model)
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True)
    expected = f"edgebert-update 1\n{len(model)}\n{hashlib.sha256(model).hexdigest()}\n"
    assert (tmp_path / "statement").read_text() == expected
    verify = [
        "openssl",
        "dgst",
        "-sha256",
        "-prverify",
        "publisher.pem",
        "-signature",
        "statement.sig",
        "statement",
    ]
    assert (
        "Verified OK"
        in subprocess.run(verify, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    )
