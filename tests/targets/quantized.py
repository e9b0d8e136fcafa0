"""Quantising a checkpoint folder in place, written from docs/formats.md alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FLOAT_TABLES = ("position_embeddings", "token_type_embeddings")


def quantized_names(folder: Path) -> list[str]:
    """Parameters that the format quantises: every matrix but the position and token-type tables."""
    tensors = load_file(folder / "model.safetensors")
    return sorted(
        name
        for name, value in tensors.items()
        if value.ndim == 2 and name.endswith(".weight") and not any(table in name for table in FLOAT_TABLES)
    )


def quantize_checkpoint(folder: Path, tables: bool = False) -> Path:
    """`tables`: the position and token-type tables too."""
    tensors = load_file(folder / "model.safetensors")
    more = [name for name in tensors if any(table in name for table in FLOAT_TABLES)] if tables else []
    names = sorted([*quantized_names(folder), *more])
    stored = {}
    for name in names:
        scale = (np.abs(tensors[name]).max(axis=1) / 127).astype(np.float32)
        scale[scale == 0] = 1
        values = np.clip(np.rint(tensors[name] / scale[:, None]), -127, 127).astype(np.int8)
        stored[name], stored[f"{name}.scale"] = values, scale
        tensors[name] = values.astype(np.float32) * scale[:, None]
    save_file(stored, folder / "quantized.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_record(folder, names)
    return folder


def write_record(folder: Path, names: list[str]) -> None:
    record = {
        "format": 1,
        "seed": 0,
        "recipe": {},
        "stages": [],
        "layers_kept": [0, 1],
        "sparsity": {},
        "quantization": {
            "weights": "int8-per-output-channel-symmetric",
            "embeddings": "int8-per-row-symmetric",
            "activations": "int8-dynamic-per-token-asymmetric",
            "tensors": names,
        },
    }
    (folder / "compression.json").write_text(json.dumps(record, sort_keys=True, indent=2), encoding="utf-8")
