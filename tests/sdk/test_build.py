"""The whole road on a tiny model: packages that real runtimes run, a gate that bites, work that is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import edgebert
from edgebert import errors
from edgebert.builder import BuildOptions, BuildResult, build_packages
from edgebert.cli.dispatch import run
from edgebert.progress import SilentReporter
from tests.factories import ARCHITECTURES, make_checkpoint, task_sentences

pytestmark = pytest.mark.slow

TARGETS = ("x86", "arm64")
FAST = """
name: fast
fine_tune: {epochs: 6, learning_rate: 3.0e-3, batch_size: 16}
stages:
  - kind: drop-layers
    layers: 2
    training: {epochs: 2, learning_rate: 1.0e-3, batch_size: 16}
  - kind: quantize
    training: {epochs: 1, learning_rate: 3.0e-4, batch_size: 16}
"""
RUINOUS = """
name: ruinous
fine_tune: {epochs: 6, learning_rate: 3.0e-3, batch_size: 16}
stages:
  - kind: prune
    method: magnitude
    pattern: unstructured
    sparsity: 0.98
    initial_sparsity: 0.98
    steps: 1
    training: {epochs: 0}
  - kind: quantize
    training: {epochs: 0}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder without head, data and recipes."""
    import torch
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("source")
    model = make_checkpoint(folder / "model", layers=3)
    AutoModel.from_pretrained(model, dtype=torch.float32).save_pretrained(model)
    for name, count, seed in (("train", 240, 0), ("dev", 80, 1)):
        rows = [json.dumps({"text": text, "label": label}) for text, label in task_sentences(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "fast.yaml").write_text(FAST)
    (folder / "ruinous.yaml").write_text(RUINOUS)
    return folder


@pytest.fixture(scope="module")
def options(files: Path) -> BuildOptions:
    return BuildOptions(
        targets=TARGETS,
        model=str(files / "model"),
        train=str(files / "train.jsonl"),
        evaluation=str(files / "dev.jsonl"),
        recipe=str(files / "fast.yaml"),
        max_drop=0.1,
        out=files / "out",
        work=files / "work",
        threads=1,
    )


@pytest.fixture(scope="module")
def built(options: BuildOptions) -> BuildResult:
    return build_packages(options, SilentReporter())


def command_line(options: BuildOptions, *extra: str) -> list[str]:
    assert options.model and options.train and options.evaluation and options.recipe
    return ["build", "--model", options.model, "--train", options.train, "--eval", options.evaluation,
            "--target", "x86", "--recipe", options.recipe, "--work", str(options.work), "--threads", "1",
            "--max-drop", "0.1", *extra]  # fmt: skip


def test_both_packages_run_and_agree_with_the_compressed_model(built: BuildResult) -> None:
    assert [result.target for result in built.targets] == list(TARGETS)
    for result in built.targets:
        checked = result.report.validation
        assert checked.teacher >= 0.9
        assert checked.agreement_with_pytorch >= 0.97
        assert abs(checked.artifact - checked.compressed_pytorch) <= 0.03
        assert ("not been run on aarch64" in checked.where) == (result.target == "arm64")
        with edgebert.load(result.package) as classifier:
            texts = [text for text, _ in task_sentences(20, 5)]
            labels = [label for _, label in task_sentences(20, 5)]
            right = [p.label == label for p, label in zip(classifier.classify(texts), labels, strict=True)]
            assert np.mean(right) >= 0.8


def test_every_stage_has_its_line(built: BuildResult) -> None:
    for result in built.targets:
        stages = result.report.stages
        assert [stage.kind for stage in stages] == ["teacher", "drop-layers", "quantize"]
        for before, after in pairwise(stages):
            assert after.accuracy_cost == pytest.approx(before.accuracy - after.accuracy)
            assert after.size_raw_bytes < before.size_raw_bytes
            assert after.size_zip_bytes < before.size_zip_bytes
            assert after.speed_vs_previous
        assert result.report.bench[0].baseline is not None
        assert result.report.size.model_raw == stages[-1].size_raw_bytes
        assert (result.package / "report.html").read_text().startswith("<!doctype html>")
        assert json.loads((result.package / "report.json").read_text()) == result.report.to_dict()


def test_onnxruntime_alone_runs_the_x86_folder(built: BuildResult) -> None:
    script = """
import json, sys, onnxruntime, numpy, tokenizers
folder = sys.argv[1]
text = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json").encode("turn on the lamp")
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
feeds = {"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}
feeds = {name: numpy.array([ids], dtype=numpy.int64) for name, ids in feeds.items()}
logits = session.run(["logits"], feeds)[0][0]
labels = json.load(open(folder + "/config.json"))["id2label"]
print(labels[str(logits.argmax())])
assert not [name for name in sys.modules if name.startswith(("edgebert", "torch", "transformers"))]
"""
    package = built.targets[0].package
    with edgebert.load(package) as classifier:
        expected = classifier.classify(["turn on the lamp"])[0].label
    done = subprocess.run(
        [sys.executable, "-c", script, str(package)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == expected, done.stderr


def test_litert_alone_runs_the_arm64_file(built: BuildResult) -> None:
    script = """
import sys, numpy, tokenizers
from ai_edge_litert.interpreter import Interpreter
folder = sys.argv[1]
text = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json").encode("turn on the lamp")
runner = Interpreter(model_path=folder + "/model.tflite").get_signature_runner()
feeds = {"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}
length = runner.get_input_details()["input_ids"]["shape"][1]
feeds = {name: ids + [0] * (length - len(ids)) for name, ids in feeds.items()}
feeds = {name: numpy.array([ids], dtype=numpy.int32) for name, ids in feeds.items()}
print(runner(**feeds)["logits"][0].argmax())
"""
    package = built.targets[1].package
    with edgebert.load(package) as classifier:
        expected = int(classifier.logits(["turn on the lamp"])[0].argmax())
    done = subprocess.run(
        [sys.executable, "-c", script, str(package)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(expected), done.stderr


def test_same_inputs_give_the_same_package(built: BuildResult, options: BuildOptions, tmp_path: Path) -> None:
    again = build_packages(replace(options, out=tmp_path / "out", work=tmp_path / "work"), SilentReporter())
    for one, other in zip(built.targets, again.targets, strict=True):
        with edgebert.open_package(one.package) as first, edgebert.open_package(other.package) as second:
            assert first.manifest.package_id == second.manifest.package_id
            model = first.manifest.model_file
            assert first.manifest.file(model).sha256 == second.manifest.file(model).sha256


def test_python_builds_as_the_command_line_does(
    built: BuildResult, options: BuildOptions, tmp_path: Path
) -> None:
    result = edgebert.build(
        options.model,
        options.train,
        options.evaluation,
        targets=["arm64"],
        recipe=options.recipe,
        max_drop=0.1,
        out=str(tmp_path),
        work=options.work,
        threads=1,
    )
    with edgebert.load(result.targets[0].package) as classifier:
        assert classifier.classify(["turn on the lamp"])[0].label in classifier.labels
        assert (
            classifier.manifest.package_id
            == edgebert.open_package(built.targets[1].package).manifest.package_id
        )


def test_finished_stages_are_kept(
    built: BuildResult, options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr("edgebert_compress.stages.run_stage", refuse)
    monkeypatch.setattr("edgebert_compress.trainer.fine_tune", refuse)
    monkeypatch.setattr("edgebert_compress.trainer.predict_logits", refuse)
    zipped = build_packages(replace(options, out=tmp_path, as_zip=True, targets=("x86",)), SilentReporter())
    assert zipped.targets[0].package == tmp_path / "x86.zip"
    with edgebert.load(tmp_path / "x86.zip") as classifier:
        assert (
            classifier.manifest.package_id
            == edgebert.open_package(built.targets[0].package).manifest.package_id
        )


class InterruptedAt(SilentReporter):
    """Presses Ctrl-C when a phase with a certain word begins."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word
        self.seen: list[str] = []

    def progress(self, phase: str, done: int, total: int, **figures: float) -> None:
        self.seen.append(phase)
        if self.word in phase:
            raise KeyboardInterrupt


@pytest.mark.parametrize("word", ["fine-tune", "of the layers", "INT8", "answer the evaluation", "speed"])
def test_interrupted_anywhere_nothing_is_half_written(
    options: BuildOptions, tmp_path: Path, word: str, built: BuildResult
) -> None:
    chosen = replace(options, out=tmp_path / "out", work=tmp_path / "work", targets=("x86",))
    if word == "of the layers":
        word = "keep 2"
    with pytest.raises(KeyboardInterrupt):
        build_packages(chosen, InterruptedAt(word))
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "work").glob(".*"))
    for stage in (tmp_path / "work").iterdir():
        assert (stage / "done.json").is_file()


def test_interrupted_process_says_one_line_and_continues_later(options: BuildOptions, tmp_path: Path) -> None:
    arguments = command_line(replace(options, work=tmp_path / "work"), "--out", str(tmp_path / "out"))
    process = subprocess.Popen(
        [sys.executable, "-m", "edgebert.cli", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("work/.*-teacher-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == errors.EXIT_INTERRUPTED, stderr
    assert "interrupted; run the same command again to continue" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


def test_a_killed_build_leaves_only_what_the_next_one_clears(options: BuildOptions, tmp_path: Path) -> None:
    arguments = command_line(replace(options, work=tmp_path / "work"), "--out", str(tmp_path / "out"))
    process = subprocess.Popen([sys.executable, "-m", "edgebert.cli", *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("work/.*-teacher-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert run(arguments) == errors.EXIT_OK
    assert not list((tmp_path / "work").glob(".*"))
    assert (tmp_path / "out" / "x86" / "manifest.json").is_file()


def test_gate_refuses_names_the_stage_and_leaves_the_report(
    files: Path, options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str], built: BuildResult
) -> None:
    arguments = command_line(
        replace(options, recipe=str(files / "ruinous.yaml")), "--out", str(tmp_path / "out")
    )
    assert run(arguments) == errors.EXIT_GATE
    message = capsys.readouterr().err.splitlines()[-1]
    assert "stage 'prune 98% unstructured (magnitude)' lost most" in message
    assert not (tmp_path / "out" / "x86").exists()
    report = json.loads((tmp_path / "out" / "x86-report" / "report.json").read_text())
    assert report["validation"]["passed"] is False
    assert report["validation"]["guilty_stage"] == "prune 98% unstructured (magnitude)"
    assert (tmp_path / "out" / "x86-report" / "report.html").is_file()


def test_sparsity_for_speed_is_a_warning_that_names_what_helps(
    files: Path, options: BuildOptions, tmp_path: Path, built: BuildResult
) -> None:
    reporter = SilentReporter()
    with pytest.raises(errors.GateError):
        build_packages(
            replace(options, recipe=str(files / "ruinous.yaml"), out=tmp_path, max_drop=0.0), reporter
        )
    assert len(reporter.warnings) == len(TARGETS)
    for line in reporter.warnings:
        assert "makes no model faster" in line
        assert "fewer-layers" in line
        assert "dense-int8" in line


def test_an_existing_package_is_kept_without_force(
    options: BuildOptions, capsys: pytest.CaptureFixture[str], built: BuildResult
) -> None:
    before = (built.targets[0].package / "manifest.json").read_bytes()
    assert run(command_line(options, "--out", str(options.out))) == errors.EXIT_OUTPUT
    assert "exists already" in capsys.readouterr().err
    assert (built.targets[0].package / "manifest.json").read_bytes() == before
    assert run(command_line(options, "--out", str(options.out), "--force")) == errors.EXIT_OK


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 300 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode  # fmt: skip
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("where", ["--out", "--work"])
def test_full_disk_is_one_line_and_leaves_nothing(
    options: BuildOptions, small_disk: Path, where: str, capsys: pytest.CaptureFixture[str],
    built: BuildResult, tmp_path: Path,
) -> None:  # fmt: skip
    (small_disk / "ballast").write_bytes(bytes(200_000))
    other = ["--out", str(tmp_path / "out")] if where == "--work" else []
    assert run(command_line(options, where, str(small_disk / "place"), *other)) == errors.EXIT_DISK_FULL
    message = capsys.readouterr().err.splitlines()[-1]
    assert "disk full" in message or "no space" in message.lower()
    left = [path for path in small_disk.rglob("*") if path.is_file() and path.name != "ballast"]
    assert not [path for path in left if where == "--out" or ".tmp" in path.name]
    assert not list(small_disk.glob("place/.*"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_takes_the_whole_road_with_pairs(tmp_path: Path, architecture: str) -> None:
    """Random weights as given, INT8 without training: the artifacts must still decide as PyTorch does."""
    rows = [
        json.dumps({"text": text, "text_pair": other, "label": label})
        for (text, label), (other, _) in zip(task_sentences(60, 3), task_sentences(60, 4), strict=True)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    result = build_packages(
        BuildOptions(
            targets=TARGETS,
            model=str(make_checkpoint(tmp_path / "model", architecture)),
            train=str(tmp_path / "data.jsonl"),
            evaluation=str(tmp_path / "data.jsonl"),
            recipe="int8-post-training",
            max_drop=1.0,
            out=tmp_path / "out",
            work=tmp_path / "work",
            threads=1,
        ),
        SilentReporter(),
    )
    for built in result.targets:
        assert built.report.validation.agreement_with_pytorch >= 0.95
        with edgebert.load(built.package) as classifier:
            alone, together = (classifier.logits(["turn on"], [pair]) for pair in (None, "the lamp"))
            assert not np.allclose(alone, together)


def test_new_head_trains_a_head_that_was_there(files: Path, options: BuildOptions, tmp_path: Path) -> None:
    """A head with the right labels but random weights is taken as it is, and replaced only on request."""
    model = make_checkpoint(tmp_path / "model", layers=3)
    chosen = replace(options, model=str(model), targets=("x86",), out=tmp_path / "out", max_drop=1.0)
    untrained = build_packages(chosen, SilentReporter()).targets[0].report
    assert untrained.validation.teacher < 0.8
    assert untrained.stages[0].description == "as given, float32"
    trained = build_packages(replace(chosen, new_head=True, force=True), SilentReporter()).targets[0].report
    assert trained.validation.teacher >= 0.9
    assert trained.stages[0].description == "fine-tuned here"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["build"], errors.EXIT_USAGE, "no target given"),
        (
            ["build", "--target", "riscv"],
            errors.EXIT_USAGE,
            "unknown target 'riscv'; choose one of: arm64, int8-sparse, x86",
        ),
        (["build", "--target", "x86", "--model", "m"], errors.EXIT_USAGE, "--train and --eval missing"),
        (["build", "--target", "x86", "--max-drop", "2"], errors.EXIT_USAGE, "--max-drop is 2"),
        (["build", "--target", "x86", "--max-drop", "x"], errors.EXIT_USAGE, "'x' is not a valid float"),
        (["build", "--target", "x86", "--seed", "-1"], errors.EXIT_USAGE, "--seed is -1"),
        (["build", "--target", "x86", "--threads", "0"], errors.EXIT_USAGE, "--threads is 0"),
        (["build", "--target", "x86", "--frob"], errors.EXIT_USAGE, "--frob"),
        (["frob"], errors.EXIT_USAGE, "frob"),
        (["build", "--target", "x86", "--recipe", "nope"], errors.EXIT_RECIPE, "no recipe 'nope'"),
    ],
)
def test_bad_options(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extra = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")] if len(arguments) > 1 else []
    assert run([*arguments, *extra]) == code
    captured = capsys.readouterr().err.strip()
    assert says in captured
    assert "\n" not in captured
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("dev.jsonl", '{"text": "x", "label": "nobody"}', errors.EXIT_DATA, "label 'nobody' of evaluation"),
        ("train.jsonl", '{"text": "x", "label": "y"}\noops', errors.EXIT_DATA, "line 2: not valid JSON"),
        ("model/config.json", '{"model_type": "t5"}', errors.EXIT_MODEL, "architecture 't5'"),
        ("model/model.safetensors", "short", errors.EXIT_MODEL, "is damaged"),
    ],
)  # fmt: skip
def test_bad_inputs(
    files: Path, options: BuildOptions, tmp_path: Path, name: str, content: str, code: int, says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for part in ("model", "train.jsonl", "dev.jsonl"):
        source = files / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    (tmp_path / name).write_text(content)
    chosen = replace(options, model=str(tmp_path / "model"), train=str(tmp_path / "train.jsonl"),
                     evaluation=str(tmp_path / "dev.jsonl"), work=tmp_path / "work")  # fmt: skip
    assert run(command_line(chosen, "--out", str(tmp_path / "out"))) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unwritable_output_is_told_before_any_work(
    options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    chosen = replace(options, work=tmp_path / "work")
    assert run(command_line(chosen, "--out", str(tmp_path / "file" / "out"))) == errors.EXIT_OUTPUT
    assert "choose another --out" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_static_ranges_for_the_engine_are_told_before_the_training(
    options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "static.yaml"
    recipe.write_text("stages: [{kind: quantize, activations: static, training: {epochs: 1}}]")
    chosen = replace(options, recipe=str(recipe), work=tmp_path / "work")
    more = ("--target", "int8-sparse", "--out", str(tmp_path / "out"))
    assert run(command_line(chosen, *more)) == errors.EXIT_USAGE
    told = capsys.readouterr().err.strip()
    assert "static activation ranges, which int8-sparse (EdgeBERT engine) does not run" in told
    assert "\n" not in told
    assert not list((tmp_path / "work").glob("stage*"))
    assert not (tmp_path / "out").exists()


def test_json_output_is_one_object(
    options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str], built: BuildResult
) -> None:
    assert run(command_line(options, "--out", str(tmp_path / "out"), "--json")) == errors.EXIT_OK
    printed = json.loads(capsys.readouterr().out)
    assert printed["packages"] == {"x86": str(tmp_path / "out" / "x86")}
    assert printed["reports"]["x86"]["validation"]["passed"] is True
