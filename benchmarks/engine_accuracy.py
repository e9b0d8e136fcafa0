"""The INT8-sparse engine against PyTorch on real tasks: the same classes, the same accuracy?

Each CASE is NAME=CHECKPOINT=DATA: a quantised checkpoint and a JSON-lines file with `text` and `label`. The
engine's model is converted from the checkpoint, or with NAME=CHECKPOINT=DATA=PACKAGE taken from a package
that `edgebert build` made of it. PyTorch runs in simulated INT8 twice: with INT8 and with float attention.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert.compression import tokenize
from edgebert.data import Example, load_examples
from edgebert.inference import text_logits
from edgebert.tokenizer import TextTokenizer
from edgebert_compress import checkpoint as checkpoints
from edgebert_compress.attention import use_int8_attention
from edgebert_compress.masks import sparsity
from edgebert_compress.trainer import model_logits
from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.int8_sparse.library import Engine, isa
from edgebert_targets.int8_sparse.target import TARGET

Logits = NDArray[np.float32]
MIN_EQUAL = 0.998  # share of equal classes
MAX_COST = 0.001  # accuracy, either way


@dataclass(frozen=True)
class Case:
    name: str
    checkpoint: Path
    data: Path
    package: Path | None


@dataclass(frozen=True)
class Against:
    """The engine compared with one PyTorch simulation. `equal`: share of equal classes."""

    accuracy: float
    equal: float
    differing: int
    max_difference: float
    mean_difference: float


@dataclass(frozen=True)
class Outcome:
    """`attention`: what the checkpoint names. `equal_ids`: share of texts that the engine tokenises alike."""

    name: str
    examples: int
    sparsity: float
    attention: str
    model_bytes: int
    kernels: str
    engine_accuracy: float
    equal_ids: float
    int8_attention: Against
    float_attention: Against

    @property
    def named(self) -> Against:
        """The simulation that the checkpoint names."""
        return self.float_attention if self.attention == "float" else self.int8_attention

    @property
    def reached(self) -> bool:
        cost = abs(self.engine_accuracy - self.named.accuracy)
        return self.named.equal >= MIN_EQUAL and cost <= MAX_COST


def read_case(text: str) -> Case:
    parts = text.split("=")
    if len(parts) not in (3, 4) or not all(parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=CHECKPOINT=DATA[=PACKAGE]")
    return Case(parts[0], Path(parts[1]), Path(parts[2]), Path(parts[3]) if len(parts) == 4 else None)


def simulate(folder: Path, prepare: Callable[[Any], None], tokens: Any) -> Logits:
    """PyTorch's logits in simulated INT8; `prepare` chooses the attention."""
    model = checkpoints.load(folder).model
    prepare(model)
    return model_logits(model, tokens)


def compare(engine: Logits, torch: Logits, truth: NDArray[np.int64]) -> Against:
    same = engine.argmax(1) == torch.argmax(1)
    return Against(
        accuracy=float((torch.argmax(1) == truth).mean()),
        equal=float(same.mean()),
        differing=int((~same).sum()),
        max_difference=float(np.abs(engine - torch).max()),
        mean_difference=float(np.abs(engine - torch).mean()),
    )


def engine_answers(
    model: Path, tokenizer: TextTokenizer, examples: Sequence[Example], classes: int
) -> tuple[Logits, float]:
    """The engine's logits, and the share of texts whose ids its own tokenizer makes alike."""
    texts, pairs = [e.text for e in examples], [e.text_pair for e in examples]
    session = TARGET.open(model, SessionOptions(threads=1))
    try:
        logits = text_logits(session, tokenizer, texts, pairs, classes)
    finally:
        session.close()
    with Engine.open(model) as engine:
        alike = [
            engine.tokenize(e.text, e.text_pair, tokenizer.max_length)[0]
            == list(tokenizer.encode_ids(e.text, e.text_pair)[0])
            for e in examples
        ]
    return logits, float(np.mean(alike))


def run_case(case: Case) -> Outcome:
    loaded = checkpoints.load(case.checkpoint)
    if loaded.record is None or loaded.record.quantization is None:
        raise SystemExit(f"{case.checkpoint} is not quantised; end its recipe with a quantize stage")
    examples = load_examples(case.data)
    length = int(json.loads((case.checkpoint / "config.json").read_text())["max_position_embeddings"]) - 2
    tokenizer = TextTokenizer.from_folder(case.checkpoint, length)
    tokens = tokenize(tokenizer, examples, loaded.labels)
    truth = np.array(tokens.labels)
    with tempfile.TemporaryDirectory() as scratch:
        if case.package is not None:
            model = case.package / TARGET.model_file
        else:
            model = Path(scratch) / TARGET.model_file
            TARGET.convert(load_encoder_spec(case.checkpoint), model, ConvertOptions())
        size = model.stat().st_size
        engine, equal_ids = engine_answers(model, tokenizer, examples, len(loaded.labels))
    masks = checkpoints.masks_of(loaded)
    return Outcome(
        name=case.name,
        examples=len(examples),
        sparsity=sparsity(masks) if masks else 0.0,
        attention=loaded.record.quantization.get("attention", "float"),
        model_bytes=size,
        kernels=isa(),
        engine_accuracy=float((engine.argmax(1) == truth).mean()),
        equal_ids=equal_ids,
        int8_attention=compare(engine, simulate(case.checkpoint, use_int8_attention, tokens), truth),
        float_attention=compare(
            engine, simulate(case.checkpoint, lambda m: m.set_attn_implementation("sdpa"), tokens), truth
        ),
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """One Markdown row a case and simulation; the simulation that the checkpoint names comes first."""
    lines = [
        "| model | zeros | trained with attention | against attention | PyTorch | engine | equal classes "
        "| differing | largest logit difference | mean | model MB | aims |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        both = [("INT8", o.int8_attention), ("float", o.float_attention)]
        for name, against in sorted(both, key=lambda pair: pair[1] is not o.named):
            aims = ("reached" if o.reached else "missed") if against is o.named else ""
            lines.append(
                f"| {o.name} | {o.sparsity:.0%} | {o.attention} | {name} | {against.accuracy:.2%} "
                f"| {o.engine_accuracy:.2%} | {against.equal:.2%} | {against.differing} of {o.examples} "
                f"| {against.max_difference:.3f} | {against.mean_difference:.4f} "
                f"| {o.model_bytes / 1e6:.1f} | {aims} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=read_case, metavar="CASE")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/engine_accuracy.json"))
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    outcomes = [run_case(case) for case in arguments.cases]
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    figures = [{**asdict(outcome), "reached": outcome.reached} for outcome in outcomes]
    arguments.json.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    print(table(outcomes))
    print(f"aims: {MIN_EQUAL:.1%} equal classes, accuracy within {100 * MAX_COST:.1f} point")


if __name__ == "__main__":
    main()
