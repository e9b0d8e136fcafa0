"""Checkpoints of every task: heads old and new, zeros that stay, integers of tied tables stored once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edgebert_compress import quantize
from edgebert_compress.architecture import HEADS, prunable_parameters, word_embedding_name
from edgebert_compress.checkpoint import (
    Checkpoint,
    CompressionRecord,
    find_sparsity,
    load,
    masks_of,
    read_record,
    save,
)
from edgebert_compress.errors import CheckpointError, ModelError
from edgebert_compress.loading import load_model
from edgebert_compress.masks import apply_masks
from edgebert_compress.tasks import get_task
from tests.compress.task_models import CLASS_NAME, TASKS, Folders, random_data
from tests.factories import ARCHITECTURES

DATA = random_data(6, seed=2)
MLM = "masked-language-model"
CLASSES = "text-classification"


def pruned(model, block):
    """Random masks with whole blocks out, applied to the model."""
    parameters = prunable_parameters(model)
    generator = torch.Generator().manual_seed(1)
    masks = {}
    for name, weight in parameters.items():
        keep = torch.rand(weight.numel() // block, generator=generator) > 0.7
        masks[name] = keep.repeat_interleave(block).reshape(weight.shape)
    apply_masks(parameters, masks)
    return masks


def sparse_checkpoint(folder, out, task, block=4, **options):
    model, _ = load_model(folder, task)
    masks = pruned(model, block)
    layers = len(masks) // 6
    record = CompressionRecord(
        seed=0, recipe={"stages": []}, stages=(), layers_kept=tuple(range(layers)),
        sparsity={name: {"pattern": f"{block}-block" if block > 1 else "unstructured"} for name in masks},
        task=task,
    )  # fmt: skip
    tensors = None
    if options.pop("quantised", False):
        quantize.prepare(model, "int8")
        tensors = quantize.export(model)
    save(Checkpoint(model, record), folder, out, quantized=tensors, attention="int8")
    return out, masks


def logits_of(task, model):
    batch = task.collate(model, DATA, range(len(DATA)))
    with torch.inference_mode():
        return task.logits(model(**batch.inputs))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_a_sparse_checkpoint_reads_back(folders, tmp_path, task, family):
    out, masks = sparse_checkpoint(folders[task, family], tmp_path / "s", task)
    assert json.loads((out / "compression.json").read_text())["task"] == task
    loaded = load(out, task)
    assert loaded.record.task == task and not loaded.new_head
    again = masks_of(loaded)
    assert all(torch.equal(again[name], masks[name]) for name in masks)


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_transformers_reads_the_same_zeros(folders, tmp_path, task, family):
    """The oracle loads the folder with the class that its config names."""
    out, masks = sparse_checkpoint(folders[task, family], tmp_path / "s", task)
    model, info = getattr(transformers, HEADS[task]).from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert type(model).__name__.endswith(CLASS_NAME[task])
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) == 0, ~mask)


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_a_quantised_checkpoint_reads_back(folders, tmp_path, task, family):
    out, masks = sparse_checkpoint(folders[task, family], tmp_path / "q", task, quantised=True)
    loaded = load(out, task)
    ours = get_task(task)
    first = logits_of(ours, loaded.model)
    # written again from what was read, nothing may move
    tensors = quantize.export(loaded.model)
    save(loaded, out, tmp_path / "again", quantized=tensors, attention="int8")
    for name in ("model.safetensors", "quantized.safetensors", "compression.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name
    second = logits_of(ours, load(tmp_path / "again", task).model)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for name, mask in masks.items():
        assert bool((loaded.model.get_parameter(name)[~mask] == 0).all())
    plain = getattr(transformers, HEADS[task]).from_pretrained(out, dtype=torch.float32)
    for name, tensor in tensors.items():
        assert torch.equal(plain.get_parameter(name), tensor.dequantize())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_tied_decoder_is_stored_once_and_stays_tied(folders, tmp_path, family):
    out, _ = sparse_checkpoint(folders[MLM, family], tmp_path / "q", MLM, quantised=True)
    model = load(out, MLM).model
    word = f"{word_embedding_name(model)}.weight"
    decoder = model.get_output_embeddings()
    assert decoder.weight is model.get_parameter(word)
    assert torch.equal(decoder.values, load_file(out / "quantized.safetensors")[word].float())
    for file in ("model.safetensors", "quantized.safetensors"):
        with safe_open(out / file, "pt") as stored:
            names = [name for name in stored.keys() if not name.endswith(".scale")]  # noqa: SIM118
            large = [n for n in names if list(stored.get_slice(n).get_shape()) == list(decoder.weight.shape)]
        assert large == [word]
    assert json.loads((out / "compression.json").read_text())["quantization"]["tensors"].count(word) == 1


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", [task for task in TASKS if task != MLM])
def test_sparse_transfer_keeps_the_zeros(folders, tmp_path, task, family):
    """From upstream masked language modelling to a task: new head, old encoder."""
    out, masks = sparse_checkpoint(folders[MLM, family], tmp_path / "up", MLM)
    labels = ("a", "b", "c", "d") if task.endswith("-classification") else ()
    loaded = load(out, task, labels)
    assert loaded.new_head and loaded.record.task == task
    if labels:
        assert loaded.labels == labels
    upstream = load(out, MLM)
    again = masks_of(loaded)
    for name, mask in masks.items():
        assert torch.equal(again[name], mask)
        assert torch.equal(loaded.model.get_parameter(name), upstream.model.get_parameter(name))
    save(loaded, out, tmp_path / "down")
    kept = load(tmp_path / "down", task)
    assert not kept.new_head
    again = masks_of(kept)
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())


def test_another_task_needs_to_be_asked_for(folders, tmp_path):
    out, _ = sparse_checkpoint(folders[MLM, "bert"], tmp_path / "up", MLM)
    with pytest.raises(CheckpointError, match="was compressed for masked-language-model, not text-class"):
        load(out)
    assert load(out, CLASSES, new_head=True).new_head


def test_a_quantised_encoder_takes_no_new_head(folders, tmp_path):
    out, _ = sparse_checkpoint(folders[MLM, "bert"], tmp_path / "q", MLM, quantised=True)
    with pytest.raises(CheckpointError, match="quantised and its weights are fixed"):
        load(out, CLASSES, ("a", "b"))


@pytest.mark.parametrize("task", TASKS)
def test_a_plain_encoder_gets_a_head_only_when_asked(folders, tmp_path, task):
    encoder = shutil.copytree(folders[CLASSES, "bert"], tmp_path / "encoder")
    transformers.AutoModel.from_pretrained(encoder, dtype=torch.float32).save_pretrained(encoder)
    with pytest.raises(CheckpointError, match=r"lacks .* weights"):
        load_model(encoder, task)
    model, fresh = load_model(encoder, task, ("x", "y") if task.endswith("-classification") else ())
    assert fresh and load_model(encoder, task, new_head=True)[1]
    source = load_model(folders[CLASSES, "bert"], CLASSES)[0]
    for name, weight in prunable_parameters(source).items():
        assert torch.equal(model.get_parameter(name), weight)


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_an_old_head_is_kept_and_a_new_one_is_new(folders, task, family):
    folder = folders[task, family]
    torch.manual_seed(11)
    kept, old = load_model(folder, task, None if task.endswith("-classification") else ())
    fresh, new = load_model(folder, task, new_head=True)
    assert (old, new) == (False, True)
    body = {id(weight) for weight in prunable_parameters(fresh).values()}
    changed = [
        name
        for (name, a), b in zip(fresh.named_parameters(), kept.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert changed and not any(id(fresh.get_parameter(name)) in body for name in changed)
    assert f"{word_embedding_name(fresh)}.weight" not in changed


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_head_of_another_task_with_the_same_names_is_not_reused(folders, family):
    """Both kinds of classifier may call their output layer 'classifier', for the same labels."""
    folder = folders[CLASSES, family]
    with pytest.raises(CheckpointError, match="has no token-classification head"):
        load_model(folder, "token-classification")
    labels = load(folder).labels
    torch.manual_seed(5)
    model, fresh = load_model(folder, "token-classification", labels)
    assert fresh
    old = load_file(folder / "model.safetensors").get("classifier.weight")
    assert old is None or not torch.equal(model.classifier.weight, old)


def test_answers_need_two_outputs_whatever_the_labels_were(folders):
    for family in ARCHITECTURES:
        model, fresh = load_model(folders[CLASSES, family], "question-answering", ())
        assert fresh and model.qa_outputs.out_features == 2


def test_a_body_of_another_size_is_refused_even_with_a_new_head(folders, tmp_path):
    folder = shutil.copytree(folders[CLASSES, "bert"], tmp_path / "m")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "bert.encoder.layer.0.output.dense.weight"
    tensors[name] = tensors[name][:, :8].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    for labels in (None, ("p", "q")):
        with pytest.raises(CheckpointError, match=r"cannot be loaded|not of the shape"):
            load_model(folder, CLASSES, labels)


def test_a_class_count_of_one(folders):
    with pytest.raises(ModelError, match="at least 2 labels"):
        load_model(folders[CLASSES, "bert"], "token-classification", ("O",))


def test_records_of_before_are_of_text_classification(folders, tmp_path):
    out, _ = sparse_checkpoint(folders[CLASSES, "bert"], tmp_path / "s", CLASSES)
    path = out / "compression.json"
    values = json.loads(path.read_text())
    del values["task"]
    path.write_text(json.dumps(values))
    assert read_record(out).task == CLASSES
    path.write_text(json.dumps({**values, "task": "poetry"}))
    with pytest.raises(CheckpointError, match="unknown task 'poetry'"):
        read_record(out)


@pytest.mark.parametrize(("block", "pattern"), [(1, "unstructured"), (4, "4-block"), (32, "32-block")])
def test_masks_of_a_folder_that_others_pruned(folders, tmp_path, block, pattern):
    """No record: the zeros themselves say what is pruned, and in which blocks."""
    folder = shutil.copytree(folders[CLASSES, "bert"], tmp_path / "m")
    model, _ = load_model(folder, CLASSES)
    masks = pruned(model, block)
    model.save_pretrained(folder)
    found = load(folder)
    assert found.record is None
    assert {row["pattern"] for row in find_sparsity(found.model).values()} == {pattern}
    assert all(torch.equal(masks_of(found)[name], mask) for name, mask in masks.items())


def test_a_few_zeros_are_no_mask(folders):
    model, _ = load_model(folders[CLASSES, "bert"], CLASSES)
    weight = next(iter(prunable_parameters(model).values()))
    with torch.no_grad():
        weight.view(-1)[: int(0.009 * weight.numel())] = 0
    assert find_sparsity(model) == {}
    assert masks_of(Checkpoint(model, None)) == {}
