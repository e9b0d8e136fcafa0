"""What pays on the engine, as measured at BERT-base geometry (benchmarks/engine.py)."""

from edgebert_targets.base import SupportRow

SUPPORT = (
    SupportRow("dense-fp32", speed="no", size="no", note="not run: weights are INT8; quantise first"),
    SupportRow(
        "dense-int8", speed="yes", size="yes", note="exact INT8 sums on every CPU, a quarter of the bytes"
    ),
    SupportRow(
        "sparse-4-block",
        speed="yes",
        size="yes",
        note="blocks of zeros are neither stored nor multiplied: time and bytes fall with their share",
    ),
    SupportRow(
        "sparse-unstructured",
        speed="no",
        size="yes",
        note="only whole blocks of four zeros are skipped: little time at 80 % of zeros, more from 90 % on",
    ),
    SupportRow("fewer-layers", speed="yes", size="yes", note="time and bytes fall with each layer dropped"),
)
