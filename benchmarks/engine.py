"""How fast is the int8-sparse engine? Against ONNX Runtime, OpenVINO, DeepSparse and LiteRT on this machine.

    python benchmarks/peers/environments.py .work/engine/peers       # once: OpenVINO, DeepSparse, SparseML
    python benchmarks/engine.py --layers 12 --sparsity 0 0.8 0.9 --length 32 128 384 --threads 1 2 \\
        --engines edgebert,ort,ort-int8,openvino,openvino-int8,deepsparse,litert --json FILE

BERT with random weights (see engine_models.py), the same ones for every engine (see engine_forms.py). Engines
take turns, one process each, the others stopped; a figure is the median over rounds, beside it the minimum.
Speed ratios are medians of the ratios of the rounds: to float32 ONNX Runtime with a dense model of the full
depth, at the same length, batch and threads, and to the same at the same depth. "Δ logits" is the largest
difference to float32 ONNX Runtime with the same model, where ort is among the engines. Pruned models are
given to every engine, also to those that gain nothing from zeros.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgebert.machine import machine_facts
from engine_forms import RUNNERS, Forms
from engine_models import GEOMETRIES, Case, checkpoint_case
from engine_rounds import Cell, Clock, Entry, Measured, Plan, measure

BASELINE = "ort"
FUSED = "ort-fused"  # ONNX Runtime with its own BERT fusions, which the aims were set against
WIDTH = 200  # of the table in a file
DEFAULT_ENGINES = "edgebert,ort,ort-int8,openvino,openvino-int8,deepsparse,litert"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    several: dict[str, Any] = {"nargs": "+"}
    parser.add_argument("--geometry", choices=GEOMETRIES, default="bert-base")
    parser.add_argument("--layers", type=int, **several, help="default: those of the geometry")
    parser.add_argument("--sparsity", type=float, **several, default=[0.0, 0.8, 0.9])
    checkpoint_help = "quantised text classifiers, instead of random weights"
    parser.add_argument("--checkpoint", type=Path, **several, default=[], help=checkpoint_help)
    parser.add_argument("--pattern", choices=("4-block", "unstructured"), default="4-block")
    parser.add_argument("--length", type=int, **several, default=[128], help="tokens, none of them padding")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, **several, default=[1])
    parser.add_argument("--engines", default=DEFAULT_ENGINES, help=f"of: {', '.join(RUNNERS)}")
    parser.add_argument("--isa", default="", help="kernels of edgebert: avx512-vnni,avx-vnni,avx2,scalar")
    parser.add_argument("--repeats", type=int, default=30, help="rounds")
    parser.add_argument("--runs", type=int, default=3, help="timed inferences of an engine in a round")
    parser.add_argument("--warmup", type=int, default=2, help="untimed ones before them")
    clock_help = "of the table and its ratios; cpu: for one thread on a busy machine"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=clock_help)
    parser.add_argument("--cpus", type=int, **several, help="cores to pin threads to; default: the last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".work/engine"), help="keeps the model files")
    parser.add_argument(
        "--peers", type=Path, help="environments of peers/environments.py; default: WORK/peers"
    )
    parser.add_argument("--json", type=Path, help="write every figure here")
    options = parser.parse_args(words)
    unknown = set(options.engines.split(",")) - set(RUNNERS)
    if unknown:
        parser.error(f"unknown engines {', '.join(sorted(unknown))}; choose of: {', '.join(RUNNERS)}")
    available = sorted(os.sched_getaffinity(0))
    options.cpus = options.cpus or available
    if max(options.threads) > len(options.cpus) or not set(options.cpus) <= set(available):
        parser.error(f"{max(options.threads)} threads on cores {options.cpus}; there are {available}")
    options.layers = options.layers or [GEOMETRIES[options.geometry].layers]
    options.peers = options.peers or options.work / "peers"
    return options


def cells(options: argparse.Namespace) -> list[tuple[Cell, Case]]:
    """Every cell with the case that it is about: its engines, and the float32 baselines where they differ."""
    full = GEOMETRIES[options.geometry]
    found = []
    cases = [checkpoint_case(folder) for folder in options.checkpoint] or [
        Case(dataclasses.replace(full, layers=layers), sparsity, options.pattern, options.seed)
        for layers, sparsity in itertools.product(options.layers, options.sparsity)
    ]
    for case, length, threads in itertools.product(cases, options.length, options.threads):
        entries = [
            Entry(engine, case, isa)
            for engine in options.engines.split(",")
            for isa in (options.isa.split(",") if engine == "edgebert" else ("",))
        ]
        entries += [dense(case, full.layers), dense(case, case.geometry.layers)]
        if any(entry.engine == FUSED for entry in entries):
            entries.append(dense(case, full.layers, FUSED))
        found.append((Cell(tuple(dict.fromkeys(entries)), length, options.batch, threads), case))
    return found


def dense(case: Case, layers: int, engine: str = BASELINE) -> Entry:
    """The float32 baseline of `layers` layers; of a checkpoint, itself at its own depth."""
    if case.checkpoint is not None:
        return Entry(engine, case)
    geometry = dataclasses.replace(case.geometry, layers=layers)
    return Entry(engine, dataclasses.replace(case, geometry=geometry, sparsity=0.0, pattern="4-block"))


def rows(
    cell: Cell, case: Case, full_layers: int, measured: dict[Entry, Measured], failed: dict[Entry, str],
    clock: Clock,
) -> list[dict[str, Any]]:  # fmt: skip
    """One JSON object an entry of the cell."""
    full, same = measured.get(dense(case, full_layers)), measured.get(dense(case, case.geometry.layers))
    reference = measured.get(Entry(BASELINE, case))
    fused = measured.get(dense(case, full_layers, FUSED))
    found = []
    for entry in cell.entries:
        row: dict[str, Any] = {
            "engine": entry.label,
            "layers": entry.case.geometry.layers,
            "hidden": entry.case.geometry.hidden,
            "sparsity": entry.case.sparsity,
            "pattern": entry.case.pattern if entry.case.sparsity else "dense",
            "length": cell.length,
            "batch": cell.batch,
            "threads": cell.threads,
        }
        if entry in failed:
            found.append({**row, "failed": failed[entry]})
            continue
        own = measured[entry]
        row |= {
            "wall_ms": {
                "median": round(float(np.median(own.wall_ms)), 3),
                "min": round(own.least_wall_ms, 3),
            },
            "cpu_ms": {"median": round(float(np.median(own.cpu_ms)), 3), "min": round(own.least_cpu_ms, 3)},
            "rounds_wall_ms": [round(ms, 3) for ms in own.wall_ms],
            "rounds_cpu_ms": [round(ms, 3) for ms in own.cpu_ms],
            "load_ms": round(own.load_ms, 1),
            "peak_bytes": own.peak_bytes,
            "facts": own.facts,
            # Equal for engines that compute the same bits.
            "logits_sha256": hashlib.sha256(own.logits.astype("<f4").tobytes()).hexdigest(),
        }
        for name, baseline in (("full_depth", full), ("same_depth", same), ("fused", fused)):
            if baseline is not None:
                row[f"ratio_{name}"] = {
                    "median": round(own.ratio(baseline, clock), 2),
                    "of_minima": round(baseline.least(clock) / own.least(clock), 2),
                }
        if reference is not None and entry.case == case:
            row["logits_difference"] = round(float(np.abs(own.logits - reference.logits).max()), 5)
            row["logits_size"] = round(float(np.abs(reference.logits).max()), 3)
        found.append(row)
    return found


def table(found: list[dict[str, Any]], clock: Clock) -> Table:
    """The rows for people."""
    result = Table(box=None, pad_edge=False)
    columns = ("model", "length", "threads", "engine", "ms", "min", "x full depth", "x same depth",
               "of minima", "x ort-fused", "Δ logits", "runs on")  # fmt: skip
    for name in columns:
        result.add_column(name, justify="left" if name in ("model", "engine", "runs on") else "right")
    for row in found:
        pattern = f"{row['sparsity']:.0%} {row['pattern']}" if row["sparsity"] else "dense"
        model = f"{row['layers']}x{row['hidden']} {pattern}"
        first = (model, str(row["length"]), str(row["threads"]), row["engine"])
        if "failed" in row:
            result.add_row(*first, *[""] * 7, f"left out: {row['failed']}")
            continue
        ms, full, same = row[f"{clock}_ms"], row.get("ratio_full_depth"), row.get("ratio_same_depth")
        result.add_row(
            *first,
            f"{ms['median']:.2f}",
            f"{ms['min']:.2f}",
            f"{full['median']:.2f}" if full else "",
            f"{same['median']:.2f}" if same else "",
            f"{full['of_minima']:.2f}" if full else "",
            f"{row['ratio_fused']['median']:.2f}" if "ratio_fused" in row else "",
            f"{row['logits_difference']:.3f}" if "logits_difference" in row else "",
            runs_on(row["facts"]),
        )
    return result


def runs_on(facts: dict[str, Any]) -> str:
    """The facts of an engine in one line: "2026.4.1 bf16 12 brgemm_avx512_bf16"."""
    words = [facts["version"], *(facts[name] for name in ("isa", "precision") if name in facts)]
    words += [f"{count} {kernel}" for kernel, count in facts.get("kernels", {}).items()]
    return " ".join(words)


def main() -> None:
    options = arguments()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    full_layers = GEOMETRIES[options.geometry].layers
    plan = Plan(options.repeats, options.runs, options.warmup, tuple(options.cpus))
    made: dict[Case, Forms] = {}

    def forms(case: Case) -> Forms:
        """The forms of `case`, made afresh when another case comes, so that one encoder is in memory."""
        if case not in made:
            made[case] = Forms(case, options.work / "models", options.peers)
        return made[case]

    found: list[dict[str, Any]] = []
    for cell, case in cells(options):
        with console.status("") as status:
            measured, failed = measure(cell, plan, forms, status.update)
        latest = rows(cell, case, full_layers, measured, failed, options.clock)
        console.print(table(latest, options.clock))
        found += latest
        if options.json:
            write(options.json, options, found)


def write(path: Path, options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    """Write the figures with what they were measured on, by way of a temporary sibling."""
    settings = {
        name: getattr(options, name)
        for name in ("geometry", "batch", "repeats", "runs", "warmup", "clock", "cpus", "seed")
    }
    report = {
        "machine": dataclasses.asdict(machine_facts()),
        "load_average": os.getloadavg(),
        "baseline": f"{BASELINE}, dense, {GEOMETRIES[options.geometry].layers} layers",
        "settings": settings,
        "rows": found,
    }
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(path)


if __name__ == "__main__":
    main()
