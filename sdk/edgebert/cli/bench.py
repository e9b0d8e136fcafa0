"""`edgebert bench`: a package's latency, throughput and memory on this machine, beside another's if asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from edgebert.bench import BenchPlan, EngineSpec, compare, full_inputs
from edgebert.cli.output import json_option, megabytes, print_json, print_notes, print_table
from edgebert.figures import BenchFigures, Latency, to_dict
from edgebert.machine import machine_facts
from edgebert.manifest import Manifest
from edgebert.package import Package, open_package
from edgebert.pipeline import check_cpu, package_target

DEFAULT_LENGTH = 128
COLUMNS = ("model", "p50 ms", "p90 ms", "p99 ms", "per s", "memory", "load ms", "ratio")


def parse_threads(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """ "1,2" as (1, 2)."""
    try:
        counts = tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of thread counts; write for example 1,2.") from None
    if min(counts) < 1 or max(counts) > 1024:
        raise click.BadParameter(f"'{value}' has a count outside 1 to 1024.")
    return counts


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--threads",
    default="1",
    show_default=True,
    callback=parse_threads,
    help="Thread counts to measure, separated by commas.",
)
@click.option(
    "--length",
    "lengths",
    type=click.IntRange(3),
    multiple=True,
    help="Tokens a text; may be given several times. Without it: the model's own lengths, or 128.",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns of each model.")
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True, help="Timed runs a turn.")
@click.option("--baseline", type=click.Path(path_type=Path), help="A package to measure against, in turns.")
@json_option
def command(
    package: Path,
    threads: tuple[int, ...],
    lengths: tuple[int, ...],
    rounds: int,
    runs: int,
    baseline: Path | None,
    as_json: bool,
) -> None:
    """Measure PACKAGE's speed and memory on this machine."""
    plans = [BenchPlan(threads=count, rounds=rounds, runs_per_round=runs) for count in threads]
    with ExitStack() as stack:
        ours = stack.enter_context(open_package(package))
        other = stack.enter_context(open_package(baseline)) if baseline else None
        notes = [*notes_of(ours), *(notes_of(other) if other else ())]
        figures = measure(ours, other, lengths or default_lengths(ours.manifest), plans)
        manifest = ours.manifest
        kernels = package_target(manifest).kernels()
    machine = machine_facts()
    print_notes(notes)
    if as_json:
        print_json(
            {
                "package": str(package),
                "package_id": manifest.package_id,
                "baseline": str(baseline) if baseline else None,
                "target": manifest.target,
                "backend": manifest.backend.name,
                "kernels": kernels,
                "machine": machine,
                "notes": notes,
                "bench": [to_dict(item) for item in figures],
            }
        )
        return
    for item in figures:
        title = f"{item.artifact.length} tokens, threads: {item.artifact.threads}"
        print_table(title, COLUMNS, to_rows(item), tuple(range(1, len(COLUMNS))))
    where = f"{machine.summary()}, {kernels.used} kernels" if kernels else machine.summary()
    click.echo(f"On {where}. Memory is the peak of the whole measuring process, Python included.")


def notes_of(package: Package) -> tuple[str, ...]:
    """What to say about running `package` here. Raises WrongCpuError."""
    return check_cpu(package.manifest, package_target(package.manifest))


def default_lengths(manifest: Manifest) -> tuple[int, ...]:
    """The lengths that the artifact was made for, else one common length that the model takes."""
    return manifest.lengths or (min(DEFAULT_LENGTH, manifest.tokenizer.max_length),)


def measure(
    package: Package, baseline: Package | None, lengths: Sequence[int], plans: Sequence[BenchPlan]
) -> list[BenchFigures]:
    """Figures for every length and plan; the texts are the package's golden examples, cut or repeated."""
    examples = [example.ids for example in package.golden()]
    artifact = engine("this package", package)
    other = engine("baseline", baseline) if baseline else None
    where = f"Measured on this machine through {package.manifest.backend.name}."
    note = f"Baseline: {baseline.path.name}." if baseline else ""
    total = len(lengths) * sum(plan.rounds for plan in plans)
    with click.progressbar(length=total, label="measuring", file=sys.stderr) as bar:
        return [
            compare(
                artifact,
                other,
                full_inputs(examples, length),
                plan,
                where=where,
                note=note,
                on_round=lambda: bar.update(1),
            )
            for length in lengths
            for plan in plans
        ]


def engine(name: str, package: Package) -> EngineSpec:
    return EngineSpec(name, package.manifest.target, package.model_path().absolute())


def to_rows(item: BenchFigures) -> list[tuple[str, ...]]:
    """Table rows; the ratio stands beside the package, over 1 where it is faster than the baseline."""
    ratio = f"{item.speed_ratio:.2f}" if item.speed_ratio is not None else ""
    rows = [to_row("package", item.artifact, ratio)]
    if item.baseline is not None:
        rows.append(to_row("baseline", item.baseline, "1"))
    return rows


def to_row(name: str, latency: Latency, ratio: str) -> tuple[str, ...]:
    return (
        name,
        *(f"{value:.3f}" for value in (latency.p50_ms, latency.p90_ms, latency.p99_ms)),
        f"{latency.throughput_per_s:.1f}",
        megabytes(latency.peak_memory_bytes),
        f"{latency.load_ms:.1f}",
        ratio,
    )
