"""Per target: every checkpoint of the chain as that target's artifact, its size, and what it answers."""

from __future__ import annotations

import platform
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebert.compression import CheckpointStep
from edgebert.data import data_hash
from edgebert.evaluation import Evaluation, load_answers, save_answers
from edgebert.inference import row_answers
from edgebert.progress import Reporter
from edgebert.stages import StageStore
from edgebert.tasks.rows import Answers
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import ConvertOptions, SessionOptions, Target
from edgebert_targets.encoder import load_encoder_spec


@dataclass(frozen=True)
class ConvertedStep:
    """A checkpoint's artifact on one target. `zip_bytes` is its size deflated, as it is shipped."""

    checkpoint: CheckpointStep
    key: str
    model: Path
    raw_bytes: int
    zip_bytes: int


def convert_step(
    target: Target, step: CheckpointStep, lengths: tuple[int, ...], store: StageStore
) -> ConvertedStep:
    """Convert one checkpoint for texts of up to `lengths` tokens, or take the artifact from `store`."""

    options = ConvertOptions(lengths)

    def produce(out: Path) -> Mapping[str, Any]:
        model = out / target.model_file
        target.convert(load_encoder_spec(step.folder), model, options)
        return {"raw_bytes": model.stat().st_size, "zip_bytes": deflated_size(model)}

    inputs = {"target": target.name, "checkpoint": step.key, **asdict(options),
              "backend": target.backend_version()}  # fmt: skip
    result = store.run(f"convert-{target.name}", inputs, produce)
    model = result.folder / target.model_file
    return ConvertedStep(step, result.key, model, result.facts["raw_bytes"], result.facts["zip_bytes"])


def deflated_size(path: Path) -> int:
    """Bytes of the file after zlib level 6, the usual zip compression."""
    packer, total = zlib.compressobj(6), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())


def artifact_answers(
    target: Target,
    artifact: ConvertedStep,
    tokenizer: TextTokenizer,
    evaluation: Evaluation,
    threads: int,
    store: StageStore,
    reporter: Reporter,
) -> Answers:
    """What the artifact answers in its real runtime on this machine, in the order of the rows."""

    def produce(out: Path) -> Mapping[str, Any]:
        session = target.open(artifact.model, SessionOptions(threads=threads))
        try:
            phase, total = f"{target.name}: answer the evaluation data", len(evaluation.rows)
            answers = row_answers(
                session, evaluation.rows, tokenizer.pad_id,
                on_done=lambda done: reporter.progress(phase, done, total),
            )  # fmt: skip
        finally:
            session.close()
        save_answers(answers, out)
        return {}

    inputs = {"artifact": artifact.key, "data": data_hash(evaluation.examples), "task": evaluation.task.name,
              "max_length": tokenizer.max_length, "machine": platform.machine()}  # fmt: skip
    result = store.run(f"answers-{target.name}", inputs, produce)
    return load_answers(result.folder)


def kernels_text(target: Target) -> str:
    """ " (avx2 kernels)" where the runtime says what it computes with."""
    kernels = target.kernels()
    return f" ({kernels.used} kernels)" if kernels else ""


def where_validated(target: Target) -> str:
    """In words, on what the artifact was run: says plainly when that is not the device family it is for."""
    machine, backend = (
        platform.machine(),
        f"{target.backend} {target.backend_version()}{kernels_text(target)}",
    )
    if machine in target.cpu_architectures:
        return f"Validated and measured on this {machine} machine with {backend}."
    family = " or ".join(target.cpu_architectures)
    return (
        f"Validated and measured on this {machine} machine with {backend} for {machine}; "
        f"it has not been run on {family}, so speed and rounding there are not proven."
    )
