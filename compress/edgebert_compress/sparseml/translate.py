"""A SparseML recipe as one of ours.

SparseML lays its modifiers over one time axis of epochs; ours are stages, one after the other. A stage begins
where quantising, the distillation or the weight decay changes, and where the learning rate takes a
course that one stage cannot express. What cannot be said in stages is refused, never bent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Any, cast

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import place
from edgebert_compress.recipe import (
    Attention,
    Distillation,
    DropLayersStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    Stage,
    Training,
    TrainStage,
)
from edgebert_compress.sparseml.document import Modifier, Phase, read_document
from edgebert_compress.sparseml.fields import EPSILON, Fields
from edgebert_compress.sparseml.frozen import frozen_patterns
from edgebert_compress.sparseml.pruning import (
    MAGNITUDE,
    OBERT,
    Pruning,
    read_dropped,
    read_pruning,
    read_quantization,
)
from edgebert_compress.sparseml.rates import Piece, read_rates, stage_rates

USUAL_EPOCHS = 3.0  # what transformers takes when the command line names none
RATES = ("LearningRateFunctionModifier", "SetLearningRateModifier", "LearningRateModifier")
KNOWN = ("EpochRangeModifier", "LayerPruningModifier", "ConstantPruningModifier", "DistillationModifier",
         "QuantizationModifier", "SetWeightDecayModifier", "TrainableParamsModifier",
         *OBERT, *MAGNITUDE, *RATES)  # fmt: skip
BATCH_NOTE = (
    f"batch size is no part of a SparseML recipe: {Training.batch_size} is taken; "
    "the authors' scripts use 16 for SQuAD, 32 for MNLI and QQP, 256 for masked-language modelling"
)


@dataclass(frozen=True)
class Change:
    """A setting that holds from one epoch to another."""

    start: float
    end: float
    value: Any


@dataclass(frozen=True)
class Axis:
    """One phase of a recipe, read: what happens between the epochs `start` and `end`.

    `named`: the modifiers by line.
    """

    start: float
    end: float
    rates: list[Piece]
    prunings: list[Pruning]
    dropped: tuple[int, ...]
    quantized_from: float
    quantization: Fields | None
    attention: str
    distillations: list[Change]
    decays: list[Change]
    frozen: list[Change]
    named: Mapping[int, str]


def translate(text: str, source: str, name: str) -> Recipe:
    """Our recipe for the SparseML recipe `text`; its `notes` say what a user should know.

    Raises RecipeError naming line, modifier and field of whatever has no equivalent.
    """
    phases, notes = read_document(text, source)
    stages: list[Stage] = []
    modifiers: list[Fields | None] = []
    for phase in phases:
        axis, said = _read_axis(phase, source)
        notes += said
        try:
            new = _stages(axis, source, first=not stages)
        except RecipeError as error:  # our own stages know no lines
            raise error if str(error).startswith(source) else RecipeError(f"{source}: {error}") from error
        stages += new
        modifiers += [axis.quantization] * len(new)
    for stage, fields in zip(stages[:-1], modifiers[:-1], strict=True):
        if isinstance(stage, QuantizeStage) and fields is not None:
            raise fields.reject("quantises before the last stage, which has no equivalent")
    if not stages:
        raise RecipeError(f"{source}: the recipe trains for no epochs; nothing is left to do")
    notes.append(BATCH_NOTE)
    described = f"Translated from the SparseML recipe {PurePath(source).name}."
    return Recipe(name, tuple(stages), description=described, notes=tuple(dict.fromkeys(notes)))


def _read_axis(phase: Phase, source: str) -> tuple[Axis, list[str]]:
    def called(*names: str) -> list[Modifier]:
        return [modifier for modifier in phase.modifiers if modifier.name in names]

    for modifier in phase.modifiers:
        if modifier.name not in KNOWN:
            raise RecipeError(
                f"{place(source, modifier.line)}: {modifier.name} has no equivalent; "
                f"known: {', '.join(KNOWN)}"
            )
    start, end, notes = _epochs(called("EpochRangeModifier"), phase, source)
    dropped = read_dropped(called("LayerPruningModifier"), source, end)
    rates, rate_notes = read_rates(called(*RATES), source, start, end)
    prunings, prune_notes = read_pruning(called(*OBERT, *MAGNITUDE), source, end, dropped)
    quantized, attention, fields, quantize_notes = read_quantization(
        called("QuantizationModifier"), source, end
    )
    for pruning in prunings:
        if fields is not None and pruning.end > quantized + EPSILON:
            raise fields.refuse(
                "start_epoch",
                f"quantises before the pruning ends (epoch {pruning.end:g}), which has no equivalent",
            )
    for modifier in called("ConstantPruningModifier"):
        constant = Fields(modifier, source)  # ours holds pruned weights at zero in any stage
        constant.ignore("params", "start_epoch", "end_epoch", "update_frequency", "log_types")
        constant.done()
    frozen, frozen_notes = _frozen(called("TrainableParamsModifier"), source, end, dropped)
    distillations = [
        _distillation(Fields(modifier, source), end) for modifier in called("DistillationModifier")
    ]
    if not distillations:
        notes.append("no DistillationModifier: the stages learn from the labels alone")
    decays = [_decay(Fields(modifier, source), end) for modifier in called("SetWeightDecayModifier")]
    named = {0: "the usual rate", **{modifier.line: modifier.name for modifier in phase.modifiers}}
    axis = Axis(
        start,
        end,
        rates,
        prunings,
        dropped,
        quantized,
        fields,
        attention,
        distillations,
        decays,
        frozen,
        named,
    )
    return axis, notes + rate_notes + prune_notes + frozen_notes + quantize_notes


def _epochs(modifiers: Sequence[Modifier], phase: Phase, source: str) -> tuple[float, float, list[str]]:
    spans = []
    for modifier in modifiers:
        fields = Fields(modifier, source)
        spans.append((max(fields.number("start_epoch", 0.0), 0.0), fields.number("end_epoch")))
        fields.done()
        if spans[-1][1] < spans[-1][0]:
            raise fields.refuse("end_epoch", "comes before 'start_epoch'")
    if spans:
        return min(first for first, _ in spans), max(last for _, last in spans), []
    ends = [Fields(modifier, source).number("end_epoch", -1.0) for modifier in phase.modifiers]
    if max(ends) > 0:
        return 0.0, max(ends), []
    return (
        0.0,
        USUAL_EPOCHS,
        [f"the recipe names no number of epochs: {USUAL_EPOCHS:g} are taken, as transformers does"],
    )


def _distillation(fields: Fields, end: float) -> Change:
    start, stop = fields.span(end)
    fields.ignore("distill_output_keys", "teacher_input_keys", "update_frequency", "log_types")
    hardness, temperature = fields.number("hardness", 0.5), fields.number("temperature", 2.0)
    if not 0 <= hardness <= 1:
        raise fields.refuse("hardness", "must lie in [0, 1]")
    if temperature <= 0:
        raise fields.refuse("temperature", "must be above 0")
    fields.done()
    return Change(start, stop, Distillation(hardness, temperature))


def _decay(fields: Fields, end: float) -> Change:
    start, _ = fields.span(end)
    fields.ignore("constant_logging", "log_types")
    fields.expect("param_groups", (), "has no equivalent; matrices decay, the rest does not")
    decay = fields.number("weight_decay")
    if not 0 <= decay <= 1:
        raise fields.refuse("weight_decay", "must lie in [0, 1]")
    fields.done()
    return Change(start, end, decay)


def _frozen(
    modifiers: Sequence[Modifier], source: str, end: float, dropped: Sequence[int]
) -> tuple[list[Change], list[str]]:
    """Patterns of frozen parameters with their epochs, and notes."""
    found, notes, thawing = [], [], None
    for modifier in modifiers:
        fields = Fields(modifier, source)
        start, stop = fields.span(end)
        if not fields.flag("params_strict", True):
            notes.append("'params_strict: False': here every pattern of frozen parameters must match one")
        patterns = frozen_patterns(fields, dropped)
        fields.done()
        if patterns:
            found.append(Change(start, stop, patterns))
        else:
            thawing = fields
    if found and thawing is not None:
        raise thawing.refuse(
            "trainable", "makes weights trainable next to a modifier that freezes some; no equivalent"
        )
    return found, notes if found else []


def _at(changes: Sequence[Change], epoch: float, default: Any) -> Any:
    """The value in force at `epoch`: of the changes that hold, the one that began last."""
    holding = _holding(changes, epoch)
    return max(holding, key=lambda change: change.start).value if holding else default


def _holding(changes: Sequence[Change], epoch: float) -> list[Change]:
    return [change for change in changes if change.start <= epoch + EPSILON and epoch < change.end + EPSILON]


def _stages(axis: Axis, source: str, *, first: bool) -> list[Stage]:
    edges = {axis.start, axis.end, axis.quantized_from}
    for change in [*axis.distillations, *axis.decays, *axis.frozen]:
        edges |= {change.start, change.end}
    edges |= {pruning.start for pruning in axis.prunings[1:]}
    bounds = sorted(edge for edge in edges if axis.start - EPSILON <= edge <= axis.end + EPSILON)
    for pruning in axis.prunings:
        if any(pruning.start + EPSILON < edge < pruning.end - EPSILON for edge in bounds):
            raise pruning.fields.reject("goes on while another modifier begins or ends; no equivalent")
    stages: list[Stage] = []
    for begin, end in pairwise(bounds):
        if end - begin > EPSILON:
            stages += _span(axis, begin, end, source)
    if axis.quantization is not None and axis.quantized_from > axis.end - EPSILON:
        stages.append(QuantizeStage(cast(Attention, axis.attention), Training(epochs=0.0)))
    if axis.dropped and first and stages and isinstance(stages[0], TrainStage):
        stages[0] = DropLayersStage(
            drop=axis.dropped, training=stages[0].training, distillation=stages[0].distillation
        )
    elif axis.dropped:
        stages.insert(0, DropLayersStage(drop=axis.dropped, training=Training(epochs=0.0)))
    return stages


def _span(axis: Axis, begin: float, end: float, source: str) -> list[Stage]:
    """Stages for [begin, end], between whose ends only pruning and learning rate change."""
    middle = (begin + end) / 2
    distillation = _at(axis.distillations, middle, Distillation(hardness=0.0))
    frozen = [pattern for change in _holding(axis.frozen, middle) for pattern in change.value]
    always = {"weight_decay": _at(axis.decays, middle, 0.0), "frozen": tuple(dict.fromkeys(frozen))}
    quantized = axis.quantization is not None and begin >= axis.quantized_from - EPSILON
    here = [p for p in axis.prunings if begin - EPSILON <= p.start < end - EPSILON]
    cuts = sorted({piece.start for piece in axis.rates if begin + EPSILON < piece.start < end - EPSILON})

    def training(settings: dict[str, Any]) -> Training:
        return Training(**(always | settings))

    def refuse() -> RecipeError:
        inside = [
            piece for piece in axis.rates if piece.end > begin + EPSILON and piece.start < end - EPSILON
        ]
        line = inside[-1].line
        return RecipeError(
            f"{place(source, line)}: {axis.named[line]}: the learning rate of epochs {begin:g} to {end:g} "
            "has no equivalent in one stage; let it fall in a line or half a cosine, from one rate to one"
        )

    def plain(start: float, stop: float) -> list[Stage]:
        """Training alone, cut where the rate asks for it."""
        marks = [start, *(cut for cut in cuts if start + EPSILON < cut < stop - EPSILON), stop]
        done: list[Stage] = []
        while len(marks) > 1:
            for last in range(len(marks) - 1, 0, -1):
                settings = stage_rates(axis.rates, marks[0], marks[last])
                if settings is not None:
                    break
            else:
                raise refuse()
            if settings["epochs"] > 0:
                done.append(TrainStage(training=training(settings), distillation=distillation))
            marks = marks[last:]
        return done

    if quantized:
        stages: list[Stage] = [
            PruneStage(**p.settings, training=Training(epochs=0.0), distillation=distillation) for p in here
        ]
        learns = [piece.end for piece in axis.rates if max(piece.first, piece.last) > 0]
        settings = stage_rates(axis.rates, begin, min(end, max(learns, default=begin)))
        if settings is None:
            raise refuse()
        attention = cast(Attention, axis.attention)
        return [*stages, QuantizeStage(attention, training(settings), distillation)]
    if not here:
        return plain(begin, end)
    pruning = here[0]
    befores = [begin, *(cut for cut in cuts if cut < pruning.start - EPSILON), pruning.start]
    afters = [end, *(cut for cut in reversed(cuts) if cut > pruning.end + EPSILON)]
    for start in dict.fromkeys(befores):
        for stop in afters:
            settings = stage_rates(axis.rates, start, stop, pruning.steps)
            if settings is not None and settings["epochs"] > 0:
                length = stop - start
                # The last step must come before the training ends.
                last = min((pruning.end - start) / length, 0.9999)
                prune = PruneStage(
                    **pruning.settings,
                    pruning_start=round(min((pruning.start - start) / length, last), 9),
                    pruning_share=round(last, 9),
                    training=training(settings),
                    distillation=distillation,
                )
                return [*plain(begin, start), prune, *plain(stop, end)]
    raise refuse()
