"""INT8 attention against integer arithmetic, float attention, and itself with padding."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import nn

from edgebert_compress import attention, quantize
from edgebert_compress.checkpoint import load
from edgebert_compress.data import silent
from edgebert_compress.errors import CheckpointError
from edgebert_compress.loading import load_model
from edgebert_compress.recipe import QuantizeStage, Training
from edgebert_compress.stages import run_stage
from edgebert_compress.trainer import predict_logits
from tests.compress.conftest import tokenized
from tests.factories import ARCHITECTURES, make_checkpoint

POST_TRAINING = Training(epochs=0)
EVAL = nn.Identity().eval()


def heads(tokens, size, seed, batch=2, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(batch, count, tokens, size, generator=generator) for _ in range(3)]


def integers(x, axis):
    highest = np.abs(x).max(axis=axis, keepdims=True)
    inverse = np.divide(np.float32(127), highest, out=np.zeros_like(highest), where=highest > 0)
    return np.rint(x * inverse).astype(np.int64), highest / np.float32(127)


def by_the_document(query, key, value):
    """docs/formats.md in numpy, integers in int64, floats in float32: the context and the whole weights."""
    q, q_step = integers(query, -1)
    k, k_step = integers(key, -1)
    v, v_step = integers(value, -2)
    products = q @ k.swapaxes(-1, -2)
    factor = np.float32(math.log2(math.e) / math.sqrt(query.shape[-1]))
    e = products.astype(np.float32) * k_step.swapaxes(-1, -2) * (q_step * factor)
    p = np.rint(255 * np.exp2(e - e.max(-1, keepdims=True))).astype(np.int64)
    assert p.min() >= 0
    assert p.max() == 255
    total = p.sum(-1, keepdims=True)
    return (p @ v).astype(np.float32) * v_step / total.astype(np.float32), p


@pytest.mark.parametrize(("tokens", "size"), [(1, 8), (7, 32), (65, 64), (512, 16)])
def test_it_is_the_integer_arithmetic_of_the_document(tokens, size):
    query, key, value = heads(tokens, size, seed=tokens)
    expected, p = by_the_document(query.numpy(), key.numpy(), value.numpy())
    with torch.inference_mode():
        got, weights = attention.int8_attention(EVAL, query, key, value, None)
    assert weights is None
    got = got.transpose(1, 2).numpy()
    # torch's and numpy's 2^x differ in the last bit, which may turn a rounding: one step of one weight
    step = 2 * np.abs(value.numpy()).max(-2, keepdims=True) / p.sum(-1, keepdims=True)
    assert (np.abs(got - expected) <= step + 1e-6).all()
    assert (np.abs(got - expected) < 1e-5).mean() > 0.99


def test_it_is_close_to_float_attention():
    query, key, value = heads(64, 32, seed=0)
    exact = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    with torch.inference_mode():
        got, _ = attention.int8_attention(EVAL, query, key, value, None)
    assert (got - exact).abs().max() < 0.05 * exact.abs().max()
    assert (got != exact).any()


def test_largest_sums_are_exact():
    """512 tokens that all attend alike at the largest value: float32 must hold every sum."""
    ones = torch.ones(1, 1, 512, 64)
    value = torch.where(torch.arange(512)[:, None] % 2 == 0, 126.0, 127.0).expand(1, 1, 512, 64)
    with torch.inference_mode():
        got, _ = attention.int8_attention(EVAL, ones, ones, value, None)
    expected = np.float32(255 * 256 * (126 + 127)) / np.float32(255 * 512)
    assert (got == expected).all()


def test_zeros_give_zeros():
    query, key, value = heads(5, 8, seed=1)
    with torch.inference_mode():
        got, _ = attention.int8_attention(EVAL, 0 * query, key, 0 * value, None)
    assert (got == 0).all()


def test_masked_tokens_take_no_part():
    query, key, value = heads(9, 8, seed=2, batch=1)
    mask = (torch.arange(9) < 6).expand(1, 1, 9, 9)
    key[:, :, 6:], value[:, :, 6:] = 1e4, 1e4
    with torch.inference_mode():
        padded, _ = attention.int8_attention(EVAL, query, key, value, mask)
        alone, _ = attention.int8_attention(EVAL, query[:, :, :6], key[:, :, :6], value[:, :, :6], None)
    assert torch.equal(padded[:, :6], alone)


def test_gradients_are_those_of_attention_on_the_rounded_inputs():
    query, key, value = (x.requires_grad_() for x in heads(12, 16, seed=3))
    seen = torch.randn(2, 12, 3, 16, generator=torch.Generator().manual_seed(4))
    out, _ = attention.int8_attention(EVAL, query, key, value, None)
    got = torch.autograd.grad((out * seen).sum(), (query, key, value))

    def rounded(x, dim):
        whole, step = attention.symmetric_integers(x.detach(), dim)
        return (whole * step).requires_grad_()

    inputs = rounded(query, -1), rounded(key, -1), rounded(value, -2)
    exact = F.scaled_dot_product_attention(*inputs).transpose(1, 2)
    for mine, expected in zip(got, torch.autograd.grad((exact * seen).sum(), inputs), strict=True):
        assert (mine - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_goes_through_it_and_ignores_padding(architecture, tmp_path):
    folder = make_checkpoint(
        tmp_path / "m", architecture, embedding=16 if architecture == "electra" else None
    )
    model, _ = load_model(folder, "text-classification")
    ids = torch.randint(5, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    padded = F.pad(ids, (0, 5))
    mask = F.pad(torch.ones_like(ids), (0, 5))
    with torch.inference_mode():
        quantize.prepare(model)
        plain = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        attention.use_int8_attention(model)
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        filled = model(input_ids=padded, attention_mask=mask).logits
    assert 0 < (plain - alone).abs().max() < 0.1
    torch.testing.assert_close(filled, alone, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path / "saved")
    assert attention.NAME not in (tmp_path / "saved/config.json").read_text()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mixed_precision_around_it_changes_no_bit(architecture, tmp_path):
    folder = make_checkpoint(tmp_path / "m", architecture, layers=1)
    batch = {
        "input_ids": torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0)),
        "labels": torch.tensor([0, 1, 0]),
    }
    found = []
    for mixed in (False, True):
        model, _ = load_model(folder, "text-classification")
        model.eval()
        quantize.prepare(model, attention="int8")
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            training = model(**batch)
        training.loss.backward()
        quantize.fix(model, quantize.export(model))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed), torch.inference_mode():
            fixed = model(**batch)
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        found.append([training.logits.detach(), fixed.logits, *gradients])
    for exact, around in zip(*found, strict=True):
        torch.testing.assert_close(around, exact, rtol=0, atol=0)


def quantised(source, out, kind):
    data = tokenized(source, 20, 0)
    run_stage(source, out, QuantizeStage(attention=kind, training=POST_TRAINING), data, None, 0, silent)
    return out


def edit(folder, change):
    record = json.loads((folder / "compression.json").read_text())
    change(record["quantization"])
    (folder / "compression.json").write_text(json.dumps(record))


def test_a_checkpoint_runs_with_the_attention_it_names(tmp_path):
    raw = make_checkpoint(tmp_path / "raw")
    data = tokenized(raw, 20, 0)
    logits = {}
    for kind, name in (("int8", "int8-dynamic"), ("float", "float")):
        folder = quantised(raw, tmp_path / kind, kind)
        record = json.loads((folder / "compression.json").read_text())
        assert record["quantization"]["attention"] == name
        logits[kind] = predict_logits(folder, data)
    assert 0 < np.abs(logits["int8"] - logits["float"]).max() < 0.1
    edit(tmp_path / "int8", lambda record: record.update(attention="float"))
    np.testing.assert_array_equal(predict_logits(tmp_path / "int8", data), logits["float"])


def test_a_record_without_attention_and_position_tables_is_read(tmp_path):
    """Both came after the first checkpoints of this format."""
    folder = quantised(make_checkpoint(tmp_path / "raw"), tmp_path / "q", "int8")
    tables = [f"bert.embeddings.{kind}_embeddings.weight" for kind in ("position", "token_type")]

    def older(record):
        del record["attention"]
        record["tensors"] = [name for name in record["tensors"] if name not in tables]

    edit(folder, older)
    path = folder / "quantized.safetensors"
    kept = {k: v for k, v in load_file(path).items() if k.removesuffix(".scale") not in tables}
    save_file(kept, path)
    model = load(folder).model
    assert model.config._attn_implementation != attention.NAME
    embeddings = model.bert.embeddings
    assert isinstance(embeddings.word_embeddings, quantize.QuantEmbedding)
    assert not isinstance(embeddings.position_embeddings, quantize.QuantEmbedding)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"attention": "int4"}, "int4"), ({"attention": []}, "attention"), ({"tensors": 5}, "no quantised")],
)
def test_a_wrong_quantisation_is_refused(tmp_path, change, words):
    folder = quantised(make_checkpoint(tmp_path / "raw"), tmp_path / "q", "int8")
    edit(folder, lambda record: record.update(change))
    with pytest.raises(CheckpointError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
