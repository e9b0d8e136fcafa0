"""How near do the engine's linear kernels come to the CPU's peak, and below which density do sparse ones win?

    python benchmarks/engine_kernels.py --json benchmarks/results/engine_kernels.json

Layers of BERT-base and MiniLM with 128 tokens on one thread, weights random INT8, zeros in blocks of 4 at
random places. The peak is measured: the product instruction of the instruction set (avx2: vpmaddwd and
vpaddd) on registers alone, 12 independent sums. Times are the fastest of many, all cases taking turns, by the
clock of the thread, because other programs share the machine. A multiply-add counts as two operations.
"gops" counts weights that are not zero, "gops_as_dense" all. The time includes bias, scales and the store of
float32 outputs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgebert.machine import machine_facts
from kernel_program import CPUS, ENGINE, build

ISAS = {"x86": ("avx512-vnni", "avx-vnni", "avx2"), "arm": ("neon-dotprod", "neon")}
SOURCE = Path(__file__).with_suffix(".cpp")
TOKENS = 128


@dataclass(frozen=True)
class Case:
    """One layer with one instruction set. Seconds for 128 tokens; rates in 10^9 operations a second."""

    isa: str
    out: int
    inputs: int
    sparse: bool
    zeros_percent: int
    density: float  # weights that are not zero / all
    seconds: float
    gops: float
    gops_as_dense: float
    share_of_peak: float | None  # of gops; None where the peak is not measured


def measure(isas: Sequence[str], rounds: int) -> tuple[dict[str, float], list[Case]]:
    """Peaks in 10^9 operations a second, and all cases. Raises CalledProcessError when the program fails."""
    with tempfile.TemporaryDirectory() as folder:
        includes = [f"-I{ENGINE / 'tests'}"]
        program = build(SOURCE, Path(folder) / "engine_kernels", options=includes)
        done = subprocess.run(
            [program, str(rounds), *isas], stdout=subprocess.PIPE, text=True, env=os.environ, check=True
        )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    peaks = {words[1]: 2e-9 * int(words[2]) / float(words[3]) for words in lines if words[0] == "peak"}
    return peaks, [_case(words[1:], peaks) for words in lines if words[0] == "linear"]


def _case(words: Sequence[str], peaks: dict[str, float]) -> Case:
    isa, out, inputs, sparse, zeros, kept, seconds = words
    size = int(out) * int(inputs)
    rate = 2e-9 * TOKENS / float(seconds)
    gops = rate * int(kept)
    share = gops / peaks[isa] if isa in peaks else None
    return Case(
        isa, int(out), int(inputs), sparse == "1", int(zeros), int(kept) / size, float(seconds), gops,
        rate * size, share,
    )  # fmt: skip


def crossover(cases: Sequence[Case]) -> float:
    """Density at which the sparse kernel takes as long as the dense one, for one layer and instruction set.

    By the line through the two densest sparse cases; above 1 the sparse kernel always wins.
    """
    dense = next(case.seconds for case in cases if not case.sparse)
    second, first = sorted((case for case in cases if case.sparse), key=lambda case: case.density)[-2:]
    slope = (first.seconds - second.seconds) / (first.density - second.density)
    return first.density + (dense - first.seconds) / slope


def by_layer(cases: Sequence[Case]) -> dict[tuple[str, int, int], list[Case]]:
    groups: dict[tuple[str, int, int], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.isa, case.out, case.inputs), []).append(case)
    return groups


def table(peaks: dict[str, float], cases: Sequence[Case]) -> Table:
    zeros = sorted({case.zeros_percent for case in cases})
    result = Table(title=f"µs for {TOKENS} tokens, GOP/s, share of peak")
    for name in ("kernels", "layer", *(f"{z} %" if z else "dense" for z in zeros), "even at density"):
        result.add_column(name, justify="left" if name in ("kernels", "layer") else "right")
    for (isa, out, inputs), group in by_layer(cases).items():
        ordered = {case.zeros_percent: case for case in group}
        cells = [_cell(ordered[z]) for z in zeros]
        peak = f"\n{peaks[isa]:.0f} GOP/s" if isa in peaks else ""
        result.add_row(isa + peak, f"{out} x {inputs}", *cells, f"{crossover(group):.2f}")
    return result


def _cell(case: Case) -> str:
    share = "" if case.share_of_peak is None else f" {case.share_of_peak:.0%}"
    return f"{case.seconds * 1e6:.0f} µs\n{case.gops:.0f}{share}"


def main() -> None:
    kind = CPUS[platform.machine()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--isas", default=",".join(ISAS[kind]), help="kernels, separated by commas")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    peaks, cases = measure(options.isas.split(","), options.rounds)
    Console(width=170).print(table(peaks, cases))
    if options.json is None:
        return
    crossovers = [
        {"isa": isa, "out": out, "inputs": inputs, "density": crossover(group)}
        for (isa, out, inputs), group in by_layer(cases).items()
    ]
    report = {
        "machine": asdict(machine_facts()), "tokens": TOKENS, "threads": 1, "rounds": options.rounds,
        "peak_gops": peaks, "cases": [asdict(case) for case in cases], "crossovers": crossovers,
    }  # fmt: skip
    partial = options.json.with_name(options.json.name + ".partial")
    partial.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    partial.replace(options.json)


if __name__ == "__main__":
    main()
