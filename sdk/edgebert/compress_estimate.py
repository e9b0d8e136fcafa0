"""Estimates for `edgebert compress --dry-run`: real steps of the model, timed, times the steps of the recipe.

What the model's own steps take is measured on real rows of the data. That a model of half the layers takes
half the time, and that Fisher sums run at the speed of a matrix product, is assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebert.compress_plan import CompressOptions, Plan, Prepared, PruningPoint, StagePlan, kept_layers
from edgebert.compression import tokenizer_folder
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import torch

    from edgebert_compress.data import TokenizedDataset
    from edgebert_compress.recipe import MatmulPrecision, PruneStage, Stage, Training
    from edgebert_compress.tasks import TrainingTask

TIMED_STEPS = 3
FAST_PASSES = 6  # of the fast path: the whole model once, the pruned one five times
ADAM = 16  # bytes a weight: value, gradient, two moments, float32


@dataclass(frozen=True)
class Speed:
    """Seconds of a whole training step, of its forward and backward pass, of a forward pass alone.

    `saved_bytes`: what the backward pass needs kept.
    """

    step: float
    gradient: float
    forward: float
    saved_bytes: int


class Clock:
    """Times training steps of one model on its data, where it lies; every batch size and precision once."""

    def __init__(self, network: Any, task: TrainingTask, data: TokenizedDataset) -> None:
        self.network = network
        self.task = task
        self.data = data
        self.device = next(network.parameters()).device
        self.known: dict[tuple[int, MatmulPrecision, str], Speed] = {}

    def speed(self, batch_size: int, precision: MatmulPrecision, form: str = "float") -> Speed:
        """Mean over a few batches that lie evenly between the shortest and the longest rows."""
        from edgebert_compress.matmul import matmul_precision

        key = (min(batch_size, len(self.data)), precision, form)
        if key not in self.known:
            with matmul_precision(precision):
                self.known[key] = self._measure(key[0], precision)
        return self.known[key]

    def _measure(self, batch_size: int, precision: MatmulPrecision) -> Speed:
        import torch

        from edgebert_compress.recipe import Training
        from edgebert_compress.training_run import optimizer

        by_length = sorted(range(len(self.data)), key=lambda i: len(self.data.input_ids[i]))
        starts = [round((len(by_length) - batch_size) * at / (TIMED_STEPS - 1)) for at in range(TIMED_STEPS)]
        batches = [by_length[start : start + batch_size] for start in starts]
        adam = optimizer(self.network, Training())
        for group in adam.param_groups:
            group["lr"] = 0.0  # moves nothing
        self.network.train()
        self._step(batches[0], precision)  # the first one allocates
        adam.step()
        began = now(self.device)
        saved = max(self._step(indices, precision) for indices in batches)
        gradient = (now(self.device) - began) / len(batches)
        began = now(self.device)
        adam.step()
        step = gradient + now(self.device) - began
        self.network.eval()
        self.network.zero_grad(set_to_none=True)
        began = now(self.device)
        with torch.inference_mode():
            for indices in batches:
                self.network(**self.task.collate(self.network, self.data, indices).inputs)
        return Speed(step, gradient, (now(self.device) - began) / len(batches), saved)

    def _step(self, indices: list[int], precision: MatmulPrecision) -> int:
        """One forward and backward pass; the bytes that were kept between them."""
        import torch

        from edgebert_compress.matmul import answer

        kept: dict[int, int] = {}
        weights = {value.untyped_storage().data_ptr() for value in self.network.parameters()}

        def pack(value: Any) -> Any:
            storage = value.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        batch = self.task.collate(self.network, self.data, indices)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            loss = self.task.loss(answer(self.network, batch.inputs, precision), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return sum(kept.values())


def now(device: torch.device) -> float:
    """Seconds, once all that was asked of `device` is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_speed(device: torch.device) -> float:
    """Floating-point operations a second of a float32 matrix product on `device`."""
    import torch

    a = torch.ones(512, 512, device=device)
    a @ a
    began = now(device)
    for _ in range(4):
        a @ a
    return 4 * 2 * 512**3 / (now(device) - began)


def make_plan(prepared: Prepared, options: CompressOptions) -> Plan:
    """The plan of a run, with estimates. Raises TrainingError where the memory budget is too small."""
    from edgebert_compress.loading import load_model
    from edgebert_compress.quantize import prepare as simulate_int8
    from edgebert_compress.stages import check_stages
    from edgebert_compress.tasks import get_task

    model, data, recipe = prepared.model, prepared.data, prepared.recipe
    folder = tokenizer_folder(model, prepared.store)
    tokenizer = TextTokenizer.from_folder(folder, data.max_length)
    tokenized = [
        prepared.task.tokenize(tokenizer, part, data.labels, data.max_length)
        for part in (data.train, data.evaluation)
    ]
    check_stages(recipe.stages, tokenized[0])
    task = get_task(options.task)
    network, fresh = load_model(model.folder, task.name, data.labels, new_head=model.new_head)
    task.check(tokenized[0], network)
    clock = Clock(network.to(options.device), task, tokenized[0])
    stages = []
    if options.teacher is None and (fresh or model.labels is None):
        stages.append(_teacher_stage(clock, recipe.fine_tune, model.layers))
    layers = model.layers
    sizes = _sizes(network)
    for stage in recipe.stages:
        layers = len(kept_layers(stage, layers))
        if stage.kind == "quantize" and stage.training.epochs:
            simulate_int8(network, stage.products)
        stages.append(_stage_plan(clock, stage, sizes, layers / model.layers, layers, tokenized[1], options))
    teacher = "the model itself"
    if options.teacher is not None:
        teacher = str(options.teacher)
    elif stages and stages[0].kind == "teacher":
        teacher = "the model, fine-tuned first"
    return Plan(
        model=model.name,
        task=options.task,
        recipe=recipe.name,
        rows=len(tokenized[0]),
        evaluation_rows=len(tokenized[1]),
        max_length=data.max_length,
        labels=len(data.labels),
        teacher=teacher,
        stages=tuple(stages),
        notes=(
            *recipe.notes,
            "time and memory are estimates, from a few real steps of the whole model on this machine",
        ),
    )


def _sizes(network: Any) -> dict[str, int]:
    from edgebert_compress.architecture import prunable_parameters

    return {name: value.numel() for name, value in prunable_parameters(network).items()}


def _teacher_stage(clock: Clock, training: Training, layers: int) -> StagePlan:
    from edgebert_compress.training_run import step_count

    steps = step_count(clock.data, training)
    speed = clock.speed(training.batch_size, training.matmul_precision)
    size = ADAM * _weights(clock.network) + speed.saved_bytes
    title = "fine-tune the teacher"
    memory = "training: weights, gradients, Adam, activations"
    return StagePlan(title, "teacher", training.epochs, steps, layers, (), steps * speed.step, size, memory)


def _weights(network: Any) -> int:
    return sum(value.numel() for value in network.parameters())


def _stage_plan(
    clock: Clock,
    stage: Stage,
    sizes: dict[str, int],
    share: float,
    layers: int,
    evaluation: TokenizedDataset,
    options: CompressOptions,
) -> StagePlan:
    from edgebert_compress.teacher import wants_teacher
    from edgebert_compress.training_run import step_count, steps_an_epoch

    steps = step_count(clock.data, stage.training)
    weights = _weights(clock.network) - round((1 - share) * sum(sizes.values()))
    form = stage.kind if stage.kind == "quantize" else "float"
    speed = clock.speed(stage.training.batch_size, stage.training.matmul_precision, form)
    seconds = steps * speed.step * share
    size = 4 * weights
    memory = "the weights"
    if steps:
        size = ADAM * weights + round(speed.saved_bytes * share)
        memory = "training: weights, gradients, Adam, activations"
        if wants_teacher(stage.distillation):
            seconds += steps * speed.forward
            size += 4 * _weights(clock.network)
            memory += ", teacher"
    measurements = len(evaluation) / max(1, stage.training.batch_size) * speed.forward * share
    seconds += measurements * max(1.0, stage.training.epochs)
    if stage.kind == "fast":
        batches = min(stage.samples, len(clock.data)) / stage.training.batch_size
        seconds += batches * share * (speed.gradient + FAST_PASSES * speed.forward)
        size, memory = 8 * weights + speed.saved_bytes, "two models, activations"
    pruning: tuple[PruningPoint, ...] = ()
    if stage.kind == "prune":
        pruning = pruning_steps(stage, steps, steps_an_epoch(clock.data, stage.training))
        if stage.method == "obert":
            count = len(list(sizes))
            kept = dict(list(sizes.items())[: round(count * share)])
            took, room, how = _fisher(clock, stage, kept, options.memory)
            seconds += took * share
            if room + 4 * weights > size:
                size, memory = room + 4 * weights, how
    return StagePlan(
        stage.title, stage.kind, stage.training.epochs, steps, layers, pruning, seconds, size, memory
    )


def pruning_steps(stage: PruneStage, steps: int, an_epoch: int) -> tuple[PruningPoint, ...]:
    """When the stage prunes, and to which sparsity. `an_epoch`: training steps of one epoch."""
    from edgebert_compress.schedule import cubic_sparsity, pruning_points

    points = pruning_points(steps, stage.steps, stage.pruning_start, stage.pruning_share)
    targets = cubic_sparsity(stage.initial_sparsity, stage.sparsity, stage.steps)
    return tuple(
        PruningPoint(point, round(point / an_epoch, 3), round(target, 6))
        for point, target in zip(points, targets, strict=True)
    )


def _fisher(
    clock: Clock, stage: PruneStage, sizes: dict[str, int], budget: int | None
) -> tuple[float, int, str]:
    """Seconds of all Fisher estimates of a stage, bytes of one, and how it would be done."""
    from edgebert_compress import memory, spill

    plan = memory.plan(
        sizes,
        block=stage.block,
        fisher_block=stage.fisher_block,
        gradients=stage.gradients,
        memory=budget or memory.free_memory(),
        scratch_free=spill.free_bytes(spill.scratch_folder(None)),
    )
    speed = clock.speed(stage.gradient_batch_size, stage.training.matmul_precision)
    gradients = plan.passes * stage.gradients * speed.gradient
    once = gradients + plan.operations / matrix_speed(clock.device)
    return stage.steps * stage.recomputations * once, plan.peak_bytes, f"pruning: weights, {plan}"


def _counted(count: float, noun: str) -> str:
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {noun}{'' if count == 1 else 's'}"


def plan_lines(plan: Plan, duration: Callable[[float], str], size: Callable[[int], str]) -> list[str]:
    """The plan in words, one line a fact."""
    lines = [
        f"{plan.model}, {plan.task}: {_counted(plan.rows, 'training row')} and "
        f"{_counted(plan.evaluation_rows, 'evaluation row')} of up to {plan.max_length} tokens"
        + (f", {plan.labels} labels" if plan.labels else ""),
        f"recipe '{plan.recipe}'; teacher: {plan.teacher}",
    ]
    for number, stage in enumerate(plan.stages, 1):
        lines.append(
            f"{number}. {stage.title}: {_counted(stage.epochs, 'epoch')}, {_counted(stage.steps, 'step')}, "
            f"{_counted(stage.layers, 'layer')}, about {duration(stage.seconds)}, "
            f"{size(stage.memory_bytes)} ({stage.memory})"
        )
        shown = stage.pruning
        if len(shown) > 12:
            shown = (*shown[:6], *shown[-5:])
        for place, point in enumerate(shown):
            if len(stage.pruning) > 12 and place == 6:
                lines.append(f"     … {_counted(len(stage.pruning) - len(shown), 'step')} between")
            lines.append(f"     step {point.step}, epoch {point.epoch:g}: {point.sparsity:.1%} zeros")
    lines.append(f"in all about {duration(plan.seconds)}, at most {size(plan.memory_bytes)} of memory")
    return lines
