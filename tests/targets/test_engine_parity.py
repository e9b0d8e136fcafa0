"""The engine against PyTorch in simulated INT8: every family, every head, dense and sparse.

Both compute the same integers from floats that differ in their last bits, so now and then a rounding turns:
a difference is then one step of one number. Where none turns, the outputs differ in the last bits only.
"""

import json

import numpy as np
import pytest
import torch
import transformers as tf

from edgebert_compress import quantize
from edgebert_compress.architecture import WITH_TOKEN_TYPES
from edgebert_compress.data import TokenizedDataset, collate, silent
from edgebert_compress.recipe import PruneStage, QuantizeStage, Training
from edgebert_compress.stages import run_stage
from edgebert_compress.trainer import predict_logits
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.int8_sparse.convert import write_model
from edgebert_targets.int8_sparse.library import Engine
from tests.factories import ARCHITECTURES, make_checkpoint

UNTRAINED = Training(epochs=0)
LONGEST = 60


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def random_rows(count: int, seed: int) -> TokenizedDataset:
    """Sequences of 1 to LONGEST tokens, the lengths spread evenly, with a second text in some."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(1, LONGEST, count).astype(int)
    ids = tuple(tuple(rng.integers(5, 60, n).tolist()) for n in lengths)
    types = tuple(tuple((np.arange(n) >= rng.integers(0, n + 1)).astype(int).tolist()) for n in lengths)
    return TokenizedDataset(ids, types, (0,) * count, 0)


def engine_outputs(folder, architecture, rows, out):
    """The engine's outputs of all rows in one batch."""
    write_model(load_encoder_spec(folder), out)
    with Engine.open(out) as engine, engine.session() as session:
        types = rows.token_type_ids if architecture in WITH_TOKEN_TYPES else None
        return session.run(rows.input_ids, types)


def quantised(source, out, sparsity):
    """The checkpoint `source` after pruning in blocks of four, if any, and INT8 without training."""
    rows = random_rows(4, 9)
    if sparsity:
        stage = PruneStage(
            method="magnitude", sparsity=sparsity, initial_sparsity=sparsity, steps=1, training=UNTRAINED
        )
        run_stage(source, out / "pruned", stage, rows, None, 0, silent)
        source = out / "pruned"
    stage = QuantizeStage(attention="int8", training=UNTRAINED)
    run_stage(source, out / "q", stage, rows, None, 0, silent)
    return out / "q"


def check(got, expected, exact=False):
    """Differences in units of the outputs' spread; `exact`: most rows must agree to the last bits."""
    differences = np.abs(got - expected).max(axis=-1) / expected.std()
    assert differences.max() < 0.1
    assert np.median(differences) < 0.02
    if exact:
        assert np.median(differences) < 1e-6
        assert (differences < 1e-5).mean() > 0.7


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_classifiers(architecture, sparsity, tmp_path):
    embedding = 16 if architecture == "electra" else None
    raw = make_checkpoint(tmp_path / "raw", architecture, heads=4, embedding=embedding)
    folder = quantised(raw, tmp_path, sparsity)
    rows = random_rows(60, 1)
    expected = predict_logits(folder, rows)
    got = engine_outputs(folder, architecture, rows, tmp_path / "model.gguf")
    check(got, expected)


def random_model(kind, architecture, folder, relu=False, **geometry):
    """A random model with the head `kind` of a transformers Auto class, saved to `folder`."""
    embedding = 16 if architecture == "electra" else None
    make_checkpoint(folder, architecture, embedding=embedding, **{"heads": 4, **geometry})
    config = tf.AutoConfig.from_pretrained(folder)
    if kind == "AutoModelForQuestionAnswering":
        config.num_labels = 2
    if relu:
        setattr(config, "activation" if architecture == "distilbert" else "hidden_act", "relu")
    torch.manual_seed(1)
    model = getattr(tf, kind).from_config(config).eval()
    model.save_pretrained(folder)
    return model


def simulated(model, architecture, rows):
    """Outputs of `model` in simulated INT8, padded: all rows at once."""
    quantize.prepare(model, "int8")
    quantize.fix(model, quantize.export(model))
    inputs = collate(rows, range(len(rows)), torch.device("cpu"))
    if architecture not in WITH_TOKEN_TYPES:
        del inputs["token_type_ids"]
    with torch.inference_mode():
        return model(**inputs), inputs["attention_mask"].bool()


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_classification(architecture, relu, tmp_path):
    """With ReLU nothing but 2^x is approximated: where no rounding turns, every integer was the same."""
    model = random_model("AutoModelForTokenClassification", architecture, tmp_path / "m", relu)
    rows = random_rows(60, 2)
    got = engine_outputs(tmp_path / "m", architecture, rows, tmp_path / "model.gguf")
    outputs, mask = simulated(model, architecture, rows)
    check(got, outputs.logits[mask].numpy(), exact=relu)


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_layers_wider_than_a_slab(architecture, tmp_path):
    """Over 768 inputs, and rows of zeros among them: sums of several parts."""
    geometry = {"layers": 1, "hidden": 48, "heads": 3, "intermediate": 1612}
    model = random_model(
        "AutoModelForTokenClassification", architecture, tmp_path / "m", relu=True, **geometry
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("intermediate.dense.weight", "output.dense.weight")):
                blocks = weight.view(weight.shape[0], -1, 4)
                blocks[torch.rand(blocks.shape[:2]) < 0.8] = 0
                weight[1] = 0
    model.save_pretrained(tmp_path / "m")
    rows = random_rows(20, 5)
    got = engine_outputs(tmp_path / "m", architecture, rows, tmp_path / "model.gguf")
    outputs, mask = simulated(model, architecture, rows)
    check(got, outputs.logits[mask].numpy(), exact=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_question_answering(architecture, tmp_path):
    model = random_model("AutoModelForQuestionAnswering", architecture, tmp_path / "m")
    rows = random_rows(30, 3)
    got = engine_outputs(tmp_path / "m", architecture, rows, tmp_path / "model.gguf")
    outputs, mask = simulated(model, architecture, rows)
    check(got, torch.stack([outputs.start_logits, outputs.end_logits], -1)[mask].numpy())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings(architecture, normalize, tmp_path):
    model = random_model("AutoModel", architecture, tmp_path / "m")
    if normalize:
        modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}" if i else ""}
                   for i, kind in enumerate(("Transformer", "Pooling", "Normalize"))]  # fmt: skip
        (tmp_path / "m/modules.json").write_text(json.dumps(modules))
        (tmp_path / "m/1_Pooling").mkdir()
        (tmp_path / "m/1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    rows = random_rows(30, 4)
    got = engine_outputs(tmp_path / "m", architecture, rows, tmp_path / "model.gguf")
    outputs, mask = simulated(model, architecture, rows)
    weights = mask[..., None].float()
    expected = (outputs.last_hidden_state * weights).sum(1) / weights.sum(1)
    if normalize:
        expected = expected / expected.norm(dim=-1, keepdim=True)
    check(got, expected.numpy())
