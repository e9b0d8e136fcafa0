"""Prove a package: its metric on labelled data, its golden examples, its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Example, data_hash
from edgebert.errors import DataError
from edgebert.figures import DeviceFigures
from edgebert.golden import GoldenExample
from edgebert.manifest import Manifest
from edgebert.pipeline import Classifier, load
from edgebert.tasks.text_classification import Figures, class_ids, figures
from edgebert.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Agreement:
    """Two sets of logits for the same texts. `share`: fraction of equal best classes."""

    share: float
    max_difference: float


@dataclass(frozen=True)
class GoldenCheck:
    """What the golden examples gave here against what the build recorded.

    `wrong_runtime_ids`: by the tokenizer inside the model, None where the model has none.
    """

    examples: int
    wrong_ids: int
    wrong_runtime_ids: int | None
    wrong_classes: int
    max_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        wrong = self.wrong_ids + self.wrong_classes + (self.wrong_runtime_ids or 0)
        return not wrong and self.max_difference <= self.tolerance


@dataclass(frozen=True)
class PackageValidation:
    """`figures` is None without examples. `problems`: one line for each thing that failed.

    `device`: where all of it was computed; None: on this machine.
    """

    figures: Figures | None
    golden: GoldenCheck
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    device: DeviceFigures | None = None

    @property
    def passed(self) -> bool:
        return not self.problems


def evaluate(logits: NDArray[np.float32], examples: Sequence[Example], labels: Sequence[str]) -> Figures:
    """Accuracy and macro F1 of logits [n, classes] on `examples`. Raises DataError (none, unknown label)."""
    if not examples:
        raise DataError("there are no examples to measure accuracy on; give a file with at least one row")
    return figures(logits, class_ids([example.label for example in examples], labels))


def agreement(one: NDArray[np.float32], other: NDArray[np.float32]) -> Agreement:
    """Compare logits [n, classes] with logits [n, classes]; n is at least 1."""
    same = one.argmax(axis=1) == other.argmax(axis=1)
    return Agreement(float(np.mean(same)), float(np.abs(one.astype(np.float64) - other).max()))


def check_golden(classifier: Classifier, golden: Sequence[GoldenExample]) -> GoldenCheck:
    """Run the golden texts one at a time and compare ids, classes and logits."""
    tolerance = classifier.manifest.golden_tolerance
    if not golden:
        return GoldenCheck(0, 0, None, 0, 0.0, tolerance)
    texts, pairs = [row.text for row in golden], [row.text_pair for row in golden]
    ids = host_ids(classifier.tokenizer, texts, pairs)
    found = classifier.logits(texts, pairs, batch=1)
    inside = [classifier.runtime_ids(text, pair) for text, pair in zip(texts, pairs, strict=True)]
    runtime_ids = None if None in inside else [ids or [] for ids in inside]
    return compare_golden(golden, ids, runtime_ids, found, tolerance)


def compare_golden(
    golden: Sequence[GoldenExample],
    ids: Sequence[Sequence[int]],
    runtime_ids: Sequence[Sequence[int]] | None,
    found: NDArray[np.float32],
    tolerance: float,
) -> GoldenCheck:
    """Golden examples, one or more, against ids, ids by the runtime's own tokenizer, and logits."""
    expected = np.array([row.logits for row in golden], np.float32)
    wrong = None if runtime_ids is None else _wrong(runtime_ids, golden)
    return GoldenCheck(
        examples=len(golden),
        wrong_ids=_wrong(ids, golden),
        wrong_runtime_ids=wrong,
        wrong_classes=int((found.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        max_difference=agreement(found, expected).max_difference,
        tolerance=tolerance,
    )


def validate_package(
    path: str | Path, examples: Sequence[Example], threads: int = 1, min_accuracy: float | None = None
) -> PackageValidation:
    """Measure the package at `path` on `examples` (may be empty), check its golden examples and gate.

    `min_accuracy` takes the place of the manifest's gate. Raises what `load` raises, and DataError.
    """
    with load(path, threads) as classifier:
        golden = check_golden(classifier, classifier.golden())
        measured = _measure(classifier, examples) if examples else None
        manifest = classifier.manifest
        notes = (*classifier.notes, *data_notes(manifest, examples))
        problems = [*golden_problems(golden), *gate_problems(manifest, measured, min_accuracy)]
        return PackageValidation(measured, golden, tuple(problems), notes)


def data_notes(manifest: Manifest, examples: Sequence[Example]) -> tuple[str, ...]:
    """A line when `examples` are not those that the build measured."""
    recorded = manifest.source.data.get("eval")
    if not examples or recorded is None or data_hash(examples) == recorded:
        return ()
    return ("these are not the evaluation data of the build, whose accuracy the gate refers to",)


def _measure(classifier: Classifier, examples: Sequence[Example]) -> Figures:
    class_ids([example.label for example in examples], classifier.labels)  # before minutes of work
    texts, pairs = [example.text for example in examples], [example.text_pair for example in examples]
    return evaluate(classifier.logits(texts, pairs), examples, classifier.labels)


def host_ids(tokenizer: TextTokenizer, texts: Sequence[str], pairs: Sequence[str | None]) -> list[list[int]]:
    """Unpadded ids of each text or pair by the package's tokenizer. Raises DataError."""
    return [tokenizer.encode_ids(text, pair)[0] for text, pair in zip(texts, pairs, strict=True)]


def _wrong(ids: Sequence[Sequence[int]], golden: Sequence[GoldenExample]) -> int:
    return sum(tuple(now) != row.ids for now, row in zip(ids, golden, strict=True))


def golden_problems(golden: GoldenCheck) -> list[str]:
    """One line for each thing that the golden examples show to be wrong."""
    problems = []
    if golden.wrong_ids:
        problems.append(
            f"the tokenizer gives other ids for {golden.wrong_ids} of {golden.examples} golden examples"
        )
    if golden.wrong_runtime_ids:
        problems.append(
            f"the tokenizer inside the model gives other ids for {golden.wrong_runtime_ids}"
            f" of {golden.examples} golden examples"
        )
    if golden.wrong_classes:
        problems.append(f"{golden.wrong_classes} of {golden.examples} golden examples get another class")
    # Also when the difference is NaN.
    if not golden.max_difference <= golden.tolerance:
        problems.append(
            f"golden logits differ by {golden.max_difference:.4g}, at most {golden.tolerance:g} is allowed"
        )
    return problems


def gate_problems(manifest: Manifest, measured: Figures | None, minimum: float | None) -> list[str]:
    """A line when accuracy is below `minimum`, or below the manifest's gate where that is None."""
    if measured is None:
        return []
    gate = manifest.gate
    if minimum is not None:
        if measured.accuracy >= minimum:
            return []
        return [f"accuracy {measured.accuracy:.4f} is below the minimum {minimum:.4f}"]
    value = getattr(measured, gate.metric)
    if gate.allows(value):
        return []
    return [
        f"{gate.metric} {value:.4f} is more than {gate.max_drop:g} below the recorded {gate.reference:.4f}"
    ]
