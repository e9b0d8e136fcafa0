"""Every task on every family: x86 and arm64 artifacts against PyTorch, in float and in simulated INT8."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from numpy.typing import NDArray

from edgebert_compress import quantize
from edgebert_targets.base import ConvertOptions, SessionOptions, Target, get_target
from edgebert_targets.encoder import load_encoder_spec
from tests.factories import make_checkpoint
from tests.targets.quantized import quantize_checkpoint
from tests.targets.sequences import batch

OPTIONS = ConvertOptions(lengths=(8, 20))
LENGTHS = (20, 3, 8, 9)
CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "embedding": "AutoModel",
}
# MiniLM is a BERT that is narrow and has small heads.
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "minilm": {"layers": 3, "hidden": 48, "heads": 6, "intermediate": 192},
    "distilbert": {},
    "roberta": {},
    "electra": {"embedding": 16},
}


def random_model(family: str, task: str, folder: Path) -> Path:
    """A checkpoint of `family` with random weights and the head of `task`; embeddings are normalised."""
    torch.manual_seed(1)
    make_checkpoint(folder, "bert" if family == "minilm" else family, **FAMILIES[family])
    if task != "text-classification":
        config = tf.AutoConfig.from_pretrained(folder)
        if task == "question-answering":
            config.num_labels = 2
        getattr(tf, CLASSES[task]).from_config(config).save_pretrained(folder)
    if task == "embedding":
        kinds = ("Transformer", "Pooling", "Normalize")
        modules = [{"type": f"x.{kind}", "path": f"{i}" if i else ""} for i, kind in enumerate(kinds)]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1").mkdir()
        (folder / "1" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


def torch_answers(folder: Path, task: str, simulate_int8: bool) -> NDArray[np.float32]:
    """What `Session.run` must return, by PyTorch."""
    model = getattr(tf, CLASSES[task]).from_pretrained(folder, dtype=torch.float32).eval()
    if simulate_int8:
        quantize.prepare(model, "float")
        quantize.fix(model, quantize.export(model))
    ids, mask, types = (torch.from_numpy(value) for value in batch(*LENGTHS))
    feed = {"input_ids": ids, "attention_mask": mask}
    if model.config.model_type != "distilbert":
        feed["token_type_ids"] = types
    with torch.inference_mode():
        outputs = model(**feed)
    weights = mask[..., None].float()
    if task == "embedding":
        mean = (outputs.last_hidden_state * weights).sum(1) / weights.sum(1)
        return (mean / mean.norm(dim=-1, keepdim=True)).numpy()
    if task == "question-answering":
        return (torch.stack([outputs.start_logits, outputs.end_logits], -1) * weights).numpy()
    return (outputs.logits * weights if task == "token-classification" else outputs.logits).numpy()


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_pytorch(family: str, task: str, tmp_path: Path) -> None:
    folder = random_model(family, task, tmp_path / "model")
    want = torch_answers(folder, task, simulate_int8=False)
    for target in (get_target("x86"), get_target("arm64")):
        got = answers(target, folder, task, tmp_path)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_int8_answers_equal_the_simulation(family: str, task: str, tmp_path: Path) -> None:
    folder = random_model(family, task, tmp_path / "model")
    plain = torch_answers(folder, task, simulate_int8=False)
    want = torch_answers(folder, task, simulate_int8=True)
    error = np.abs(want - plain).max()
    quantize_checkpoint(folder, tables=True)
    for target in (get_target("x86"), get_target("arm64")):
        got = answers(target, folder, task, tmp_path)
        if target.name == "arm64":  # the same arithmetic: a float's last bit flips a rounding now and then
            assert np.median(np.abs(got - want)) < 0.05 * error
            assert np.abs(got - want).max() < error
        # The x86 form rounds otherwise: another sample of the same error.
        assert np.abs(got - plain).max() < 2.5 * error


def answers(target: Target, folder: Path, task: str, out: Path) -> NDArray[np.float32]:
    model = out / target.model_file
    facts = target.convert(load_encoder_spec(folder), model, OPTIONS)
    assert facts.task == task
    session = target.open(model, SessionOptions())
    try:
        return session.run(*batch(*LENGTHS))
    finally:
        session.close()


@pytest.mark.parametrize("name", ["x86", "arm64"])
@pytest.mark.parametrize("task", CLASSES)
def test_padding_beyond_the_longest_row(name: str, task: str, tmp_path: Path) -> None:
    """A row of 5 tokens answers the same whether its array is 5 or 16 long, and zeros for what it lacks."""
    target = get_target(name)
    folder = random_model("bert", task, tmp_path / "model")
    model = tmp_path / target.model_file
    target.convert(load_encoder_spec(folder), model, OPTIONS)
    session = target.open(model, SessionOptions())
    short, padded = batch(5), [np.pad(value, ((0, 0), (0, 11))) for value in batch(5)]
    small, large = session.run(*short), session.run(*padded)
    if task in ("token-classification", "question-answering"):
        assert large.shape[1] == 16
        assert not large[:, 5:].any()
        large = large[:, :5]
    np.testing.assert_allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("name", ["x86", "arm64"])
def test_an_embedding_of_nothing_is_zero(name: str, tmp_path: Path) -> None:
    target = get_target(name)
    folder = random_model("bert", "embedding", tmp_path / "model")
    model = tmp_path / target.model_file
    target.convert(load_encoder_spec(folder), model, OPTIONS)
    ids, mask, types = batch(5)
    np.testing.assert_array_equal(target.open(model, SessionOptions()).run(ids, mask * 0, types), 0)


@pytest.mark.parametrize("name", ["x86", "arm64"])
@pytest.mark.parametrize("task", CLASSES)
def test_float32_of_an_int8_checkpoint(name: str, task: str, tmp_path: Path) -> None:
    """The float artifact of an INT8 checkpoint holds what the integers stand for."""
    target = get_target(name)
    folder = quantize_checkpoint(random_model("electra", task, tmp_path / "model"))
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    (plain / "compression.json").unlink()
    (plain / "quantized.safetensors").unlink()
    from_int8, from_float = tmp_path / f"a-{target.model_file}", tmp_path / f"b-{target.model_file}"
    options = ConvertOptions(lengths=(8, 20), weights="float32")
    facts = target.convert(load_encoder_spec(folder), from_int8, options)
    target.convert(load_encoder_spec(plain), from_float, OPTIONS)
    assert facts.quantized_share == 0
    assert from_int8.read_bytes() == from_float.read_bytes()
