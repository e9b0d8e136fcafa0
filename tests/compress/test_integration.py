"""A user's own Trainer with the callbacks in it: masks, resume, schedules, INT8, and what is saved."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from edgebert_compress import checkpoint as checkpoints
from edgebert_compress import integration_gradients, obert
from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.errors import CheckpointError, ModelError, RecipeError, TrainingError
from edgebert_compress.integration import CompressionCallback, ObertCallback, save_compressed
from edgebert_compress.integration_gradients import loader_source
from edgebert_compress.integration_run import cuts, segments
from edgebert_compress.masks import full_masks
from edgebert_compress.pruner import obert_settings
from edgebert_compress.quantize import round_vectors
from edgebert_compress.recipe import QuantizeStage, Training, TrainStage, recipe_from_dict
from edgebert_compress.schedule import cyclic_rate
from tests.compress.fisher_problems import FixedGradients, source_of
from tests.compress.task_models import random_data
from tests.factories import make_checkpoint

SMALL = {"gradients": 6, "gradient_batch_size": 4, "dampening": 1e-3}
needs_trainer = pytest.mark.skipif(
    not transformers.utils.is_accelerate_available(), reason="transformers.Trainer needs accelerate"
)


class Rows(torch.utils.data.Dataset):
    """Equal lengths, so that the default collator does."""

    def __init__(self, count: int = 40, seed: int = 0) -> None:
        data = random_data(count, seed, lengths=(10, 10))
        self.rows = [
            {
                "input_ids": torch.tensor(ids),
                "attention_mask": torch.ones(len(ids), dtype=torch.int64),
                "labels": label,
            }
            for ids, label in zip(data.input_ids, data.labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("integration") / "model", layers=1)


def classifier(source: Path):
    return transformers.AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)


def trainer(source: Path, out: Path, *callbacks, rows=None, **settings):
    arguments = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 5,
        "seed": 3,
    }
    evaluates = settings.get("eval_strategy", "no") != "no"
    return transformers.Trainer(
        eval_dataset=Rows(8, seed=1) if evaluates else None,
        model=classifier(source),
        args=transformers.TrainingArguments(str(out), **{**arguments, **settings}),
        train_dataset=rows or Rows(),
        callbacks=list(callbacks),
    )


def zeros_of(model) -> dict[str, torch.Tensor]:
    return {name: value.detach() == 0 for name, value in prunable_parameters(model).items()}


def share(zeros: dict[str, torch.Tensor]) -> float:
    return sum(int(z.sum()) for z in zeros.values()) / sum(z.numel() for z in zeros.values())


def stage(**settings):
    return {"kind": "prune", "training": {"epochs": 3}, **SMALL, **settings}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_same(first, second) -> None:
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, msg=name)


@needs_trainer
@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["unstructured", "4-block"])
def test_masks_equal_pruning_by_hand_on_the_same_gradients(source, tmp_path, pattern):
    callback = ObertCallback(sparsity=0.6, pattern=pattern, steps=1, seed=5, recomputations=2, **SMALL)
    own = trainer(source, tmp_path, callback)
    own.train()

    model = classifier(source).eval()
    parameters = prunable_parameters(model)
    rows = own.train_dataset
    passes = []

    def by_hand(count: int) -> FixedGradients:
        """Gradients at the weights as they are now, by backward() on batches stacked here."""
        gradients = []
        for batch in next(plan):
            inputs = {key: torch.stack([torch.as_tensor(rows[row][key]) for row in batch]) for key in rows[0]}
            model.zero_grad()
            model(**inputs).loss.backward()
            gradients.append({name: value.grad.clone() for name, value in parameters.items()})
        passes.append(count)
        return FixedGradients({name: torch.stack([g[name] for g in gradients]) for name in parameters})

    drawn = loader_source(model, own.get_train_dataloader(), 4, seed=5, step=0)
    plan = iter([drawn(6).batches, drawn(6).batches])
    settings = obert_settings(callback.recipe.stages[0])
    masks = obert.prune(parameters, full_masks(parameters), by_hand, settings, 0.6)
    assert passes == [6, 6]
    found = zeros_of(own.model)
    for name, mask in masks.items():
        assert torch.equal(~mask, found[name]), name
    assert share(found) == pytest.approx(0.6, abs=0.01)


@needs_trainer
@pytest.mark.slow
def test_estimating_leaves_order_and_random_state_of_the_training_alone(source, tmp_path):
    plain = trainer(source, tmp_path / "plain")
    plain.train()
    watched = trainer(
        source, tmp_path / "watched", ObertCallback(sparsity=0.0, initial_sparsity=0.0, steps=3, **SMALL)
    )
    watched.train()
    assert_same(weights(plain.model), weights(watched.model))


@needs_trainer
@pytest.mark.slow
def test_a_training_goes_on_from_the_trainers_own_checkpoint(source, tmp_path):
    recipe = {
        "name": "all",
        "stages": [stage(sparsity=0.7, initial_sparsity=0.2, steps=4, pruning_share=0.9),
                   {"kind": "quantize", "training": {"epochs": 1}}],
    }  # fmt: skip
    whole = trainer(
        source, tmp_path, CompressionCallback(recipe), save_strategy="steps", save_steps=6, save_total_limit=9
    )
    whole.train()
    for step in (6, 12, 18):
        callback = CompressionCallback(recipe)
        resumed = trainer(source, tmp_path / "again", callback)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_same(weights(whole.model), weights(resumed.model))
        assert [point[0] for point in callback.curve] == [0, 4, 9, 13]
        assert [point[0] for point in callback.dampening_curve] == [0, 4, 9, 13]
    other = CompressionCallback(json.loads(json.dumps(recipe).replace("0.7", "0.75")))
    with pytest.raises(TrainingError, match="another 'recipe'"):
        trainer(source, tmp_path / "other", other).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-12")
        )


@needs_trainer
@pytest.mark.slow
def test_prunes_trains_and_quantises_in_one_training_with_gradient_accumulation(source, tmp_path):
    recipe = {
        "name": "all",
        "stages": [stage(sparsity=0.8, initial_sparsity=0.4, steps=3),
                   {"kind": "quantize", "training": {"epochs": 1}}],
    }  # fmt: skip
    callback = CompressionCallback(recipe)
    own = trainer(source, tmp_path / "run", callback, gradient_accumulation_steps=2, num_train_epochs=4)
    own.train()
    assert own.state.global_step == 20  # 15 to prune, 5 in INT8
    assert [step for step, _ in callback.curve] == [0, 4, 9]
    assert [value for _, value in callback.curve] == pytest.approx([0.4, 0.75, 0.8], abs=0.01)
    assert share(zeros_of(own.model)) == pytest.approx(0.8, abs=0.01)

    own.save_model(str(tmp_path / "plain"))
    assert_same(zeros_of(classifier(tmp_path / "plain")), zeros_of(own.model))
    before = weights(own.model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    save_compressed(own.model, tmp_path / "small", callback=callback, tokenizer=tokenizer)
    assert_same(before, weights(own.model))
    loaded = checkpoints.load(tmp_path / "small")
    assert loaded.record.task == "text-classification"
    assert loaded.record.seed == 3
    assert [row["kind"] for row in loaded.record.stages] == ["prune", "quantize"]
    assert loaded.record.stages[0]["sparsity_curve"] == [list(point) for point in callback.curve]
    assert loaded.record.stages[0]["dampening_curve"] == [[step, 1e-3, 1e-3] for step in (0, 4, 9)]
    assert loaded.record.stages[0]["loss_curve"]
    assert {row["pattern"] for row in loaded.record.sparsity.values()} == {"4-block"}
    assert loaded.record.quantization["attention"] == "int8-dynamic"
    again = classifier(tmp_path / "small")
    for name, zero in zeros_of(own.model).items():
        assert bool((prunable_parameters(again)[name][zero] == 0).all())
    inputs = {key: value[None] for key, value in own.train_dataset[0].items() if key != "labels"}
    with torch.no_grad():
        own.model.eval()
        np.testing.assert_allclose(
            loaded.model(**inputs).logits.numpy(), own.model(**inputs).logits.numpy(), atol=2e-2
        )
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "small")("the lamp").input_ids[0] == 2
    with pytest.raises(CheckpointError, match="exists already"):
        save_compressed(own.model, tmp_path / "small", callback=callback)


@needs_trainer
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("setting", ["bf16", "gradient_checkpointing"])
def test_the_trainers_ways_to_save_memory_leave_int8_whole(source, tmp_path, setting):
    recipe = {"stages": [stage(sparsity=0.5, steps=1), {"kind": "quantize", "training": {"epochs": 1}}]}
    callback = CompressionCallback(recipe)
    own = trainer(source, tmp_path / "run", callback, **{setting: True})
    own.train()
    save_compressed(own.model, tmp_path / "small", callback=callback)
    inputs = {key: value[None] for key, value in own.train_dataset[0].items() if key != "labels"}
    loaded = checkpoints.load(tmp_path / "small").model
    round_vectors(own.model.eval())  # all that saving does to what the training ended with
    with torch.no_grad():
        found, trained = (model(**inputs).logits for model in (loaded, own.model))
    torch.testing.assert_close(found, trained, rtol=0, atol=1e-6)


@needs_trainer
@pytest.mark.slow
def test_rewinds_only_when_asked_and_the_best_model_is_one_of_the_pruned(source, tmp_path):
    rates: dict[bool, list[float]] = {}
    for rewind in (False, True):
        seen = rates.setdefault(rewind, [])

        class Spy(transformers.TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, optimizer, seen=seen, **given):
                seen.append(optimizer.param_groups[0]["lr"])

        callback = ObertCallback(sparsity=0.5, steps=2, pruning_share=0.5, rewind=rewind, **SMALL)
        own = trainer(
            source, tmp_path / str(rewind), callback, Spy(), save_strategy="steps", save_steps=5,
            eval_strategy="steps", eval_steps=5, load_best_model_at_end=True, learning_rate=0.01,
        )  # fmt: skip
        own.train()
        assert share(zeros_of(own.model)) == pytest.approx(0.5, abs=0.01)
        assert own.state.best_global_step > 10
    assert rates[False] == pytest.approx([0.01 * (1 - step / 20) for step in range(20)])
    assert rates[True] == pytest.approx([0.01 * cyclic_rate(step, 20, (0, 10), 0.1) for step in range(20)])


@needs_trainer
@pytest.mark.slow
def test_says_when_the_training_ends_before_the_pruning(source, tmp_path):
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            control.should_training_stop = state.global_step == 3

    callback = ObertCallback(sparsity=0.5, steps=3, **SMALL)
    with pytest.warns(UserWarning, match="at step 3 of 20, 2 pruning steps early: 30.0%"):
        trainer(source, tmp_path, callback, Stop()).train()


@needs_trainer
def test_refuses_what_it_cannot_do_before_the_first_step(source, tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(Rows(8).rows)

    with pytest.raises(TrainingError, match="streamed"):
        trainer(source, tmp_path, ObertCallback(**SMALL), rows=Stream(), max_steps=2).train()
    with pytest.raises(RecipeError, match="'end_epoch' is 5, but the training has 2 epochs"):
        trainer(source, tmp_path, ObertCallback(end_epoch=5, **SMALL)).train()
    with pytest.raises(RecipeError, match="nothing"):
        trainer(source, tmp_path, ObertCallback(tensors=["*.nothing"], **SMALL)).train()
    with pytest.raises(TrainingError, match="LambdaLR"):
        trainer(
            source, tmp_path, ObertCallback(rewind=True, **SMALL), lr_scheduler_type="reduce_lr_on_plateau",
            eval_strategy="steps", eval_steps=100,
        ).train()  # fmt: skip
    with pytest.raises(
        ModelError, match=r"is bfloat16, and simulated INT8 needs float32.*dtype=torch.float32"
    ):
        callback = CompressionCallback({"stages": [{"kind": "quantize"}]})
        own = trainer(source, tmp_path, callback)
        own.model.to(torch.bfloat16)
        own.train()
    unlabelled = Rows(8)
    for row in unlabelled.rows:
        del row["labels"]
    with pytest.raises(TrainingError, match="no loss"):
        trainer(source, tmp_path, ObertCallback(**SMALL), rows=unlabelled).train()


def test_a_callback_refuses_settings_that_make_no_sense():
    with pytest.raises(RecipeError, match="unknown key 'sparsty'"):
        ObertCallback(sparsty=0.5)
    with pytest.raises(RecipeError, match="sparsity"):
        ObertCallback(sparsity=1.5)
    with pytest.raises(RecipeError, match="twice"):
        ObertCallback(start_epoch=1, pruning_start=0.1)
    with pytest.raises(RecipeError, match="'drop-layers' stage"):
        CompressionCallback("small")
    with pytest.raises(RecipeError, match="0 epochs"):
        CompressionCallback({"stages": [stage(training={"epochs": 0})]})


def test_state_makes_the_same_callback_again():
    for callback in (ObertCallback(sparsity=0.7, end_epoch=2.0, tensors=("*.query.weight",), seed=4),
                     CompressionCallback("sparse-4block-90", rewind=True)):  # fmt: skip
        saved = json.loads(json.dumps(callback.state()))
        again = type(callback)(**saved["args"])
        assert again.recipe == callback.recipe
        assert again.arguments() | {"tensors": 0} == callback.arguments() | {"tensors": 0}


def test_stages_share_the_steps_as_their_epochs():
    prune = recipe_from_dict({"stages": [stage(steps=3, sparsity=0.8, initial_sparsity=0.2)]}).stages[0]
    stages = (
        prune,
        TrainStage(training=Training(epochs=1.5)),
        QuantizeStage(training=Training(epochs=1.5)),
    )
    parts = segments(stages, 40)
    assert [(part.first, part.end) for part in parts] == [(0, 20), (20, 30), (30, 40)]
    found = cuts(parts)
    assert [(cut.step, cut.number) for cut in found] == [(0, 0), (6, 1), (12, 2)]
    assert [cut.target for cut in found] == pytest.approx([0.2, 0.8 - 0.6 / 8, 0.8])
    late = segments((prune, QuantizeStage(training=Training(epochs=0))), 40)
    assert [(part.first, part.end) for part in late] == [(0, 40), (40, 40)]


def test_a_models_zeros_are_recorded_without_a_callback(source, tmp_path):
    model = classifier(source)
    weight = prunable_parameters(model)["bert.encoder.layer.0.output.dense.weight"]
    with torch.no_grad():
        weight[:, :8] = 0
    save_compressed(model, tmp_path / "saved")
    record = checkpoints.read_record(tmp_path / "saved")
    assert record.sparsity["bert.encoder.layer.0.output.dense.weight"]["zeros"] == weight.shape[0] * 8
    assert record.quantization is None
    with pytest.raises(CheckpointError, match="has not trained this model"):
        save_compressed(model, tmp_path / "other", callback=ObertCallback())


def test_replaying_gives_the_same_gradients_also_where_the_collator_draws(source):
    rows = Rows(12)

    def collate(chosen):
        batch = torch.utils.data.default_collate(chosen)
        hidden = torch.rand(batch["input_ids"].shape) < 0.3
        return batch | {"input_ids": batch["input_ids"].masked_fill(hidden, 4)}

    loader = torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collate)
    model = classifier(source)
    state = torch.get_rng_state()
    passed = loader_source(model, loader, 3, seed=1, step=2)(5)
    name = "bert.encoder.layer.0.output.dense.weight"
    first, second = (torch.stack([g[name] for g in passed.gradients([name])]) for _ in range(2))
    assert torch.equal(first, second)
    assert len({float(g.sum()) for g in first}) == 5
    assert torch.equal(state, torch.get_rng_state())
    assert source_of(FixedGradients({name: first}))[0](5).count == passed.count
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(row for batch in passed.batches[:4] for row in batch) == list(range(12))


def test_gradients_too_small_or_too_large_for_half_precision_arrive(source, monkeypatch):
    model, rows = classifier(source), Rows(12)
    for row in rows.rows:
        row["labels"] = 0
    names = list(prunable_parameters(model))
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    forward = model.forward

    def gradients():
        return list(loader_source(model, loader, 4, seed=1, step=0)(3).gradients(names))

    def half(**inputs):  # as accelerate wraps it
        with torch.autocast("cpu", torch.float16):
            return forward(**inputs)

    def worst():
        return max(
            float((one[name] - other[name]).norm() / one[name].norm())
            for one, other in zip(exact, gradients(), strict=True)
            for name in names
        )

    for bias in (12.0, -12.0):  # sure of the right answer, and of a wrong one
        with torch.no_grad():
            model.classifier.bias.copy_(torch.tensor([bias, 0.0, 0.0]))
        monkeypatch.setattr(model, "forward", forward)
        exact = gradients()
        monkeypatch.setattr(model, "forward", half)
        assert worst() < 0.02
    with monkeypatch.context() as without:
        without.setattr(integration_gradients, "HALF_SCALES", (2.0**40, 1.0))  # the first overflows
        assert worst() < 0.02
        without.setattr(integration_gradients, "HALF_SCALES", (1.0,))
        with torch.no_grad():
            model.classifier.bias.copy_(torch.tensor([12.0, 0.0, 0.0]))
        without.setattr(model, "forward", forward)
        exact = gradients()
        without.setattr(model, "forward", half)
        assert worst() > 0.1  # what the scale is for
