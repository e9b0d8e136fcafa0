"""The Fisher inverse: batched forms against the plain loop, and a whole pruning step at BERT-base size.

compare    one tensor, in turns: the authors' loop (one gradient at a time, vectorised over the blocks), the
           chunked Woodbury update, and the sums inverted once; CPU seconds, ratios, differences.
bert-base  72 tensors, 84.9 M weights, random weights, within --memory: planned and measured peak, seconds.
           Gradients of the model on random text, or with --synthetic slices of one random array, which cost
           nothing, so that the time is the pruning's own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from edgebert_compress import obert
from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.data import TokenizedDataset
from edgebert_compress.fisher import FisherSums, WoodburyInverse, in_blocks
from edgebert_compress.gradients import GradientPass, TaskGradients
from edgebert_compress.masks import full_masks, sparsity
from edgebert_compress.memory import CHUNK
from edgebert_compress.obert import ObertSettings
from edgebert_compress.tasks import TEXT_CLASSIFICATION

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
PIECE = 208  # Fisher blocks of 50 in one piece of the package's own cutting


def plain_loop(blocks: Tensor, dampening: float) -> Tensor:
    """Kurtic et al. 2022, eq. 7: F⁻¹ ← F⁻¹ - v vᵀ / (m + gᵀ v), v = F⁻¹ g, one gradient at a time."""
    m, count, size = blocks.shape
    inverse = (torch.eye(size) / dampening).repeat(count, 1, 1)
    for gradient in blocks:
        v = torch.einsum("nij,nj->ni", inverse, gradient)
        scale = m + (gradient * v).sum(dim=1)
        inverse -= torch.einsum("ni,nj->nij", v / scale.unsqueeze(1), v)
    return inverse


def batched(kind: type[WoodburyInverse] | type[FisherSums], blocks: Tensor, dampening: float) -> Tensor:
    """The package's way: pieces that fit in the cache, chunks of gradients."""
    m, count, size = blocks.shape
    storage = torch.empty(count, size, size)
    pieces = [kind(storage[at : at + PIECE], m, dampening) for at in range(0, count, PIECE)]
    for start in range(0, m, CHUNK):
        rows = blocks[start : start + CHUNK]
        for number, piece in enumerate(pieces):
            part = rows[:, number * PIECE : (number + 1) * PIECE]
            piece.add(part.transpose(0, 1).contiguous())
    for piece in pieces:
        piece.inverse()
    return storage


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of each form on one tensor, in turns, medians of the rounds; differences to float64."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = arguments.shape
    gradients = 1e-3 * torch.randn(arguments.gradients, rows * columns, generator=generator)
    blocks = in_blocks(gradients, arguments.block)
    forms: dict[str, Callable[[Tensor, float], Tensor]] = {
        "plain loop": plain_loop,
        "Woodbury, chunks": lambda b, damp: batched(WoodburyInverse, b, damp),
        "sums, one inverse": lambda b, damp: batched(FisherSums, b, damp),
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    few = blocks[:, :64].double()
    exact = torch.linalg.inv(
        torch.einsum("mni,mnj->nij", few, few) / len(few)
        + arguments.dampening * torch.eye(arguments.block, dtype=torch.float64)
    )
    errors = {}
    for _ in range(arguments.rounds):
        for name, form in forms.items():
            started = time.process_time()  # of one thread, so that other work matters little
            found = form(blocks, arguments.dampening)
            seconds[name].append(time.process_time() - started)
            difference = (found[:64].double() - exact).abs().amax(dim=(1, 2)) / exact.abs().amax(dim=(1, 2))
            errors[name] = float(difference.max())
            del found
    loop = seconds["plain loop"]
    result = {
        name: {
            "cpu_seconds": statistics.median(own),
            "times_faster": statistics.median(a / b for a, b in zip(loop, own, strict=True)),
            "largest_relative_error": errors[name],
        }
        for name, own in seconds.items()
    }
    for name, row in result.items():
        print(
            f"{name:20} {row['cpu_seconds']:8.2f} s {row['times_faster']:6.2f}x "
            f"error {row['largest_relative_error']:.1e}"
        )
    facts = {"rounds": arguments.rounds, "shape": [rows, columns], "block": arguments.block}
    return {**facts, "gradients": arguments.gradients, "dampening": arguments.dampening, "forms": result}


class SyntheticGradients:
    """m random gradients as slices of one array: the same on every replay, and free."""

    def __init__(self, sizes: dict[str, torch.Size], count: int) -> None:
        self.sizes, self.count = sizes, count
        largest = max(size.numel() for size in sizes.values())
        self.pool = 1e-3 * torch.randn(2 * largest, generator=torch.Generator().manual_seed(0))

    def gradients(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        numbers = {name: number for number, name in enumerate(self.sizes)}
        for row in range(self.count):
            found = {}
            for name in names:
                size = self.sizes[name]
                room = len(self.pool) - size.numel()
                start = (row * 104_729 + numbers[name] * 15_485_863) % room
                found[name] = self.pool[start : start + size.numel()].view(size)
            yield found


def random_text(model: Any, count: int, tokens: int) -> TokenizedDataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, model.config.vocab_size, (count, tokens), generator=generator)
    labels = torch.randint(0, model.config.num_labels, (count,), generator=generator)
    return TokenizedDataset(tuple(map(tuple, ids.tolist())), None, tuple(labels.tolist()), 0)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bert_base(arguments: argparse.Namespace) -> dict[str, Any]:
    """One pruning step of a random BERT-base within the budget: plan, measured peak, time."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=2, num_hidden_layers=arguments.layers)).eval()
    parameters = prunable_parameters(model)
    masks = full_masks(parameters)
    config = ObertSettings(
        arguments.pattern, arguments.block, arguments.gradients, arguments.dampening, update=arguments.update
    )
    scratch = arguments.scratch
    how = obert.plan_step(parameters, config, arguments.memory, scratch)
    print(how, flush=True)
    passed: GradientPass
    if arguments.synthetic:
        passed = SyntheticGradients({name: p.shape for name, p in parameters.items()}, arguments.gradients)
    else:
        data = random_text(model, arguments.gradients * arguments.batch_size, arguments.tokens)
        batches = [
            list(range(at, at + arguments.batch_size)) for at in range(0, len(data), arguments.batch_size)
        ]
        passed = TaskGradients(model, TEXT_CLASSIFICATION, data, batches)
        for _ in zip(range(1), passed.gradients(list(parameters)), strict=False):
            pass  # what the gradients take by themselves is no part of the budget
    before, held = peak_bytes(), psutil.Process().memory_info().rss
    started, cpu = time.perf_counter(), time.process_time()
    new = obert.prune(
        parameters, masks, lambda count: passed, config, 0.8, memory=arguments.memory, scratch=scratch
    )
    result = {
        "weights": sum(value.numel() for value in parameters.values()),
        "gradients": arguments.gradients,
        "synthetic": arguments.synthetic,
        "batch": None if arguments.synthetic else [arguments.batch_size, arguments.tokens],
        "block": arguments.block,
        "pattern": arguments.pattern,
        "update": arguments.update,
        "memory": arguments.memory,
        "plan": str(how),
        "passes": how.passes,
        "planned_peak": how.peak_bytes,
        "held_before": held,
        "peak_before": before,
        "peak": peak_bytes(),
        "measured": peak_bytes() - held,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "sparsity": sparsity(new),
    }
    print(json.dumps(result, indent=1))
    if result["measured"] > how.peak_bytes:
        raise SystemExit("the measured peak is above the planned one")
    return result


def size_of(text: str) -> int:
    unit = next((unit for unit in UNITS if unit and text.endswith(unit)), "")
    return int(float(text.removesuffix(unit)) * UNITS[unit])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["compare", "bert-base"])
    parser.add_argument("--gradients", type=int, default=1024)
    parser.add_argument("--block", type=int, default=50)
    parser.add_argument("--dampening", type=float, default=1e-7)
    parser.add_argument("--shape", type=int, nargs=2, default=[768, 768])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=size_of, default="8GiB")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--pattern", type=int, default=1, help="weights pruned together")
    parser.add_argument("--update", choices=["summed", "joint"], default="summed")
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--layers", type=int, default=12, help="fewer: time grows with them in proportion")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="results are added to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = compare(arguments) if arguments.what == "compare" else bert_base(arguments)
    if arguments.json:
        old = json.loads(arguments.json.read_text()) if arguments.json.is_file() else []
        entry = {"what": arguments.what, "threads": arguments.threads, **result}
        arguments.json.write_text(json.dumps([*old, entry], indent=1) + "\n")


if __name__ == "__main__":
    main()
