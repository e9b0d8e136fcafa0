"""The `int8-sparse` target: this project's own engine for block-sparse INT8 encoders, on x86-64 and ARM64."""

from edgebert_targets.int8_sparse.target import TARGET

__all__ = ["TARGET"]
