"""Classify text with a package: tokenizer, session and labels in one object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import PackageError, UsageError, WrongCpuError
from edgebert.golden import GoldenExample
from edgebert.inference import BATCH, text_logits
from edgebert.machine import architecture
from edgebert.manifest import Manifest
from edgebert.package import Package, open_package
from edgebert.tasks import text_classification
from edgebert.tasks.text_classification import Prediction
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import Session, SessionOptions, Target, TokenizingSession, get_target
from edgebert_targets.errors import UnknownTargetError


class Classifier:
    """A package ready to run. Not thread-safe. Close it, or use it as a context manager."""

    def __init__(self, package: Package, session: Session, notes: tuple[str, ...] = ()) -> None:
        self._package = package
        self._session = session
        self.tokenizer: TextTokenizer = package.tokenizer()
        self.notes = notes

    @property
    def manifest(self) -> Manifest:
        return self._package.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        return self.manifest.labels

    def classify(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, top_k: int = 1
    ) -> list[Prediction]:
        """A prediction for each text, or pair where `pairs` has a second. Raises DataError, UsageError."""
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; ask for at least 1 class")
        return text_classification.predictions(self.logits(texts, pairs), self.labels, top_k)

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, batch: int = BATCH
    ) -> NDArray[np.float32]:
        """Logits, float32 [n, classes], in the order of `texts`. Raises DataError, UsageError."""
        return text_logits(self._session, self.tokenizer, texts, pairs, len(self.labels), batch=batch)

    def runtime_ids(self, text: str, pair: str | None = None) -> list[int] | None:
        """Ids by the tokenizer inside the model; None where the model has none. Raises InputError."""
        if not isinstance(self._session, TokenizingSession):
            return None
        return self._session.tokenize(text, pair, self.tokenizer.max_length)

    def golden(self) -> tuple[GoldenExample, ...]:
        """The package's golden examples. Raises PackageError."""
        return self._package.golden()

    def close(self) -> None:
        """Release the session and the package's temporary files."""
        self._session.close()
        self._package.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(path: str | Path, threads: int = 1) -> Classifier:
    """Open the package at `path` with `threads` threads.

    Raises PackageError, WrongCpuError, and the target's ArtifactError and MissingExtraError.
    """
    if threads < 1:
        raise UsageError(f"{threads} threads were asked for; give at least 1")
    package = open_package(Path(path))
    try:
        target = package_target(package.manifest)
        notes = check_cpu(package.manifest, target)
        session = target.open(package.model_path(), SessionOptions(threads=threads))
        try:
            _check_session(package.manifest, session)
            return Classifier(package, session, notes)
        except BaseException:
            session.close()
            raise
    except BaseException:
        package.close()
        raise


def package_target(manifest: Manifest) -> Target:
    """The target that runs the package. Raises PackageError when this installation has none of that name."""
    try:
        return get_target(manifest.target)
    except UnknownTargetError as error:
        raise PackageError(f"the package is for a target that is not installed: {error}") from None


def check_cpu(manifest: Manifest, target: Target) -> tuple[str, ...]:
    """Notes to show the user when this CPU is not the one the package is meant for. Raises WrongCpuError."""
    machine, meant = architecture(), " or ".join(manifest.cpu.architectures)
    if machine not in target.host_architectures:
        raise WrongCpuError(
            f"{target.backend} packages of target '{target.name}' do not run on {machine}; "
            f"build the package for this machine, or run it on {meant}"
        )
    if machine in manifest.cpu.architectures:
        return ()
    return (
        f"meant for {meant}, run here by {target.backend} on {machine}: speed and rounding may differ there",
    )


def _check_session(manifest: Manifest, session: Session) -> None:
    if manifest.tokenizer.max_length > session.max_length:
        raise PackageError(
            f"manifest.json allows {manifest.tokenizer.max_length} tokens, the model {session.max_length}; "
            "build the package again"
        )
