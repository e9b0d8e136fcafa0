"""The learning rate of SparseML's recipes, step by step."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from edgebert_compress.errors import RecipeError
from edgebert_compress.recipe import (
    PruneStage,
    TrainStage,
)
from edgebert_compress.schedule import cubic_sparsity, pruning_points
from tests.compress.sparseml_recipes import GRADUAL, PRUNE, RANGE, lines, rates_over, read


def test_the_schedule_is_theirs_step_by_step():
    recipe = read(GRADUAL)
    an_epoch = 10
    stage = recipe.stages[0]
    points = pruning_points(150, stage.steps, stage.pruning_start, stage.pruning_share)
    assert points == (10, 30, 50, 70, 90, 110, 130)  # epochs 1, 3, … 13
    # the closed form of the authors' cubic interpolation
    for step, value in enumerate(cubic_sparsity(stage.initial_sparsity, stage.sparsity, stage.steps)):
        assert value == pytest.approx(0.85 + (0.4 - 0.85) * (1 - 2 * step / 12) ** 3)

    def theirs(epoch: float) -> float:
        start, length = (0.0, 1.0) if epoch < 1 else (1 + (epoch - 1) // 2 * 2, 2.0)
        return 6e-5 + (3e-6 - 6e-5) * (epoch - start) / length

    ours = rates_over(recipe, an_epoch)
    assert ours == pytest.approx([theirs(step / an_epoch) for step in range(150)], rel=1e-4)


def test_cycles_that_are_not_even_restart_where_theirs_do():
    text = GRADUAL[: GRADUAL.index("  - !OBS")] + GRADUAL[GRADUAL.index("distillation_modifiers") :]
    recipe = read(text)
    (stage,) = recipe.stages
    assert isinstance(stage, TrainStage)
    assert stage.training.restarts == (1, 3, 5, 7, 9, 11, 13)
    expected = [6e-5 - 5.7e-5 * (step % 10) / 10 for step in range(10)]
    expected += [6e-5 - 5.7e-5 * (step % 20) / 20 for step in range(140)]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-4)


def test_what_one_stage_cannot_say_becomes_several():
    text = "modifiers:\n" + RANGE + "".join(
        f"  - !LearningRateFunctionModifier {{start_epoch: {a}, end_epoch: {b}, lr_func: linear, "
        f"init_lr: {c}, final_lr: {d}}}\n"
        for a, b, c, d in ((0, 4, 1e-4, 1e-5), (4, 10, 5e-5, 0))
    )  # fmt: skip
    recipe = read(text)
    assert [(stage.kind, stage.training.epochs) for stage in recipe.stages] == [("train", 4), ("train", 6)]
    expected = [1e-4 - 9e-5 * step / 40 for step in range(40)] + [
        5e-5 * (1 - step / 60) for step in range(60)
    ]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-4)


def test_the_rate_after_the_last_step_may_differ():
    text = GRADUAL.replace(
        "end_epoch: 15.0\n    lr_func: cyclic_linear", "end_epoch: 13.0\n    lr_func: cyclic_linear"
    )
    text = text.replace("final_lr: 3e-6\n\n", """final_lr: 3e-6
  - !LearningRateFunctionModifier
    start_epoch: 13
    end_epoch: 15
    lr_func: linear
    init_lr: 6e-5
    final_lr: 6e-7

""")  # fmt: skip
    (stage,) = read(text).stages
    assert (stage.training.cycle_floor, stage.training.final_rate) == (0.05, 0.01)


@pytest.mark.parametrize(
    ("end", "cycle", "said"), [(10, 4, False), (10, 5, False), (9, 5, True), (10, 20, False)]
)
def test_a_last_cycle_that_is_shorter_falls_all_the_way(end, cycle, said):
    text = (
        f"modifiers:\n  - !EpochRangeModifier {{end_epoch: {end}}}\n  - !LearningRateFunctionModifier "
        f"{{start_epoch: 0, end_epoch: {end}, lr_func: cyclic_linear, cycle_epochs: {cycle}, "
        "init_lr: 1e-4, final_lr: 2e-5}\n"
    )
    recipe = read(text)
    expected = []
    for start in range(0, end, cycle):
        length = min(cycle, end - start) * 10
        expected += [1e-4 - 8e-5 * step / length for step in range(length)]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-5)
    assert any("in the middle" in note for note in recipe.notes) == said


def test_quantised_training_ends_where_nothing_learns_any_more():
    text = "modifiers:\n" + RANGE + (
        "  - !QuantizationModifier {start_epoch: 4}\n"
        "  - !LearningRateFunctionModifier {start_epoch: 0, end_epoch: 9, lr_func: linear, "
        "init_lr: 9e-5, final_lr: 0}\n"
    )  # fmt: skip
    recipe = read(text)
    assert [(stage.kind, stage.training.epochs) for stage in recipe.stages] == [("train", 4), ("quantize", 5)]
    assert rates_over(recipe, 10) == pytest.approx([9e-5 * (1 - step / 90) for step in range(90)], rel=1e-3)
    assert any("0 from epoch 9 to 10" in note for note in recipe.notes)


def test_epochs_without_a_rate_are_said():
    text = f"modifiers:\n{RANGE}  - !QuantizationModifier {{start_epoch: 6}}\n" + (
        "  - !LearningRateFunctionModifier {start_epoch: 0, end_epoch: 6, lr_func: linear, init_lr: 1e-4, "
        "final_lr: 0}\n"
    )
    recipe = read(text)
    assert [stage.training.epochs for stage in recipe.stages] == [6, 0]
    assert any("learning rate is 0 from epoch 6 to 10" in note for note in recipe.notes)


def test_a_rate_may_restart_within_the_pruning():
    recipe = read(
        "modifiers:\n" + RANGE + PRUNE + lines((0, 2.5, 1e-4, 0), (2.5, 7, 1e-4, 0), (7, 10, 1e-4, 1e-6))
    )
    (stage,) = recipe.stages
    assert isinstance(stage, PruneStage)
    assert stage.training.restarts == (2.5, 7)
    expected = [1e-4 * (1 - step / 25) for step in range(25)]
    expected += [1e-4 * (1 - step / 45) for step in range(45)]
    expected += [1e-4 - 9.9e-5 * step / 30 for step in range(30)]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-4)


def test_a_rate_that_one_stage_cannot_follow_within_the_pruning_is_refused():
    text = "modifiers:\n" + RANGE + PRUNE + lines((0, 4, 1e-4, 0), (4, 5, 1e-4, 1e-6), (5, 10, 1e-4, 0))
    with pytest.raises(RecipeError, match="learning rate of epochs 0 to 10"):
        read(text)


def scheduler(kind: str, settings: str, span: str = "start_epoch: 0, end_epoch: 10") -> str:
    return (
        f"modifiers:\n{RANGE}  - !LearningRateModifier {{{span}, lr_class: {kind}, init_lr: 0.0001, "
        f"lr_kwargs: {{{settings}}}, constant_logging: True}}\n"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "theirs"),
    [
        ("StepLR", "gamma: 0.5, step_size: 3", lambda optimizer: lr_scheduler.StepLR(optimizer, 30, 0.5)),
        ("ExponentialLR", "gamma: 0.9", lambda optimizer: lr_scheduler.StepLR(optimizer, 10, 0.9)),
        (
            "MultiStepLR",
            "gamma: 0.1, milestones: [2, 7.5]",
            lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [20, 75], 0.1),
        ),
        (
            "CosineAnnealingWarmRestarts",
            "lr_min: 1e-6, cycle_epochs: 5",
            lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 50, eta_min=1e-6),
        ),
    ],
)  # fmt: skip
def test_the_schedulers_of_pytorch_step_by_step(kind, settings, theirs):
    """Their epochs times 10 steps, as SparseML turns one into the other."""
    recipe = read(scheduler(kind, settings))
    assert len(recipe.stages) == 1
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule = theirs(optimizer)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("down", [True, False])
def test_half_a_cosine_is_theirs(down):
    """The formula of SparseML's LearningRateFunctionModifier; one that rises has no equivalent."""
    high, low = 2e-4, 1e-5
    first, last = (high, low) if down else (low, high)
    text = (
        f"modifiers:\n{RANGE}  - !LearningRateFunctionModifier {{start_epoch: 0, end_epoch: 10, "
        f"lr_func: cosine, init_lr: {first}, final_lr: {last}}}\n"
    )
    if not down:
        with pytest.raises(RecipeError, match="no equivalent in one stage"):
            read(text)
        return
    recipe = read(text)
    expected = [
        math.cos(step / 100 * math.pi) * (high - low) / 2 + (high - low) / 2 + low for step in range(100)
    ]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-5)


def test_a_constant_function_keeps_its_first_rate():
    text = (
        f"modifiers:\n{RANGE}  - !LearningRateFunctionModifier {{start_epoch: 0, end_epoch: 10, "
        "lr_func: constant, init_lr: 3e-5, final_lr: 0}\n"
    )
    assert rates_over(read(text), 10) == pytest.approx([3e-5] * 100)


def test_a_warm_up_before_a_cosine():
    text = "modifiers:\n" + RANGE + lines((0, 1, 0, 1e-4)) + (
        "  - !LearningRateFunctionModifier {start_epoch: 1, end_epoch: 10, lr_func: cosine, "
        "init_lr: 1e-4, final_lr: 0}\n"
    )  # fmt: skip
    (stage,) = read(text).stages
    assert (stage.training.schedule, stage.training.warmup, stage.training.final_rate) == ("cosine", 0.1, 0)


def test_a_cosine_over_the_border_of_two_stages_is_refused():
    text = "modifiers:\n" + RANGE + (
        "  - !LearningRateFunctionModifier {start_epoch: 0, end_epoch: 10, lr_func: cosine, "
        "init_lr: 1e-4, final_lr: 0}\n"
        "  - !QuantizationModifier {start_epoch: 8}\n"
    )  # fmt: skip
    with pytest.raises(
        RecipeError, match="line 3: LearningRateFunctionModifier: the learning rate of epochs 0 to 8"
    ):
        read(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (scheduler("ReduceLROnPlateau", ""), ["lr_class: ReduceLROnPlateau", "StepLR"]),
        (scheduler("StepLR", "step_size: 2"), ["has no 'gamma'"]),
        (scheduler("StepLR", "step_size: 0, gamma: 0.1"), ["step_size: 0"]),
        (scheduler("StepLR", "step_size: 2, gamma: 1.5"), ["gamma: 1.5", "grows"]),
        (scheduler("MultiStepLR", "gamma: 0.1, milestones: 3"), ["milestones: 3", "list of epochs"]),
        (scheduler("MultiStepLR", "gamma: 0.1, milestones: [4, 12]"), ["milestones", "between 0 and 10"]),
        (scheduler("StepLR", "step_size: 2, gamma: 0.1, last_epoch: 3"), ["last_epoch: 3", "no equivalent"]),
        (scheduler("CosineAnnealingWarmRestarts", "lr_min: 0, cycle_epochs: 2, T_mult: 2"), ["T_mult: 2"]),
    ],
)
def test_schedulers_without_an_equivalent(text, words):
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert str(caught.value).startswith("theirs.yaml, line 3: LearningRateModifier")
    assert all(word in str(caught.value) for word in words), caught.value
