"""Writing a LiteRT model (TFLite schema 3): buffers shared between subgraphs, operators, signatures.

Uses the object API that `flatc` generates for the schema. Needs flatbuffers and ai-edge-litert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgebert_targets.encoder import FloatArray, Range
from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.litert_arm64.operators import ALLOWED_OPS
from edgebert_targets.litert_arm64.signature import length_of

FILE_IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # the schema's force_align of buffer data
OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0] != "_"}
TENSOR_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
}


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data starts at a multiple of 16 bytes; the generated class forgets force_align."""

    def Pack(self, builder: Any) -> int:
        if self.data is None:
            return int(super().Pack(builder))
        builder.StartVector(1, self.data.size, ALIGNMENT)
        builder.head = builder.Head() - self.data.size
        builder.Bytes[builder.Head() : builder.Head() + self.data.size] = self.data.tobytes()
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class _SharedScales(schema.QuantizationParametersT):  # type: ignore[misc]
    """Symmetric scales that every subgraph's tensor points to: they are written once.

    `zeros` holds the place of the zero points, 8 bytes each, for as many rows: all tensors share them.
    """

    def __init__(self, scale: FloatArray, zeros: dict[int, int]) -> None:
        super().__init__(scale=scale)
        self._zeros = zeros
        self._offset = 0

    def Pack(self, builder: Any) -> int:
        if not self._offset:
            rows = len(self.scale)
            if rows not in self._zeros:
                self._zeros[rows] = builder.CreateNumpyVector(np.zeros(rows, np.int64))
            scale = builder.CreateNumpyVector(self.scale)
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, self._zeros[rows])
            self._offset = int(schema.QuantizationParametersEnd(builder))
        return self._offset


class ModelWriter:
    """Buffers and operator codes of one file; `graphs` add the rest."""

    def __init__(self, description: str) -> None:
        self._model = schema.ModelT(
            version=3,
            description=description,
            buffers=[schema.BufferT()],
            operatorCodes=[],
            subgraphs=[],
            signatureDefs=[],
            metadata=[],
        )
        self._buffers: dict[str, int] = {}
        self._scales: dict[str, _SharedScales] = {}
        self._zeros: dict[int, int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def buffer(self, name: str, value: NDArray[Any]) -> int:
        """Index of the buffer that holds `value`, stored once under `name`."""
        if name not in self._buffers:
            data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
            self._model.buffers.append(_AlignedBuffer(data=data))
            self._buffers[name] = len(self._model.buffers) - 1
        return self._buffers[name]

    def scales(self, name: str, scale: FloatArray) -> _SharedScales:
        """Symmetric quantisation of the tensor `name`, one scale a row, stored once."""
        if name not in self._scales:
            self._scales[name] = _SharedScales(scale, self._zeros)
        return self._scales[name]

    def operator_code(self, builtin: int, version: int) -> int:
        """Index of the operator code, added on first use."""
        key = (builtin, version)
        if key not in self._codes:
            self._model.operatorCodes.append(
                schema.OperatorCodeT(
                    deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin, version=version
                )
            )
            self._codes[key] = len(self._model.operatorCodes) - 1
        return self._codes[key]

    def add(self, graph: Any, signature: str, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Add a finished subgraph with its signature; names are the tensors' own."""
        graph.inputs, graph.outputs = list(inputs), list(outputs)

        def names(indices: Sequence[int]) -> list[Any]:
            return [schema.TensorMapT(name=graph.tensors[i].name, tensorIndex=i) for i in indices]

        self._model.subgraphs.append(graph)
        self._model.signatureDefs.append(
            schema.SignatureDefT(
                signatureKey=signature,
                subgraphIndex=len(self._model.subgraphs) - 1,
                inputs=names(inputs),
                outputs=names(outputs),
            )
        )

    def metadata(self, name: str, value: bytes) -> None:
        """Add a named buffer, which runtimes do not look at."""
        buffer = self.buffer(f"metadata/{name}", np.frombuffer(value, np.uint8))
        self._model.metadata.append(schema.MetadataT(name=name, buffer=buffer))

    def serialize(self) -> bytes:
        # Signatures in the order of their lengths; the subgraphs come as they were written.
        self._model.signatureDefs.sort(key=lambda signature: length_of(signature.signatureKey))
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())


class GraphWriter:
    """One subgraph under construction; tensors are numbered, shapes are kept for the next operator."""

    def __init__(self, model: ModelWriter, name: str) -> None:
        self._model = model
        self.graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name=name)
        self._constants: dict[str, int] = {}
        self._integers: dict[tuple[int, Range], int] = {}
        self.module = ""  # of the checkpoint, whose operators are being added

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.graph.tensors[tensor].shape)

    def rename(self, tensor: int, name: str) -> None:
        self.graph.tensors[tensor].name = name

    def tensor(self, shape: Sequence[int], dtype: str = "float32", name: str | None = None) -> int:
        """A tensor computed at run time (or an input)."""
        return self._append(name or f"value/{len(self.graph.tensors)}", shape, dtype, 0, None)

    def integers(self, shape: Sequence[int], stands_for: Range) -> int:
        """An int8 tensor computed at run time."""
        quantization = schema.QuantizationParametersT(
            scale=[stands_for.scale], zeroPoint=[stands_for.zero_point]
        )
        return self._append(f"value/{len(self.graph.tensors)}", shape, "int8", 0, quantization)

    def quantized(self, tensor: int, stands_for: Range) -> int:
        """The int8 tensor that a QUANTIZE makes of a float one, appended on first use."""
        key = (tensor, stands_for)
        if key not in self._integers:
            output = self.integers(self.shape(tensor), stands_for)
            self._integers[key] = self.operator(
                schema.BuiltinOperator.QUANTIZE, [tensor], output, schema.QuantizeOptionsT()
            )
        return self._integers[key]

    def constant(self, name: str, value: NDArray[Any], scale: FloatArray | None = None) -> int:
        """A stored tensor; `scale` says that its integers are quantised symmetrically, one scale a row."""
        if name not in self._constants:
            quantization = None if scale is None else self._model.scales(name, scale)
            buffer = self._model.buffer(name, value)
            self._constants[name] = self._append(name, value.shape, str(value.dtype), buffer, quantization)
        return self._constants[name]

    def operator(
        self, builtin: int, inputs: Sequence[int], output: int, options: Any = None, version: int = 1
    ) -> int:
        """Append an operator and return `output`; the options' class names their type in the schema.

        Raises UnsupportedModelError, which names the module, for an operator that is not in ALLOWED_OPS.
        """
        if OPERATOR_NAMES[builtin] not in ALLOWED_OPS:
            raise UnsupportedModelError(
                f"{self.module}: needs the operator {OPERATOR_NAMES[builtin]}, which XNNPACK does not take;"
                " use the target int8-sparse or x86"
            )
        kind = 0
        if options is not None:
            kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(
            schema.OperatorT(
                opcodeIndex=self._model.operator_code(builtin, version),
                inputs=list(inputs),
                outputs=[output],
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )
        return output

    def _append(self, name: str, shape: Sequence[int], dtype: str, buffer: int, quantization: Any) -> int:
        self.graph.tensors.append(
            schema.TensorT(
                shape=list(shape),
                type=TENSOR_TYPES[dtype],
                buffer=buffer,
                name=name,
                quantization=quantization,
                hasRank=True,
            )
        )
        return len(self.graph.tensors) - 1
