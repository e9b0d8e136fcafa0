"""A small builder of ONNX graphs: nodes in order, initialisers by name, deterministic names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

OPSET = 17
IR_VERSION = 8
MICROSOFT = "com.microsoft"
CONSTANT = "constant/"  # prefix of initialisers that are no parameter of the checkpoint


class Graph:
    """Collects nodes and initialisers; `model` turns them into a ModelProto."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Store `value` under `name` once and return the name."""
        if name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def floats(self, value: float) -> str:
        """A float32 scalar, shared by value."""
        return self.constant(f"{CONSTANT}float/{value!r}", np.float32(value))

    def bytes(self, value: int) -> str:
        """A uint8 scalar, shared by value."""
        return self.constant(f"{CONSTANT}uint8/{value}", np.uint8(value))

    def integers(self, value: int | list[int]) -> str:
        """An int64 scalar or vector, shared by value."""
        return self.constant(f"{CONSTANT}int64/{value}", np.asarray(value, np.int64))

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        domain: str = "",
        outputs: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """Append a node and return its first output; an empty input name leaves an optional input out."""
        name = f"{op}_{len(self._nodes)}"
        outputs = outputs or (f"{name}_out",)
        self._nodes.append(onnx.helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = onnx.helper.make_graph(
            self._nodes, "encoder", list(inputs), list(outputs), list(self._initializers.values())
        )
        opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(MICROSOFT, 1)]
        return onnx.helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgebert"
        )
