"""What follows the encoder in the graph: the answer of each task. All activations are [length, width]."""

from __future__ import annotations

from edgebert_targets.answers import OUTPUT_NAMES
from edgebert_targets.encoder import ClassificationHead, EmbeddingHead, EncoderSpec, QuestionHead
from edgebert_targets.litert_arm64 import ops
from edgebert_targets.litert_arm64.flatbuffer import GraphWriter

SMALLEST_SQUARE = 1e-24  # of the length of a vector that is divided by it, as torch.nn.functional.normalize
SMALLEST_SHARE = 1e-9  # of real tokens: keeps the mean of none finite


def write_head(graph: GraphWriter, spec: EncoderSpec, hidden: int, attention_mask: int) -> list[int]:
    """The outputs' tensors, named and shaped [1, …]; `attention_mask` is the int32 input [1, length]."""
    head, names = spec.head, OUTPUT_NAMES[spec.task]
    length = graph.shape(hidden)[0]
    if isinstance(head, ClassificationHead):
        dense = ops.linear(graph, ops.first_row(graph, hidden), head.dense)
        outputs = [ops.linear(graph, ops.activate(graph, dense, head.activation), head.out)]
    elif isinstance(head, EmbeddingHead):
        outputs = [_embedding(graph, hidden, attention_mask, head.normalize)]
    elif isinstance(head, QuestionHead):
        both = ops.transpose(graph, ops.linear(graph, hidden, head.out), [1, 0])
        outputs = [ops.block(graph, both, [row, 0], [1, length]) for row in range(2)]
    else:
        answers = ops.linear(graph, hidden, head.out)
        outputs = [ops.reshape(graph, answers, [1, length, spec.outputs])]
    for tensor, name in zip(outputs, names, strict=True):
        graph.rename(tensor, name)
    return outputs


def _embedding(graph: GraphWriter, hidden: int, attention_mask: int, normalize: bool) -> int:
    """The mean over real tokens [1, width]: the mean of masked rows over the mask's own mean."""
    length = graph.shape(hidden)[0]
    mask = ops.reshape(graph, ops.to_float(graph, attention_mask), [length, 1])
    total = ops.mean(graph, ops.multiply(graph, hidden, mask), axis=0)
    share = ops.maximum(graph, ops.mean(graph, mask, axis=0), ops.floats(graph, SMALLEST_SHARE))
    mean = ops.divide(graph, total, share)
    if not normalize:
        return mean
    width = float(graph.shape(mean)[1])
    square = ops.multiply(graph, ops.mean(graph, ops.multiply(graph, mean, mean), axis=1),
                          ops.floats(graph, width))  # fmt: skip
    bounded = ops.maximum(graph, square, ops.floats(graph, SMALLEST_SQUARE))
    return ops.multiply(graph, mean, ops.inverse_root(graph, bounded))
