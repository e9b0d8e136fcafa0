"""The x86 target: ONNX Runtime on x86-64 CPUs."""

from edgebert_targets.onnx_x86.target import TARGET, OnnxTarget

__all__ = ["TARGET", "OnnxTarget"]
