"""Reading an engine model back: its weights, how they are stored, what the engine does with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgebert_targets.base import ArtifactFacts, InputFacts, TensorFacts
from edgebert_targets.encoder import EncoderSpec, QuantizedTensor, Task
from edgebert_targets.errors import ArtifactError
from edgebert_targets.facts import quantized_share, tensor_facts
from edgebert_targets.int8_sparse.blocks import PackedBlocks, unpack
from edgebert_targets.int8_sparse.convert import engine_linears
from edgebert_targets.int8_sparse.library import Engine, EngineInfo
from edgebert_targets.int8_sparse.model_file import Array, ModelFile, read_model_file

TOKENIZER = "tokenizer."
# The engine's names for tasks.
TASKS: Mapping[str, Task] = {
    "classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "embedding": "embedding",
}


def facts_of(model: Path) -> ArtifactFacts:
    """What `model` holds, once the engine has found it whole. Raises ArtifactError and MissingExtraError."""
    with Engine.open(model) as engine:
        info = engine.info
    stored = read_model_file(model)
    tensors = tuple(_tensor(stored, info, name) for name in stored.tensors if _counts(name))
    notes = [f"any length up to {info.max_length} tokens", "the same bits on every CPU"]
    if info.has_tokenizer:
        notes.append(f"the tokenizer is inside: {_tokenizer_bytes(stored)} bytes")
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if info.token_types else [])]
    return ArtifactFacts(
        nbytes=stored.nbytes,
        tensors=tensors,
        ops=_operations(stored, info),
        quantized_share=quantized_share(tensors),
        inputs=tuple(InputFacts(name, "int32", ("batch", "length")) for name in inputs),
        lengths=(),
        cpu_architectures=("x86_64", "aarch64"),
        cpu_features_any=(),
        notes=tuple(notes),
        task=TASKS[info.task],
    )


def check_written(spec: EncoderSpec, model: Path) -> None:
    """Assert that the file holds the checkpoint's INT8 values and scales. Raises ArtifactError."""
    tensors = read_model_file(model).tensors
    written = {name: linear.weight for name, linear in engine_linears(spec).items()}
    tables = zip(("word", "position", "token_type"), spec.embeddings.tables(), strict=False)
    written |= {f"embeddings.{name}": table for name, (_, table) in tables}
    for name, weight in written.items():
        if not isinstance(weight, QuantizedTensor):
            continue
        values, scale = _values(tensors, name, weight.values.shape), tensors[f"{name}.scale"]
        if values.tobytes() != weight.values.tobytes() or scale.tobytes() != weight.scale.tobytes():
            raise ArtifactError(f"{model}: '{name}' differs from the checkpoint; report this as a bug")


def _values(tensors: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """The INT8 matrix `name`, whichever way it is stored."""
    values = tensors[f"{name}.values"]
    if f"{name}.counts" not in tensors:
        return values
    counts, gaps = (tensors[f"{name}.{part}"].view(np.uint8) for part in ("counts", "gaps"))
    return unpack(PackedBlocks(values, counts, gaps), *shape)


def _counts(name: str) -> bool:
    """Whether `name` is a weight of its own: not the index of a sparse one, and no vocabulary."""
    return not name.startswith(TOKENIZER) and not name.endswith((".counts", ".gaps"))


def _tensor(stored: ModelFile, info: EngineInfo, name: str) -> TensorFacts:
    array, matrix = stored.tensors[name], name.removesuffix(".values")
    counts = stored.tensors.get(f"{matrix}.counts")
    if counts is None:
        return replace(tensor_facts(name, array), part=_part(name))
    shape = (counts.shape[-1], _inputs(stored, info, matrix))
    nbytes = array.nbytes + counts.nbytes + stored.tensors[f"{matrix}.gaps"].nbytes
    zeros = 1 - np.count_nonzero(array) / math.prod(shape)
    return TensorFacts(name, _part(name), "int8", shape, nbytes, zeros)


def _part(name: str) -> str:
    """ "embeddings", "layer 3" or "head"."""
    first, second, *_ = name.split(".")
    return f"layer {second}" if first == "layers" else first


def _inputs(stored: ModelFile, info: EngineInfo, matrix: str) -> int:
    """Inputs of a linear layer, which a sparse one's tensors do not show."""
    if matrix == "embeddings.projection":
        return int(stored.tensors["embeddings.norm.weight"].size)
    if matrix.startswith("layers.") and matrix.endswith(".output"):
        return int(stored.tensors[f"{matrix.removesuffix('output')}intermediate.scale"].size)
    return info.hidden_size


def _operations(stored: ModelFile, info: EngineInfo) -> dict[str, int]:
    """What a forward pass is made of."""
    ops: Counter[str] = Counter(attention=info.layers)
    for name in stored.tensors:
        matrix = name.removesuffix(".values")
        if name.endswith("norm.weight"):
            ops["layer-norm"] += 1
        elif name.endswith((".values", ".floats")):
            linear = f"{matrix}.bias" in stored.tensors
            kind = "sparse-linear" if f"{matrix}.counts" in stored.tensors else "dense-linear"
            ops[kind if linear else "table"] += 1
    return dict(sorted(ops.items()))


def _tokenizer_bytes(stored: ModelFile) -> int:
    return sum(array.nbytes for name, array in stored.tensors.items() if name.startswith(TOKENIZER))
