"""`edgebert inspect`: what is in a package, read back from its model file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgebert.cli.output import json_option, megabytes, percent, print_json, print_table
from edgebert.manifest import Manifest
from edgebert.package import open_package
from edgebert.parts import PartFacts, by_part
from edgebert.pipeline import package_target
from edgebert_targets.base import ArtifactFacts, TensorFacts


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every stored weight as well.")
@json_option
def command(package: Path, tensors: bool, as_json: bool) -> None:
    """Show what is in PACKAGE: sizes, layers, dtypes, sparsity, operators, and the CPU it needs."""
    with open_package(package) as opened:
        manifest = opened.manifest
        facts = package_target(manifest).inspect(opened.model_path())
        sizes = opened.sizes
    parts = by_part(facts)
    if as_json:
        print_json(to_json(manifest, facts, parts, sizes))
        return
    print_table(None, ("package", ""), overview(manifest, facts, sizes))
    print_parts(parts)
    ops: list[tuple[str, int]] = sorted(facts.ops.items(), key=lambda item: (-item[1], item[0]))
    print_table("Operators", ("operator", "count"), ops, (1,))
    if tensors:
        print_tensors(facts.tensors)


def overview(manifest: Manifest, facts: ArtifactFacts, sizes: dict[str, int]) -> list[tuple[str, str]]:
    """(what, value) rows on the package as a whole."""
    lengths = facts.lengths or manifest.lengths
    limit = manifest.tokenizer.max_length
    rows = [
        ("id", manifest.package_id),
        ("task", f"{manifest.task}, {len(manifest.labels)} classes" if manifest.labels else manifest.task),
        ("target", f"{manifest.target} ({manifest.backend.name} {manifest.backend.version})"),
        ("size", f"{megabytes(sum(sizes.values()))}, the model {megabytes(facts.nbytes)}"),
        ("weights in INT8", percent(facts.quantized_share)),
        ("tokens", ", ".join(map(str, lengths)) if lengths else f"any number up to {limit}"),
        ("CPU", " or ".join(facts.cpu_architectures)),
        ("CPU features", " or ".join(facts.cpu_features_any) or "none beyond the baseline"),
    ]
    metric = manifest.gate.metric
    rows += [(f"{metric}: {stage.stage}", _stage(stage.metrics.get(metric))) for stage in manifest.metrics]
    return rows + [("note", note) for note in facts.notes]


def _stage(value: float | None) -> str:
    return percent(value) if value is not None else "not measured"


def print_parts(parts: Sequence[PartFacts]) -> None:
    rows = [
        (p.part, p.tensors, megabytes(p.nbytes), percent(p.share), ", ".join(p.dtypes), percent(p.sparsity))
        for p in parts
    ]
    print_table("Model by part", ("part", "tensors", "size", "share", "dtypes", "zeros"), rows, (1, 2, 3, 5))


def print_tensors(tensors: Sequence[TensorFacts]) -> None:
    rows = [
        (t.name, t.dtype, "x".join(map(str, t.shape)), megabytes(t.nbytes), percent(t.sparsity))
        for t in tensors
    ]
    print_table("Weights", ("name", "dtype", "shape", "size", "zeros"), rows, (3, 4))


def to_json(
    manifest: Manifest, facts: ArtifactFacts, parts: Sequence[PartFacts], sizes: dict[str, int]
) -> dict[str, object]:
    """The JSON object of the verb."""
    return {
        "package_id": manifest.package_id,
        "task": manifest.task,
        "labels": manifest.labels,
        "target": manifest.target,
        "backend": manifest.backend,
        "files": sizes,
        "model_bytes": facts.nbytes,
        "quantized_share": facts.quantized_share,
        "lengths": facts.lengths or manifest.lengths,
        "max_length": manifest.tokenizer.max_length,
        "cpu_architectures": facts.cpu_architectures,
        "cpu_features_any": facts.cpu_features_any,
        "metrics": manifest.metrics,
        "parts": parts,
        "ops": dict(facts.ops),
        "tensors": facts.tensors,
        "notes": facts.notes,
    }
