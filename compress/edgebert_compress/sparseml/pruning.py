"""The pruning, layer-dropping and quantising modifiers of SparseML as settings of our stages."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from edgebert_compress.errors import RecipeError
from edgebert_compress.recipe_stages import PruneStage
from edgebert_compress.sparseml.document import Modifier
from edgebert_compress.sparseml.fields import EPSILON, LARGEST, Fields
from edgebert_compress.sparseml.tensors import layer_number, tensor_patterns

ROUNDING = 1e-6  # of a pruning interval: 18 epochs hold 1800 of 0.01, whatever float makes of it
OBERT = ("OBSPruningModifier", "OBSXPruningModifier")
MAGNITUDE = ("GMPruningModifier", "MagnitudePruningModifier", "GlobalMagnitudePruningModifier")
PATTERNS = {"unstructured": "unstructured", "block4": "4-block", "block": "4-block"}
ROW_BLOCKS = {4: "4-block", 8: "8-block", 16: "16-block", 32: "32-block"}
# Modules that carry no INT8 weights of ours; SparseML's recipes name them to leave them alone.
NO_WEIGHTS = ("LayerNorm", "Tanh", "GELU", "GELUActivation", "Dropout", "ReLU", "Softmax", "input")
WHOLE_MODELS = ("", "bert", "distilbert", "roberta", "electra", "model")
HEADS = ("classifier", "qa_outputs", "cls", "lm_head")
ATTENTION_PRODUCTS = ("QuantizableMatMul", "QuantizableBatchMatMul", "QATMatMul", "BMM")


@dataclass(frozen=True)
class Pruning:
    """One prune stage to be: epochs of its first and last step, and settings of `PruneStage`."""

    fields: Fields
    start: float
    end: float
    settings: dict[str, Any]

    @property
    def steps(self) -> tuple[float, ...]:
        """Epochs of the pruning steps."""
        count = int(self.settings["steps"])
        if count == 1:
            return (self.start,)
        return tuple(self.start + (self.end - self.start) * step / (count - 1) for step in range(count))


def read_pruning(
    modifiers: Sequence[Modifier], source: str, end: float, dropped: Collection[int]
) -> tuple[list[Pruning], list[str]]:
    """Prune stages in order of time; modifiers that differ in their tensors alone become one. And notes."""
    found: list[Pruning] = []
    notes: list[str] = []
    for modifier in modifiers:
        fields = Fields(modifier, source)
        new, said = _pruning(fields, end, dropped)
        notes += said
        twin = next((old for old in found if _same_but_tensors(old, new)), None)
        if twin is None:
            found.append(new)
            continue
        if new.settings["ranking"] == "global":
            raise fields.reject(
                "ranks apart from another modifier of the same schedule, which has no equivalent; "
                "put all 'params' into one modifier, or set 'global_sparsity: False'"
            )
        found[found.index(twin)] = replace(twin, settings=_joined(twin.settings, new.settings))
    found.sort(key=lambda pruning: pruning.start)
    for before, after in pairwise(found):
        if after.start < before.end - EPSILON or abs(after.start - before.start) <= EPSILON:
            raise after.fields.reject(
                f"prunes at the same time as the modifier on line {before.fields.modifier.line} but to other "
                "settings, which has no equivalent; give both the same sparsity and schedule"
            )
    return found, list(dict.fromkeys(notes))


def _same_but_tensors(a: Pruning, b: Pruning) -> bool:
    def rest(pruning: Pruning) -> dict[str, Any]:
        return {key: value for key, value in pruning.settings.items() if key != "tensors"}

    return (a.start, a.end, rest(a)) == (b.start, b.end, rest(b))


def _joined(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    both = None if a["tensors"] is None or b["tensors"] is None else (*a["tensors"], *b["tensors"])
    return a | {"tensors": both if both is None else tuple(dict.fromkeys(both))}


def _pruning(fields: Fields, end: float, dropped: Collection[int]) -> tuple[Pruning, list[str]]:
    name = fields.modifier.name
    obert = name in OBERT
    fields.ignore("log_types")
    start, stop = fields.span(end)
    initial, final = _sparsity(fields, "init_sparsity"), _sparsity(fields, "final_sparsity")
    if initial > final:
        raise fields.refuse("init_sparsity", f"is above 'final_sparsity' {final:g}; lower it")
    frequency = fields.number("update_frequency", -1.0)
    if initial == final or stop - start <= EPSILON:
        steps, stop, intervals = 1, start, 0.0
    elif frequency <= 0:
        raise fields.refuse("update_frequency", "must be above 0: epochs between two pruning steps")
    else:
        intervals = (stop - start) / frequency
        steps = math.ceil(min(intervals, LARGEST) - ROUNDING) + 1
        if steps > 100_000:
            raise fields.refuse(
                "update_frequency", f"makes {steps} pruning steps; at most 100000 have an equivalent"
            )
    uneven = steps > 1 and abs(intervals - round(intervals)) > ROUNDING
    if steps > 1:
        fields.expect("inter_func", ("cubic",), "has no equivalent; only cubic has")
    fields.ignore("inter_func")
    fields.expect("leave_enabled", (True,), "has no equivalent; pruned weights stay pruned")
    fields.expect("phased", (False,), "has no equivalent; take it out")
    fields.expect("score_type", ("magnitude",), "has no equivalent for this modifier; only magnitude has")
    overall = fields.flag("global_sparsity", obert or name.startswith("Global"))
    tensors, notes = tensor_patterns(fields, dropped)
    if uneven:
        notes.append(
            f"line {fields.modifier.line}: 'update_frequency' {frequency:g} does not divide the epochs from "
            f"{start:g} to {stop:g}: the {steps} pruning steps are spread evenly"
        )
    settings: dict[str, Any] = {
        "method": "obert" if obert else "magnitude",
        "pattern": _pattern(fields),
        "sparsity": final,
        "initial_sparsity": min(initial, final),
        "steps": steps,
        "ranking": "global" if overall else "tensor",
        "tensors": tensors,
    }
    if obert:
        settings |= _obert(fields)
    fields.done()
    try:
        PruneStage(**settings)
    except RecipeError as error:
        raise fields.reject(f"has no equivalent: {error}") from error
    return Pruning(fields, start, stop, settings), notes


def _obert(fields: Fields) -> dict[str, Any]:
    fields.expect("magn_scorer", (False,), "has no equivalent; take a MagnitudePruningModifier")
    fields.expect("mask_update", (True,), "has no equivalent; the kept weights always move")
    settings: dict[str, Any] = {
        "gradients": fields.whole("num_grads", 1024),
        "dampening": fields.number("damp", 1e-7),
        "fisher_block_size": fields.whole("fisher_block_size", 50),
        "recomputations": fields.whole("num_recomputations", 1),
    }
    sampler = fields.raw("grad_sampler_kwargs")
    if sampler is not None:
        if not isinstance(sampler.data, dict):
            raise fields.refuse("grad_sampler_kwargs", "must be a mapping such as {batch_size: 8}")
        inner = Fields(replace(fields.modifier, settings=sampler.data), fields.source)
        settings["gradient_batch_size"] = inner.whole("batch_size", 8)
        inner.ignore("num_workers", "pin_memory", "shuffle")
        inner.done()
    return settings


def _sparsity(fields: Fields, key: str) -> float:
    value = fields.raw(key)
    if value is not None and isinstance(value.data, dict):
        raise fields.refuse(
            key, "gives each tensor its own sparsity, which has no equivalent; write one number"
        )
    if value is not None and str(value.data).strip("_").upper() == "FROM_PARAM":
        raise fields.refuse(
            key, "starts from the model's own sparsity, which has no equivalent; write the number"
        )
    number = fields.number(key)
    if not 0 <= number < 1:
        raise fields.refuse(key, "must lie in [0, 1)")
    return number


def _pattern(fields: Fields) -> str:
    value = fields.raw("mask_type")
    if value is None:
        return "unstructured"
    if isinstance(value.data, list):
        shape = [item.data for item in value.data]
        if len(shape) == 2 and shape[0] == 1 and isinstance(shape[1], int) and shape[1] in ROW_BLOCKS:
            return ROW_BLOCKS[shape[1]]
        if shape == [1, 1]:
            return "unstructured"
    elif isinstance(value.data, str) and value.data in PATTERNS:
        return PATTERNS[str(value.data)]
    raise fields.refuse(
        "mask_type", f"has no equivalent; take {', '.join(PATTERNS)} or [1, k] with k 4, 8, 16 or 32"
    )


def read_dropped(modifiers: Sequence[Modifier], source: str, end: float) -> tuple[int, ...]:
    """The layers that all LayerPruningModifiers together drop. Raises RecipeError."""
    dropped: set[int] = set()
    for modifier in modifiers:
        fields = Fields(modifier, source)
        start, stop = fields.span(end)
        if start > EPSILON:
            raise fields.refuse(
                "start_epoch", "drops layers during training, which has no equivalent; set it to 0"
            )
        if stop < end - EPSILON:
            raise fields.refuse("end_epoch", "brings the layers back, which has no equivalent; take it out")
        fields.ignore("update_frequency", "log_types")
        names = fields.names("layers")
        if not names:
            raise fields.reject("has no 'layers'; name those to drop")
        for name in names:
            number = layer_number(name)
            if number is None:
                raise fields.refuse(
                    "layers", f"names '{name[:80]}', which is no encoder layer; no equivalent"
                )
            dropped.add(number)
        fields.done()
    return tuple(sorted(dropped))


def read_quantization(
    modifiers: Sequence[Modifier], source: str, end: float
) -> tuple[float, str, Fields | None, list[str]]:
    """The epoch where quantised training begins, the kind of attention, the modifier's fields, notes.

    `end` and None stand for no quantising at all.
    """
    start, attention, first, notes = end, "int8", None, []
    for modifier in modifiers:
        fields = Fields(modifier, source)
        begin, stop = fields.span(end)
        if first is not None and abs(begin - start) > EPSILON:
            raise fields.refuse("start_epoch", "differs from the first QuantizationModifier's; no equivalent")
        if stop < end - EPSILON:
            raise fields.refuse("end_epoch", "ends quantising before the training ends; no equivalent")
        start, first = min(begin, end), fields
        for key in ("activation_bits", "weight_bits", "num_bits"):
            fields.expect(key, (8,), "has no equivalent; weights and activations are INT8")
        fields.expect(
            "quantize_embeddings",
            (True,),
            "leaves the embeddings float, which has no equivalent: every package holds them in INT8; "
            "set it to 1 or take it out",
        )
        for key in (
            "quantize_linear_activations",
            "quantize_embedding_activations",
            "quantize_conv_activations",
        ):
            fields.ignore(key)  # outputs: ours quantises the inputs of linear layers only, whatever these say
        fields.ignore("model_fuse_fn_name", "model_fuse_fn_kwargs", "tensorrt", "reduce_range", "strict",
                      "exclude_batchnorm", "num_calibration_steps", "log_types", "activation_qconfig_kwargs",
                      "weight_qconfig_kwargs", "custom_quantizable_module_types")  # fmt: skip
        for key in ("disable_quantization_observer_epoch", "freeze_bn_stats_epoch"):
            if fields.raw(key) is not None and "observer" in key:
                notes.append(
                    "activations are quantised by each token's own range: there are no observers to freeze"
                )
        notes += _parts(fields)
        if _scheme(fields) == "float":
            attention = "float"
        fields.done()
    return start, attention, first, list(dict.fromkeys(notes))


def _parts(fields: Fields) -> list[str]:
    """Check which modules are quantised; a note where ours quantises more than asked."""
    named = fields.names("submodules")
    ends = {name.split(".")[-1] for name in named}
    whole = not named or bool(ends & set(WHOLE_MODELS))
    for part, names in (("embeddings", ("embeddings",)), ("encoder", ("encoder", "transformer"))):
        if not whole and not ends & set(names):
            raise fields.refuse(
                "submodules", f"leaves out the {part}, which has no equivalent; all is quantised"
            )
    if not whole and not ends & set(HEADS):
        return ["the head is quantised too; the recipe leaves it float"]
    return []


def _scheme(fields: Fields) -> str:
    """'float' when the recipe leaves the products inside attention alone. Raises RecipeError."""
    kept = fields.names("exclude_module_types") + fields.names("ignore")
    attention = "int8"
    for name in kept:
        if name.startswith(ATTENTION_PRODUCTS):
            attention = "float"
        elif name not in NO_WEIGHTS:
            key = "ignore" if fields.raw("ignore") else "exclude_module_types"
            raise fields.refuse(key, f"leaves '{name[:60]}' float, which has no equivalent; all is quantised")
    for key in ("scheme", "scheme_overrides", "default_scheme", "submodule_schemes", "module_type_schemes"):
        value = fields.raw(key)
        if value is not None:
            _check_bits(fields, key, value.data)
    return attention


def _check_bits(fields: Fields, key: str, data: Any) -> None:
    if isinstance(data, list):
        for item in data:
            _check_bits(fields, key, item.data)
    elif isinstance(data, dict):
        for inner, item in data.items():
            if inner == "num_bits" and item.data != 8:
                raise fields.refuse(key, f"asks for {item.data} bits, which has no equivalent; all is INT8")
            if inner == "weights" and item.data is None:
                raise fields.refuse(key, "leaves weights float, which has no equivalent; all is quantised")
            _check_bits(fields, key, item.data)
