"""EncoderSpec to the engine's model file (docs/formats.md, "Engine model 1")."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgebert_targets.encoder import (
    ClassificationHead,
    EmbeddingHead,
    EncoderSpec,
    FloatArray,
    Head,
    LayerNorm,
    Linear,
    QuantizedTensor,
    QuestionHead,
    TokenHead,
    Weight,
    shape_of,
)
from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.int8_sparse.blocks import BLOCK, block_density, pack
from edgebert_targets.int8_sparse.model_file import Array, Value, write_model_file
from edgebert_targets.int8_sparse.rows import quantize_rows
from edgebert_targets.int8_sparse.tokenizer_file import tokenizer_keys, tokenizer_tensors
from edgebert_targets.int8_sparse.tokenizer_settings import read_tokenizer_settings

FORMAT = 1
SPARSE_MAX_DENSITY = 0.6  # share of non-zero blocks up to which sparse kernels beat dense ones
TASKS: dict[type[Head], str] = {
    ClassificationHead: "classification",
    TokenHead: "token-classification",
    QuestionHead: "question-answering",
    EmbeddingHead: "embedding",
}
MAX_WIDTH = 65536
MAX_HEAD_SIZE = 256


def write_model(spec: EncoderSpec, out: Path) -> tuple[str, ...]:
    """Write `spec` to `out` (parent exists), atomically; the same spec gives the same bytes.

    Weights that are float are rounded to INT8 row by row; the notes that are returned say so.
    Raises UnsupportedModelError, MissingExtraError and OSError.
    """
    _check_limits(spec)
    keys, tensors = model_keys(spec), model_tensors(spec)
    if spec.tokenizer_json is not None:
        settings = read_tokenizer_settings(spec.tokenizer_json)
        keys |= tokenizer_keys(settings, spec.embeddings.word_shape[0], spec.embeddings.token_types)
        tensors |= tokenizer_tensors(settings)
    write_model_file(out, keys, tensors)
    linears = spec.linears()
    rounded = sum(not isinstance(linear.weight, QuantizedTensor) for linear in linears)
    if not rounded:
        return ()
    return (f"{rounded} of {len(linears)} linear layers were float: rounded to INT8 without training",)


def model_keys(spec: EncoderSpec) -> dict[str, Value]:
    """Every `edgebert.*` key."""
    keys: dict[str, Value] = {
        "format": FORMAT,
        "task": TASKS[type(spec.head)],
        "hidden_size": spec.hidden_size,
        "intermediate_size": shape_of(spec.layers[0].intermediate.weight)[0],
        "heads": spec.heads,
        "layers": len(spec.layers),
        "max_length": spec.max_length,
        "vocabulary": spec.embeddings.word_shape[0],
        "activation": spec.activation,
        "norm_eps": float(spec.embeddings.norm.eps),
    }
    if isinstance(spec.head, ClassificationHead | TokenHead):
        keys["labels"] = list(spec.labels)
    if isinstance(spec.head, ClassificationHead):
        keys["head.activation"] = spec.head.activation
    if isinstance(spec.head, EmbeddingHead):
        keys["head.normalize"] = spec.head.normalize
    return {f"edgebert.{name}": value for name, value in keys.items()}


def model_tensors(spec: EncoderSpec) -> dict[str, Array]:
    """Every tensor of the model by name, in the order of the file."""
    tensors: dict[str, Array] = {}
    tables = spec.embeddings
    keep_float = spec.quantized  # what was validated had these tables as they are
    tensors |= _table("embeddings.word", tables.word, keep_float)
    tensors |= _table("embeddings.position", tables.position, keep_float)
    if tables.token_type is not None:
        tensors |= _table("embeddings.token_type", tables.token_type, keep_float)
    tensors |= _norm("embeddings.norm", tables.norm)
    for name, linear in engine_linears(spec).items():
        tensors |= _linear(name, linear)
    for i, layer in enumerate(spec.layers):
        tensors |= _norm(f"layers.{i}.attention_norm", layer.attention_norm)
        tensors |= _norm(f"layers.{i}.output_norm", layer.output_norm)
    return tensors


def engine_linears(spec: EncoderSpec) -> dict[str, Linear]:
    """Every linear layer by its name in the model file."""
    named: dict[str, Linear] = {}
    if spec.embeddings.projection is not None:
        named["embeddings.projection"] = spec.embeddings.projection
    for i, layer in enumerate(spec.layers):
        for part in ("query", "key", "value", "attention_output", "intermediate", "output"):
            named[f"layers.{i}.{part}"] = getattr(layer, part)
    if isinstance(spec.head, ClassificationHead):
        named["head.dense"] = spec.head.dense
    if not isinstance(spec.head, EmbeddingHead):
        named["head.out"] = spec.head.out
    return named


def _check_limits(spec: EncoderSpec) -> None:
    """Raise UnsupportedModelError for what the engine does not run."""
    if spec.static:
        raise UnsupportedModelError(
            "the checkpoint has static ranges, the engine quantises inputs at run time; quantise with"
            " `activations: dynamic`, or use the target x86 or arm64"
        )
    sizes = {shape_of(layer.intermediate.weight)[0] for layer in spec.layers}
    widths = (spec.hidden_size, spec.max_length, spec.embeddings.word_shape[1], *sizes)
    if len(sizes) != 1 or max(widths) > MAX_WIDTH:
        raise UnsupportedModelError(
            f"intermediate sizes {sorted(sizes)}, width {spec.hidden_size}, {spec.max_length} positions: the"
            f" engine takes one intermediate size and at most {MAX_WIDTH} of each; use another model"
        )
    if spec.hidden_size // spec.heads > MAX_HEAD_SIZE:
        raise UnsupportedModelError(
            f"heads of {spec.hidden_size // spec.heads} channels, the engine takes at most {MAX_HEAD_SIZE};"
            " use a model with more heads"
        )
    norms = [norm.eps for layer in spec.layers for norm in (layer.attention_norm, layer.output_norm)]
    if any(eps != spec.embeddings.norm.eps for eps in norms):
        raise UnsupportedModelError(f"LayerNorms with eps {sorted({*norms})}; the engine takes one for all")


def _vector(values: FloatArray) -> Array:
    """Half precision where it loses nothing."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else values


def _table(name: str, table: Weight, keep_float: bool) -> dict[str, Array]:
    if not isinstance(table, QuantizedTensor):
        if keep_float:
            return {f"{name}.floats": _vector(table)}
        table = quantize_rows(table)
    return {f"{name}.values": table.values, f"{name}.scale": table.scale}


def _norm(name: str, norm: LayerNorm) -> dict[str, Array]:
    return {f"{name}.weight": _vector(norm.weight), f"{name}.bias": _vector(norm.bias)}


def _linear(name: str, linear: Linear) -> dict[str, Array]:
    weight = linear.weight if isinstance(linear.weight, QuantizedTensor) else quantize_rows(linear.weight)
    rest = {f"{name}.scale": weight.scale, f"{name}.bias": _vector(linear.bias)}
    if weight.values.shape[1] % BLOCK or block_density(weight.values) > SPARSE_MAX_DENSITY:
        return {f"{name}.values": weight.values, **rest}
    packed = pack(weight.values)
    parts = {"values": packed.values, "counts": packed.counts, "gaps": packed.gaps}
    return {**{f"{name}.{part}": array.view(np.int8) for part, array in parts.items()}, **rest}
