"""The road to an int8-sparse package on a tiny model, and every verb on what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgebert
from edgebert.builder import BuildOptions, BuildResult, build_packages
from edgebert.cli.dispatch import run
from edgebert.progress import SilentReporter
from edgebert.validate import validate_package
from edgebert_targets.int8_sparse.library import available_isas, version
from tests.factories import make_checkpoint, task_sentences

pytestmark = pytest.mark.slow

SPARSE = """
name: sparse
fine_tune: {epochs: 6, learning_rate: 3.0e-3, batch_size: 16}
stages:
  - kind: prune
    method: magnitude
    pattern: 4-block
    sparsity: 0.5
    initial_sparsity: 0.5
    steps: 1
    training: {epochs: 2, learning_rate: 1.0e-3, batch_size: 16}
  - kind: quantize
    training: {epochs: 1, learning_rate: 3.0e-4, batch_size: 16}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8-sparse")


@pytest.fixture(scope="module")
def reporter() -> SilentReporter:
    return SilentReporter()


@pytest.fixture(scope="module")
def built(folder: Path, reporter: SilentReporter) -> BuildResult:
    import torch
    from transformers import AutoModel

    model = make_checkpoint(folder / "model", layers=2)
    AutoModel.from_pretrained(model, dtype=torch.float32).save_pretrained(model)
    for name, count, seed in (("train", 240, 0), ("dev", 80, 1)):
        rows = [json.dumps({"text": text, "label": label}) for text, label in task_sentences(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "sparse.yaml").write_text(SPARSE)
    options = BuildOptions(
        targets=("int8-sparse", "x86"),
        model=str(model),
        train=str(folder / "train.jsonl"),
        evaluation=str(folder / "dev.jsonl"),
        recipe=str(folder / "sparse.yaml"),
        max_drop=0.2,
        out=folder / "out",
        work=folder / "work",
        threads=1,
    )
    return build_packages(options, reporter)


@pytest.fixture(scope="module")
def package(built: BuildResult) -> Path:
    return built.targets[0].package


def test_it_answers_as_the_compressed_model_does(built: BuildResult) -> None:
    checked = built.targets[0].report.validation
    assert checked.teacher >= 0.9
    assert checked.agreement_with_pytorch >= 0.97
    assert abs(checked.artifact - checked.compressed_pytorch) <= 0.03
    assert f"EdgeBERT engine {version()} ({available_isas()[0]} kernels)" in checked.where


def test_sparsity_is_only_a_warning_where_it_does_not_pay(
    built: BuildResult, reporter: SilentReporter
) -> None:
    assert [line for line in reporter.warnings if "makes no model faster" in line] == list(built.warnings)
    assert len(built.warnings) == 1 and "on x86" in built.warnings[0]
    sparse, x86 = (result.report for result in built.targets)
    assert not [note for note in sparse.notes if "makes no model faster" in note]
    assert [note for note in x86.notes if "makes no model faster" in note]


def test_the_sparse_file_is_smaller_without_a_zip(built: BuildResult) -> None:
    _, pruned, quantized = built.targets[0].report.stages
    assert pruned.kind == "prune"
    assert quantized.size_raw_bytes < built.targets[1].report.stages[-1].size_raw_bytes


def test_golden_logits_are_met_to_the_bit(package: Path) -> None:
    with edgebert.load(package) as classifier:
        assert classifier.manifest.golden_tolerance == 0
        assert classifier.manifest.model_file == "model.gguf"
        assert set(classifier.manifest.cpu.architectures) == {"x86_64", "aarch64"}
    result = validate_package(package, [])
    assert result.passed
    assert (result.golden.max_difference, result.golden.wrong_runtime_ids) == (0, 0)


@pytest.mark.parametrize("isa", available_isas())
def test_validate_passes_on_every_instruction_set(
    package: Path, isa: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEBERT_ISA", isa)
    assert run(["validate", str(package), "--json"]) == 0
    golden = json.loads(capsys.readouterr().out)["golden"]
    assert (golden["max_difference"], golden["tolerance"], golden["wrong_runtime_ids"]) == (0, 0, 0)


def test_a_tokenizer_that_differs_inside_the_model_is_found(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgebert_targets.int8_sparse.library import Engine

    right = Engine.tokenize
    monkeypatch.setattr(
        Engine, "tokenize", lambda self, text, pair, limit: right(self, text[1:], pair, limit)
    )
    assert run(["validate", str(package)]) == edgebert.errors.EXIT_GATE
    assert "the tokenizer inside the model gives other ids" in capsys.readouterr().err


def test_inspect_counts_sparse_layers(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(package), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ops"] == {
        "attention": 2, "dense-linear": 2, "layer-norm": 5, "sparse-linear": 12, "table": 3,
    }  # fmt: skip
    assert found["cpu_features_any"] == []
    linears = [
        tensor for tensor in found["tensors"] if "layer " in tensor["part"] and tensor["dtype"] == "int8"
    ]
    assert len(linears) == 12
    sizes = [tensor["shape"][0] * tensor["shape"][1] for tensor in linears]
    zeros = [tensor["sparsity"] * size for tensor, size in zip(linears, sizes, strict=True)]
    assert sum(zeros) / sum(sizes) == pytest.approx(0.5, abs=0.03)
    assert all(tensor["nbytes"] < 0.8 * size for tensor, size in zip(linears, sizes, strict=True))


def test_bench_names_the_kernels(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEBERT_ISA", "scalar")
    assert run(["bench", str(package), "--rounds", "1", "--runs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kernels"]["used"] == "scalar"
    assert run(["bench", str(package), "--rounds", "1", "--runs", "1"]) == 0
    assert "scalar kernels" in capsys.readouterr().out


def test_doctor_names_the_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEBERT_ISA", "scalar")
    assert run(["doctor", "--json"]) == 0
    targets = {target["name"]: target for target in json.loads(capsys.readouterr().out)["targets"]}
    assert targets["int8-sparse"]["kernels"] == {"used": "scalar", "available": list(available_isas())}
    assert targets["x86"]["kernels"] is None
    monkeypatch.setenv("EDGEBERT_ISA", "nonsense")
    assert run(["doctor", "--json"]) == 0
    targets = {target["name"]: target for target in json.loads(capsys.readouterr().out)["targets"]}
    assert not targets["int8-sparse"]["runs"] and "nonsense" in targets["int8-sparse"]["note"]


def test_an_instruction_set_that_is_not_there_is_one_line(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEBERT_ISA", "nonsense")
    assert run(["run", str(package), "turn on the lamp"]) == edgebert.errors.EXIT_WRONG_CPU
    said = capsys.readouterr().err.strip()
    assert "EDGEBERT_ISA is 'nonsense'" in said and "\n" not in said


def test_running_needs_the_light_core_alone(package: Path) -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "gguf", "safetensors", "onnxruntime", "yaml"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from edgebert.cli.dispatch import run
sys.exit(run(sys.argv[1:]))
"""
    for verb in (
        ["run", str(package), "turn on the lamp"],
        ["validate", str(package)],
        ["inspect", str(package)],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *verb], capture_output=True, text=True, env=os.environ, check=False
        )
        assert done.returncode == 0, done.stderr
