"""What pays on ONNX Runtime, x86-64, as measured on MiniLM-L6 (benchmarks/onnx_forms.py)."""

from edgebert_targets.base import SupportRow

SUPPORT = (
    SupportRow("dense-fp32", speed="no", size="no", note="the baseline: fused BERT operators"),
    SupportRow(
        "dense-int8",
        speed="yes",
        size="yes",
        note="about 2x over fused fp32 with AVX-512 VNNI or AVX-VNNI, a quarter of the bytes on any CPU",
    ),
    SupportRow(
        "sparse-4-block",
        speed="no",
        size="zipped only",
        note="ONNX Runtime has no sparse CPU kernels: zeros are multiplied like any value",
    ),
    SupportRow(
        "sparse-unstructured",
        speed="no",
        size="zipped only",
        note="ONNX Runtime has no sparse CPU kernels: zeros are multiplied like any value",
    ),
    SupportRow("fewer-layers", speed="yes", size="yes", note="time and bytes fall with each layer dropped"),
)
