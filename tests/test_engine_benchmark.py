"""The engine benchmark: its models, that every engine computes the same function, and its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from edgebert_targets.encoder import (  # noqa: E402
    EncoderSpec,
    LayerNorm,
    Linear,
    QuantizedTensor,
    load_encoder_spec,
    with_float_weights,
)
from engine_models import GEOMETRIES, Case, Geometry, random_encoder  # noqa: E402
from tests.factories import make_checkpoint  # noqa: E402
from tests.targets.quantized import quantize_checkpoint  # noqa: E402

TINY = GEOMETRIES["tiny"]
IDS = np.random.default_rng(3).integers(0, TINY.vocabulary, (2, 24))
Floats = NDArray[np.float32]
# Of logits near 1. Static ranges per tensor lose more than per-token ones.
DYNAMIC_INT8, STATIC_INT8 = 0.1, 0.4


def matrices(spec: EncoderSpec) -> dict[str, np.ndarray[Any, Any]]:
    return {
        linear.name: linear.weight.values
        for linear in spec.linears()
        if isinstance(linear.weight, QuantizedTensor)
    }


@pytest.mark.parametrize("sparsity", [0.0, 0.8, 0.9])
def test_every_pruned_matrix_has_exactly_its_share_of_zero_blocks(sparsity: float) -> None:
    found = matrices(random_encoder(Case(TINY, sparsity)))
    assert len(found) == 6 * TINY.layers + 2
    for name, values in found.items():
        blocks = values.reshape(-1, 4)
        zero = (blocks == 0).all(axis=1)
        share = 0.0 if name == "classifier" else sparsity
        assert (~zero).sum() == round((1 - share) * len(blocks)), name
        assert (blocks[~zero] != 0).all(), f"{name}: a kept block holds a zero"


def test_unstructured_zeros_are_counted_one_by_one() -> None:
    found = matrices(random_encoder(Case(TINY, 0.9, "unstructured")))
    values = found["bert.encoder.layer.1.output.dense"]
    assert np.count_nonzero(values) == round(0.1 * values.size)
    assert not (values.reshape(-1, 4) != 0).all(axis=1).any()


def test_rows_hold_127_and_vectors_fit_float16() -> None:
    spec = random_encoder(Case(TINY, 0.8))
    for name, values in matrices(spec).items():
        full = values.any(axis=1)
        assert (np.abs(values[full]).max(axis=1) == 127).all(), name
        assert values.min() >= -127
    layer = spec.layers[0]
    for vector in (layer.query.bias, layer.output_norm.weight, layer.output_norm.bias):
        assert (vector.astype(np.float16).astype(np.float32) == vector).all()


def test_the_same_case_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (matrices(random_encoder(Case(TINY, 0.8, seed=seed))) for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_float_weights_are_values_times_scale() -> None:
    spec = random_encoder(Case(TINY))
    floats = with_float_weights(spec)
    assert not floats.quantized
    stored, plain = spec.layers[1].intermediate.weight, floats.layers[1].intermediate.weight
    assert isinstance(stored, QuantizedTensor) and isinstance(plain, np.ndarray)
    np.testing.assert_array_equal(plain, stored.values * stored.scale[:, None])


@pytest.fixture(scope="module")
def plain_spec() -> EncoderSpec:
    return with_float_weights(random_encoder(Case(TINY, 0.8)))


@pytest.fixture(scope="module")
def plain_logits(plain_spec: EncoderSpec) -> Floats:
    """What PyTorch's BERT says about IDS."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=TINY.vocabulary,
        hidden_size=TINY.hidden,
        num_hidden_layers=TINY.layers,
        num_attention_heads=TINY.heads,
        intermediate_size=TINY.intermediate,
        max_position_embeddings=TINY.positions,
    )
    model = BertForSequenceClassification(config).to(torch.float32).eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in parameters(plain_spec).items()})
    with torch.no_grad():
        logits: Floats = model(input_ids=torch.from_numpy(IDS)).logits.numpy()
    return logits


def run_onnx(model: Any) -> Floats:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    mask, types = np.ones_like(IDS), np.zeros_like(IDS)
    logits: Floats = session.run(None, {"input_ids": IDS, "attention_mask": mask, "token_type_ids": types})[0]
    return logits


def test_the_plain_graph_is_pytorchs_bert(plain_spec: EncoderSpec, plain_logits: Floats) -> None:
    graph = pytest.importorskip("engine_graph")
    np.testing.assert_allclose(run_onnx(graph.plain_graph(plain_spec).model), plain_logits, atol=2e-5)


def test_the_quantized_graph_feeds_every_product_with_int8(
    plain_spec: EncoderSpec, plain_logits: Floats
) -> None:
    graph = pytest.importorskip("engine_graph")
    plain = graph.plain_graph(plain_spec)
    ranges = graph.measure_ranges(plain, [IDS])
    assert len(ranges) == 8 * TINY.layers + 2
    quantized = graph.plain_graph(plain_spec, ranges).model
    products = [node for node in quantized.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(products) == 8 * TINY.layers + 2
    made_by = {output: node for node in quantized.graph.node for output in node.output}
    for node in products:
        for name in node.input[:2]:
            maker = made_by[name]
            if maker.op_type == "Transpose":
                maker = made_by[maker.input[0]]
            assert maker.op_type == "DequantizeLinear", f"{node.name} takes a float from {maker.name}"
    assert 0 < np.abs(run_onnx(quantized) - plain_logits).max() < STATIC_INT8


def parameters(spec: EncoderSpec) -> dict[str, Any]:
    """Every parameter of the float `spec` under its name in a checkpoint."""
    tables = spec.embeddings
    found: dict[str, Any] = dict(tables.tables())
    parts: list[Linear | LayerNorm] = [tables.norm, *spec.linears()]
    for layer in spec.layers:
        parts += [layer.attention_norm, layer.output_norm]
    for part in parts:
        found |= {f"{part.name}.weight": part.weight, f"{part.name}.bias": part.bias}
    return found


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "engine.py"), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def benchmark(folder: Path, *words: str) -> dict[str, Any]:
    out = folder / "figures.json"
    done = start("--geometry", "tiny", "--work", str(folder), "--json", str(out), *words)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    report["printed"] = done.stdout
    return report


QUICK = ("--repeats", "3", "--runs", "2", "--length", "24", "--sparsity", "0.8")


def test_figures_of_engines_in_this_environment(tmp_path: Path) -> None:
    for module in ("onnxruntime", "onnx", "ai_edge_litert", "flatbuffers"):
        pytest.importorskip(module)
    engines = "ort,ort-fused,ort-int8,x86,litert,openvino"
    report = benchmark(tmp_path, "--engines", engines, "--layers", "1", *QUICK)
    rows = {(row["engine"], row["layers"], row["pattern"]): row for row in report["rows"]}
    own = [(engine, 1, "4-block") for engine in engines.split(",")]
    full, same, fused = (
        ("ort", TINY.layers, "dense"),
        ("ort", 1, "dense"),
        ("ort-fused", TINY.layers, "dense"),
    )
    assert list(rows) == [*own, full, same, fused]
    assert rows[fused]["ratio_fused"]["median"] == 1.0
    # No environment for OpenVINO there: that is said, and the others are measured.
    assert "openvino" in rows["openvino", 1, "4-block"]["failed"]
    assert "left out" in report["printed"]
    limits = {"ort": 0.0, "ort-fused": 1e-4} | dict.fromkeys(("ort-int8", "x86", "litert"), DYNAMIC_INT8)
    for engine, limit in limits.items():
        assert rows[engine, 1, "4-block"]["logits_difference"] <= limit, engine
    for key, row in rows.items():
        if "failed" in row:
            continue
        assert len(row["rounds_wall_ms"]) == len(row["rounds_cpu_ms"]) == 3
        assert 0 < row["wall_ms"]["min"] <= row["wall_ms"]["median"]
        assert {"median", "of_minima"} == set(row["ratio_full_depth"]) == set(row["ratio_same_depth"]), key
        assert row["facts"]["version"]
    assert rows["ort", TINY.layers, "dense"]["ratio_full_depth"]["median"] == 1.0
    assert rows["ort", 1, "dense"]["ratio_same_depth"]["median"] == 1.0
    assert report["machine"]["cpu"] and report["settings"]["repeats"] == 3


def test_a_checkpoint_instead_of_random_weights(tmp_path: Path) -> None:
    for module in ("torch", "onnxruntime", "gguf"):
        pytest.importorskip(module)
    folder = quantize_checkpoint(make_checkpoint(tmp_path / "model"))
    words = ("--engines", "edgebert,ort,ort-fused", "--checkpoint", str(folder), "--repeats", "3", "--length")
    report = benchmark(tmp_path, *words, "24")
    rows = {row["engine"]: row for row in report["rows"]}
    assert list(rows) == ["edgebert", "ort", "ort-fused"]  # it is its own baseline
    assert rows["ort"]["ratio_full_depth"]["median"] == rows["ort-fused"]["ratio_fused"]["median"] == 1.0
    assert rows["ort-fused"]["logits_difference"] <= 1e-4
    assert 0 < rows["edgebert"]["logits_difference"] <= DYNAMIC_INT8
    assert {row["layers"] for row in rows.values()} == {len(load_encoder_spec(folder).layers)}


def test_the_engine_agrees_with_float_onnx_and_with_itself_on_all_kernels(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    library = pytest.importorskip("edgebert_targets.int8_sparse.library")
    errors = pytest.importorskip("edgebert_targets.errors")
    try:
        isas = library.available_isas()
    except errors.MissingExtraError as error:
        pytest.skip(f"the engine is not built: {error}")
    report = benchmark(tmp_path, "--engines", "edgebert,ort", "--isa", ",".join(isas), *QUICK)
    rows = {row["engine"]: row for row in report["rows"] if row["sparsity"] == 0.8}
    assert set(rows) == {"ort", *(f"edgebert@{isa}" for isa in isas)}
    for isa in isas:
        row = rows[f"edgebert@{isa}"]
        assert row["facts"]["isa"] == isa
        assert row["logits_sha256"] == rows[f"edgebert@{isas[0]}"]["logits_sha256"]
        assert row["logits_difference"] <= DYNAMIC_INT8


@pytest.mark.slow
def test_peers_compute_the_same_function(tmp_path: Path) -> None:
    peers = os.environ.get("EDGEBERT_PEERS")
    if not peers:
        pytest.skip("set EDGEBERT_PEERS to a folder made by benchmarks/peers/environments.py")
    engines = "ort,openvino,openvino-int8,deepsparse"
    report = benchmark(tmp_path, "--engines", engines, "--peers", peers, *QUICK)
    rows = {row["engine"]: row for row in report["rows"] if row["sparsity"] == 0.8}
    limits = {"openvino": 0.05, "deepsparse": STATIC_INT8}
    for engine, limit in limits.items():
        assert "failed" not in rows[engine], rows[engine]
        assert rows[engine]["logits_difference"] <= limit, engine
    assert rows["deepsparse"]["facts"]["fraction_of_supported_ops"] == 1.0
    # Its static ranges lose 0.06 to 0.64, by input; why is not known. So its kernels only are checked.
    int8 = rows["openvino-int8"]
    assert "failed" not in int8, int8
    assert all("i8" in kernel.lower() for kernel in int8["facts"]["kernels"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engines", "ort,tensorrt"], "unknown engines tensorrt"),
        (["--threads", "4096"], "4096 threads on cores"),
        (["--cpus", "100000"], "there are"),
    ],
)
def test_wrong_arguments_are_refused(words: list[str], message: str) -> None:
    done = start(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_names_of_cases_are_different() -> None:
    cases = [Case(Geometry(layers), sparsity) for layers in (3, 6) for sparsity in (0.0, 0.8, 0.9)]
    assert len({case.name for case in cases}) == len(cases)
