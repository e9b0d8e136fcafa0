"""`edgebert.load`: a package's tokenizer, session and labels in one object of its task's class."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from edgebert.errors import PackageError, UsageError, WrongCpuError
from edgebert.inference import BATCH
from edgebert.machine import architecture
from edgebert.manifest import Manifest
from edgebert.models.base import PackageModel
from edgebert.package import Package, open_package
from edgebert_targets.base import Session, SessionOptions, Target, get_target
from edgebert_targets.errors import UnknownTargetError

# task -> module and class
MODELS = {
    "text-classification": ("classifier", "Classifier"),
    "token-classification": ("tagger", "Tagger"),
    "question-answering": ("answerer", "Answerer"),
    "embedding": ("embedder", "Embedder"),
}


def load(path: str | Path, threads: int = 1) -> PackageModel:
    """Open the package at `path` with `threads` threads: a Classifier, Tagger, Answerer or Embedder.

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
            return model_of(package, session, notes)
        except BaseException:
            session.close()
            raise
    except BaseException:
        package.close()
        raise


def model_of(
    package: Package, session: Session, notes: tuple[str, ...] = (), batch: int = BATCH
) -> PackageModel:
    """The open `package`, run by `session`, as the class of its task. Raises ModelError."""
    module, kind = MODELS[package.manifest.task]
    opened: PackageModel = getattr(import_module(f"edgebert.models.{module}"), kind)(
        package, session, notes, batch
    )
    return opened


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
