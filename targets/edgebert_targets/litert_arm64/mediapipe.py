"""Metadata that lets MediaPipe's text classifier open the file with its vocabulary and labels.

The model gets a buffer TFLITE_METADATA (schema "M001"), and the files that it names follow the model as a zip
of stored entries. MediaPipe's tokenizer is BERT's for lower-cased models, and lower-cases ASCII only.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers

from edgebert_targets.encoder import EncoderSpec

METADATA_NAME = "TFLITE_METADATA"
METADATA_IDENTIFIER = b"M001"
MIN_PARSER = "1.1.0"
VOCABULARY, LABELS = "vocab.txt", "labels.txt"
# Names by which MediaPipe finds the inputs of a BERT model, in the order of our inputs.
INPUT_NAMES = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "segment_ids"}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDPIECE = {"type": "WordPiece", "continuing_subword_prefix": "##", "unk_token": SPECIAL[1]}
# Numbers of the schema's enumerations and unions.
AXIS_LABELS_FILE, VOCABULARY_FILE = 2, 5
FEATURE_PROPERTIES, BERT_TOKENIZER = 1, 4

OPENS = (
    "MediaPipe's text classifier opens it; its tokenizer lower-cases ASCII only and keeps accents,"
    " so other texts may get other tokens; its scores are logits"
)


@dataclass(frozen=True)
class MediaPipePart:
    """`files` by name, empty where MediaPipe cannot open the model; `note` says which, and what to mind."""

    files: dict[str, bytes]
    note: str


def mediapipe_part(spec: EncoderSpec, lengths: Sequence[int]) -> MediaPipePart:
    """What `spec` and the number of `lengths` allow."""
    if len(lengths) > 1:
        return MediaPipePart({}, "no MediaPipe metadata: it opens files of one length only")
    if spec.task != "text-classification":
        return MediaPipePart({}, f"no MediaPipe metadata: its text classifier does no {spec.task}")
    if spec.embeddings.token_type is None:
        return MediaPipePart({}, "no MediaPipe metadata: its text classifier wants an input of token types")
    if any(not label or "\n" in label or "\r" in label for label in spec.labels):
        return MediaPipePart({}, "no MediaPipe metadata: a label is empty or has several lines")
    rows = spec.embeddings.word_shape[0]
    words = None if spec.tokenizer_json is None else _vocabulary(spec.tokenizer_json, rows)
    if words is None or spec.pad_token_id != 0:
        return MediaPipePart(
            {}, "no MediaPipe metadata: its tokenizer (BERT's, lower case) cannot match the checkpoint's"
        )
    files = {VOCABULARY: words, LABELS: spec.labels}
    return MediaPipePart(
        {name: "".join(f"{line}\n" for line in lines).encode() for name, lines in files.items()}, OPENS
    )


def _vocabulary(tokenizer_json: Path, rows: int) -> list[str] | None:
    """The words in the order of their ids, all below `rows`.

    None unless MediaPipe makes the same tokens of ASCII texts.
    """
    try:
        stored: Any = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        model, normalizer = stored["model"], stored["normalizer"]
        same = (
            all(model[key] == value for key, value in WORDPIECE.items())
            and normalizer["type"] == "BertNormalizer"
            and normalizer["lowercase"] is True
            and stored["pre_tokenizer"]["type"] == "BertPreTokenizer"
        )
        numbered = {int(number): word for word, number in model["vocab"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not same or not set(SPECIAL) <= set(numbered.values()) or numbered.get(0) != SPECIAL[0]:
        return None
    if min(numbered) < 0 or max(numbered) >= rows:
        return None
    # No text makes the token of a gap: it would be split at the bracket.
    words = [str(numbered.get(i, f"[gap{i}]")) for i in range(max(numbered) + 1)]
    # One word a line, and no line without one.
    return None if any(word.split() != [word] for word in words) else words


def with_files(model: bytes, files: dict[str, bytes]) -> bytes:
    """`model` followed by the zip; the same bytes each time."""
    if not files:
        return model
    data = io.BytesIO(model)
    with zipfile.ZipFile(data, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)
    return data.getvalue()


def metadata(inputs: Sequence[str], output: str) -> bytes:
    """The TFLITE_METADATA buffer of a text classifier with VOCABULARY and LABELS."""
    tables = _Tables()
    content = tables.table({0: FEATURE_PROPERTIES, 1: tables.table({})}, size=3)
    tensors = [tables.table({0: tables.text(INPUT_NAMES[name]), 3: content}, size=7) for name in inputs]
    labels = tables.table({0: tables.text(LABELS), 2: AXIS_LABELS_FILE}, size=5)
    vocabulary = tables.table({0: tables.text(VOCABULARY), 2: VOCABULARY_FILE}, size=5)
    answer = tables.table({0: tables.text(output), 3: content, 6: tables.vector([labels])}, size=7)
    tokenizer = tables.table({0: tables.vector([vocabulary])}, size=1)
    process = tables.table({0: BERT_TOKENIZER, 1: tokenizer}, size=2)
    graph = tables.table(
        {2: tables.vector(tensors), 3: tables.vector([answer]), 5: tables.vector([process])}, size=10
    )
    root = tables.table(
        {0: tables.text("EdgeBERT text classifier"), 3: tables.vector([graph]), 7: tables.text(MIN_PARSER)},
        size=8,
    )
    return tables.finish(root)


@dataclass(frozen=True)
class _Offset:
    """Where a finished object begins in the builder."""

    value: int


class _Tables:
    """Tables of a flatbuffer by the numbers of their fields: bytes, and offsets of finished objects."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> _Offset:
        return _Offset(self._builder.CreateString(value))

    def vector(self, items: Sequence[_Offset]) -> _Offset:
        self._builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            self._builder.PrependUOffsetTRelative(item.value)
        return _Offset(self._builder.EndVector())

    def table(self, fields: dict[int, _Offset | int], size: int = 0) -> _Offset:
        """A table of a type with `size` fields, of which `fields` are set."""
        self._builder.StartObject(size)
        for field, value in fields.items():
            if isinstance(value, _Offset):
                self._builder.PrependUOffsetTRelativeSlot(field, value.value, 0)
            else:
                self._builder.PrependUint8Slot(field, value, 0)
        return _Offset(self._builder.EndObject())

    def finish(self, root: _Offset) -> bytes:
        self._builder.Finish(root.value, file_identifier=METADATA_IDENTIFIER)
        return bytes(self._builder.Output())
