"""The whole road with a real emulated ARM64: build with the gate there, validate, bench and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgebert import errors
from edgebert.builder import BuildOptions, BuildResult, build_packages
from edgebert.cli.dispatch import run
from edgebert.devices.base import open_device
from edgebert.devices.qemu import find_qemu
from edgebert.figures import DeviceFigures, Report
from edgebert.pipeline import load
from edgebert.progress import SilentReporter
from edgebert.report import parse_report
from tests.factories import make_checkpoint, task_sentences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_qemu() is None, reason="needs qemu-aarch64"),
]

A76, A53 = "qemu:arm64", "qemu:arm64,cpu=cortex-a53"
KERNELS = {A76: "neon-dotprod", A53: "neon"}
TARGETS = ("arm64", "int8-sparse")
RECIPE = """
name: quick
fine_tune: {epochs: 6, learning_rate: 3.0e-3, batch_size: 16}
stages:
  - kind: quantize
    training: {epochs: 1, learning_rate: 3.0e-4, batch_size: 16}
"""
DIFFERENCE = 0.5  # logits of a tiny model whose INT8 steps are coarse


def has_python(spec: str) -> bool:
    try:
        with open_device(spec) as device:
            return device.python() is not None
    except errors.DeviceError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qemu")


@pytest.fixture(scope="module")
def options(folder: Path) -> BuildOptions:
    import torch
    from transformers import AutoModel

    model = make_checkpoint(folder / "model", layers=2)
    AutoModel.from_pretrained(model, dtype=torch.float32).save_pretrained(model)
    for name, count, seed in (("train", 240, 0), ("dev", 40, 1)):
        rows = [json.dumps({"text": text, "label": label}) for text, label in task_sentences(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "quick.yaml").write_text(RECIPE)
    return BuildOptions(
        # LiteRT runs there only where the ARM64 root was built.
        targets=TARGETS if has_python(A76) else TARGETS[1:],
        model=str(model),
        train=str(folder / "train.jsonl"),
        evaluation=str(folder / "dev.jsonl"),
        recipe=str(folder / "quick.yaml"),
        max_drop=0.2,
        out=folder / "out",
        work=folder / "work",
        threads=1,
        device=A76,
    )


@pytest.fixture(scope="module")
def built(options: BuildOptions) -> BuildResult:
    return build_packages(options, SilentReporter())


def report_of(built: BuildResult, target: str) -> tuple[Report, DeviceFigures]:
    for result in built.targets:
        if result.target == target:
            assert result.report.device is not None
            return result.report, result.report.device
    pytest.skip("needs the ARM64 root: edgebert devices --prepare qemu:arm64")


def package_of(built: BuildResult, target: str) -> Path:
    report_of(built, target)
    return next(result.package for result in built.targets if result.target == target)


@pytest.mark.parametrize("target", TARGETS)
def test_the_gate_of_a_build_counts_what_the_device_computed(built: BuildResult, target: str) -> None:
    report, device = report_of(built, target)
    assert report.validation.passed and device.examples == device.available == 40
    assert report.validation.artifact == device.accuracy and device.accuracy is not None
    assert device.accuracy >= 0.9
    assert report.validation.where.startswith(f"Validated on {A76} (cortex-a76, emulated) by ")
    assert (device.golden_examples, device.golden_wrong) == (24, 0)
    assert device.facts.emulated and "asimddp" in device.facts.features
    (bench,) = device.bench
    assert bench.latency is None and bench.instructions is not None and bench.instructions > 10_000


def test_the_engine_s_logits_are_the_host_s_bits(built: BuildResult) -> None:
    _, device = report_of(built, "int8-sparse")
    assert device.host is not None
    assert device.host.identical == device.host.examples == 64 and device.host.max_difference == 0
    assert device.wrong_tokens == 0 and device.golden_max_difference == 0
    assert device.kernels == "neon-dotprod"


def test_litert_says_how_far_it_is_and_why(built: BuildResult) -> None:
    _, device = report_of(built, "arm64")
    assert device.host is not None and device.host.same_class == device.host.examples == 64
    assert 0 < device.host.max_difference < DIFFERENCE
    assert "XNNPACK for asimd, asimddp on the device" in device.host.explanation
    assert device.wrong_tokens is None and device.golden_max_difference < 0.1


@pytest.mark.parametrize("target", TARGETS)
def test_both_reports_have_the_device(built: BuildResult, target: str) -> None:
    package, (report, device) = package_of(built, target), report_of(built, target)
    assert parse_report((package / "report.json").read_bytes()) == report
    page = (package / "report.html").read_text()
    assert "On the device" in page and f"{A76} (emulated)" in page
    assert device.runtime in page and "emulated time means nothing" in page


@pytest.mark.parametrize("spec", [A76, A53])
def test_validate_the_engine_on_new_and_old_cores(
    built: BuildResult, folder: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", str(package_of(built, "int8-sparse")), "--eval", str(folder / "dev.jsonl")]
    assert run([*words, "--device", spec, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["examples"] == 40
    assert (found["golden"]["max_difference"], found["golden"]["wrong_runtime_ids"]) == (0, 0)
    device = found["device"]
    assert device["kernels"] == KERNELS[spec] and device["wrong_tokens"] == 0
    assert device["host"]["identical"] == device["host"]["examples"] == 64


@pytest.mark.parametrize("spec", [A76, A53])
def test_validate_litert_on_new_and_old_cores(
    built: BuildResult, folder: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", str(package_of(built, "arm64")), "--eval", str(folder / "dev.jsonl")]
    assert run([*words, "--device", spec, "--limit", "10", "--json"]) == 0
    device = json.loads(capsys.readouterr().out)["device"]
    assert (device["examples"], device["available"]) == (10, 40)
    assert device["host"]["same_class"] == 34 and device["host"]["max_difference"] < DIFFERENCE
    assert ("asimddp" in device["kernels"]) == (spec == A76)


@pytest.mark.parametrize(("target", "spec"), [("int8-sparse", A76), ("int8-sparse", A53), ("arm64", A76)])
def test_bench_counts_instructions_that_repeat(
    built: BuildResult, target: str, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for _ in range(2):
        words = ["bench", str(package_of(built, target)), "--length", "16", "--device", spec, "--json"]
        assert run(words) == 0
        captured = capsys.readouterr()
        (item,) = json.loads(captured.out)["bench"]
        assert item["latency"] is None and "Emulated time means nothing" in captured.err
        counts.append(item["instructions"])
    assert counts[0] == pytest.approx(counts[1], rel=1e-3)


def test_bench_counts_what_grows_with_the_length(
    built: BuildResult, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(package_of(built, "int8-sparse")), "--device", A53]
    assert run([*words, "--length", "3", "--length", "32", "--json"]) == 0
    short, long = (item["instructions"] for item in json.loads(capsys.readouterr().out)["bench"])
    assert 10_000 < short < long
    assert run([*words, "--threads", "2"]) == errors.EXIT_USAGE
    assert "instructions are counted with one thread" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
def test_run_answers_there_as_here(
    built: BuildResult, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    package = package_of(built, target)
    texts = ["turn on the light", "play $(my) song; 'x'", "set a timer -- now"]
    with load(package) as classifier:
        wanted = [found.label for found in classifier.classify(texts)]
    assert run(["run", str(package), "--device", A76, "--json", "--", *texts]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in found["predictions"]] == wanted


def test_a_gate_that_fails_on_the_device_is_exit_code_2(
    built: BuildResult, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    labels = {"light": "music", "music": "timer", "timer": "light"}
    wrong = [json.dumps({**row, "label": labels[row["label"]]}) for row in rows]
    (folder / "wrong.jsonl").write_text("\n".join(wrong))
    words = ["validate", str(package_of(built, "int8-sparse")), "--eval", str(folder / "wrong.jsonl")]
    assert run([*words, "--device", A53]) == errors.EXIT_GATE
    assert "below the recorded" in capsys.readouterr().err


def test_a_build_compared_with_changed_host_logits_writes_no_package(
    built: BuildResult, options: BuildOptions, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The device computes rightly; one of the host's logits is changed before they are compared."""
    from edgebert import device_build

    right = device_build.prove

    def prove(model, facts, question, *rest):  # type: ignore[no-untyped-def]
        question.host[30][0] += question.host[30][0] * 1e-6
        return right(model, facts, question, *rest)

    monkeypatch.setattr(device_build, "prove", prove)
    words = ["build", "--target", "int8-sparse", "--device", A76, "--threads", "1", "--max-drop", "0.2"]
    for name in ("model", "recipe", "train", "work"):
        words += [f"--{name}", str(getattr(options, name))]
    words += ["--eval", str(options.evaluation), "--out", str(folder / "refused"), "--device-limit", "20"]
    assert run(words) == errors.EXIT_GATE
    said = capsys.readouterr().err.splitlines()[-1]
    assert "differ from the host's for 1 of 44 examples" in said and "No package was written" in said
    assert not (folder / "refused" / "int8-sparse").exists()
    report = parse_report((folder / "refused" / "int8-sparse-report" / "report.json").read_bytes())
    assert not report.validation.passed and report.device is not None and report.device.examples == 20
