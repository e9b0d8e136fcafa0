"""Packages: same inputs, same bytes; and whatever a stranger does to one is refused or harmless."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgebert.package as package_module
from edgebert.atomic import atomic_dir, atomic_file
from edgebert.errors import DiskFullError, OutputError, PackageError
from edgebert.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest, parse_manifest
from edgebert.package import open_package, write_package
from tests.sdk.packages import MODEL_BYTES, make_contents, make_manifest, make_package


def contents_of(path: Path) -> dict[str, bytes]:
    with open_package(path) as package:
        return {entry.name: package.read_bytes(entry.name) for entry in package.manifest.files}


def rezip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def refused(path: Path, part: str) -> None:
    with pytest.raises(PackageError) as caught:
        open_package(path)
    message = str(caught.value)
    assert part in message
    assert "\n" not in message
    assert ";" in message  # what is wrong; what next


@pytest.mark.parametrize("as_zip", [False, True])
def test_round_trip(tmp_path: Path, as_zip: bool) -> None:
    contents = make_contents(tmp_path)
    written = write_package(tmp_path / "out", contents, as_zip=as_zip, force=False)
    with open_package(tmp_path / "out") as package:
        assert package.manifest == written
        assert package.read_bytes("model.onnx") == MODEL_BYTES == package.model_path().read_bytes()
        assert package.golden() == contents.golden
        assert json.loads(package.read_bytes("labels.json")) == list(written.labels)
        unpacked = package.model_path()
    assert unpacked.exists() is not as_zip
    names = [entry.name for entry in written.files]
    assert "model.safetensors" not in names
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} < set(names)


@pytest.mark.parametrize("as_zip", [False, True])
def test_only_the_reports_differ_between_two_builds(tmp_path: Path, as_zip: bool) -> None:
    first = make_contents(tmp_path)
    second = replace(first, report_json='{"ms": 2}', report_html="<!doctype html>2")
    one = write_package(tmp_path / "1", first, as_zip=as_zip, force=False)
    two = write_package(tmp_path / "2", second, as_zip=as_zip, force=False)
    assert one.package_id == two.package_id
    a, b = contents_of(tmp_path / "1"), contents_of(tmp_path / "2")
    assert {name for name in a if a[name] != b[name]} == {"report.json", "report.html"}
    write_package(tmp_path / "3", first, as_zip=as_zip, force=False)
    if as_zip:
        assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()
    else:
        assert (tmp_path / "1" / "manifest.json").read_bytes() == (
            tmp_path / "3" / "manifest.json"
        ).read_bytes()


def test_another_model_has_another_id(tmp_path: Path) -> None:
    contents = make_contents(tmp_path)
    one = write_package(tmp_path / "1", contents, as_zip=False, force=False)
    contents.model.write_bytes(MODEL_BYTES + b"x")
    two = write_package(tmp_path / "2", contents, as_zip=False, force=False)
    assert one.package_id != two.package_id


def test_package_id_is_the_hash_that_the_format_document_describes(tmp_path: Path) -> None:
    path = make_package(tmp_path)
    body = json.loads((path / "manifest.json").read_bytes())
    claimed = body.pop("package_id")
    body["files"] = [entry for entry in body["files"] if entry["name"] not in ("report.json", "report.html")]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == claimed


def test_zip_is_stored_dated_sorted_and_aligned_for_another_reader(tmp_path: Path) -> None:
    path = make_package(tmp_path, as_zip=True)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        assert archive.testzip() is None
        assert archive.read("model.onnx") == MODEL_BYTES
    assert [info.filename for info in infos] == sorted(info.filename for info in infos)
    for info in infos:
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        name, extra = struct.unpack_from("<HH", raw, info.header_offset + 26)
        assert (info.header_offset + 30 + name + extra) % 64 == 0


def test_zip_made_by_another_writer_opens(tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in make_package(tmp_path).iterdir()}
    rezip(tmp_path / "other.zip", files)
    assert contents_of(tmp_path / "other.zip") == {k: v for k, v in files.items() if k != "manifest.json"}


Tamper = Callable[[Path], object]


def rewrite_manifest(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    body = json.loads((path / "manifest.json").read_bytes())
    change(body)
    (path / "manifest.json").write_text(json.dumps(body))


def forge(path: Path, name: str, /, **changes: object) -> None:
    """Change one file entry and make the package id fit, as a forger who read the format would."""
    manifest = parse_manifest((path / "manifest.json").read_bytes())
    files = [replace(e, **changes) if e.name == name else e for e in manifest.files]  # type: ignore[arg-type]
    files.sort(key=lambda entry: entry.name)
    (path / "manifest.json").write_bytes(replace(manifest, files=tuple(files)).to_json())


def flip(path: Path) -> None:
    raw = bytearray((path / "model.onnx").read_bytes())
    raw[100] ^= 1
    (path / "model.onnx").write_bytes(raw)


def link(path: Path) -> None:
    (path / "model.onnx").rename(path.parent / "elsewhere")
    (path / "model.onnx").symlink_to(path.parent / "elsewhere")


TAMPERS: dict[str, tuple[Tamper, str]] = {
    "bit flip in the model": (flip, "model.onnx"),
    "truncated model": (lambda p: os.truncate(p / "model.onnx", 50), "model.onnx"),
    "grown model": (lambda p: os.truncate(p / "model.onnx", 1 << 20), "model.onnx"),
    "extra file": (lambda p: (p / "extra.txt").write_text("x"), "extra.txt"),
    "extra folder": (lambda p: (p / "more").mkdir(), "'more' is a link or folder"),
    "missing file": (lambda p: (p / "config.json").unlink(), "config.json"),
    "missing manifest": (lambda p: (p / "manifest.json").unlink(), "manifest.json"),
    "symlink": (link, "'model.onnx' is a link or folder"),
    "pipe": (lambda p: os.mkfifo(p / "pipe"), "'pipe' is a link or folder"),
    "bad JSON": (lambda p: (p / "manifest.json").write_text("{"), "manifest.json"),
    "manifest not UTF-8": (lambda p: (p / "manifest.json").write_bytes(b'{"a": "\xff"}'), "manifest.json"),
    "manifest nested deep": (lambda p: (p / "manifest.json").write_text("[" * 100_000), "manifest.json"),
    "manifest is a list": (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json"),
    "huge manifest": (lambda p: os.truncate(p / "manifest.json", MAX_MANIFEST_BYTES + 1), "manifest.json"),
    "unknown format": (lambda p: rewrite_manifest(p, lambda b: b.update(format=2)), "format 2"),
    "changed accuracy": (
        lambda p: rewrite_manifest(p, lambda b: b.update(metrics=[{"stage": "teacher", "metrics": {}}])),
        "package_id",
    ),
    "path out of the folder": (lambda p: forge(p, "config.json", name="../config.json"), "../config.json"),
    "absolute path": (lambda p: forge(p, "config.json", name="/etc/passwd"), "/etc/passwd"),
    "backslash path": (lambda p: forge(p, "config.json", name="..\\config.json"), "config.json"),
    "dot dot": (lambda p: forge(p, "config.json", name=".."), ".."),
    "listed twice": (lambda p: forge(p, "config.json", name="labels.json"), "twice"),
    "listed twice but for case": (lambda p: forge(p, "config.json", name="Labels.json"), "twice"),
    "lists itself": (lambda p: forge(p, "config.json", name="manifest.json"), "itself"),
    "forged size": (lambda p: forge(p, "model.onnx", size=1 << 40), "model.onnx"),
    "size beyond any disk": (lambda p: forge(p, "model.onnx", size=1 << 60), "size"),
    "negative size": (lambda p: forge(p, "model.onnx", size=-1), "size"),
    "forged hash": (lambda p: forge(p, "model.onnx", sha256="0" * 64), "model.onnx"),
    "hash that is none": (lambda p: forge(p, "model.onnx", sha256="zz"), "sha256"),
}


@pytest.mark.parametrize("how", TAMPERS)
def test_tampered_folder_is_refused(tmp_path: Path, how: str) -> None:
    path = make_package(tmp_path)
    tamper, part = TAMPERS[how]
    tamper(path)
    refused(path, part)


def test_without_verification_the_bytes_are_still_checked_when_read(tmp_path: Path) -> None:
    path = make_package(tmp_path)
    flip(path)
    with (
        open_package(path, verify=False) as package,
        pytest.raises(PackageError, match=r"'model\.onnx' was changed"),
    ):
        package.read_bytes("model.onnx")


def test_zip_unpacking_checks_again(tmp_path: Path) -> None:
    path = make_package(tmp_path, as_zip=True)
    raw = path.read_bytes()
    at = raw.index(MODEL_BYTES)
    path.write_bytes(raw[:at] + b"\xff" + raw[at + 1 :])
    with (
        open_package(path, verify=False) as package,
        pytest.raises(PackageError, match=r"'model\.onnx' was changed"),
    ):
        package.model_path()


def test_labels_file_must_match(tmp_path: Path) -> None:
    path = make_package(tmp_path)
    raw = b'["light", "timer", "music"]\n'
    (path / "labels.json").write_bytes(raw)
    forge(path, "labels.json", size=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    refused(path, "labels.json")


def zip_names(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {**files, name: b"x"}


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/b", "..\\evil", "C:evil", ".hidden", "x" * 200, "ü", "dir/", "a\nb"]
)
def test_zip_with_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    files = {path.name: path.read_bytes() for path in make_package(tmp_path).iterdir()}
    rezip(tmp_path / "bad.zip", zip_names(files, name))
    refused(tmp_path / "bad.zip", "bad name")


def test_compressed_zip_is_refused_before_anything_is_inflated(tmp_path: Path) -> None:
    path = make_package(tmp_path)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in path.iterdir():
            archive.write(file, file.name)
        archive.writestr("zeros.bin", bytes(50 << 20))
    refused(tmp_path / "bomb.zip", "compressed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in make_package(tmp_path).iterdir()}
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name, data in [*files.items(), ("model.onnx", b"other")]:
            archive.writestr(name, data)
    refused(tmp_path / "two.zip", "twice")


def test_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in make_package(tmp_path).iterdir()}
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name == "model.onnx" else 0o100644) << 16
            archive.writestr(info, data)
    refused(tmp_path / "link.zip", "link")


def test_zip_with_too_many_files_is_refused(tmp_path: Path) -> None:
    rezip(tmp_path / "many.zip", {f"f{i}": b"" for i in range(70_000 // 1000)})
    refused(tmp_path / "many.zip", "directory")


@pytest.mark.parametrize("raw", [b"", b"PK", b"no zip at all, but long enough for one", bytes(1000)])
def test_what_is_no_zip_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(raw)
    refused(tmp_path / "x.zip", "zip")


def test_data_around_the_zip_is_refused(tmp_path: Path) -> None:
    raw = make_package(tmp_path, as_zip=True).read_bytes()
    for changed in (b"#!/bin/sh\n" + raw, raw + b"tail", raw[:-30]):
        (tmp_path / "x.zip").write_bytes(changed)
        refused(tmp_path / "x.zip", "zip")


def shift(raw: bytes, *, entries: int, directory: int) -> bytes:
    """The end record and central entries moved by so many bytes, everything else as it was."""
    changed = bytearray(raw)
    start = struct.unpack_from("<L", raw, len(raw) - 6)[0]
    position = start
    while raw[position : position + 4] == b"PK\1\2":
        sizes = struct.unpack_from("<3H", raw, position + 28)
        offset = struct.unpack_from("<L", raw, position + 42)[0]
        struct.pack_into("<L", changed, position + 42, offset + entries)
        position += 46 + sum(sizes)
    struct.pack_into("<L", changed, len(raw) - 6, start + directory)
    return bytes(changed)


def test_zip_with_hidden_bytes_is_refused(tmp_path: Path) -> None:
    raw = make_package(tmp_path, as_zip=True).read_bytes()
    start = struct.unpack_from("<L", raw, len(raw) - 6)[0]
    before = b"x" * 64 + shift(raw, entries=64, directory=64)
    between = shift(raw, entries=0, directory=64)
    between = between[:start] + b"x" * 64 + between[start:]
    for changed in (before, between):
        (tmp_path / "x.zip").write_bytes(changed)
        with zipfile.ZipFile(tmp_path / "x.zip") as archive:
            assert archive.testzip() is None  # another reader takes it
        refused(tmp_path / "x.zip", "gap")
    (tmp_path / "x.zip").write_bytes(raw[:-2] + b"\5\0")
    refused(tmp_path / "x.zip", "end record")


def test_no_package_there(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no package")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "manifest.json")


@pytest.fixture(scope="module")
def good_zip(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes], Manifest]:
    path = make_package(tmp_path_factory.mktemp("good"), as_zip=True)
    with open_package(path) as package:
        return path.read_bytes(), contents_of(path), package.manifest


def opens_the_same_or_not_at_all(path: Path, good: tuple[bytes, dict[str, bytes], Manifest]) -> None:
    try:
        package = open_package(path)
    except PackageError as error:
        assert "\n" not in str(error)
        return
    with package:
        assert package.manifest == good[2]
        assert {name: package.read_bytes(name) for name in good[1]} == good[1]
        assert package.model_path().read_bytes() == MODEL_BYTES


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bits_in_a_zip(
    tmp_path: Path, good_zip: tuple[bytes, dict[str, bytes], Manifest], data: st.DataObject
) -> None:
    raw = bytearray(good_zip[0])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "x.zip").write_bytes(raw)
    opens_the_same_or_not_at_all(tmp_path / "x.zip", good_zip)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_in_the_zip_directory(
    tmp_path: Path, good_zip: tuple[bytes, dict[str, bytes], Manifest], data: st.DataObject
) -> None:
    """The directory decides what is read where, so it gets more of the changes than chance would give it."""
    raw = bytearray(good_zip[0])
    start = struct.unpack_from("<L", raw, len(raw) - 6)[0]
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(start, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.zip").write_bytes(raw)
    opens_the_same_or_not_at_all(tmp_path / "x.zip", good_zip)


def test_existing_output_needs_force(tmp_path: Path) -> None:
    contents = make_contents(tmp_path)
    for as_zip in (False, True):
        out = tmp_path / f"out{as_zip}"
        write_package(out, contents, as_zip=as_zip, force=False)
        with pytest.raises(OutputError, match="--force"):
            write_package(out, contents, as_zip=as_zip, force=False)
        write_package(out, replace(contents, report_json="{}"), as_zip=as_zip, force=True)
        assert contents_of(out)["report.json"] == b"{}"


def test_force_does_not_delete_a_folder_that_is_no_package(tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter").write_text("x")
    with pytest.raises(OutputError, match="no package"):
        write_package(precious, make_contents(tmp_path), as_zip=False, force=True)
    assert (precious / "chapter").exists()


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_zip: bool, error: BaseException
) -> None:
    contents = make_contents(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(package_module, "dump_golden", fail)
    with pytest.raises(DiskFullError if isinstance(error, OSError) else KeyboardInterrupt):
        write_package(tmp_path / "new" / "out", contents, as_zip=as_zip, force=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_contents_that_no_reader_accepts_are_not_written(tmp_path: Path) -> None:
    contents = make_contents(tmp_path, labels=("one", "one", "two"))
    with pytest.raises(PackageError, match="labels"):
        write_package(tmp_path / "out", contents, as_zip=False, force=False)
    assert not (tmp_path / "out").exists()


def test_atomic_dir_keeps_the_old_folder_when_the_body_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_dir(out, force=False) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_dir(out, force=True) as folder:
        (folder / "a").write_text("new")
        raise ZeroDivisionError
    assert (out / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_atomic_dir_puts_the_old_folder_back_when_the_last_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    rename = Path.rename

    def fail(path: Path, to: Path) -> Path:
        if path.suffix == ".tmp":
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError), atomic_dir(out, force=True) as folder:
        (folder / "a").write_text("new")
    assert (out / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_atomic_outputs_get_the_users_permissions(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        with atomic_dir(tmp_path / "d", force=False):
            pass
        with atomic_file(tmp_path / "f", force=False):
            pass
    finally:
        os.umask(umask)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_atomic_dir_does_not_replace_what_holds_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(OutputError, match="working"), atomic_dir(tmp_path / "a", force=True):
        pass


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), atomic_dir(tmp_path / "file" / "out", force=False):
        pass


def test_link_at_the_output_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OutputError, match="not a plain folder"), atomic_dir(tmp_path / "link", force=True):
        pass
    assert (tmp_path / "real").is_dir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_parent(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with (
        pytest.raises(OutputError, match="cannot write"),
        atomic_dir(tmp_path / "locked" / "out", force=False),
    ):
        pass


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EACCES, OutputError),
        (errno.EROFS, OutputError),
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
    ],
)
def test_what_the_system_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[OutputError]
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(error) as caught, atomic_dir(tmp_path / "out", force=False):
        pass
    assert type(caught.value) is error
    assert str(tmp_path / "out") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_input_is_not_called_an_output_error(tmp_path: Path) -> None:
    contents = make_contents(tmp_path)
    shutil.move(contents.model, tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        write_package(tmp_path / "deep" / "out", contents, as_zip=False, force=False)


def test_file_entry_lookup_names_the_missing_file() -> None:
    manifest = make_manifest(files=(FileEntry("a", 1, "0" * 64),))
    with pytest.raises(PackageError, match="'b'"):
        manifest.file("b")
