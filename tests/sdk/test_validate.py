"""Validation: what passes, what fails, and why (with a stand-in backend whose answers are known)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebert.data import Example, data_hash
from edgebert.errors import DataError
from edgebert.evaluation import agreement
from edgebert.golden import record_golden
from edgebert.manifest import Gate, Source
from edgebert.package import PackageContents, open_package, write_package
from edgebert.pipeline import load
from edgebert.tasks.package import get_package_task
from edgebert.validate import validate_package
from tests.factories import LABELS
from tests.sdk.packages import FakeTarget, make_contents, make_package, target

__all__ = ["target"]

TEXTS = ["turn on the light", "play my song", "set the timer", "call mum", "stop", "what is the weather"]

TASK = get_package_task("text-classification")


def answered(path: Path, wrong: int) -> list[Example]:
    """Examples that the package gets right, but for the first `wrong`."""
    with load(path) as classifier:
        best = [prediction.label for prediction in classifier.classify(TEXTS)]
    other = dict(zip(LABELS, (*LABELS[1:], LABELS[0]), strict=True))
    return [
        Example(text, None, other[label] if i < wrong else label)
        for i, (text, label) in enumerate(zip(TEXTS, best, strict=True))
    ]


def test_good_package_passes(tmp_path: Path, target: FakeTarget) -> None:
    path = make_package(tmp_path, gate=Gate("accuracy", 1.0, 0.0))
    result = validate_package(path, answered(path, 0))
    assert result.passed
    assert result.figures is not None
    assert (result.figures.examples, result.figures.accuracy, result.figures.macro_f1) == (6, 1.0, 1.0)
    assert (result.golden.examples, result.golden.wrong_ids, result.golden.wrong_classes) == (3, 0, 0)
    assert result.golden.max_difference == 0


@pytest.mark.parametrize(("wrong", "passes"), [(1, True), (2, False)])
def test_gate_of_the_manifest(tmp_path: Path, target: FakeTarget, wrong: int, passes: bool) -> None:
    path = make_package(tmp_path, gate=Gate("accuracy", 1.0, 0.17))
    result = validate_package(path, answered(path, wrong))
    assert result.passed is passes
    assert all("accuracy 0.6667" in problem for problem in result.problems)


def test_minimum_takes_the_place_of_the_gate(tmp_path: Path, target: FakeTarget) -> None:
    path = make_package(tmp_path, gate=Gate("accuracy", 1.0, 0.0))
    examples = answered(path, 1)
    assert validate_package(path, examples, min_accuracy=0.8).passed
    assert not validate_package(path, examples, min_accuracy=0.9).passed


def test_without_examples_only_the_golden_ones_count(tmp_path: Path, target: FakeTarget) -> None:
    result = validate_package(make_package(tmp_path, gate=Gate("accuracy", 1.0, 0.0)), [])
    assert result.passed
    assert result.figures is None


def test_runtime_that_answers_otherwise_fails(tmp_path: Path, target: FakeTarget) -> None:
    path = make_package(tmp_path)
    target.session.shift = 0.05  # within the tolerance of 0.1
    result = validate_package(path, [])
    assert result.passed
    assert result.golden.max_difference == pytest.approx(0.05, abs=1e-5)
    target.session.shift = 1000.0
    result = validate_package(path, [])
    assert not result.passed
    assert len(result.problems) == 2
    target.session.shift = float("nan")
    assert any("differ by nan" in problem for problem in validate_package(path, []).problems)


def test_tokenizer_that_gives_other_ids_fails(tmp_path: Path, target: FakeTarget) -> None:
    """A package whose tokenizer was exchanged together with its hash is still found out."""
    contents = make_contents(tmp_path)
    tokenizer = contents.checkpoint / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"lowercase": true', '"lowercase": false').replace(
        '"lowercase":true', '"lowercase":false'), encoding="utf-8")  # fmt: skip
    write_package(tmp_path / "out", contents, as_zip=False, force=False)
    result = validate_package(tmp_path / "out", [])
    assert result.golden.wrong_ids == 1  # "Zürich?"
    assert any("tokenizer" in problem for problem in result.problems)


def test_other_data_than_the_builds_is_noted(tmp_path: Path, target: FakeTarget) -> None:
    examples = [Example("stop", None, "music")]
    source = Source("tiny", "0" * 64, {"eval": data_hash(examples)})
    path = make_package(tmp_path, source=source)
    assert validate_package(path, examples).notes == ()
    assert len(validate_package(path, examples * 2).notes) == 1


def test_unknown_label(tmp_path: Path, target: FakeTarget) -> None:
    with pytest.raises(DataError, match="'sport'"):
        validate_package(make_package(tmp_path), [Example("a", None, "music"), Example("b", None, "sport")])
    assert [count for count, _ in target.session.widths] == [1, 1, 1]  # only the golden examples were run


def test_recorded_golden_examples_are_met_again(tmp_path: Path, target: FakeTarget) -> None:
    contents = make_contents(tmp_path)
    path = tmp_path / "out"
    write_package(path, contents, as_zip=False, force=False)
    with open_package(path) as package:
        pairs = [None, "light", *[None] * 4]
        golden = record_golden(target.session, package.tokenizer(), TEXTS, pairs)
    again = PackageContents(**{**vars(contents), "golden": golden})
    write_package(tmp_path / "again", again, as_zip=True, force=False)
    result = validate_package(tmp_path / "again", [])
    assert result.passed
    assert (result.golden.examples, result.golden.max_difference) == (6, 0)


def test_agreement_by_hand() -> None:
    one = np.array([[1, 2], [3, 0], [0, 1]], np.float32)
    other = np.array([[1, 2.5], [0, 3], [0, 1]], np.float32)
    found = agreement(TASK, one, other)
    assert found.share == pytest.approx(2 / 3)
    assert found.max_difference == 3


def test_figures_need_examples() -> None:
    with pytest.raises(DataError, match="no examples"):
        TASK.figures([], [], [], ("a", "b"))
