"""Every figure that a report holds, as frozen dataclasses, with a strict JSON form (`report.json`).

Shares (accuracy, agreement, sparsity) are in [0, 1], times in milliseconds, sizes in bytes.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from edgebert.devices.base import DeviceFacts
from edgebert.errors import PackageError
from edgebert.machine import MachineFacts

REPORT_FORMAT = 1
MAX_SAMPLES = 200

T = TypeVar("T")


@dataclass(frozen=True)
class Latency:
    """One engine's timings at one length and thread count.

    `peak_memory_bytes`: peak resident memory of the whole measuring process, Python included.
    `samples_ms`: at most `MAX_SAMPLES` of the run times, ascending, evenly spaced in rank.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    throughput_per_s: float
    runs: int
    threads: int
    length: int
    batch: int
    peak_memory_bytes: int
    load_ms: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class BenchFigures:
    """The artifact beside its baseline (the fp32 teacher in ONNX Runtime), measured in turns.

    `speed_ratio`: median over rounds of baseline time / artifact time; over 1 means the artifact is faster.
    """

    artifact: Latency
    baseline: Latency | None
    speed_ratio: float | None
    where: str
    note: str


@dataclass(frozen=True)
class StageFigures:
    """One stage of the build. `accuracy_cost` is the previous stage's accuracy minus this one's.

    `speed_vs_previous`: over 1 means faster than the stage before; None where it was not measured.
    """

    name: str
    kind: str
    description: str
    seconds: float
    accuracy: float
    accuracy_cost: float
    size_raw_bytes: int
    size_zip_bytes: int
    latency_p50_ms: float | None
    speed_vs_previous: float | None
    sparsity: float


@dataclass(frozen=True)
class ValidationFigures:
    """The accuracy gate. `where` says in words what ran where ("Validated on this x86 machine …")."""

    examples: int
    metric: str
    teacher: float
    compressed_pytorch: float
    artifact: float
    agreement_with_pytorch: float
    teacher_agreement: float
    max_logit_difference: float
    drop: float
    max_drop: float
    passed: bool
    guilty_stage: str | None
    where: str


@dataclass(frozen=True)
class SizeFigures:
    """`parts`: (name, bytes) of the artifact's parts. `package_bytes`: the package without its reports."""

    parts: tuple[tuple[str, int], ...]
    model_raw: int
    model_zip: int
    package_bytes: int


@dataclass(frozen=True)
class LayerFigures:
    """One stored weight of the artifact; `part` groups them ("embeddings", "layer 0" …, "head")."""

    name: str
    part: str
    dtype: str
    shape: tuple[int, ...]
    sparsity: float


@dataclass(frozen=True)
class DatasetFigures:
    """A data file or set: `role` is "train" or "eval"; `sha256` is of its content."""

    name: str
    role: str
    examples: int
    sha256: str


@dataclass(frozen=True)
class DeviceBench:
    """One length and thread count on a device: `latency` of a real one, `instructions` of an emulated one.

    `instructions`: of one inference. `warnings`: what makes the figures doubtful, a line each.
    """

    length: int
    threads: int
    latency: Latency | None
    instructions: int | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostComparison:
    """The same examples here and on the device. `identical`: examples whose logits are equal to the bit."""

    examples: int
    identical: int
    same_class: int
    max_difference: float
    host_kernels: str
    explanation: str


@dataclass(frozen=True)
class DeviceFigures:
    """What a device computed. `examples` of the data's `available` ones; `accuracy`: the metric there.

    `wrong_tokens`: examples to which the device's own tokenizer gives other ids; None where it has none.
    `golden_wrong`: golden examples with another class or other ids there. `host` None: not runnable here.
    """

    facts: DeviceFacts
    runtime: str
    kernels: str
    examples: int
    available: int
    accuracy: float | None
    wrong_tokens: int | None
    golden_examples: int
    golden_wrong: int
    golden_max_difference: float
    host: HostComparison | None
    bench: tuple[DeviceBench, ...]
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything that `report.html` shows and `report.json` holds, for one target."""

    task: str
    target: str
    backend: str
    backend_version: str
    model: str
    labels: int
    seed: int
    recipe: Mapping[str, Any]
    created_with: Mapping[str, str]
    machine: MachineFacts
    datasets: tuple[DatasetFigures, ...]
    stages: tuple[StageFigures, ...]
    validation: ValidationFigures
    bench: tuple[BenchFigures, ...]
    size: SizeFigures
    layers: tuple[LayerFigures, ...]
    notes: tuple[str, ...]
    device: DeviceFigures | None = None
    format: int = REPORT_FORMAT

    def to_dict(self) -> dict[str, Any]:
        return to_dict(self)

    @staticmethod
    def from_dict(data: object) -> Report:
        """The inverse of `to_dict`. Raises PackageError naming the first field that is wrong."""
        report = from_dict(Report, data, "report")
        if report.format != REPORT_FORMAT:
            raise PackageError(
                f"report format {report.format} is unknown; this version reads format {REPORT_FORMAT}: "
                "upgrade edgebert"
            )
        return report


def to_dict(figures: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values: dicts, lists, strings, numbers, booleans, None."""
    return {field.name: plain(getattr(figures, field.name)) for field in fields(figures)}


def plain(value: object) -> Any:
    """`value` as JSON values. Raises ValueError for a number that JSON has no form for."""
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written to a report")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a {type(value).__name__} cannot be written to a report")


def from_dict(kind: type[T], data: object, where: str) -> T:
    """A dataclass of type `kind` from JSON values: none unknown, every type right, every field present.

    Fields that are None by default came later and may be missing.
    """
    if not isinstance(data, Mapping):
        raise PackageError(f"{where} is {shown(data)}, not an object; build the package again")
    hints = get_type_hints(kind)
    later = {field.name for field in fields(cast(Any, kind)) if field.default is None}
    unknown, missing = sorted(set(data) - set(hints)), sorted(set(hints) - set(data) - later)
    if unknown:
        raise PackageError(f"{where} has the unknown field {shown(unknown[0])}; build the package again")
    if missing:
        raise PackageError(f"{where} lacks the field {shown(missing[0])}; build the package again")
    return kind(**{name: decode(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def decode(hint: Any, value: object, where: str) -> Any:
    """`value` as the type `hint` describes; PackageError with the path `where` when it is something else."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in get_args(hint) if arg is not type(None))
        return None if value is None else decode(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return decode_tuple(get_args(hint), value, where)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        item = get_args(hint)[1]
        return {str(key): decode(item, entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        return from_dict(cast(type[Any], hint), value, where)
    return decode_plain(hint, value, where)


def decode_plain(hint: Any, value: object, where: str) -> Any:
    """A string, number, boolean or, where `hint` is Any, whatever JSON gave. Whole numbers pass as floats."""
    if hint is float and isinstance(value, float) and math.isfinite(value):
        return value
    if hint is float and type(value) is int and abs(value) <= 2**53:
        return float(value)
    if hint is Any or (hint in (bool, int, str) and type(value) is hint):
        return value
    raise PackageError(f"{where} is {shown(value)}, which does not belong there; build the package again")


def decode_tuple(args: tuple[Any, ...], value: list[object], where: str) -> tuple[Any, ...]:
    """A list as a tuple: `args` is (type, ...) or one type an item."""
    kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        raise PackageError(f"{where} has {len(value)} items, not {len(kinds)}; build the package again")
    return tuple(
        decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def shown(value: object) -> str:
    """A value for an error line, cut so that hostile input cannot flood it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
