"""What only the arm64 target has: fixed lengths, aligned buffers, one XNNPACK partition."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgebert_targets.base import ConvertOptions, SessionOptions, lengths_up_to
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.errors import ArtifactError, InputError, MissingExtraError, UnsupportedModelError
from edgebert_targets.litert_arm64 import TARGET
from tests.factories import ARCHITECTURES
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch


def convert(checkpoints: Checkpoints, folder: Path, *lengths: int, architecture: str = "bert") -> Path:
    path = folder / f"{architecture}-{'-'.join(map(str, lengths))}.tflite"
    spec = load_encoder_spec(checkpoints(architecture, True))
    facts = TARGET.convert(spec, path, ConvertOptions(lengths=lengths))
    assert facts.lengths == lengths
    return path


def stored_buffers(path: Path) -> list[tuple[int, Any]]:
    """Offset in the file and bytes of every non-empty buffer."""
    data = path.read_bytes()
    root = schema.Model.GetRootAs(data, 0)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    buffers = [
        root.Buffers(i).DataAsNumpy() for i in range(root.BuffersLength()) if root.Buffers(i).DataLength()
    ]
    return [(value.__array_interface__["data"][0] - start, value) for value in buffers]


def test_each_row_runs_at_the_smallest_length(checkpoints: Checkpoints, tmp_path: Path) -> None:
    inputs = batch(16, 3, 8, 9)
    several = TARGET.open(convert(checkpoints, tmp_path, 8, 16), SessionOptions())
    one = TARGET.open(convert(checkpoints, tmp_path, 16), SessionOptions())
    assert several.max_length == one.max_length == 16
    np.testing.assert_allclose(several.run(*inputs), one.run(*inputs), atol=1e-5)


def test_lengths_share_their_weights(checkpoints: Checkpoints, tmp_path: Path) -> None:
    def weights(path: Path) -> int:
        """Bytes of the large buffers: shapes, notes and vectors are small."""
        return sum(value.size for _, value in stored_buffers(path) if value.size >= 1024)

    one, three = convert(checkpoints, tmp_path, 32), convert(checkpoints, tmp_path, 8, 16, 32)
    positions = (8 + 16) * 32 * 4
    assert weights(three) - weights(one) == positions


def test_buffers_are_aligned(checkpoints: Checkpoints, tmp_path: Path) -> None:
    buffers = stored_buffers(convert(checkpoints, tmp_path, 8, 16))
    assert len(buffers) > 40
    assert {offset % 16 for offset, _ in buffers} == {0}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_xnnpack_takes_the_graph_in_one_piece(
    architecture: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    path = convert(checkpoints, tmp_path, 16, architecture=architecture)
    interpreter = Interpreter(str(path), num_threads=1)
    runner = interpreter.get_signature_runner()
    runner(**{name: np.ones((1, 16), np.int32) for name in runner.get_input_details()})
    ops = [op["op_name"] for op in interpreter._get_ops_details()]
    assert ops.count("DELEGATE") == 1


def test_int8_layers_have_the_version_that_old_runtimes_refuse(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    root = schema.Model.GetRootAs(convert(checkpoints, tmp_path, 8).read_bytes(), 0)
    codes = [root.OperatorCodes(i) for i in range(root.OperatorCodesLength())]
    versions = {code.BuiltinCode(): code.Version() for code in codes}
    assert versions[schema.BuiltinOperator.FULLY_CONNECTED] == 12


def test_ai_edge_litert_alone_runs_it(checkpoints: Checkpoints, tmp_path: Path) -> None:
    path = convert(checkpoints, tmp_path, 16)
    ids, mask, types = batch(16)
    runner = Interpreter(str(path)).get_signature_runner()
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    logits = runner(**{name: value.astype(np.int32) for name, value in feed.items()})["logits"]
    np.testing.assert_array_equal(logits, TARGET.open(path, SessionOptions()).run(ids, mask, types))


def test_a_model_without_token_types_has_no_such_input(checkpoints: Checkpoints, tmp_path: Path) -> None:
    path = convert(checkpoints, tmp_path, 8, architecture="distilbert")
    inputs = Interpreter(str(path)).get_signature_runner().get_input_details()
    assert sorted(inputs) == ["attention_mask", "input_ids"]
    session = TARGET.open(path, SessionOptions())
    ids, mask, types = batch(6)
    np.testing.assert_array_equal(session.run(ids, mask, types), session.run(ids, mask, types * 0))


@pytest.mark.parametrize("lengths", [(), (0,), (-8,), (16, 8), (8, 8), (65,), (8, 65)])
def test_impossible_lengths(lengths: tuple[int, ...], checkpoints: Checkpoints, tmp_path: Path) -> None:
    spec = load_encoder_spec(checkpoints("bert", True))
    with pytest.raises(UnsupportedModelError):
        TARGET.convert(spec, tmp_path / "model.tflite", ConvertOptions(lengths=lengths))
    assert list(tmp_path.iterdir()) == []


def test_longer_than_the_longest_length(checkpoints: Checkpoints, tmp_path: Path) -> None:
    session = TARGET.open(convert(checkpoints, tmp_path, 8, 16), SessionOptions())
    with pytest.raises(InputError, match="17 tokens, the model takes 16"):
        session.run(*batch(17))


def test_the_runtime_logs_nothing(
    checkpoints: Checkpoints, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = TARGET.open(convert(checkpoints, tmp_path, 8, 16), SessionOptions())
    session.run(*batch(16, 5))
    print("still open", file=sys.stderr)
    assert capfd.readouterr() == ("", "still open\n")


def test_foreign_operators_are_refused(checkpoints: Checkpoints, tmp_path: Path) -> None:
    path = convert(checkpoints, tmp_path, 8)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.TANH:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOGISTIC
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(builder.Output())
    with pytest.raises(ArtifactError):
        TARGET.open(path, SessionOptions())


@pytest.mark.parametrize("module", ["ai_edge_litert", "flatbuffers"])
def test_missing_libraries(
    module: str, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_encoder_spec(checkpoints("bert", True))
    for name in [name for name in sys.modules if name.split(".")[0] == "ai_edge_litert"]:
        monkeypatch.setitem(sys.modules, name, None)
    if module == "flatbuffers":
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"is not installed; run: pip install 'edgebert\["):
        TARGET.convert(spec, tmp_path / "model.tflite", ConvertOptions(lengths=(8,)))


def test_lengths_up_to() -> None:
    assert lengths_up_to(128) == (32, 64, 128)
    assert lengths_up_to(100) == (32, 64, 100)
    assert lengths_up_to(16) == (16,)
    assert lengths_up_to(512) == (32, 64, 128, 256, 384, 512)
    assert lengths_up_to(48, (8, 16, 16, 64)) == (8, 16, 48)


def test_the_first_subgraph_takes_the_longest_texts(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """What a runtime takes that knows no signatures."""
    path = convert(checkpoints, tmp_path, 8, 16)
    shapes = {tuple(value["shape"]) for value in Interpreter(str(path)).get_input_details()}
    assert shapes == {(1, 16)}
