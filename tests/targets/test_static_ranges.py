"""INT8 with static ranges: the backends' integers and logits against the arithmetic in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgebert_targets.base import ConvertOptions, SessionOptions, Target, get_target
from edgebert_targets.encoder import EncoderSpec, Linear, Range, StaticRanges, load_encoder_spec
from edgebert_targets.errors import ArtifactError, UnsupportedModelError
from edgebert_targets.litert_arm64 import flatbuffer
from edgebert_targets.litert_arm64.inspect import read_model
from edgebert_targets.litert_arm64.written import check_written as check_litert
from edgebert_targets.onnx_x86.inspect import check_written as check_onnx
from edgebert_targets.onnx_x86.session import import_onnxruntime
from tests.factories import ARCHITECTURES
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch
from tests.targets.static_ranges import (
    calibrated,
    levels_in,
    levels_of,
    rounded,
    static_logits,
    with_ranges,
)

OPTIONS = ConvertOptions(lengths=(8, 16))
LENGTHS = (16, 3, 8, 9, 5, 12)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Values = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def static_spec(checkpoints: Checkpoints) -> Callable[[str], EncoderSpec]:
    """An INT8 classifier of an architecture, with ranges from other sequences than the tests use."""

    def get(architecture: str) -> EncoderSpec:
        return calibrated(load_encoder_spec(checkpoints(architecture, True)), batch(*LENGTHS * 4, seed=1))

    return get


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_the_arithmetic(
    target: Target, architecture: str, static_spec: Callable[[str], EncoderSpec], tmp_path: Path
) -> None:
    spec = static_spec(architecture)
    model = tmp_path / target.model_file
    target.convert(spec, model, OPTIONS)
    sequences = batch(*LENGTHS)
    logits = target.open(model, SessionOptions()).run(*sequences)
    wanted = static_logits(spec, sequences)
    # Logits are multiples of the head's output scale. A float step before a quantisation that is rounded
    # otherwise moves one level there, which moves few logits by one level.
    head = spec.linears()[-1].ranges
    assert head is not None
    levels = np.abs(logits - wanted) / head.output.scale
    assert levels.max() < 2.5
    assert np.mean(levels > 0.5) < 0.2
    # And dynamic inputs or float outputs would answer something else.
    assert np.abs(np.rint(logits / head.output.scale) - logits / head.output.scale).max() < 1e-3


def onnx_integers(model: Path, sequences: Any) -> Values:
    """Every layer's int8 inputs and outputs, and the floats before its QuantizeLinear, by name."""
    proto = onnx.load(str(model))
    made_by = {node.output[0]: node for node in proto.graph.node}
    taken_by = {node.input[0]: node for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    names: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            layer, x = node.input[1].removesuffix(".weight"), node.input[0]
            y = taken_by[node.output[0]].output[0]
            names |= {f"{layer}.x": x, f"{layer}.y": y, f"{layer}.f": made_by[x].input[0]}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(set(names.values())))
    runtime = import_onnxruntime().InferenceSession(proto.SerializeToString())
    feed = dict(zip(INPUTS, sequences, strict=True))
    feed = {value.name: feed[value.name] for value in runtime.get_inputs()}
    found = dict(zip(names, runtime.run(list(names.values()), feed), strict=True))
    return {
        name: value if name.endswith(".f") else value.astype(np.int64) - 128 for name, value in found.items()
    }


def exposed(model: Path) -> tuple[bytes, dict[str, int]]:
    """The first signature as a model that answers every layer's integers too; their tensors by name."""
    stored = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    graph = stored.subgraphs[0]
    codes = [code.builtinCode for code in stored.operatorCodes]
    made_by = {operator.outputs[0]: operator for operator in graph.operators}
    names: dict[str, int] = {}
    for operator in graph.operators:
        if codes[operator.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED:
            x, y = operator.inputs[0], operator.outputs[0]
            layer = graph.tensors[operator.inputs[1]].name.decode().removesuffix(".weight")
            names |= {f"{layer}.x": x, f"{layer}.y": y, f"{layer}.f": made_by[x].inputs[0]}
    graph.outputs = sorted({*graph.outputs, *names.values()})
    stored.signatureDefs = []
    return repacked(stored), names


def repacked(stored: Any) -> bytes:
    """A changed model as a file; the object API forgets the alignment of buffers."""
    stored.buffers = [
        flatbuffer._AlignedBuffer(data=buffer.data) if buffer.data is not None else schema.BufferT()
        for buffer in stored.buffers
    ]
    builder = flatbuffers.Builder()
    builder.Finish(stored.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def litert_integers(model: Path, sequences: Any) -> Values:
    """As `onnx_integers`, from the first signature."""
    content, names = exposed(model)
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    feed = dict(zip(INPUTS, sequences, strict=True))
    for value in interpreter.get_input_details():
        interpreter.set_tensor(value["index"], feed[value["name"]].astype(np.int32))
    interpreter.invoke()
    return {name: interpreter.get_tensor(index) for name, index in names.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layers_integers_are_those_of_the_arithmetic(
    target: Target, architecture: str, static_spec: Callable[[str], EncoderSpec], tmp_path: Path
) -> None:
    spec = static_spec(architecture)
    model = tmp_path / target.model_file
    target.convert(spec, model, ConvertOptions(lengths=(16,)))
    read = onnx_integers if target.name == "x86" else litert_integers
    compare_layers(spec, read(model, batch(16)), target.name == "arm64")


def compare_layers(spec: EncoderSpec, found: Values, exact: bool) -> None:
    """Every layer's integers with the arithmetic's, from what the layer was given."""
    for linear in spec.linears():
        assert linear.ranges is not None
        before, after = linear.ranges.input, linear.ranges.output
        x, y, floats = (found[f"{linear.name}.{part}"] for part in "xyf")
        compare(x, levels_in(floats.reshape(x.shape), before), before, exact)
        compare(y, levels_of(x.astype(np.int64), linear), after, exact)


def compare(integers: Any, levels: Any, stands_for: Range, exact: bool) -> None:
    """Equal; but ONNX Runtime divides by scales and adds biases in float, which may round ties otherwise."""
    wanted = rounded(levels, stands_for)
    tie = np.abs(np.abs(levels) % 1 - 0.5) < (0 if exact else 1e-4)
    np.testing.assert_array_equal(np.where(tie, wanted, integers), wanted)


def test_inputs_are_quantised_once(static_spec: Callable[[str], EncoderSpec], tmp_path: Path) -> None:
    spec = static_spec("bert")
    layers = len(spec.layers)
    for name, operator, each, head in (("arm64", "QUANTIZE", 4, 2), ("x86", "QuantizeLinear", 10, 4)):
        target = get_target(name)
        facts = target.convert(spec, tmp_path / target.model_file, ConvertOptions(lengths=(16,)))
        assert facts.ops[operator] == each * layers + head
        assert any("static ranges" in note for note in facts.notes)
    separate = spec.layers[0].key
    assert separate.ranges is not None
    other = StaticRanges(Range(separate.ranges.input.scale * 2, 0), separate.ranges.output)
    spec = replace(
        spec, layers=(replace(spec.layers[0], key=replace(separate, ranges=other)), *spec.layers[1:])
    )
    for name, operator, each, head in (("arm64", "QUANTIZE", 4, 3), ("x86", "QuantizeLinear", 10, 5)):
        target = get_target(name)
        facts = target.convert(spec, tmp_path / target.model_file, ConvertOptions(lengths=(16,)))
        assert facts.ops[operator] == each * layers + head


def test_a_part_may_have_static_ranges(
    target: Target, static_spec: Callable[[str], EncoderSpec], tmp_path: Path
) -> None:
    spec = static_spec("bert")
    some = {spec.layers[0].query.name, spec.layers[0].output.name, spec.linears()[-2].name}
    ranges = {linear.name: linear.ranges for linear in spec.linears() if linear.name in some}
    dynamic = load_like(spec)
    mixed = with_ranges(dynamic, lambda linear: ranges.get(linear.name))  # type: ignore[arg-type, return-value]
    model, sequences = tmp_path / target.model_file, batch(*LENGTHS)
    target.convert(mixed, model, OPTIONS)
    logits = target.open(model, SessionOptions()).run(*sequences)
    target.convert(dynamic, model, OPTIONS)
    exact = target.open(model, SessionOptions()).run(*sequences)
    assert 0 < np.abs(logits - exact).max() < 0.5


def load_like(spec: EncoderSpec) -> EncoderSpec:
    """`spec` without ranges."""
    return with_ranges(spec, lambda linear: None)  # type: ignore[arg-type, return-value]


def test_float32_leaves_the_ranges_out(
    target: Target, static_spec: Callable[[str], EncoderSpec], tmp_path: Path
) -> None:
    spec, model = static_spec("bert"), tmp_path / target.model_file
    facts = target.convert(spec, model, replace(OPTIONS, weights="float32"))
    assert facts.quantized_share == 0
    assert not {"QUANTIZE", "QuantizeLinear"} & set(facts.ops)


def test_other_ranges_than_the_checkpoints(
    target: Target, static_spec: Callable[[str], EncoderSpec], tmp_path: Path
) -> None:
    spec, model = static_spec("bert"), tmp_path / target.model_file
    target.convert(spec, model, OPTIONS)

    def check(other: EncoderSpec) -> None:
        if target.name == "x86":
            check_onnx(other, model)
        else:
            check_litert(other, OPTIONS.lengths, model)

    assert all(table.dtype == np.float32 for table in (spec.embeddings.position, spec.embeddings.token_type))  # type: ignore[union-attr]
    check(spec)
    dense = spec.linears()[3]
    assert dense.ranges is not None

    def changed(**change: Any) -> Callable[[Linear], StaticRanges]:
        moved = replace(dense, **change).ranges
        return lambda linear: moved if linear.name == dense.name else linear.ranges  # type: ignore[return-value]

    more = replace(dense.ranges.output, zero_point=dense.ranges.output.zero_point - 1)
    with pytest.raises(ArtifactError, match=rf"{dense.name}"):
        check(with_ranges(spec, changed(ranges=replace(dense.ranges, output=more))))
    wider = replace(dense.ranges.input, scale=dense.ranges.input.scale * 1.5)
    with pytest.raises(ArtifactError, match=rf"{dense.name}"):
        check(with_ranges(spec, changed(ranges=replace(dense.ranges, input=wider))))


def test_dynamic_where_the_checkpoint_is_static(
    static_spec: Callable[[str], EncoderSpec], tmp_path: Path
) -> None:
    spec, model = static_spec("bert"), tmp_path / "model.tflite"
    target = get_target("arm64")
    target.convert(spec, model, OPTIONS)
    with pytest.raises(ArtifactError, match=r"has ranges StaticRanges.*, not None"):
        check_litert(load_like(spec), OPTIONS.lengths, model)
    target.convert(load_like(spec), model, OPTIONS)
    with pytest.raises(ArtifactError, match="has ranges None, not StaticRanges"):
        check_litert(spec, OPTIONS.lengths, model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q: setattr(q, "scale", [float("nan")]), "scale nan"),
        (lambda q: setattr(q, "scale", [-1.0]), "scale -1.0"),
        (lambda q: setattr(q, "scale", [1.0, 2.0]), "not one scale"),
        (lambda q: setattr(q, "scale", []), "not one scale"),
        (lambda q: setattr(q, "zeroPoint", [128]), "zero point 128"),
        (lambda q: setattr(q, "zeroPoint", []), "not one scale"),
    ],
)
def test_damaged_ranges_in_a_file(
    change: Callable[[Any], None], words: str, static_spec: Callable[[str], EncoderSpec], tmp_path: Path
) -> None:
    model = tmp_path / "model.tflite"
    get_target("arm64").convert(static_spec("bert"), model, OPTIONS)
    stored = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    graph = stored.subgraphs[0]
    codes = [code.builtinCode for code in stored.operatorCodes]
    first = next(o for o in graph.operators if codes[o.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED)
    change(graph.tensors[first.outputs[0]].quantization)
    model.write_bytes(repacked(stored))
    with pytest.raises(ArtifactError, match=words):
        read_model(model)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        (StaticRanges(Range(1e-38, 0), Range(1.0, 0)), "steps"),
        (StaticRanges(Range(1.0, 0), Range(1e-6, 0)), "multipliers"),
        (StaticRanges(Range(1e-12, 0), Range(1.0, 0)), "sums"),
    ],
)
def test_ranges_that_32_bits_do_not_hold(
    target: Target, ranges: StaticRanges, words: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    spec = with_ranges(load_encoder_spec(checkpoints("bert", True)), lambda linear: ranges)
    query = spec.layers[0].query
    query = replace(query, bias=np.ones_like(query.bias))
    spec = replace(spec, layers=(replace(spec.layers[0], query=query), *spec.layers[1:]))
    model = tmp_path / target.model_file
    with pytest.raises(
        UnsupportedModelError, match=rf"query: its static ranges need {words} .*`activations: "
    ):
        target.convert(spec, model, OPTIONS)
    assert not model.exists()


def test_the_engine_refuses(static_spec: Callable[[str], EncoderSpec], tmp_path: Path) -> None:
    target = get_target("int8-sparse")
    with pytest.raises(UnsupportedModelError, match=r"static ranges.*activations: dynamic") as caught:
        target.convert(static_spec("bert"), tmp_path / target.model_file, OPTIONS)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
