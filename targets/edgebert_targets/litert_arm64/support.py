"""What pays on LiteRT with XNNPACK, as measured on MiniLM-L6 at length 128 (docs/litert.md)."""

from edgebert_targets.base import SupportRow

SUPPORT = (
    SupportRow("dense-fp32", speed="no", size="no", note="the baseline: one XNNPACK partition"),
    SupportRow(
        "dense-int8",
        speed="yes",
        size="yes",
        note="2.6x fewer instructions than fp32 on cortex-a76, a quarter of the bytes, on any aarch64 CPU",
    ),
    SupportRow(
        "sparse-4-block",
        speed="no",
        size="zipped only",
        note="XNNPACK has no sparse INT8 kernels, and LiteRT's sparse tensors give wrong results there",
    ),
    SupportRow(
        "sparse-unstructured",
        speed="no",
        size="zipped only",
        note="XNNPACK's sparse path is float only and wants over two thirds of zeros",
    ),
    SupportRow("fewer-layers", speed="yes", size="yes", note="time and bytes fall with each layer dropped"),
)
