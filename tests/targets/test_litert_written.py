"""What is asserted about an arm64 file after it was written, and before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.encoder import EncoderSpec, load_encoder_spec, with_float_positions, with_float_weights
from edgebert_targets.errors import ArtifactError, UnsupportedModelError
from edgebert_targets.litert_arm64 import TARGET, flatbuffer
from edgebert_targets.litert_arm64.convert import litert_model
from edgebert_targets.litert_arm64.delegation import Delegation, _delegation, delegation
from edgebert_targets.litert_arm64.operators import ALLOWED_OPS
from edgebert_targets.litert_arm64.written import check_written
from tests.factories import ARCHITECTURES
from tests.targets.conftest import Checkpoints

LENGTHS = (8, 16)


@pytest.fixture
def spec(checkpoints: Checkpoints) -> EncoderSpec:
    return with_float_positions(load_encoder_spec(checkpoints("bert", True)))


def written(spec: EncoderSpec, folder: Path, lengths: tuple[int, ...] = LENGTHS) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(litert_model(spec, lengths))
    return path


def test_what_was_meant_passes(spec: EncoderSpec, tmp_path: Path) -> None:
    check_written(spec, LENGTHS, written(spec, tmp_path))
    plain = with_float_weights(spec)
    check_written(plain, LENGTHS, written(plain, tmp_path))


def test_other_weights_than_the_checkpoints(spec: EncoderSpec, tmp_path: Path) -> None:
    path = written(with_float_weights(spec), tmp_path)
    with pytest.raises(ArtifactError, match="was not written as INT8"):
        check_written(spec, LENGTHS, path)
    with pytest.raises(ArtifactError, match="was written as INT8, the checkpoint has it as float"):
        check_written(with_float_weights(spec), LENGTHS, written(spec, tmp_path))


def test_an_integer_that_differs(spec: EncoderSpec, tmp_path: Path) -> None:
    path = written(spec, tmp_path)
    name = "bert.encoder.layer.1.output.dense.weight"
    weight = spec.quantized_tensors()[name].values
    damaged = path.read_bytes().replace(weight.tobytes(), (-weight).tobytes())
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=f"'{name}' differs"):
        check_written(spec, LENGTHS, path)


def test_other_lengths(spec: EncoderSpec, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"lengths \(8,\), not \(8, 16\)"):
        check_written(spec, LENGTHS, written(spec, tmp_path, (8,)))


def test_an_operator_version_that_old_runtimes_get_wrong(spec: EncoderSpec, tmp_path: Path) -> None:
    path = written(spec, tmp_path)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED:
            code.version = 11
    builder = flatbuffers.Builder()
    builder.ForceDefaults(False)
    builder.Finish(_aligned(model).Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(builder.Output())
    with pytest.raises(ArtifactError, match="FULLY_CONNECTED has version 11"):
        TARGET.open(path, SessionOptions())


def _aligned(model: Any) -> Any:
    """The object API forgets the alignment of buffers; the writer's own class keeps it."""
    model.buffers = [
        flatbuffer._AlignedBuffer(data=buffer.data) if buffer.data is not None else schema.BufferT()
        for buffer in model.buffers
    ]
    return model


def test_a_foreign_operator_is_refused_before_anything_is_written(
    spec: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flatbuffer, "ALLOWED_OPS", ALLOWED_OPS - {"GELU"})
    with pytest.raises(UnsupportedModelError, match=r"bert\.encoder\.layer\.0: needs the operator GELU"):
        TARGET.convert(spec, tmp_path / "model.tflite", ConvertOptions(lengths=LENGTHS))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_xnnpack_leaves_the_integer_inputs_alone(
    architecture: str, quantized: bool, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    spec = with_float_positions(load_encoder_spec(checkpoints(architecture, quantized)))
    found = delegation(Interpreter(str(written(spec, tmp_path, (16,)))))
    assert found.pieces == 1
    assert "EMBEDDING_LOOKUP" in found.left
    assert set(found.left) <= {"EMBEDDING_LOOKUP", "CAST", "RESHAPE"}
    assert found.share > 0.9


def op(name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    return {"op_name": name, "inputs": inputs, "outputs": outputs}


def test_counting_what_a_delegate_took() -> None:
    graph = [op("CAST", [0], [1]), op("MUL", [1, 9], [2]), op("ADD", [2, 9], [3]), op("TANH", [3], [4])]
    found = _delegation([*graph, op("DELEGATE", [1, 9], [3])])
    assert found == Delegation(1, 4, ("CAST", "TANH"))
    assert found.share == 0.5
    assert _delegation(graph) == Delegation(0, 4, ("CAST", "MUL", "ADD", "TANH"))
    two = [*graph, op("DELEGATE", [1, 9], [2]), op("DELEGATE", [3], [4])]
    assert _delegation(two).pieces == 2


def test_a_graph_that_xnnpack_does_not_take_is_refused(
    spec: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgebert_targets.litert_arm64 import written as module

    path = written(spec, tmp_path)
    for found in (Delegation(0, 9, ("MUL",) * 9), Delegation(2, 9, ()), Delegation(1, 9, ("GELU",))):
        monkeypatch.setattr(module, "delegation", lambda _, found=found: found)
        with pytest.raises(ArtifactError, match="XNNPACK takes"):
            check_written(spec, LENGTHS, path)
