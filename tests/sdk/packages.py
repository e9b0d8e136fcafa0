"""Small packages for tests, and a stand-in target whose answers can be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebert.golden import GoldenExample
from edgebert.machine import architecture
from edgebert.manifest import (
    Backend,
    Cpu,
    Gate,
    InputTensor,
    Manifest,
    Source,
    StageMetrics,
    TokenizerSettings,
)
from edgebert.package import PackageContents, write_package
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import ArtifactFacts, Kernels, SessionOptions, SupportRow, TensorFacts
from tests.factories import LABELS, SPECIAL, vocabulary

MODEL_BYTES = bytes(range(256)) * 40
WEIGHTS = np.random.default_rng(0).normal(size=(len(vocabulary()), len(LABELS))).astype(np.float32)


def fake_logits(ids: Sequence[int], types: Sequence[int]) -> NDArray[np.float32]:
    """What the stand-in model answers: a bag of words in which the second text counts double."""
    total = np.zeros(len(LABELS), np.float32)
    for token, kind in zip(ids, types, strict=True):
        total += WEIGHTS[token] * np.float32(1 + kind)
    return total


class FakeSession:
    def __init__(self) -> None:
        self.widths: list[tuple[int, int]] = []
        self.closed = False
        self.shift = 0.0

    @property
    def max_length(self) -> int:
        return 64

    def run(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        assert input_ids.shape == attention_mask.shape == token_type_ids.shape
        assert input_ids.dtype == attention_mask.dtype == token_type_ids.dtype == np.int64
        self.widths.append((input_ids.shape[0], input_ids.shape[1]))
        rows = [
            fake_logits(ids[: mask.sum()], types[: mask.sum()])
            for ids, mask, types in zip(input_ids, attention_mask, token_type_ids, strict=True)
        ]
        logits = np.stack(rows)
        logits[:, 0] += np.float32(self.shift)
        return logits

    def close(self) -> None:
        self.closed = True


class FakeTarget:
    """Stands in for a real backend where the test is about packages, not about runtimes."""

    name = "x86"
    backend = "Stand-in"
    model_file = "model.onnx"
    cpu_architectures: tuple[str, ...] = ("x86_64",)
    host_architectures: tuple[str, ...] = (architecture(),)

    def __init__(self) -> None:
        self.session = FakeSession()
        self.opened: list[Path] = []

    def support(self) -> tuple[SupportRow, ...]:
        return ()

    golden_tolerance = 0.1
    static_ranges = True

    def backend_version(self) -> str:
        return "1"

    def kernels(self) -> Kernels:
        return Kernels("stand-in", ("stand-in",))

    def convert(self, spec: Any, out: Path, options: Any) -> ArtifactFacts:
        raise AssertionError("not part of these tests")

    def inspect(self, model: Path) -> ArtifactFacts:
        size = model.stat().st_size
        return ArtifactFacts(
            nbytes=size,
            tensors=(
                TensorFacts("word", "embeddings", "int8", (93, 32), 2976, 0.0),
                TensorFacts("query", "layer 0", "int8", (32, 32), 1024, 0.75),
                TensorFacts("query.bias", "layer 0", "float32", (32,), 128, 0.0),
            ),
            ops={"MatMul": 3, "Add": 5},
            quantized_share=4000 / 4128,
            inputs=(),
            lengths=(),
            cpu_architectures=("x86_64",),
            cpu_features_any=("avx512_vnni", "avx_vnni"),
            notes=("a [bold]note[/bold]",),
        )

    def open(self, model: Path, options: SessionOptions) -> FakeSession:
        assert model.read_bytes() == MODEL_BYTES
        self.opened.append(model)
        return self.session


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    """The stand-in, found under every name but 'unknown'."""
    from edgebert_targets.errors import UnknownTargetError

    fake = FakeTarget()

    def find(name: str) -> FakeTarget:
        if name == "unknown":
            raise UnknownTargetError("unknown target 'unknown'; choose one of: x86")
        return fake

    monkeypatch.setattr("edgebert.pipeline.get_target", find)
    return fake


def make_tokenizer_folder(path: Path) -> Path:
    """A Hugging Face folder without weights: the tokenizer of `tests.factories`, made without torch."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(vocabulary())}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(SPECIAL)
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}), encoding="utf-8")
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0}), encoding="utf-8")
    (path / "model.safetensors").write_bytes(b"not part of a package")
    return path


def make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        task="text-classification",
        labels=LABELS,
        target="x86",
        backend=Backend("Stand-in", "1"),
        cpu=Cpu((architecture(),)),
        model_file="model.onnx",
        inputs=(InputTensor("input_ids", "int64", ("batch", "length")),),
        lengths=(),
        tokenizer=TokenizerSettings(max_length=16, pad_id=0, token_types=True, lowercase=True),
        source=Source("tiny", "0" * 64, {"train": "1" * 64}),
        recipe={"stages": [{"kind": "prune", "sparsity": 0.8}], "name": "größe"},
        seeds={"build": 0},
        metrics=(StageMetrics("teacher", {"accuracy": 0.5}),),
        gate=Gate("accuracy", 0.0, 0.01),
        golden_tolerance=0.1,
    )
    return replace(manifest, **changes)


def make_contents(folder: Path, **changes: Any) -> PackageContents:
    """Contents whose golden examples are the stand-in's own answers."""
    checkpoint = make_tokenizer_folder(folder / "checkpoint")
    model = folder / "source.onnx"
    model.write_bytes(MODEL_BYTES)
    manifest = make_manifest(**changes)
    settings = manifest.tokenizer
    tokenizer = TextTokenizer.from_folder(checkpoint, settings.max_length)
    golden = []
    for text, pair in [("turn on the light", None), ("play my song", "stop the music"), ("Zürich?", None)]:
        ids, types = tokenizer.encode_ids(text, pair)
        golden.append(GoldenExample(text, pair, tuple(ids), tuple(fake_logits(ids, types).tolist())))
    return PackageContents(manifest, model, checkpoint, tuple(golden), '{"ms": 1}', "<!doctype html>")


def make_package(folder: Path, *, as_zip: bool = False, **changes: Any) -> Path:
    out = folder / ("package.zip" if as_zip else "package")
    write_package(out, make_contents(folder, **changes), as_zip=as_zip, force=False)
    return out
