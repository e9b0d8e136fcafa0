"""Reading a checkpoint folder: config.json, model.safetensors, compression.json and quantized.safetensors.

Knows files, dtypes and shapes; `families.py` knows which tensor plays which part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebert_targets.encoder import (
    FloatArray,
    LayerNorm,
    Linear,
    QuantizedTensor,
    Range,
    StaticRanges,
    Weight,
)
from edgebert_targets.errors import ArtifactError, MissingExtraError, UnsupportedModelError, one_line

COMPRESSION_FORMAT = 1
MAX_JSON_BYTES = 64 * 2**20
FLOAT_DTYPES = ("F16", "F32", "F64")
DYNAMIC = "int8-dynamic-per-token-asymmetric"
STATIC = "int8-static-per-tensor-asymmetric"
SMALLEST_SCALE = 1e-30  # of a static range: float32 holds its inverse
Stored = Mapping[str, tuple[str, np.ndarray[Any, Any]]]  # safetensors dtype and array by name


@dataclass(frozen=True)
class Checkpoint:
    """`floats` and `quantized` by parameter name; a quantised parameter is in both.

    `ranges` by module name; None: layers quantise their inputs at run time.
    """

    folder: Path
    config: Mapping[str, Any]
    floats: Mapping[str, FloatArray]
    quantized: Mapping[str, QuantizedTensor]
    ranges: Mapping[str, StaticRanges] | None
    tokenizer_json: Path | None

    def prefix(self, prefix: str) -> str:
        """`prefix`, or "" where the encoder was saved alone (AutoModel) and its names begin without it."""
        alone = f"{prefix}embeddings.word_embeddings.weight" not in self.floats
        return "" if alone and "embeddings.word_embeddings.weight" in self.floats else prefix

    def array(self, name: str, *shape: int) -> FloatArray:
        """The float32 tensor `name`, which must have `shape`; a size of -1 may be anything."""
        value = self.floats.get(name)
        if value is None:
            raise UnsupportedModelError(
                f"{self.folder.name}: no tensor '{name}'; save the model and its head with save_pretrained"
            )
        if len(value.shape) != len(shape) or any(
            want not in (-1, have) for have, want in zip(value.shape, shape, strict=True)
        ):
            raise ArtifactError(
                f"{self.folder.name}: '{name}' has shape {value.shape}, config.json implies {shape};"
                " save the checkpoint again"
            )
        return value

    def weight(self, name: str, *shape: int) -> Weight:
        """The INT8 tensor `name` when there is one, else the float32 one."""
        value = self.array(name, *shape)
        quantized = self.quantized.get(name)
        if quantized is not None and quantized.values.shape != value.shape:
            raise ArtifactError(
                f"{self.folder.name}: '{name}' is {quantized.values.shape} in quantized.safetensors and"
                f" {value.shape} in model.safetensors; quantise the checkpoint again"
            )
        return value if quantized is None else quantized

    def linear(self, module: str, outputs: int, inputs: int) -> Linear:
        weight, bias = self.weight(f"{module}.weight", outputs, inputs), self.array(f"{module}.bias", outputs)
        if self.ranges is None or not isinstance(weight, QuantizedTensor):
            return Linear(module, weight, bias)
        ranges = self.ranges.get(module)
        if ranges is None:
            raise ArtifactError(
                f"{self.folder.name}: no tensor '{module}.input.scale' in quantized.safetensors;"
                " quantise the checkpoint again"
            )
        return Linear(module, weight, bias, ranges)

    def norm(self, module: str, size: int, eps: float) -> LayerNorm:
        return LayerNorm(
            module, self.array(f"{module}.weight", size), self.array(f"{module}.bias", size), eps
        )


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read every file of `folder`. Raises ArtifactError, UnsupportedModelError and MissingExtraError."""
    config = read_json(folder / "config.json")
    floats = _floats(folder / "model.safetensors")
    quantized, ranges = _quantized(folder)
    tokenizer = folder / "tokenizer.json"
    return Checkpoint(folder, config, floats, quantized, ranges, tokenizer if tokenizer.is_file() else None)


def parse_json(path: Path) -> Any:
    """The JSON value in `path`. Raises ArtifactError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ArtifactError(f"{path}: larger than {MAX_JSON_BYTES} bytes; give a Hugging Face folder")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror}; give a folder written by save_pretrained"
        ) from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: not valid JSON; save the checkpoint again") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ArtifactError."""
    value = parse_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: holds no JSON object; save the checkpoint again")
    return value


def _tensors(path: Path) -> Stored:
    """Safetensors dtype name and array of every tensor in `path` that numpy can hold."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtraError("safetensors is not installed; run: pip install 'edgebert[build]'") from None
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; save the model with save_pretrained (safetensors)")
    try:
        with safe_open(path, framework="numpy") as stored:
            dtypes = {name: str(stored.get_slice(name).get_dtype()) for name in stored.keys()}  # noqa: SIM118
            if "BF16" in dtypes.values():
                raise UnsupportedModelError(f"{path}: bfloat16 weights; save the model as float32 first")
            return {name: (dtype, stored.get_tensor(name)) for name, dtype in dtypes.items()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path}: damaged ({one_line(error)}); save the checkpoint again") from None


def _floats(path: Path) -> dict[str, FloatArray]:
    floats: dict[str, FloatArray] = {}
    for name, (dtype, value) in _tensors(path).items():
        if dtype not in FLOAT_DTYPES:
            continue  # position_ids and the like
        floats[name] = np.ascontiguousarray(value, dtype=np.float32)
        if not np.isfinite(floats[name]).all():
            raise ArtifactError(f"{path}: '{name}' holds NaN or infinity; train or export the model again")
    return floats


def _quantized(folder: Path) -> tuple[dict[str, QuantizedTensor], dict[str, StaticRanges] | None]:
    """What quantized.safetensors holds, checked against compression.json; empty when not quantised."""
    record = folder / "compression.json"
    path = folder / "quantized.safetensors"
    if not record.is_file():
        if path.exists():
            raise ArtifactError(f"{path}: no compression.json beside it; quantise the checkpoint again")
        return {}, None
    compression = read_json(record)
    if compression.get("format") != COMPRESSION_FORMAT:
        raise ArtifactError(
            f"{record}: format {compression.get('format')!r}, this version reads {COMPRESSION_FORMAT};"
            " compress again"
        )
    quantization = compression.get("quantization")
    if quantization is None:
        return {}, None
    names = quantization.get("tensors") if isinstance(quantization, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ArtifactError(f"{record}: 'quantization' lists no tensors; quantise the checkpoint again")
    activations = quantization.get("activations", DYNAMIC)
    if activations not in (DYNAMIC, STATIC):
        raise ArtifactError(
            f"{record}: activations {activations!r}, this version reads '{DYNAMIC}' and '{STATIC}';"
            " compress again"
        )
    stored = _tensors(path)
    known = {part for name in names for part in (name, f"{name}.scale")}
    modules = _modules_with_ranges(stored) if activations == STATIC else []
    extra = sorted(set(stored) - known - {name for module in modules for name in _range_names(module)})
    if extra:
        raise ArtifactError(f"{path}: '{extra[0]}' is not listed in compression.json; quantise again")
    tensors = {name: _quantized_tensor(path, name, stored) for name in names}
    ranges = {module: _static_ranges(path, module, stored) for module in modules}
    return tensors, ranges if activations == STATIC else None


def _quantized_tensor(path: Path, name: str, stored: Stored) -> QuantizedTensor:
    for part, want in ((name, "I8"), (f"{name}.scale", "F32")):
        _check_dtype(path, part, want, stored)
    values, scale = stored[name][1], stored[f"{name}.scale"][1]
    if values.ndim != 2 or scale.shape != values.shape[:1]:
        raise ArtifactError(
            f"{path}: '{name}' has shape {values.shape} and {scale.shape} scales, not one a row; requantise"
        )
    if values.size and values.min() < -127:
        raise ArtifactError(f"{path}: '{name}' holds -128, outside [-127, 127]; quantise again")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ArtifactError(f"{path}: '{name}.scale' holds a value that is not positive; quantise again")
    return QuantizedTensor(np.ascontiguousarray(values), np.ascontiguousarray(scale))


def _check_dtype(path: Path, name: str, want: str, stored: Stored) -> None:
    if name not in stored:
        raise ArtifactError(f"{path}: no tensor '{name}'; quantise the checkpoint again")
    if stored[name][0] != want:
        raise ArtifactError(f"{path}: '{name}' is {stored[name][0]}, not {want}; quantise again")


def _range_names(module: str) -> tuple[str, ...]:
    return tuple(f"{module}.{end}.{part}" for end in ("input", "output") for part in ("scale", "zero_point"))


def _modules_with_ranges(stored: Stored) -> list[str]:
    """Which they should be is for `Checkpoint.linear` to say."""
    return [name.removesuffix(".input.scale") for name in stored if name.endswith(".input.scale")]


def _static_ranges(path: Path, module: str, stored: Stored) -> StaticRanges:
    return StaticRanges(_range(path, f"{module}.input", stored), _range(path, f"{module}.output", stored))


def _range(path: Path, name: str, stored: Stored) -> Range:
    for part, want in ((f"{name}.scale", "F32"), (f"{name}.zero_point", "I8")):
        _check_dtype(path, part, want, stored)
        if stored[part][1].shape != (1,):
            raise ArtifactError(
                f"{path}: '{part}' has shape {stored[part][1].shape}, not (1,); quantise again"
            )
    scale, zero_point = stored[f"{name}.scale"][1][0], stored[f"{name}.zero_point"][1][0]
    if not SMALLEST_SCALE <= scale < np.inf:
        raise ArtifactError(
            f"{path}: '{name}.scale' is {scale}, outside [{SMALLEST_SCALE}, inf); quantise again"
        )
    return Range(float(scale), int(zero_point))
