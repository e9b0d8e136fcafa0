"""The manifest of a package: its fields, canonical form and identity (docs/formats.md, "Package 1")."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgebert.errors import PackageError
from edgebert.strict_json import Fields, parse_json

FORMAT = 1
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 64
REPORT_FILES = ("report.json", "report.html")
# What the gate of each task may be about.
METRICS: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("accuracy", "macro_f1"),
    "token-classification": ("f1", "word_accuracy"),
    "question-answering": ("f1", "exact_match"),
    "embedding": ("cosine",),
}
WITHOUT_LABELS = ("question-answering", "embedding")
AGAIN = "download or build the package again"


@dataclass(frozen=True)
class FileEntry:
    """One file of the package: size in bytes, SHA-256 in lower-case hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Backend:
    name: str
    version: str


@dataclass(frozen=True)
class Cpu:
    """Where the model is meant to run; one of `features_any` must be present when any are named."""

    architectures: tuple[str, ...]
    features_any: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputTensor:
    """An input of the model; a dimension is a fixed length or the name of a free one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class TokenizerSettings:
    """`max_length` in tokens, special ones included. `token_types` false: the model takes zeros for them."""

    max_length: int
    pad_id: int
    token_types: bool
    lowercase: bool
    truncation: str = "longest_first"
    padding_side: str = "right"


@dataclass(frozen=True)
class Source:
    """The model and data that the package came from. `data`: SHA-256 by role ("train", "eval")."""

    model: str
    model_sha256: str
    data: Mapping[str, str]


@dataclass(frozen=True)
class StageMetrics:
    stage: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Gate:
    """The package passes when `metric` is at least `reference - max_drop`, all as fractions of one."""

    metric: str
    reference: float
    max_drop: float

    def allows(self, value: float) -> bool:
        # The slack absorbs the rounding of the subtraction, far below one example of any data set.
        return value >= self.reference - self.max_drop - 1e-9


@dataclass(frozen=True)
class Manifest:
    """What is in a package. `files` is filled by `write_package`, sorted by name."""

    task: str
    labels: tuple[str, ...]
    target: str
    backend: Backend
    cpu: Cpu
    model_file: str
    inputs: tuple[InputTensor, ...]
    lengths: tuple[int, ...]
    tokenizer: TokenizerSettings
    source: Source
    recipe: Mapping[str, Any]
    seeds: Mapping[str, int]
    metrics: tuple[StageMetrics, ...]
    gate: Gate
    golden_tolerance: float
    files: tuple[FileEntry, ...] = ()

    @property
    def package_id(self) -> str:
        """SHA-256 of the canonical manifest without the reports' entries: they hold measured times."""
        body = self._body()
        body["files"] = [entry for entry in body["files"] if entry["name"] not in REPORT_FILES]
        return hashlib.sha256(canonical_json(body)).hexdigest()

    def file(self, name: str) -> FileEntry:
        """The entry of `name`. Raises PackageError."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise PackageError(f"the package has no file '{name}'; {AGAIN}")

    def to_json(self) -> bytes:
        """Bytes of manifest.json. Raises PackageError for numbers that JSON has no form for."""
        body = {**self._body(), "package_id": self.package_id}
        return (
            json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        ).encode()

    def _body(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def canonical_json(value: object) -> bytes:
    """Sorted keys, no spaces, UTF-8 without escapes, shortest floats; ValueError for NaN and infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def parse_manifest(raw: bytes) -> Manifest:
    """Read manifest.json from its bytes, checking every field and the package id. Raises PackageError."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise PackageError(
            f"manifest.json has {len(raw)} bytes, at most {MAX_MANIFEST_BYTES} are allowed; {AGAIN}"
        )
    value = parse_json(raw, "manifest.json")
    if isinstance(value, dict) and value.get("format") != FORMAT:
        raise PackageError(
            f"manifest.json has format {repr(value.get('format'))[:40]}, this version reads {FORMAT}; "
            "update edgebert or build the package again"
        )
    fields = Fields(value, "manifest.json")
    fields.integer("format")
    claimed = fields.sha256("package_id")
    task = fields.text("task")
    if task not in METRICS:
        raise PackageError(
            f"manifest.json is for the task {repr(task)[:60]}, which is not known here; update edgebert"
        )
    manifest = Manifest(
        task=task,
        labels=fields.texts("labels"),
        target=fields.text("target"),
        backend=_backend(fields.object("backend")),
        cpu=_cpu(fields.object("cpu")),
        model_file=fields.file_name("model_file"),
        inputs=tuple(_input(item) for item in fields.objects("inputs")),
        lengths=fields.integers("lengths"),
        tokenizer=_tokenizer(fields.object("tokenizer")),
        source=_source(fields.object("source")),
        recipe=fields.free("recipe"),
        seeds=fields.object("seeds").integer_map(),
        metrics=tuple(_stage(item) for item in fields.objects("metrics")),
        gate=_gate(fields.object("gate"), task),
        golden_tolerance=fields.number("golden_tolerance"),
        files=tuple(_file(item) for item in fields.objects("files")),
    )
    fields.finish()
    _check_meaning(manifest)
    if manifest.package_id != claimed:
        raise PackageError(
            f"manifest.json was changed: it does not match its package_id {claimed[:12]}…; {AGAIN}"
        )
    return manifest


def _backend(fields: Fields) -> Backend:
    return fields.done(Backend(fields.text("name"), fields.text("version")))


def _cpu(fields: Fields) -> Cpu:
    return fields.done(Cpu(fields.texts("architectures"), fields.texts("features_any")))


def _input(fields: Fields) -> InputTensor:
    return fields.done(InputTensor(fields.text("name"), fields.text("dtype"), fields.shape("shape")))


def _tokenizer(fields: Fields) -> TokenizerSettings:
    settings = TokenizerSettings(
        max_length=fields.integer("max_length", low=3, high=1 << 20),
        pad_id=fields.integer("pad_id"),
        token_types=fields.flag("token_types"),
        lowercase=fields.flag("lowercase"),
        truncation=fields.choice("truncation", "longest_first"),
        padding_side=fields.choice("padding_side", "right"),
    )
    return fields.done(settings)


def _source(fields: Fields) -> Source:
    model, sha256 = fields.text("model"), fields.sha256("model_sha256")
    return fields.done(Source(model, sha256, fields.object("data").sha256_map()))


def _stage(fields: Fields) -> StageMetrics:
    return fields.done(StageMetrics(fields.text("stage"), fields.object("metrics").number_map()))


def _gate(fields: Fields, task: str) -> Gate:
    return fields.done(
        Gate(
            fields.choice("metric", *METRICS[task]),
            fields.number("reference"),
            fields.number("max_drop"),
        )
    )


def _file(fields: Fields) -> FileEntry:
    return fields.done(FileEntry(fields.file_name("name"), fields.integer("size"), fields.sha256("sha256")))


def _check_meaning(manifest: Manifest) -> None:
    names = [entry.name for entry in manifest.files]
    if len(names) > MAX_FILES:
        raise PackageError(
            f"manifest.json lists {len(names)} files, at most {MAX_FILES} are allowed; {AGAIN}"
        )
    if len({name.lower() for name in names}) != len(names) or "manifest.json" in map(str.lower, names):
        raise PackageError(f"manifest.json lists a file twice, or itself; {AGAIN}")
    if names != sorted(names):
        raise PackageError(f"manifest.json lists its files out of order; {AGAIN}")
    if manifest.task in WITHOUT_LABELS:
        if manifest.labels:
            raise PackageError(f"manifest.json has labels, which {manifest.task} does not; {AGAIN}")
    elif len(manifest.labels) < 2 or len(set(manifest.labels)) != len(manifest.labels):
        raise PackageError(f"manifest.json must have two or more different labels; {AGAIN}")
    if list(manifest.lengths) != sorted(set(manifest.lengths)) or 0 in manifest.lengths:
        raise PackageError(f"manifest.json must list lengths in ascending order; {AGAIN}")
