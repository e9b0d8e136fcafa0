"""Compression inside a user's own `transformers.Trainer`: callbacks, and saving what comes out.

The Trainer keeps its data, loss, optimiser and schedule; the callbacks prune and quantise its model between
the steps and hold pruned weights at zero. docs/trainer.md shows how they are used.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from edgebert_compress import attention as int8_attention
from edgebert_compress import checkpoint as checkpoints
from edgebert_compress import quantize
from edgebert_compress.architecture import HEADS, TaskName, layer_list, prunable_parameters
from edgebert_compress.checkpoint import Checkpoint, CompressionRecord
from edgebert_compress.errors import CheckpointError, ModelError, RecipeError, TrainingError
from edgebert_compress.integration_gradients import check_loader
from edgebert_compress.integration_run import (
    Compression,
    Curve,
    is_quantized,
    segments,
)
from edgebert_compress.masks import full_masks, masks_from_zeros, sparsity
from edgebert_compress.pruner import DampeningCurve
from edgebert_compress.recipe import PruneStage, Recipe, Stage, load_recipe, recipe_from_dict, stage_as_dict
from edgebert_compress.schedule import cyclic_rate
from edgebert_compress.stages import StageFacts

REWIND_FLOOR = 0.1  # of the peak rate, at the end of each cycle
IGNORED = (
    "the Trainer's own arguments decide rates, batches and loss; of each stage's 'training' only 'epochs' "
    "counts, as its share of the Trainer's steps, and 'distillation' is not used"
)


class CompressionCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Runs the prune, train and quantize stages of a recipe within one `Trainer.train()`.

    Stages share the Trainer's steps as their `training.epochs` stand to each other; a quantize stage of 0
    epochs quantises at the end. Everything else of `training`, and `distillation`, is the Trainer's own
    matter. Works with gradient accumulation and data-parallel processes, and from the Trainer's own
    checkpoints: masks come back from the zeros. `load_best_model_at_end` sees only what was measured
    after the last pruning step.
    """

    def __init__(
        self,
        recipe: str | Mapping[str, Any] | Recipe,
        *,
        rewind: bool = False,
        memory: int | None = None,
        seed: int | None = None,
    ) -> None:
        """`recipe`: a built-in name, a file, or what `Recipe.as_dict` gives.

        `rewind`: replace the Trainer's learning-rate schedule by a cyclic-linear one that starts again at
        every pruning step and stage. `memory`: bytes for a Fisher estimate, None takes what is free.
        `seed`: of the Fisher mini-batches, None takes the Trainer's. Raises RecipeError.
        """
        self._set_up(_read(recipe), rewind, memory, seed)
        segments(self.recipe.stages, 1)

    def _set_up(self, recipe: Recipe, rewind: bool, memory: int | None, seed: int | None) -> None:
        self.recipe, self.rewind, self.memory, self.seed = recipe, rewind, memory, seed
        self.curve: Curve = []
        self.dampening_curve: DampeningCurve = []
        self.losses: tuple[tuple[int, float], ...] = ()
        self.run: Compression | None = None
        self.steps_an_epoch = 1.0

    def arguments(self) -> dict[str, Any]:
        """What makes the same callback again, in plain JSON types."""
        return {"recipe": self.recipe.as_dict(), **self._options()}

    def _options(self) -> dict[str, Any]:
        return {"rewind": self.rewind, "memory": self.memory, "seed": self.seed}

    def stages(self, total: int) -> tuple[Stage, ...]:
        """The stages for a training of `total` steps."""
        return self.recipe.stages

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into its checkpoints."""
        attributes = {
            "curve": [list(point) for point in self.curve],
            "dampening_curve": [list(point) for point in self.dampening_curve],
        }
        return {"args": self.arguments(), "attributes": attributes}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Raises RecipeError, ModelError and TrainingError, before the first step."""
        model = given["model"]
        _check_setting(args)
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        self.curve, self.dampening_curve = self._restored(saved)
        loader = given["train_dataloader"]
        if any(isinstance(stage, PruneStage) and stage.method == "obert" for stage in self.recipe.stages):
            check_loader(loader)
        # a stream has no length: all of its steps are one epoch
        batches = len(loader) if hasattr(loader.dataset, "__len__") else 0
        self.steps_an_epoch = math.ceil(batches / args.gradient_accumulation_steps) or state.max_steps
        parts = segments(self.stages(state.max_steps), state.max_steps)
        if self.seed is None:
            self.seed = int(args.seed if args.data_seed is None else args.data_seed)
        self.run = Compression(
            model, parts, state.global_step, self.seed, self.memory, self.curve, self.dampening_curve
        )
        if not isinstance(self, ObertCallback):
            logging.getLogger(__name__).warning("%s: %s", self.recipe.name, IGNORED)
        if self.rewind:
            _rewind(given["lr_scheduler"], given["optimizer"], self.run.starts, state.max_steps)

    def _restored(self, saved: Any) -> tuple[Curve, DampeningCurve]:
        """The curves that a checkpoint of this very compression holds. Raises TrainingError."""
        if saved is None:
            return [], []
        theirs = dict(saved["args"])
        if self.seed is None:
            self.seed = theirs["seed"]
        mine = json.loads(json.dumps(self.arguments()))  # lists for tuples, as in the checkpoint
        other = sorted(name for name in mine if name != "memory" and mine[name] != theirs.get(name))
        if other:
            raise TrainingError(
                f"the Trainer's checkpoint was made with another '{other[0]}' of {type(self).__name__}; "
                "give the same again, or start a new training"
            )
        curves = saved["attributes"]
        return (
            [(int(step), float(value)) for step, value in curves["curve"]],
            [(int(step), float(low), float(high)) for step, low, high in curves.get("dampening_curve", [])],
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Prune and quantise where it is due. Raises TrainingError."""
        if self._running().before_step(state.global_step, given["train_dataloader"]):
            # what was measured before belongs to a model that is no longer to be had
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The optimiser moves pruned weights by its momentum; put them back before anyone looks."""
        self._running().hold()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        run = self._running()
        self.losses = tuple((log["step"], log["loss"]) for log in state.log_history if "loss" in log)
        if run.left:
            warnings.warn(
                f"the training ended at step {state.global_step} of {state.max_steps}, {run.left} pruning "
                f"steps early: {run.sparsity():.1%} of the prunable weights are zero",
                stacklevel=2,
            )
        else:
            run.start_quantizing(state.max_steps)

    def _running(self) -> Compression:
        if self.run is None:
            raise TrainingError(
                "this callback was added while a training was under way; add it before train()"
            )
        return self.run


class ObertCallback(CompressionCallback):
    """Prunes the Trainer's model by oBERT on a cubic schedule; see `CompressionCallback`.

    ObertCallback(sparsity=0.9, pattern="4-block", initial_sparsity=0.5, steps=6, end_epoch=8)
    """

    def __init__(
        self,
        *,
        start_epoch: float | None = None,
        end_epoch: float | None = None,
        rewind: bool = False,
        memory: int | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        """`settings`: any key of a recipe's prune stage: `sparsity`, `pattern`, `initial_sparsity`, `steps`,
        `pruning_start` and `pruning_share` (shares of the training), `gradients`, `gradient_batch_size`,
        `dampening`, `fisher_block_size`, `recomputations`, `update`, `ranking`, `tensors`.

        `start_epoch`, `end_epoch`: of the first and the last pruning step, instead of the shares.
        Raises RecipeError.
        """
        for key, share, epoch in (
            ("start_epoch", "pruning_start", start_epoch),
            ("end_epoch", "pruning_share", end_epoch),
        ):
            if epoch is not None and share in settings:
                raise RecipeError(f"'{key}' and '{share}' say the same thing twice; give one of them")
        self.settings, self.start_epoch, self.end_epoch = dict(settings), start_epoch, end_epoch
        recipe = recipe_from_dict(
            {"name": "obert", "stages": [{"kind": "prune", **settings}]}, type(self).__name__
        )
        self._set_up(recipe, rewind, memory, seed)

    def arguments(self) -> dict[str, Any]:
        return {
            **self.settings,
            "start_epoch": self.start_epoch,
            "end_epoch": self.end_epoch,
            **self._options(),
        }

    def stages(self, total: int) -> tuple[Stage, ...]:
        """Raises RecipeError for epochs that the training has not."""
        settings = dict(self.settings)
        for key, share, epoch in (
            ("start_epoch", "pruning_start", self.start_epoch),
            ("end_epoch", "pruning_share", self.end_epoch),
        ):
            if epoch is None:
                continue
            settings[share] = epoch * self.steps_an_epoch / total
            if not 0 <= settings[share] < 1:
                raise RecipeError(
                    f"'{key}' is {epoch:g}, but the training has {total / self.steps_an_epoch:g} epochs; "
                    "the last pruning step must come before the end"
                )
        return recipe_from_dict({"name": "obert", "stages": [{"kind": "prune", **settings}]}).stages


def save_compressed(
    model: Any, folder: Path | str, *, callback: CompressionCallback | None = None, tokenizer: Any = None
) -> None:
    """Write a compressed checkpoint (docs/formats.md) of what a Trainer has trained: `trainer.model`.

    A model in simulated INT8 gets its integers. `callback`: records its recipe, seed and curves; without it
    only what the weights show is recorded. `tokenizer` goes into the folder too. `model` stays as it is.
    `folder` appears whole or not at all. Raises CheckpointError, ModelError and TrainingError.
    """
    model = getattr(model, "module", model)  # of a data-parallel wrapper
    run = callback.run if callback is not None else None
    if callback is not None and (run is None or run.model is not model):
        raise CheckpointError("the callback has not trained this model; give the callback of its Trainer")
    copied = _copy(model)
    record = CompressionRecord(
        seed=0 if callback is None or callback.seed is None else callback.seed,
        recipe={"stages": [stage_as_dict(part.stage) for part in run.parts] if run is not None else []},
        stages=() if callback is None else tuple(facts.figures() for facts in _facts(callback, copied)),
        layers_kept=tuple(range(len(layer_list(copied)))),
        sparsity=checkpoints.find_sparsity(copied)
        if run is None
        else {name: {"pattern": pattern} for name, pattern in run.patterns.items()},
        task=task_of(copied),
    )
    quantized = quantize.export(copied) if is_quantized(copied) else None
    int8 = copied.config._attn_implementation == int8_attention.NAME
    with tempfile.TemporaryDirectory() as source:
        if tokenizer is not None:
            tokenizer.save_pretrained(source)
        checkpoints.save(
            Checkpoint(copied, record),
            Path(source),
            Path(folder),
            quantized=quantized,
            attention="int8" if int8 else "float",
        )


def _copy(model: nn.Module) -> Any:
    """On the CPU, in eval mode. Handles of hooks, which gradient checkpointing leaves behind, stay shared."""
    held = [value for module in model.modules() for value in vars(module).values()]
    single = [one for value in held for one in (value if isinstance(value, list) else [value])]
    shared = {id(one): one for one in single if isinstance(one, RemovableHandle)}
    return copy.deepcopy(model, shared).to("cpu").eval()


def task_of(model: nn.Module) -> TaskName:
    """By the class of the model. Raises ModelError."""
    for task, loader in HEADS.items():
        if type(model).__name__.endswith(loader.removeprefix("AutoModel")):
            return task
    known = ", ".join(loader.removeprefix("AutoModel") for loader in HEADS.values())
    raise ModelError(
        f"a {type(model).__name__} has none of the heads that are known ({known}); use one of them"
    )


def _read(recipe: str | Mapping[str, Any] | Recipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return load_recipe(recipe) if isinstance(recipe, str) else recipe_from_dict(recipe)


def _check_setting(args: Any) -> None:
    """Sharded parameters are not the matrices that pruning ranks. Raises TrainingError."""
    for name in ("deepspeed", "fsdp"):
        if getattr(args, name, None):
            raise TrainingError(
                f"the Trainer shards its parameters ({name}), which cannot be pruned in place; "
                "train data-parallel instead"
            )


def _rewind(scheduler: Any, optimizer: Any, starts: Sequence[int], total: int) -> None:
    """Make a scheduler of the Trainer cyclic-linear from the step on at which it is."""
    if not isinstance(scheduler, LambdaLR):
        raise TrainingError(
            f"rewinds need a schedule of the LambdaLR kind, not {type(scheduler).__name__}; "
            "use lr_scheduler_type='linear'"
        )

    def rate(step: int) -> float:
        return cyclic_rate(min(step, total), total, starts, REWIND_FLOOR)

    scheduler.lr_lambdas = [cast(Callable[[int], float], rate)] * len(scheduler.base_lrs)
    for group, base in zip(optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = base * rate(scheduler.last_epoch)


def _facts(callback: CompressionCallback, model: nn.Module) -> list[StageFacts]:
    """One entry a stage, with the points of the curves that fall into it."""
    run = callback.run
    assert run is not None
    zeros = sparsity(full_masks(prunable_parameters(model)) | masks_from_zeros(prunable_parameters(model), 1))
    count = sum(
        isinstance(module, quantize.QuantLinear | quantize.QuantEmbedding) for module in model.modules()
    )
    return [
        StageFacts(
            name=part.stage.title,
            kind=part.stage.kind,
            seconds=0.0,
            epochs=(part.end - part.first) / callback.steps_an_epoch,
            steps=part.end - part.first,
            distilled=False,
            # logged after the step it names, where pruning comes before it
            loss_curve=tuple(point for point in callback.losses if part.first < point[0] <= part.end),
            layers_kept=tuple(range(len(layer_list(model)))),
            sparsity=zeros if part is run.parts[-1] else _last(run.curve, part.end),
            sparsity_curve=tuple(point for point in run.curve if part.first <= point[0] < part.end),
            dampening_curve=tuple(
                point for point in run.dampening_curve if part.first <= point[0] < part.end
            ),
            quantized_tensors=count if part is run.quantizer else 0,
        )
        for part in run.parts
    ]


def _last(curve: Sequence[tuple[int, float]], end: int) -> float:
    return next((value for step, value in reversed(curve) if step < end), 0.0)
