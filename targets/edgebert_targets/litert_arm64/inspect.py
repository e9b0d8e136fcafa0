"""Reading a LiteRT artifact back with bounds checks: signatures, operators, stored tensors.

The runtime's own loader trusts offsets in the file, so every file is walked here before it is opened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.answers import OUTPUT_NAMES, TOKEN_TASKS
from edgebert_targets.base import ArtifactFacts, InputFacts
from edgebert_targets.encoder import FloatArray, Range, StaticRanges, Task
from edgebert_targets.errors import ArtifactError, MissingExtraError, one_line
from edgebert_targets.facts import STATIC_NOTE, quantized_share, tensor_facts
from edgebert_targets.inputs import InputLimits
from edgebert_targets.litert_arm64.operators import ALLOWED_OPS, INT8_VERSIONS
from edgebert_targets.litert_arm64.signature import NOTE_NAME, length_of

CONSTANT = "constant/"
ALIGNMENT = 16
MAX_FILE_BYTES = 2**31
MAX_NOTE_BYTES = 1000
FILE_IDENTIFIER = b"TFL3"


@dataclass(frozen=True)
class StoredModel:
    """What the file holds: `inputs` of every signature, `arrays` and `scales` by tensor name.

    `ranges` of the layers that take and give INT8, by the name of their weights. `ops` counts over all
    signatures.
    """

    task: Task
    lengths: tuple[int, ...]
    limits: InputLimits
    inputs: tuple[str, ...]
    ops: Mapping[str, int]
    arrays: Mapping[str, NDArray[Any]]
    scales: Mapping[str, FloatArray]
    ranges: Mapping[str, StaticRanges]
    note: str


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
    type_names = {
        schema.TensorType.FLOAT32: "float32",
        schema.TensorType.INT8: "int8",
        schema.TensorType.INT32: "int32",
    }
    ops: Counter[str] = Counter()
    arrays: dict[str, NDArray[Any]] = {}
    scales: dict[str, FloatArray] = {}
    ranges: dict[str, StaticRanges] = {}
    lengths: list[int] = []
    inputs: set[str] = set()
    tasks: set[Task] = set()
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
        outputs = {
            _text(signature.Outputs(k).Name()): tuple(
                tensors[signature.Outputs(k).TensorIndex()].ShapeAsNumpy()
            )
            for k in range(signature.OutputsLength())
        }
        tasks.add(_task(outputs, length))
        ops.update(_operators(schema, root, graph, tensors))
        for name, found in _static_ranges(schema, root, graph, tensors):
            if ranges.setdefault(name, found) != found:
                raise ArtifactError(f"'{name}' has other ranges in signature {length} than before")
        for tensor in tensors:
            _read_tensor(root, tensor, type_names, arrays, scales)
    unknown = sorted(set(ops) - ALLOWED_OPS)
    if unknown:
        raise ArtifactError(f"operator {unknown[0]} is not one that EdgeBERT writes")
    if not lengths or lengths != sorted(set(lengths)):
        raise ArtifactError(f"signatures of lengths {lengths} are not ascending")
    if len(tasks) != 1:
        raise ArtifactError(f"signatures are for different tasks: {sorted(tasks)}")
    return StoredModel(
        tasks.pop(),
        tuple(lengths),
        _limits(arrays, inputs, lengths[-1]),
        tuple(sorted(inputs)),
        dict(sorted(ops.items())),
        arrays,
        scales,
        ranges,
        _note(root),
    )


def _note(root: Any) -> str:
    """What the writer said about other software, on one line."""
    for i in range(root.MetadataLength()):
        entry = root.Metadata(i)
        if _text(entry.Name()) == NOTE_NAME:
            text = root.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            words = " ".join(_text(text[:MAX_NOTE_BYTES]).split())
            return "".join(letter for letter in words if letter.isprintable())
    return ""


def _operators(schema: Any, root: Any, graph: Any, tensors: Sequence[Any]) -> list[str]:
    """Names of the operators of a subgraph, whose tensors and versions are checked."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    found = []
    for k in range(graph.OperatorsLength()):
        operator = graph.Operators(k)
        code = root.OperatorCodes(operator.OpcodeIndex())
        name = names[code.BuiltinCode()]
        used = (*operator.InputsAsNumpy(), *operator.OutputsAsNumpy())
        for index in used:
            if not 0 <= index < len(tensors):
                raise ArtifactError(f"an operator names tensor {index} of {len(tensors)}")
        int8 = any(tensors[index].Type() == schema.TensorType.INT8 for index in used)
        if int8 and code.Version() < INT8_VERSIONS.get(name, 0):
            raise ArtifactError(f"{name} has version {code.Version()}, which old runtimes get wrong")
        found.append(name)
    return found


def _static_ranges(
    schema: Any, root: Any, graph: Any, tensors: Sequence[Any]
) -> Iterator[tuple[str, StaticRanges]]:
    """Name of the weights, and ranges of input and output, of each layer whose input is INT8."""
    for k in range(graph.OperatorsLength()):
        operator = graph.Operators(k)
        code = root.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if code != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        x, weight, y = (tensors[i] for i in (operator.Inputs(0), operator.Inputs(1), operator.Outputs(0)))
        if x.Type() == schema.TensorType.INT8:
            yield _text(weight.Name()), StaticRanges(_range(x), _range(y))


def _range(tensor: Any) -> Range:
    """Of an INT8 tensor that is computed at run time."""
    quantization = tensor.Quantization()
    if quantization is None or (quantization.ScaleLength(), quantization.ZeroPointLength()) != (1, 1):
        raise ArtifactError(f"'{_text(tensor.Name())}' has not one scale and zero point")
    scale, zero_point = float(quantization.Scale(0)), int(quantization.ZeroPoint(0))
    if not 0 < scale < math.inf or not -128 <= zero_point <= 127:
        raise ArtifactError(f"'{_text(tensor.Name())}' has scale {scale} and zero point {zero_point}")
    return Range(scale, zero_point)


def _task(outputs: Mapping[str, tuple[int, ...]], length: int) -> Task:
    """The task that names and shapes of a signature's outputs belong to."""
    dimensions = {
        "text-classification": 2,
        "token-classification": 3,
        "question-answering": 2,
        "embedding": 2,
    }
    for task, names in OUTPUT_NAMES.items():
        if set(outputs) == set(names) and {len(s) for s in outputs.values()} == {dimensions[task]}:
            along = (1, length) if task in TOKEN_TASKS else (1,)
            if all(shape[: len(along)] == along for shape in outputs.values()):
                return task
    raise ArtifactError(f"outputs {sorted(outputs)} of signature {length} are not an EdgeBERT model's")


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
        notes=(
            "runs on x86-64 LiteRT too",
            *([STATIC_NOTE] if stored.ranges else []),
            *([stored.note] if stored.note else []),
        ),
        task=stored.task,
    )
