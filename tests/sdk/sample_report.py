"""A made-up but plausible report, for tests of what reads or shows one."""

from __future__ import annotations

import numpy as np

from edgebert.bench import BenchPlan, summarize
from edgebert.figures import (
    BenchFigures,
    DatasetFigures,
    Latency,
    LayerFigures,
    Report,
    SizeFigures,
    StageFigures,
    ValidationFigures,
)
from edgebert.machine import MachineFacts


def make_latency(median_ms: float, *, length: int = 32, threads: int = 1, seed: int = 0) -> Latency:
    rng = np.random.default_rng(seed)
    times = median_ms * (0.97 + rng.gamma(2.0, 0.02, 140)) + (rng.random(140) > 0.98) * median_ms
    return summarize(
        times.tolist(),
        BenchPlan(threads=threads),
        length=length,
        peak_memory_bytes=int(6e7 + 4e6 * median_ms),
        load_ms=3 * median_ms,
    )


def make_layers(layers: int = 4) -> tuple[LayerFigures, ...]:
    linears = {
        "attention.self.query": (128, 128),
        "attention.self.key": (128, 128),
        "attention.self.value": (128, 128),
        "attention.output.dense": (128, 128),
        "intermediate.dense": (512, 128),
        "output.dense": (128, 512),
    }
    found = [LayerFigures("bert.embeddings.word_embeddings.weight", "embeddings", "int8", (4096, 128), 0.004)]
    for i in range(layers):
        for j, (name, shape) in enumerate(linears.items()):
            sparsity = round(0.45 + 0.05 * i + 0.02 * j, 3)
            found.append(
                LayerFigures(f"bert.encoder.layer.{i}.{name}.weight", f"layer {i}", "int8", shape, sparsity)
            )
    return (*found, LayerFigures("classifier.weight", "head", "int8", (26, 128), 0.0))


def make_stage(
    name: str, what: str, accuracy: float, cost: float, sizes: tuple[int, int], ms: float, speed: float | None
) -> StageFigures:
    return StageFigures(name, name, what, 41.2, accuracy, cost, *sizes, ms, speed, 0.55)


STAGES = (
    make_stage("teacher", "dense, fp32", 0.9652, 0.0, (7_412_000, 6_870_000), 1.92, None),
    make_stage("layer-drop", "4 of 6 layers", 0.9601, 0.0051, (5_826_000, 5_400_000), 1.31, 1.47),
    make_stage("obert", "4-block, 55 %", 0.9583, 0.0018, (5_826_000, 4_020_000), 1.30, 1.01),
    make_stage("qat", "INT8, dynamic", 0.9589, -0.0006, (1_512_000, 1_130_000), 0.48, 2.71),
)


def make_report(*, passed: bool = True, baseline: bool = True, model: str = "home-intents") -> Report:
    where = "Measured on this x86_64 machine through LiteRT; not run on ARM."
    benches = []
    for i, (length, threads) in enumerate([(32, 1), (32, 2)]):
        ours = make_latency(0.48 / threads**0.5, length=length, threads=threads, seed=i)
        theirs = make_latency(1.92 / threads**0.7, length=length, threads=threads, seed=9 + i)
        benches.append(
            BenchFigures(
                ours, theirs if baseline else None, 3.98 if baseline else None, where, "bucket of 32 tokens"
            )
        )
    return Report(
        task="text-classification",
        target="arm64",
        backend="LiteRT",
        backend_version="2.3.0",
        model=model,
        labels=26,
        seed=0,
        recipe={
            "layer_drop": {"keep": [0, 2, 3, 5], "epochs": 2},
            "prune": {"method": "obert", "pattern": "4-block", "sparsity": 0.55, "fisher": {"block": 32}},
            "quantize": {"epochs": 1, "learning_rate": 2e-05},
        },
        created_with={
            "edgebert": "0.1.0",
            "torch": "2.13.0",
            "onnxruntime": "1.32.0",
            "ai-edge-litert": "2.3.0",
        },
        machine=MachineFacts(
            "AMD EPYC", "x86_64", 2, 8_200_000_000, "Debian GNU/Linux 12", "3.11.2", ("avx2", "avx512_vnni")
        ),
        datasets=(
            DatasetFigures("train.jsonl", "train", 12_000, "3b" * 32),
            DatasetFigures("handwritten.jsonl", "eval", 640, "9f" * 32),
        ),
        stages=STAGES,
        validation=ValidationFigures(
            examples=640,
            metric="accuracy",
            teacher=0.9652,
            compressed_pytorch=0.9589,
            artifact=0.9589 if passed else 0.9402,
            agreement_with_pytorch=0.9984,
            teacher_agreement=0.9781,
            max_logit_difference=0.0312,
            drop=0.0063 if passed else 0.025,
            max_drop=0.01,
            passed=passed,
            guilty_stage=None if passed else "layer-drop",
            where="Validated on this x86 machine through LiteRT; not run on ARM.",
        ),
        bench=tuple(benches),
        size=SizeFigures(
            parts=(
                ("embeddings", 540_000),
                *((f"layer {i}", 211_000) for i in range(4)),
                ("head", 24_000),
                ("graph and padding", 104_000),
            ),
            model_raw=1_512_000,
            model_zip=1_130_000,
            package_bytes=1_840_000,
        ),
        layers=make_layers(),
        notes=(
            "4-block sparsity makes the zipped file smaller; LiteRT runs it no faster than dense INT8.",
            "Load times leave out importing the runtime.",
        ),
    )
