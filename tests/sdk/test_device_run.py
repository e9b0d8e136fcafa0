"""Packages on devices: LiteRT on the local one, and the arithmetic of what is compared and warned of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert import errors
from edgebert.cli.dispatch import run
from edgebert.data import Example, write_jsonl
from edgebert.device_bench import throttling, trip_temperature
from edgebert.device_check import compare_with_host, spread
from edgebert.pipeline import load
from edgebert.tasks.package import get_package_task
from edgebert_targets.base import get_target
from tests.sdk.device_packages import FakeDevice, device_facts, make_packages

TEXTS = ["turn on the light", "play my song", "set the timer", "?", "stop; $(reboot) 'x' \"y\" \\", "Zürich?"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_packages(tmp_path_factory.mktemp("local"), ["arm64", "x86"])


@pytest.fixture(scope="module")
def data(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples that the package gets right, but for the first."""
    with load(packages["arm64"]) as classifier:
        labels = [found.label for found in classifier.classify(TEXTS)]
        labels[0] = next(label for label in classifier.labels if label != labels[0])
    path = tmp_path_factory.mktemp("data") / "dev.jsonl"
    write_jsonl([Example(text, None, label) for text, label in zip(TEXTS, labels, strict=True)], path)
    return path


# LiteRT on this machine as a device


def test_validate_counts_what_the_device_computed(
    packages: dict[str, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", str(packages["arm64"]), "--eval", str(data), "--device", "local", "--json"]
    assert run(words) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["figures"]["accuracy"] == pytest.approx(5 / 6)
    device = found["device"]
    assert (device["examples"], device["available"], device["golden_examples"]) == (6, 6, 3)
    assert device["host"]["identical"] == device["host"]["examples"] == 9
    assert device["host"]["explanation"].startswith("bit for bit the same")
    assert device["runtime"].startswith("LiteRT 2") and device["wrong_tokens"] is None
    assert found["golden"]["max_difference"] == 0
    assert "meant for aarch64, run on 'local'" in captured.err


def test_the_gate_fails_on_the_device(
    packages: dict[str, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", str(packages["arm64"]), "--eval", str(data), "--device", "local"]
    assert run([*words, "--min-accuracy", "0.9", "--limit", "2"]) == errors.EXIT_GATE
    captured = capsys.readouterr()
    assert "accuracy 0.5000 is below the minimum 0.9000" in captured.err
    assert "2 of 6 examples were run on the device" in captured.err
    assert "failed" in captured.out and "XNNPACK" in captured.out


def test_run_answers_as_this_machine_does(
    packages: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(packages["arm64"]), "--top-k", "3"]
    assert run([*words, *TEXTS]) == 0
    here = capsys.readouterr().out
    assert run([*words, "--device", "local", *TEXTS]) == 0
    assert capsys.readouterr().out == here


def test_bench_measures_time_on_a_real_device(
    packages: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(packages["arm64"]), "--device", "local", "--rounds", "2", "--runs", "3"]
    assert run([*words, "--threads", "1,2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(item["length"], item["threads"]) for item in found["bench"]] == [(16, 1), (16, 2)]
    latency = found["bench"][0]["latency"]
    assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"] and latency["runs"] == 6
    assert latency["peak_memory_bytes"] > 1 << 20 and latency["load_ms"] > 0
    assert found["bench"][0]["instructions"] is None and found["device"]["name"] == "local"
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "16 tokens, threads: 1" in out and "p99 ms" in out and "On local:" in out


@pytest.mark.parametrize(
    ("target", "words", "code", "message"),
    [
        ("x86", ["validate", "--device", "local"], errors.EXIT_USAGE, "target 'x86' do not run on devices"),
        ("x86", ["run", "--device", "local", "a"], errors.EXIT_USAGE, "leave out --device"),
        ("x86", ["bench", "--device", "local"], errors.EXIT_USAGE, "leave out --device"),
        ("arm64", ["validate", "--limit", "3"], errors.EXIT_USAGE, "--limit goes with --device and --eval"),
        ("arm64", ["validate", "--device", "nothing:1"], errors.EXIT_DEVICE, "unknown device 'nothing:1'"),
        ("arm64", ["run", "--device", "local:9", "a"], errors.EXIT_DEVICE, "takes no options"),
        ("arm64", ["bench", "--device", "local", "--length", "17"], errors.EXIT_USAGE, "--length 16 or less"),
        ("arm64", ["bench", "--device", "local", "--baseline", "x"], errors.EXIT_USAGE, "leave out --device"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    packages: dict[str, Path], target: str, words: list[str], code: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run([words[0], str(packages[target]), *words[1:]]) == code
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(said) == 1 and message in said[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "x86", "--device", "local"], "target 'x86' do not run on devices"),
        (["--target", "arm64", "--device-limit", "5"], "goes with --device"),
        (["--target", "arm64", "--device", "local", "--device-limit", "0"], "1 or more"),
    ],
)
def test_a_build_refuses_before_it_trains(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", *words, "--out", str(tmp_path / "out")]) == errors.EXIT_USAGE
    assert message in capsys.readouterr().err


def test_a_build_for_a_device_that_is_not_there_ends_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", "--target", "arm64", "--device", "qemu:arm64,cpu=z80", "--out", str(tmp_path / "out")]
    assert run(words) == errors.EXIT_DEVICE
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()


# Arithmetic


@given(st.integers(1, 60), st.none() | st.integers(1, 80))
def test_spread_takes_both_ends_in_order(count: int, limit: int | None) -> None:
    found = spread(list(range(count)), limit)
    assert len(found) == min(count, limit or count) and found == sorted(set(found))
    assert found[0] == 0 and (len(found) == 1 or found[-1] == count - 1)


TASK = get_package_task("text-classification")


def test_compare_with_host_counts_bits_classes_and_the_largest_difference() -> None:
    host = np.array([[1, 2], [3, 1], [0.0, -1]], np.float32)
    device = np.array([[1, 2], [3, 3.5], [-0.0, -1]], np.float32)
    found = compare_with_host(TASK, device, host, get_target("int8-sparse"), "neon", "avx2")
    assert (found.examples, found.identical, found.same_class) == (3, 1, 2)
    assert found.max_difference == 2.5
    assert "has to give the same bits everywhere and does not (avx2 here, neon on the device)" in (
        found.explanation
    )
    float_target = compare_with_host(TASK, device, host, get_target("arm64"), "XNNPACK for asimd", "XNNPACK")
    assert "rounded in another order" in float_target.explanation


@pytest.mark.parametrize(
    ("before", "after", "trip", "words"),
    [
        ((2000.0, 50.0), (1900.0, 60.0), 85.0, ()),
        ((2000.0, 50.0), (1799.0, 60.0), 85.0, ("fell from 2000 to 1799 MHz",)),
        ((2000.0, 50.0), (1800.0, 85.0), 85.0, ("85 °C, its limit is 85 °C",)),
        ((2000.0, 50.0), (1000.0, 90.0), 85.0, ("1000 MHz", "90 °C")),
        ((2000.0, 50.0), (2000.0, 90.0), None, ()),
        ((None, None), (None, None), 85.0, ()),
    ],
)
def test_throttling(
    before: tuple[float | None, float | None], after: tuple[float | None, float | None], trip: float | None,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    readings = [device_facts(frequency_mhz=mhz, temperature_c=c) for mhz, c in (before, after)]
    found = throttling(readings[0], readings[1], trip)
    assert len(found) == len(words) and all(word in line for word, line in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("told", "degrees"),
    [(b"85000\n", 85.0), (b"", None), (b"-274000", None), (b"9999999999999", None), (b"hot", None)],
)
def test_the_trip_temperature_of_a_made_up_device(told: bytes, degrees: float | None) -> None:
    assert trip_temperature(FakeDevice({"cat": told})) == degrees
