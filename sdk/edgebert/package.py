"""Packages: write one whole, open one safely (docs/formats.md, "Package 1")."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

from edgebert.archive import Archive, open_archive, write_zip
from edgebert.atomic import atomic_dir, atomic_file
from edgebert.errors import OutputError, PackageError
from edgebert.golden import FILE as GOLDEN_FILE
from edgebert.golden import GoldenExample, GoldenForm, dump_golden, parse_golden
from edgebert.manifest import AGAIN, MAX_MANIFEST_BYTES, FileEntry, Manifest, parse_manifest
from edgebert.strict_json import parse_json
from edgebert.tasks.package import outputs_of, task_of_package
from edgebert.tokenizer import TextTokenizer

MANIFEST = "manifest.json"
REQUIRED = ("tokenizer.json", "labels.json", GOLDEN_FILE, "report.json", "report.html")
SIDE_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
MAX_READ_BYTES = 256 << 20
CHUNK = 1 << 20


@dataclass(frozen=True)
class PackageContents:
    """What goes into a package. `manifest.files` is ignored: it is made from the files.

    `checkpoint`: the Hugging Face folder whose tokenizer and config files are copied.
    """

    manifest: Manifest
    model: Path
    checkpoint: Path
    golden: tuple[GoldenExample, ...]
    report_json: str
    report_html: str


def write_package(out: Path, contents: PackageContents, *, as_zip: bool, force: bool) -> Manifest:
    """Write a folder, or one stored zip, at `out` and return its manifest; nothing is left there on failure.

    Raises OutputError (exists without `force`, cannot be written, or an existing folder is no package),
    DiskFullError, PackageError (contents that no reader would accept).
    """
    if as_zip:
        with (
            atomic_file(out, force) as zipped,
            tempfile.TemporaryDirectory(dir=zipped.parent, prefix=".") as folder,
        ):
            manifest = _write_files(Path(folder), contents)
            write_zip(Path(folder), zipped)
            return manifest
    if force and out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise OutputError(f"'{out}' is no package and is not replaced; choose another folder")
    with atomic_dir(out, force) as folder:
        return _write_files(folder, contents)


class Package:
    """An open package. Close it, or use it as a context manager, to remove what was unpacked."""

    def __init__(self, path: Path, archive: Archive, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._archive = archive
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None

    def read_bytes(self, name: str) -> bytes:
        """Content of one side file, checked against its hash. Raises PackageError."""
        entry = self.manifest.file(name)
        if entry.size > MAX_READ_BYTES:
            raise PackageError(
                f"package file '{name}' has {entry.size} bytes, too many to read at once; {AGAIN}"
            )
        with self._archive.open(name) as file:
            raw = file.read(entry.size + 1)
        _check(entry, len(raw), hashlib.sha256(raw).hexdigest())
        return raw

    def model_path(self) -> Path:
        """The model as a file; a zip's is unpacked once, to a temporary folder. Raises PackageError."""
        entry = self.manifest.file(self.manifest.model_file)
        there = self._archive.path(entry.name)
        if there is not None:
            return there
        if self._unpacked is None:
            self._unpacked = self._unpack(entry)
        return Path(self._unpacked.name) / entry.name

    def _unpack(self, entry: FileEntry) -> tempfile.TemporaryDirectory[str]:
        folder = tempfile.TemporaryDirectory(prefix="edgebert-")
        try:
            with (
                self._archive.open(entry.name) as source,
                (Path(folder.name) / entry.name).open("wb") as target,
            ):
                _check(entry, *_copy_hashed(source, target))
        except BaseException:
            folder.cleanup()
            raise
        return folder

    def golden(self) -> tuple[GoldenExample, ...]:
        """The golden examples. Raises PackageError."""
        return parse_golden(self.read_bytes(GOLDEN_FILE), self.golden_form)

    @property
    def golden_form(self) -> GoldenForm:
        """What a golden example of this package's task holds."""
        task = task_of_package(self.manifest.task)
        outputs = outputs_of(task, self.manifest.labels)
        return GoldenForm(outputs, task.per_token, task.measured_against_model)

    def tokenizer(self) -> TextTokenizer:
        """The tokenizer with the manifest's settings. Raises ModelError."""
        settings = self.manifest.tokenizer
        return TextTokenizer.from_json(
            self.read_bytes("tokenizer.json"),
            max_length=settings.max_length,
            pad_id=settings.pad_id,
            token_types=settings.token_types,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file, the manifest included."""
        return dict(sorted(self._archive.sizes.items()))

    def close(self) -> None:
        """Remove the temporary folder, close the zip; harmless twice."""
        if self._unpacked is not None:
            self._unpacked.cleanup()
            self._unpacked = None
        self._archive.close()

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_package(path: Path, *, verify: bool = True) -> Package:
    """Open the folder or zip at `path` and check structure, manifest, list, sizes and (`verify`) hashes.

    Raises PackageError; its one line names the file and the next step.
    """
    archive = open_archive(path)
    try:
        manifest = _read_manifest(archive, path)
        _check_list(archive, manifest)
        package = Package(path, archive, manifest)
        if verify:
            for entry in manifest.files:
                with archive.open(entry.name) as file:
                    _check(entry, *_copy_hashed(file, None))
        _check_labels(package)
        return package
    except BaseException:
        archive.close()
        raise


def _write_files(folder: Path, contents: PackageContents) -> Manifest:
    manifest = contents.manifest
    shutil.copyfile(contents.model, folder / manifest.model_file)
    for name in SIDE_FILES:
        if (contents.checkpoint / name).is_file():
            shutil.copyfile(contents.checkpoint / name, folder / name)
    (folder / "labels.json").write_bytes((json.dumps(manifest.labels, ensure_ascii=False) + "\n").encode())
    (folder / GOLDEN_FILE).write_bytes(dump_golden(contents.golden))
    (folder / "report.json").write_bytes(contents.report_json.encode())
    (folder / "report.html").write_bytes(contents.report_html.encode())
    names = sorted(path.name for path in folder.iterdir())
    manifest = replace(manifest, files=tuple(_entry(folder / name) for name in names))
    raw = manifest.to_json()
    (folder / MANIFEST).write_bytes(raw)
    parse_manifest(raw)
    open_package(folder).close()  # what a reader would refuse must not be written
    return manifest


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        size, sha256 = _copy_hashed(file, None)
    return FileEntry(path.name, size, sha256)


def _copy_hashed(source: IO[bytes], target: IO[bytes] | None) -> tuple[int, str]:
    """Size and SHA-256 of `source`, which is written to `target` on the way."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return size, digest.hexdigest()


def _check(entry: FileEntry, size: int, sha256: str) -> None:
    if size != entry.size:
        raise PackageError(f"package file '{entry.name}' has {size} bytes instead of {entry.size}; {AGAIN}")
    if sha256 != entry.sha256:
        change = f"SHA-256 {sha256[:12]}…, not {entry.sha256[:12]}…"
        raise PackageError(f"package file '{entry.name}' was changed ({change}); {AGAIN}")


def _read_manifest(archive: Archive, path: Path) -> Manifest:
    size = archive.sizes.get(MANIFEST)
    if size is None:
        raise PackageError(f"'{path}' is no package: it has no {MANIFEST}; give the output of edgebert build")
    if size > MAX_MANIFEST_BYTES:
        raise PackageError(f"{MANIFEST} has {size} bytes, at most {MAX_MANIFEST_BYTES} are allowed; {AGAIN}")
    with archive.open(MANIFEST) as file:
        return parse_manifest(file.read(size))


def _check_list(archive: Archive, manifest: Manifest) -> None:
    """The files that are there are those of the manifest, with their sizes."""
    listed = {entry.name: entry for entry in manifest.files}
    for name in (manifest.model_file, *REQUIRED):
        if name not in listed:
            raise PackageError(f"{MANIFEST} does not list '{name}', which every package has; {AGAIN}")
    _refuse_first(sorted(set(archive.sizes) - set(listed) - {MANIFEST}), "is not in the manifest")
    _refuse_first(sorted(set(listed) - set(archive.sizes)), "is missing")
    for entry in manifest.files:
        _check(entry, archive.sizes[entry.name], entry.sha256)


def _refuse_first(names: Sequence[str], what: str) -> None:
    if names:
        raise PackageError(f"package file '{names[0]}' {what}; {AGAIN}")


def _check_labels(package: Package) -> None:
    if parse_json(package.read_bytes("labels.json"), "labels.json") != list(package.manifest.labels):
        raise PackageError(f"labels.json does not match the labels of {MANIFEST}; {AGAIN}")
