"""The arm64 target: LiteRT with XNNPACK on 64-bit ARM; its artifacts run on x86-64 too."""

from edgebert_targets.litert_arm64.target import TARGET, LiteRtTarget

__all__ = ["TARGET", "LiteRtTarget"]
