"""`edgebert bench` on packages of a fake target, in real worker processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgebert import errors
from edgebert.cli.bench import default_lengths
from edgebert.cli.dispatch import run
from edgebert.figures import BenchFigures, from_dict
from edgebert.package import write_package
from tests.sdk.fake_engine import fake
from tests.sdk.packages import make_contents, make_manifest

__all__ = ["fake"]

QUICK = ["--rounds", "2", "--runs", "2"]


def package(folder: Path, name: str, *, as_zip: bool = False, **facts: object) -> Path:
    made = folder / name
    made.mkdir()
    contents = make_contents(made, target="fake", model_file="model.json")
    contents.model.write_text(json.dumps({"log": str(made / "log"), **facts}))
    out = made / ("package.zip" if as_zip else "package")
    write_package(out, replace(contents), as_zip=as_zip, force=False)
    return out


@pytest.mark.parametrize("as_zip", [False, True])
def test_json_holds_every_length_and_thread_count(
    fake: Path, as_zip: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = package(fake, "a", as_zip=as_zip)
    arguments = ["bench", str(path), *QUICK, "--threads", "1,2", "--length", "8", "--length", "12", "--json"]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    figures = [from_dict(BenchFigures, item, "bench") for item in found["bench"]]
    pairs = [(f.artifact.length, f.artifact.threads) for f in figures]
    assert pairs == [(8, 1), (8, 2), (12, 1), (12, 2)]
    assert all(f.baseline is None and f.speed_ratio is None and f.artifact.runs == 4 for f in figures)
    assert found["target"] == "fake" and found["machine"]["cores"] >= 1


def test_baseline_is_measured_in_turns(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = package(fake, "fast", sleep_s=0.0), package(fake, "slow", sleep_s=0.02)
    assert run(["bench", str(fast), "--baseline", str(slow), *QUICK, "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["bench"]
    assert item["speed_ratio"] > 1 and item["baseline"]["length"] == item["artifact"]["length"] == 16
    assert item["note"] == "Baseline: package."


def test_table(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = package(fake, "a")
    assert run(["bench", str(path), "--baseline", str(path), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "16 tokens, threads: 1" in out and "p99 ms" in out and "Python included" in out
    assert [line.split()[0] for line in out.splitlines() if "MB" in line] == ["package", "baseline"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--threads", "0"], errors.EXIT_USAGE, "'0' has a count outside"),
        (["--threads", "one"], errors.EXIT_USAGE, "'one' is no list of thread counts"),
        (["--threads", "1,,2"], errors.EXIT_USAGE, "'1,,2' is no list"),
        (["--length", "2"], errors.EXIT_USAGE, "2 is not in the range"),
        (["--length", "65"], errors.EXIT_USAGE, "use --length 64 or less"),
        (["--rounds", "0"], errors.EXIT_USAGE, "0 is not in the range"),
    ],
)
def test_bad_options(
    fake: Path, options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(package(fake, "a")), *options]) == code
    assert message in capsys.readouterr().err


def test_an_engine_that_dies(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(package(fake, "a", die_at=3)), *QUICK]) == errors.EXIT_MODEL
    assert "ended with code 7: out of cheese" in capsys.readouterr().err


def test_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(tmp_path)]) == errors.EXIT_PACKAGE
    assert capsys.readouterr().out == ""


def test_default_lengths() -> None:
    manifest = make_manifest()
    assert default_lengths(replace(manifest, lengths=(16, 32))) == (16, 32)
    assert default_lengths(manifest) == (16,)  # the tokenizer's limit
    long = replace(manifest, tokenizer=replace(manifest.tokenizer, max_length=512))
    assert default_lengths(long) == (128,)
