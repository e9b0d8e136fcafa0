"""An artifact's weights summed by part of the model: what `inspect` prints and the report draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgebert_targets.base import ArtifactFacts, TensorFacts


@dataclass(frozen=True)
class PartFacts:
    """One part of the model. `sparsity`: share of zeros in [0, 1] over its weights; `dtypes`: sorted."""

    part: str
    tensors: int
    nbytes: int
    share: float
    dtypes: tuple[str, ...]
    sparsity: float


def by_part(facts: ArtifactFacts) -> list[PartFacts]:
    """Weights summed by part in file order; what is left of the file is the graph and its metadata."""
    grouped: dict[str, list[TensorFacts]] = {}
    for tensor in facts.tensors:
        grouped.setdefault(tensor.part, []).append(tensor)
    parts = [_part(name, tensors, facts.nbytes) for name, tensors in grouped.items()]
    rest = max(0, facts.nbytes - sum(part.nbytes for part in parts))
    return [*parts, PartFacts("graph and metadata", 0, rest, rest / max(1, facts.nbytes), (), 0.0)]


def _part(name: str, tensors: Sequence[TensorFacts], total: int) -> PartFacts:
    nbytes = sum(tensor.nbytes for tensor in tensors)
    counts = [_elements(tensor) for tensor in tensors]
    zeros = sum(count * tensor.sparsity for count, tensor in zip(counts, tensors, strict=True))
    dtypes = tuple(sorted(Counter(tensor.dtype for tensor in tensors)))
    return PartFacts(name, len(tensors), nbytes, nbytes / max(1, total), dtypes, zeros / max(1, sum(counts)))


def _elements(tensor: TensorFacts) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count
