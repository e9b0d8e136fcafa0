"""Names in the file: a signature for each token length, and a note on what else can open it."""

from __future__ import annotations

import re

from edgebert_targets.errors import ArtifactError

NOTE_NAME = "edgebert.mediapipe"


def signature_key(length: int) -> str:
    return f"length_{length}"


def length_of(key: str) -> int:
    """The reverse of `signature_key`. Raises ArtifactError."""
    match = re.fullmatch(r"length_([1-9][0-9]{0,5})", key)
    if not match:
        raise ArtifactError(f"signature {key[:40]!r} is not one that EdgeBERT writes")
    return int(match.group(1))
