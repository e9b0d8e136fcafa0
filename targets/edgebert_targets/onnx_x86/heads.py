"""What follows the encoder in the graph: the answer of each task under the names that Hugging Face uses."""

from __future__ import annotations

from onnx import TensorProto

from edgebert_targets.answers import OUTPUT_NAMES
from edgebert_targets.encoder import (
    Activation,
    ClassificationHead,
    EmbeddingHead,
    EncoderSpec,
    QuestionHead,
)
from edgebert_targets.onnx_x86.graph import MICROSOFT, Graph
from edgebert_targets.onnx_x86.projection import Projected, project

SMALLEST_LENGTH = 1e-12  # of a vector that is divided by its length, as in torch.nn.functional.normalize


def write_head(graph: Graph, spec: EncoderSpec, hidden: str) -> dict[str, list[str | int]]:
    """Add the head to `hidden` [batch, sequence, width]; the shape of each output by its name."""
    head, names = spec.head, OUTPUT_NAMES[spec.task]
    if isinstance(head, ClassificationHead):
        first = graph.node("Gather", [hidden, graph.integers(0)], axis=1)
        pooled = activate(graph, project(graph, first, head.dense), head.activation)
        add_terms(graph, project(graph, pooled, head.out), names[0])
        return {names[0]: ["batch", spec.outputs]}
    if isinstance(head, EmbeddingHead):
        _embedding(graph, hidden, head.normalize, names[0])
        return {names[0]: ["batch", spec.outputs]}
    if isinstance(head, QuestionHead):
        both = add_terms(graph, project(graph, hidden, head.out))
        for index, name in enumerate(names):
            graph.node("Gather", [both, graph.integers(index)], outputs=[name], axis=2)
        return {name: ["batch", "sequence"] for name in names}
    add_terms(graph, project(graph, hidden, head.out), names[0])
    return {names[0]: ["batch", "sequence", spec.outputs]}


def activate(graph: Graph, projected: Projected, activation: Activation) -> str:
    """activation(product + bias); the GELUs have operators that add the bias themselves."""
    if activation == "gelu":
        operator = "Gelu" if projected.bias is None else "BiasGelu"
        return graph.node(operator, projected.terms, domain=MICROSOFT)
    if activation == "gelu_tanh":
        return graph.node("FastGelu", projected.terms, domain=MICROSOFT)
    return graph.node("Relu" if activation == "relu" else "Tanh", [add_terms(graph, projected)])


def add_terms(graph: Graph, projected: Projected, name: str | None = None) -> str:
    """product + bias, called `name` where that is given."""
    if projected.bias is None and name is None:
        return projected.product
    operator = "Identity" if projected.bias is None else "Add"
    return graph.node(operator, projected.terms, outputs=[name] if name else ())


def _embedding(graph: Graph, hidden: str, normalize: bool, name: str) -> None:
    """The mean over real tokens: [batch, width]; zeros where there is none."""
    mask = graph.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    mask = graph.node("Unsqueeze", [mask, graph.integers([2])])
    total = graph.node("ReduceSum", [graph.node("Mul", [hidden, mask]), graph.integers([1])], keepdims=0)
    count = graph.node("ReduceSum", [mask, graph.integers([1])], keepdims=0)
    inputs = [total, graph.node("Max", [count, graph.floats(1.0)])]
    if not normalize:
        graph.node("Div", inputs, outputs=[name])
        return
    mean = graph.node("Div", inputs)
    length = graph.node("ReduceL2", [mean], axes=[1], keepdims=1)
    graph.node("Div", [mean, graph.node("Max", [length, graph.floats(SMALLEST_LENGTH)])], outputs=[name])
