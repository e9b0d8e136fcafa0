"""Reading a LiteRT artifact back with bounds checks: signatures, operators, stored tensors.

The runtime's own loader trusts offsets in the file, so every file is walked here before it is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.base import ArtifactFacts, InputFacts
from edgebert_targets.encoder import EncoderSpec, FloatArray
from edgebert_targets.errors import ArtifactError, MissingExtraError, one_line
from edgebert_targets.facts import quantized_share, tensor_facts
from edgebert_targets.inputs import InputLimits
from edgebert_targets.litert_arm64.signature import length_of

CONSTANT = "constant/"
ALIGNMENT = 16
MAX_FILE_BYTES = 2**31
FILE_IDENTIFIER = b"TFL3"
# Every operator our writer uses; XNNPACK takes all of them but CAST and EMBEDDING_LOOKUP.
ALLOWED_OPS = frozenset(
    ["ADD", "BATCH_MATMUL", "CAST", "EMBEDDING_LOOKUP", "FULLY_CONNECTED", "GELU", "MEAN", "MUL",
     "RELU", "RESHAPE", "RSQRT", "SLICE", "SOFTMAX", "SUB", "TANH", "TRANSPOSE"]
)  # fmt: skip


@dataclass(frozen=True)
class StoredModel:
    """What the file holds: `inputs` of every signature, `arrays` and `scales` by tensor name.

    `ops` counts over all signatures.
    """

    lengths: tuple[int, ...]
    limits: InputLimits
    inputs: tuple[str, ...]
    ops: Mapping[str, int]
    arrays: Mapping[str, NDArray[Any]]
    scales: Mapping[str, FloatArray]


def import_schema() -> Any:
    """The generated schema module. Raises MissingExtraError."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingExtraError(
            "ai-edge-litert is not installed; run: pip install 'edgebert[arm64]'"
        ) from None
    return schema_py_generated


def read_model(model: Path) -> StoredModel:
    """Walk `model`. Raises ArtifactError for anything that our writer would not have written."""
    schema = import_schema()
    try:
        if model.stat().st_size > MAX_FILE_BYTES:
            raise ArtifactError(f"{model}: larger than 2 GB; build it again")
        data = model.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{model}: {error.strerror}; give the package's model.tflite") from None
    try:
        return _walk(schema, data)
    except ArtifactError as error:
        raise ArtifactError(f"{model}: {error}; build it again") from None
    except Exception as error:  # struct, numpy and index errors of the generated accessors
        raise ArtifactError(
            f"{model}: not a readable LiteRT file ({one_line(error)}); build it again"
        ) from None


def _walk(schema: Any, data: bytes) -> StoredModel:
    if data[4:8] != FILE_IDENTIFIER:
        raise ArtifactError("not a LiteRT file (no TFL3 mark)")
    root = schema.Model.GetRootAs(data, 0)
    op_names = {
        value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
    }
    type_names = {
        schema.TensorType.FLOAT32: "float32",
        schema.TensorType.INT8: "int8",
        schema.TensorType.INT32: "int32",
    }
    ops: Counter[str] = Counter()
    arrays: dict[str, NDArray[Any]] = {}
    scales: dict[str, FloatArray] = {}
    lengths: list[int] = []
    inputs: set[str] = set()
    for i in range(root.SignatureDefsLength()):
        signature = root.SignatureDefs(i)
        length = length_of(_text(signature.SignatureKey()))
        graph = root.Subgraphs(signature.SubgraphIndex())
        lengths.append(length)
        names = {_text(signature.Inputs(k).Name()) for k in range(signature.InputsLength())}
        if inputs not in (set(), names):
            raise ArtifactError(f"signatures take different inputs: {sorted(inputs ^ names)}")
        inputs = names
        tensors = [graph.Tensors(k) for k in range(graph.TensorsLength())]
        for k in range(signature.InputsLength()):
            shape = tensors[signature.Inputs(k).TensorIndex()].ShapeAsNumpy()
            if tuple(shape) != (1, length):
                raise ArtifactError(f"an input of signature {length} has shape {tuple(shape)}")
        for k in range(graph.OperatorsLength()):
            operator = graph.Operators(k)
            ops[op_names[root.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]] += 1
            for index in (*operator.InputsAsNumpy(), *operator.OutputsAsNumpy()):
                if not 0 <= index < len(tensors):
                    raise ArtifactError(f"an operator names tensor {index} of {len(tensors)}")
        for tensor in tensors:
            _read_tensor(root, tensor, type_names, arrays, scales)
    unknown = sorted(set(ops) - ALLOWED_OPS)
    if unknown:
        raise ArtifactError(f"operator {unknown[0]} is not one that EdgeBERT writes")
    if not lengths or lengths != sorted(set(lengths)):
        raise ArtifactError(f"signatures of lengths {lengths} are not ascending")
    return StoredModel(
        tuple(lengths),
        _limits(arrays, inputs, lengths[-1]),
        tuple(sorted(inputs)),
        dict(sorted(ops.items())),
        arrays,
        scales,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _read_tensor(
    root: Any,
    tensor: Any,
    type_names: Mapping[int, str],
    arrays: dict[str, NDArray[Any]],
    scales: dict[str, FloatArray],
) -> None:
    """Put a stored tensor into `arrays` and its scales into `scales`; computed ones have no data."""
    if tensor.Type() not in type_names:
        raise ArtifactError(f"tensor type {tensor.Type()} is not one that EdgeBERT writes")
    if tensor.Sparsity() is not None:
        raise ArtifactError("sparse tensors give wrong results with XNNPACK")
    buffer = root.Buffers(tensor.Buffer())
    if not buffer.DataLength():
        return
    name, data = _text(tensor.Name()), buffer.DataAsNumpy()
    shape = [int(size) for size in tensor.ShapeAsNumpy()]
    if data.size != buffer.DataLength():
        raise ArtifactError(f"'{name}' is cut off")
    if data.__array_interface__["data"][0] % ALIGNMENT != _base(root) % ALIGNMENT:
        raise ArtifactError(f"'{name}' is not aligned to {ALIGNMENT} bytes")
    arrays[name] = data.view(type_names[tensor.Type()]).reshape(shape)
    quantization = tensor.Quantization()
    if quantization is not None and quantization.ScaleLength():
        scales[name] = np.asarray(quantization.ScaleAsNumpy(), np.float32)


def _base(root: Any) -> int:
    """Address of the file's first byte in memory."""
    return int(np.frombuffer(root._tab.Bytes, np.uint8).__array_interface__["data"][0])


def _limits(arrays: Mapping[str, NDArray[Any]], inputs: set[str], max_length: int) -> InputLimits:
    """Sizes of the tables, from the tables themselves."""
    words = [value for name, value in arrays.items() if name.endswith(".word_embeddings.weight")]
    if len(words) != 1 or not {"input_ids", "attention_mask"} <= inputs:
        raise ArtifactError(f"inputs {sorted(inputs)} are not an EdgeBERT model's")
    tables = [value for name, value in arrays.items() if name.endswith(".token_type_embeddings.weight")]
    rows = 0
    if "token_type_ids" in inputs:
        rows = len(tables[0]) if tables else 2
    return InputLimits(vocabulary=len(words[0]), max_length=max_length, token_types=rows)


def facts_of(model: Path) -> ArtifactFacts:
    """What `model` holds. Raises ArtifactError and MissingExtraError."""
    stored = read_model(model)
    tensors = [
        tensor_facts(name, value)
        for name, value in {**stored.arrays, **{f"{k}.scale": v for k, v in stored.scales.items()}}.items()
        if not name.startswith(CONSTANT)
    ]
    return ArtifactFacts(
        nbytes=model.stat().st_size,
        tensors=tuple(sorted(tensors, key=lambda tensor: tensor.name)),
        ops=stored.ops,
        quantized_share=quantized_share(tensors),
        inputs=tuple(InputFacts(name, "int32", (1, "length")) for name in stored.inputs),
        lengths=stored.lengths,
        cpu_architectures=("aarch64",),
        cpu_features_any=(),
        notes=("runs on x86-64 LiteRT too",),
    )


def check_written(spec: EncoderSpec, lengths: tuple[int, ...], model: Path) -> None:
    """Assert that the file holds the checkpoint's INT8 values and scales. Raises ArtifactError."""
    stored = read_model(model)
    if stored.lengths != lengths:
        raise ArtifactError(f"{model}: lengths {stored.lengths}, not {lengths}; report this as a bug")
    for name, weight in spec.quantized_tensors().items():
        values, scale = stored.arrays.get(name), stored.scales.get(name)
        if values is None or scale is None or values.dtype != weight.values.dtype:
            raise ArtifactError(f"{model}: '{name}' was not written as INT8; report this as a bug")
        if values.tobytes() != weight.values.tobytes() or scale.tobytes() != weight.scale.tobytes():
            raise ArtifactError(f"{model}: '{name}' differs from the checkpoint; report this as a bug")
