"""The learning rate of a SparseML recipe as pieces over epochs, each a straight line or half a cosine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from edgebert_compress.located import as_number
from edgebert_compress.sparseml.document import Modifier
from edgebert_compress.sparseml.fields import EPSILON, Fields

MAX_PIECES = 100_000
USUAL_RATE = 5e-5  # what transformers takes when the command line names none
FUNCTIONS = ("linear", "cosine", "cyclic_linear", "constant")
CLASSES = ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingWarmRestarts")


@dataclass(frozen=True)
class Piece:
    """The rate goes from `first` to `last` between two epochs, in a straight line.

    `cosine`: the piece of half a cosine that this one is, or is cut from.
    """

    start: float
    end: float
    first: float
    last: float
    line: int
    cosine: Piece | None = None

    def at(self, epoch: float) -> float:
        whole = self.cosine or self
        share = (epoch - whole.start) / (whole.end - whole.start)
        if self.cosine is None:
            return whole.first + (whole.last - whole.first) * share
        return whole.last + (whole.first - whole.last) * (1 + math.cos(math.pi * share)) / 2

    def cut(self, start: float, end: float) -> Piece:
        if (start, end) == (self.start, self.end):
            return self
        return replace(self, start=start, end=end, first=self.at(start), last=self.at(end))

    @property
    def whole(self) -> bool:
        """Whether a line, or half a cosine from end to end."""
        of = self.cosine
        return of is None or (of.start + EPSILON > self.start and of.end - EPSILON < self.end)


def half_cosine(start: float, end: float, first: float, last: float, line: int) -> Piece:
    return Piece(start, end, first, last, line, Piece(start, end, first, last, line))


def read_rates(
    modifiers: Sequence[Modifier], source: str, start: float, end: float
) -> tuple[list[Piece], list[str]]:
    """Pieces that cover [start, end] without gaps, and notes. Raises RecipeError."""
    read = [_pieces(Fields(modifier, source), end) for modifier in modifiers]
    notes = [
        f"line {pieces[-1].line}: the last cycle is shorter and falls all the way, once; SparseML's would "
        "begin in the middle"
        for pieces in read
        if _cut_off(pieces)
    ]
    functions = sorted(
        (piece for pieces in read for piece in pieces if piece.start < end - EPSILON),
        key=lambda piece: piece.start,
    )
    if not functions:
        note = (
            f"the recipe names no learning rate: {USUAL_RATE:g} falling to 0 is taken, as transformers does; "
            "the authors give theirs on the command line"
        )
        return [Piece(start, end, USUAL_RATE, 0.0, 0)], [note]
    covered: list[Piece] = []
    if functions[0].start > start + EPSILON:
        notes.append(
            f"the recipe names no learning rate before epoch {functions[0].start:g}: {USUAL_RATE:g} is taken"
        )
        covered.append(Piece(start, functions[0].start, USUAL_RATE, USUAL_RATE, functions[0].line))
    for piece, following in zip(functions, [*functions[1:], None], strict=True):
        stop = min(following.start if following else end, end)
        if stop - piece.start <= EPSILON:
            continue
        covered.append(piece.cut(piece.start, min(piece.end, stop)))
        if piece.end < stop - EPSILON:  # the last rate stays
            covered.append(Piece(piece.end, stop, piece.last, piece.last, piece.line))
    notes += [
        f"the learning rate is 0 from epoch {piece.start:g} to {piece.end:g}: nothing learns there"
        for piece in covered
        if piece.first == piece.last == 0
    ]
    return covered, notes


def _pieces(fields: Fields, end: float) -> list[Piece]:
    line = fields.modifier.line
    fields.ignore("constant_logging", "update_frequency", "log_types")
    fields.expect("param_groups", (), "has no equivalent; every weight learns at one rate")
    start, stop = fields.span(end)
    if fields.modifier.name == "SetLearningRateModifier":
        rate = _rate(fields, "learning_rate")
        fields.done()
        return [Piece(start, max(end, start + EPSILON), rate, rate, line)]
    if stop - start <= EPSILON:
        raise fields.refuse("end_epoch", "must come after 'start_epoch'")
    if fields.modifier.name == "LearningRateModifier":
        return _scheduler(fields, start, stop, end)
    kind = fields.text("lr_func", "linear")
    if kind not in FUNCTIONS:
        raise fields.refuse("lr_func", f"has no equivalent; take one of: {', '.join(FUNCTIONS)}")
    first, last = _rate(fields, "init_lr"), _rate(fields, "final_lr")
    fields.expect("cycle_mul", (1,), "has no equivalent; all cycles start at one rate")
    fields.expect("warmup", (0,), "has no equivalent within a cycle; take it out")
    fields.ignore("decay_rate", "decay_epochs")
    cycle = fields.number("cycle_epochs", 1.0)
    fields.done()
    if kind == "cosine":
        return [half_cosine(start, stop, first, last, line)]
    if kind in ("linear", "constant"):
        return [Piece(start, stop, first, first if kind == "constant" else last, line)]
    begins = _begins(fields, "cycle_epochs", cycle, start, stop)
    # A last cycle that is shorter falls all the way too.
    return [Piece(begin, min(begin + cycle, stop), first, last, line) for begin in begins]


def _cut_off(pieces: Sequence[Piece]) -> bool:
    """Whether the last of several equal cycles is shorter and no part of the time before it."""
    if len(pieces) < 2 or pieces[0].cosine is not None or _near(pieces[0].first, pieces[0].last):
        return False
    share = (pieces[-1].start - pieces[0].start) / (pieces[-1].end - pieces[-1].start)
    return abs(share - round(share)) > 1e-6


def _rate(fields: Fields, key: str) -> float:
    rate = fields.number(key)
    if not 0 <= rate <= 1:
        raise fields.refuse(key, "must lie in [0, 1]")
    return rate


def _begins(fields: Fields, key: str, length: float, start: float, stop: float) -> Iterator[float]:
    """Epochs from `start` on, `length` apart, before `stop`. Raises RecipeError."""
    if length <= 0 or (stop - start) / length > MAX_PIECES:
        raise fields.refuse(key, "gives no sensible cycles; take a part of the epochs")
    count = max(1, math.ceil((stop - start) / length - EPSILON))
    return (start + number * length for number in range(count))


def _scheduler(fields: Fields, start: float, stop: float, end: float) -> list[Piece]:
    """The schedulers of PyTorch that LearningRateModifier names; their epochs count from `start`."""
    line = fields.modifier.line
    kind = fields.text("lr_class", "")
    if kind not in CLASSES:
        raise fields.refuse("lr_class", f"has no equivalent; take one of: {', '.join(CLASSES)}")
    rate = _rate(fields, "init_lr")
    given = fields.raw("lr_kwargs")
    if given is not None and not isinstance(given.data, dict):
        raise fields.refuse("lr_kwargs", "must be a mapping such as {gamma: 0.1, step_size: 2}")
    inner = Fields(replace(fields.modifier, settings=given.data if given else {}), fields.source)
    fields.done()
    if kind == "CosineAnnealingWarmRestarts":
        low, length = _rate(inner, "lr_min"), inner.number("cycle_epochs")
        inner.done()
        begins = _begins(inner, "cycle_epochs", length, start, stop)
        return [half_cosine(begin, begin + length, rate, low, line) for begin in begins]
    gamma = inner.number("gamma")
    if not 0 < gamma <= 1:
        raise inner.refuse("gamma", "must lie in (0, 1]; a rate that grows has no equivalent")
    if kind == "MultiStepLR":
        marks = [start, *_milestones(inner, start, stop)]
    else:
        length = 1.0 if kind == "ExponentialLR" else inner.number("step_size")
        marks = list(_begins(inner, "step_size", length, start, stop))
    inner.done()
    rates = [rate * gamma**number for number in range(len(marks))]
    spans = pairwise([*marks, max(end, stop)])
    return [Piece(*span, value, value, line) for span, value in zip(spans, rates, strict=True)]


def _milestones(fields: Fields, start: float, stop: float) -> list[float]:
    value = fields.raw("milestones")
    items = value.data if value is not None and isinstance(value.data, list) else []
    found = [as_number(item.data) for item in items]
    if not found or not all(isinstance(epoch, int | float) and start < epoch < stop for epoch in found):
        raise fields.refuse("milestones", f"must be a list of epochs between {start:g} and {stop:g}")
    return sorted(float(epoch) for epoch in found if isinstance(epoch, int | float))


def stage_rates(  # noqa: PLR0911 - one return a form of schedule
    pieces: Sequence[Piece], start: float, end: float, restarts: Sequence[float] = ()
) -> dict[str, Any] | None:
    """Settings of a `Training` for the epochs [start, end]; None when one stage cannot express them.

    `restarts`: epochs of the pruning steps. A rate of 0 throughout gives {"epochs": 0}: nothing learns.
    """
    inside = [
        piece.cut(max(piece.start, start), min(piece.end, end))
        for piece in pieces
        if piece.end > start + EPSILON and piece.start < end - EPSILON
    ]
    if not inside:
        return {"epochs": 0.0}
    merged = [inside[0]]
    for piece in inside[1:]:
        before = merged[-1]
        straight = before.cosine is None and piece.cosine is None
        if (
            straight
            and _near(before.last, piece.first)
            and _near(
                (before.last - before.first) * (piece.end - piece.start),
                (piece.last - piece.first) * (before.end - before.start),
            )
        ):
            merged[-1] = replace(before, end=piece.end, last=piece.last)
        else:
            merged.append(piece)
    epochs = round(end - start, 6)
    peak = max(max(piece.first, piece.last) for piece in merged)
    if peak <= 0:
        return {"epochs": 0.0}
    settings: dict[str, Any] = {"epochs": epochs, "learning_rate": _tidy(peak), "warmup": 0.0}
    first = merged[0]
    if not all(piece.whole for piece in merged):
        return None
    if all(_near(piece.first, piece.last) for piece in merged):
        return _steps(merged, settings, start)
    if len(merged) == 1 and first.first > first.last:
        return settings | {"schedule": _shape(first), "final_rate": _tidy(first.last / peak)}
    rises_from_zero = first.cosine is None and first.first <= 0.01 * peak and _near(first.last, peak)
    if rises_from_zero and len(merged) <= 2:
        falls = len(merged) == 1 or (_near(merged[1].first, peak) and merged[1].last <= peak)
        if falls:
            last = merged[1].last / peak if len(merged) == 2 else 0.0
            warmup = _tidy((first.end - first.start) / (end - start))
            shape = {"schedule": _shape(merged[-1]), "warmup": warmup, "final_rate": _tidy(last)}
            return settings | shape
        return None
    return _cycles(merged, settings, peak, start, restarts)


def _shape(piece: Piece) -> str:
    return "linear" if piece.cosine is None else "cosine"


def _steps(pieces: Sequence[Piece], settings: dict[str, Any], start: float) -> dict[str, Any] | None:
    """Constant rates: one, or each the same share of the one before."""
    if len(pieces) == 1:
        return settings | {"schedule": "constant"}
    rates = [piece.first for piece in pieces]
    factors = [after / before if before > 0 else 0.0 for before, after in pairwise(rates)]
    if not 0 < factors[0] < 1 or not all(_near(factor, factors[0]) for factor in factors):
        return None
    return settings | {
        "schedule": "step",
        "milestones": _from(start, [piece.start for piece in pieces[1:]]),
        "step_factor": _tidy(factors[0]),
    }


def _cycles(
    pieces: Sequence[Piece], settings: dict[str, Any], peak: float, start: float, restarts: Sequence[float]
) -> dict[str, Any] | None:
    same_peak = all(_near(piece.first, peak) and piece.last <= piece.first for piece in pieces)
    same_floor = all(_near(piece.last, pieces[0].last) for piece in pieces[:-1])
    shapes = {_shape(piece) for piece in pieces}
    if not (same_peak and same_floor and len(shapes) == 1):
        return None
    straight = shapes == {"linear"}
    settings |= {
        "schedule": "cyclic-linear" if straight else "cosine",
        "cycle_floor": _tidy(pieces[0].last / peak),
        "final_rate": _tidy(pieces[-1].last / peak),
    }
    begins = [piece.start for piece in pieces if piece.start > start + EPSILON]
    steps = sorted(set(restarts))
    inner = [step for step in steps if step > start + EPSILON]
    same = len(begins) == len(inner) and all(_near(a, b) for a, b in zip(begins, inner, strict=True))
    if straight and same:
        return settings
    # Cycles of an even length are counted from the first pruning step, or from the beginning.
    anchor = steps[0] if steps else start
    ends = [*begins, pieces[-1].end]
    if anchor <= start + EPSILON:
        ends = [start, *ends]
    cycle = ends[1] - ends[0] if len(ends) > 1 else 0.0
    even = all(_near(after - before, cycle) for before, after in pairwise(ends[:-1]))
    if _near(ends[0], max(anchor, start)) and even and 0 < ends[-1] - ends[-2] <= cycle + EPSILON:
        return settings | {"cycle_epochs": round(cycle, 9)}
    return settings | {"restarts": _from(start, begins)}


def _from(start: float, epochs: Sequence[float]) -> tuple[float, ...]:
    """Epochs of the recipe as epochs of a stage that begins at `start`."""
    return tuple(round(epoch - start, 9) for epoch in epochs)


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b), 1e-12) + 1e-15


def _tidy(value: float) -> float:
    """Without the rounding of the division that made it."""
    return float(f"{value:.6g}")
