"""`edgebert bench`: a package's latency, throughput and memory, here beside another's or on a device."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from edgebert.bench import BenchPlan, EngineSpec, compare, full_inputs
from edgebert.cli.output import (
    device_option,
    json_option,
    megabytes,
    print_json,
    print_notes,
    print_table,
)
from edgebert.figures import BenchFigures, DeviceBench, Latency, to_dict
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
@device_option
@json_option
def command(
    package: Path,
    threads: tuple[int, ...],
    lengths: tuple[int, ...],
    rounds: int,
    runs: int,
    baseline: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure PACKAGE's speed and memory on this machine, or on a device.

    An emulated device counts instructions instead: its time means nothing.
    """
    plans = [BenchPlan(threads=count, rounds=rounds, runs_per_round=runs) for count in threads]
    if device is not None:
        if baseline is not None:
            raise click.UsageError("--baseline is measured on this machine alone; leave out --device.")
        bench_device(device, package, lengths, plans, as_json)
        return
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


def bench_device(
    spec: str, path: Path, lengths: tuple[int, ...], plans: Sequence[BenchPlan], as_json: bool
) -> None:
    """Measure on the device `spec` and print what it found. Raises DeviceError."""
    from edgebert.cli.console import console_reporter
    from edgebert.device_bench import EMULATED, bench_on_device
    from edgebert.device_check import architecture_notes
    from edgebert.device_session import model_on_host, open_model
    from edgebert.devices.base import open_device

    with ExitStack() as stack:
        reporter = stack.enter_context(console_reporter())
        package = stack.enter_context(open_package(path))
        device = stack.enter_context(open_device(spec))
        manifest, facts = package.manifest, device.facts()
        notes = [*architecture_notes(package_target(manifest), device.name, facts.architecture)]
        model = open_model(device, model_on_host(package), reporter)
        lengths = lengths or default_lengths(manifest)
        found = bench_on_device(device, model, lengths, plans, reporter)
        after = device.facts()
    notes += [EMULATED] if facts.emulated else []
    notes += dict.fromkeys(warning for item in found for warning in item.warnings)
    print_notes(notes)
    if as_json:
        print_json(
            {
                "package": str(path),
                "package_id": manifest.package_id,
                "target": manifest.target,
                "backend": model.runtime,
                "kernels": model.kernels,
                "device": facts,
                "device_after": after,
                "notes": notes,
                "bench": [to_dict(item) for item in found],
            }
        )
        return
    for item in found:
        print_device_table(item)
    click.echo(f"On {facts.name}: {facts.cpu}, {facts.architecture}, by {model.runtime}, {model.kernels}.")
    for name, unit in (("temperature_c", "°C"), ("frequency_mhz", "MHz")):
        if (first := getattr(facts, name)) is not None and (last := getattr(after, name)) is not None:
            click.echo(f"CPU {name.partition('_')[0]} before and after: {first:.0f} and {last:.0f} {unit}.")


def print_device_table(item: DeviceBench) -> None:
    """A table of one length and thread count."""
    title = f"{item.length} tokens, threads: {item.threads}"
    if item.latency is not None:
        rows = [to_row("package", item.latency, "")[:-1]]
        print_table(title, COLUMNS[:-1], rows, tuple(range(1, len(COLUMNS) - 1)))
    if item.instructions is not None:
        print_table(title, ("model", "instructions"), [("package", f"{item.instructions:,}")], (1,))


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
