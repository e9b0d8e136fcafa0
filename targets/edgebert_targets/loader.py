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

from edgebert_targets.encoder import FloatArray, LayerNorm, Linear, QuantizedTensor, Weight
from edgebert_targets.errors import ArtifactError, MissingExtraError, UnsupportedModelError, one_line

COMPRESSION_FORMAT = 1
MAX_JSON_BYTES = 64 * 2**20
FLOAT_DTYPES = ("F16", "F32", "F64")


@dataclass(frozen=True)
class Checkpoint:
    """`floats` and `quantized` by parameter name; a quantised parameter is in both."""

    folder: Path
    config: Mapping[str, Any]
    floats: Mapping[str, FloatArray]
    quantized: Mapping[str, QuantizedTensor]
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
        return Linear(
            module,
            self.weight(f"{module}.weight", outputs, inputs),
            self.array(f"{module}.bias", outputs),
        )

    def norm(self, module: str, size: int, eps: float) -> LayerNorm:
        return LayerNorm(
            module, self.array(f"{module}.weight", size), self.array(f"{module}.bias", size), eps
        )


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read every file of `folder`. Raises ArtifactError, UnsupportedModelError and MissingExtraError."""
    config = read_json(folder / "config.json")
    floats = _floats(folder / "model.safetensors")
    tokenizer = folder / "tokenizer.json"
    return Checkpoint(folder, config, floats, _quantized(folder), tokenizer if tokenizer.is_file() else None)


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


def _tensors(path: Path) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
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


def _quantized(folder: Path) -> dict[str, QuantizedTensor]:
    """What quantized.safetensors holds, checked against compression.json; empty when not quantised."""
    record = folder / "compression.json"
    path = folder / "quantized.safetensors"
    if not record.is_file():
        if path.exists():
            raise ArtifactError(f"{path}: no compression.json beside it; quantise the checkpoint again")
        return {}
    compression = read_json(record)
    if compression.get("format") != COMPRESSION_FORMAT:
        raise ArtifactError(
            f"{record}: format {compression.get('format')!r}, this version reads {COMPRESSION_FORMAT};"
            " compress again"
        )
    quantization = compression.get("quantization")
    if quantization is None:
        return {}
    names = quantization.get("tensors") if isinstance(quantization, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ArtifactError(f"{record}: 'quantization' lists no tensors; quantise the checkpoint again")
    stored = _tensors(path)
    extra = sorted(set(stored) - {part for name in names for part in (name, f"{name}.scale")})
    if extra:
        raise ArtifactError(f"{path}: '{extra[0]}' is not listed in compression.json; quantise again")
    return {name: _quantized_tensor(path, name, stored) for name in names}


def _quantized_tensor(
    path: Path, name: str, stored: Mapping[str, tuple[str, np.ndarray[Any, Any]]]
) -> QuantizedTensor:
    for part, want in ((name, "I8"), (f"{name}.scale", "F32")):
        if part not in stored:
            raise ArtifactError(f"{path}: no tensor '{part}'; quantise the checkpoint again")
        if stored[part][0] != want:
            raise ArtifactError(f"{path}: '{part}' is {stored[part][0]}, not {want}; quantise again")
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
