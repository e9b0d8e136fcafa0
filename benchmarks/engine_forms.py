"""The model file that each engine reads, made from one encoder and kept in a folder.

| engine | form |
|---|---|
| edgebert | this project's int8-sparse target |
| ort | float32 ONNX of this project's x86 target: faster than ort-fused, so the baseline |
| ort-fused | float32 ONNX as PyTorch exports it, then onnxruntime.transformers.optimizer (all BERT fusions) |
| ort-int8 | ort-fused after ONNX Runtime's dynamic quantisation: per channel, u8s8 |
| x86, litert | INT8 of this project's x86 and arm64 targets |
| openvino | the plain ONNX graph; OpenVINO chooses the precision |
| openvino-int8 | the same after nncf.quantize (static ranges) |
| openvino-int8-sparse | the same file with CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE |
| deepsparse | the quantised graph through SparseML's exporter (static ranges) |
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgebert_targets.base import ConvertOptions, get_target
from edgebert_targets.encoder import EncoderSpec, with_float_weights
from engine_graph import PlainGraph, measure_ranges, plain_graph
from engine_models import Case, encoder
from peers.environments import python_of

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Runner:
    """How the worker opens an engine: its opener, its environment ("" is this one), further settings."""

    runtime: str
    environment: str = ""
    options: dict[str, Any] = field(default_factory=dict)


RUNNERS = {
    "edgebert": Runner("edgebert"),
    "ort": Runner("onnxruntime"),
    "ort-fused": Runner("onnxruntime"),
    "ort-int8": Runner("onnxruntime"),
    "x86": Runner("target", options={"target": "x86"}),
    "litert": Runner("target", options={"target": "arm64"}),
    "openvino": Runner("openvino", "openvino", {"settings": {}}),
    "openvino-int8": Runner("openvino", "openvino", {"settings": {}}),
    # The share of zeros above which a layer's weights are kept packed.
    "openvino-int8-sparse": Runner(
        "openvino", "openvino", {"settings": {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.5}}
    ),
    "deepsparse": Runner("deepsparse", "deepsparse"),
}


class FormError(Exception):
    """A model could not be made for an engine; the message says which and why."""


class Forms:
    """Makes the forms of one case at most once. `folder` keeps them, `peers` holds the environments."""

    def __init__(self, case: Case, folder: Path, peers: Path) -> None:
        self.case = case
        self.folder = folder / f"{case.name}-{case.seed}"
        self.peers = peers
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fresh: set[Path] = set()

    def path(self, engine: str, length: int) -> Path:
        """The model for `engine` at `length` tokens. Raises FormError."""
        makers: dict[str, tuple[str, Callable[[Path], None]]] = {
            "edgebert": ("edgebert.gguf", lambda out: self.convert("int8-sparse", self.spec, out, length)),
            "ort": ("ort.onnx", lambda out: self.convert("x86", self.floats, out, length)),
            "ort-fused": ("ort-fused.onnx", self.fused),
            "ort-int8": ("ort-int8.onnx", self.dynamic),
            "x86": ("x86.onnx", lambda out: self.convert("x86", self.spec, out, length)),
            "litert": (f"litert-{length}.tflite", lambda out: self.convert("arm64", self.spec, out, length)),
            "openvino": ("plain.onnx", lambda out: onnx.save(self.plain.model, out)),
            "openvino-int8": ("openvino-int8.xml", self.openvino),
            "openvino-int8-sparse": ("openvino-int8.xml", self.openvino),
            "deepsparse": ("deepsparse.onnx", self.deepsparse),
        }
        name, make = makers[engine]
        path = self.folder / name
        # Our own target is under development: an old file of it would measure an old layout.
        if not path.exists() or (engine == "edgebert" and path not in self.fresh):
            unfinished = path.with_name(f"unfinished-{name}")
            make(unfinished)
            if path.suffix == ".xml":
                unfinished.with_suffix(".bin").rename(path.with_suffix(".bin"))
            unfinished.rename(path)
            self.fresh.add(path)
        return path

    @cached_property
    def spec(self) -> EncoderSpec:
        return encoder(self.case)

    @cached_property
    def floats(self) -> EncoderSpec:
        return with_float_weights(self.spec)

    @cached_property
    def plain(self) -> PlainGraph:
        return plain_graph(self.floats)

    def convert(self, target: str, spec: EncoderSpec, out: Path, length: int) -> None:
        get_target(target).convert(spec, out, ConvertOptions(lengths=(length,)))

    def fused(self, out: Path) -> None:
        from onnxruntime.transformers import optimizer

        logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
        result = optimizer.optimize_model(
            str(self.path("openvino", 0)),
            "bert",
            num_heads=self.case.geometry.heads,
            hidden_size=self.case.geometry.hidden,
        )
        done = result.get_fused_operator_statistics()
        layers = self.case.geometry.layers
        wanted = {"Attention": layers, "BiasGelu": layers, "SkipLayerNormalization": 2 * layers}
        if any(done[name] != count for name, count in wanted.items()):
            raise FormError(f"ONNX Runtime's optimizer fused {done}, not {wanted}; its patterns changed")
        result.save_model_to_file(str(out))

    def dynamic(self, out: Path) -> None:
        from onnxruntime.quantization import quantize_dynamic

        # Shape inference stops at the fused operators, so it has to be told that their results are floats.
        extra = {"DefaultTensorType": 1}
        quantize_dynamic(self.path("ort-fused", 0), out, per_channel=True, extra_options=extra)

    def calibration(self) -> list[NDArray[np.int64]]:
        random = np.random.default_rng(self.case.seed + 1)
        longest = min(128, self.case.geometry.positions)
        lengths = (longest // 4, longest, longest // 2, longest)
        return [random.integers(0, self.case.geometry.vocabulary, (1, length)) for length in lengths]

    def openvino(self, out: Path) -> None:
        inputs = self.folder / "calibration.npz"
        np.savez(inputs, *self.calibration())
        self.run_peer("openvino", "openvino_int8.py", self.path("openvino", 0), inputs, out)

    def deepsparse(self, out: Path) -> None:
        graph = self.folder / "qdq.onnx"
        quantized = plain_graph(self.floats, measure_ranges(self.plain, self.calibration()))
        onnx.save(quantized.model, graph)
        try:
            self.run_peer("sparseml", "deepsparse_form.py", graph, out)
        finally:
            graph.unlink()

    def run_peer(self, environment: str, script: str, *paths: Path) -> None:
        command = [python_of(self.peers, environment), HERE / "peers" / script, *paths]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "NM_DISABLE_ANALYTICS": "true"},
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise FormError(f"{script} failed: {last}; see python {sys.argv[0]} --help about --peers")
