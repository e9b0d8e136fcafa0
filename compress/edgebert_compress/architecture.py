"""Where the supported encoders keep their layers, their prunable weights and their word embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from edgebert_compress.errors import ModelError

TaskName = Literal[
    "text-classification", "token-classification", "question-answering", "masked-language-model"
]
# The class of transformers that loads an encoder with the head of each task.
HEADS: Mapping[TaskName, str] = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "masked-language-model": "AutoModelForMaskedLM",
}
# model_type -> (module path of the layer list, linear layers inside one encoder layer)
_BERT_LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_DISTILBERT_LINEARS = (
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
)
FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "bert": ("bert.encoder.layer", _BERT_LINEARS),
    "distilbert": ("distilbert.transformer.layer", _DISTILBERT_LINEARS),
    "roberta": ("roberta.encoder.layer", _BERT_LINEARS),
    "electra": ("electra.encoder.layer", _BERT_LINEARS),
}
# Families that tell the two texts of a pair apart by token types; the others take none, or zeros only.
WITH_TOKEN_TYPES = ("bert", "electra")
# Parameters that a checkpoint without a trained head lacks, of any task.
HEAD_PREFIXES = (
    "classifier.", "pre_classifier.", "bert.pooler.",  # one class a text, one class a token
    "qa_outputs.",
    "cls.predictions.", "lm_head.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.",  # MLM
    "generator_predictions.", "generator_lm_head.",  # MLM of ELECTRA
)  # fmt: skip


def family(model_type: str) -> tuple[str, tuple[str, ...]]:
    """Layer list path and linear names. Raises ModelError for an unsupported architecture."""
    if model_type not in FAMILIES:
        raise ModelError(f"unsupported architecture '{model_type}'; supported: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def layer_list(model: nn.Module) -> nn.ModuleList:
    """The encoder layers of a model with any of the heads, in order."""
    layers = model.get_submodule(family(model_type(model))[0])
    assert isinstance(layers, nn.ModuleList)
    return layers


def model_type(model: nn.Module) -> str:
    config: Any = model.config
    return str(config.model_type)


def positions(model: nn.Module) -> int:
    """Tokens that the position table holds. RoBERTa's first rows belong to the padding id and those below."""
    config: Any = model.config
    offset = config.pad_token_id + 1 if model_type(model) == "roberta" else 0
    return int(config.max_position_embeddings - offset)


def set_depth(model: nn.Module, depth: int) -> None:
    """Write the number of layers into the model's config, under the family's own name for it."""
    config: Any = model.config
    config.num_hidden_layers = depth  # DistilBERT maps this name to its n_layers


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Encoder query, key, value, attention output, intermediate and output weights by parameter name.

    Embeddings, LayerNorm, pooler, head and biases stay dense, as in oBERT.
    """
    path, linears = family(model_type(model))
    found = {}
    for index, layer in enumerate(layer_list(model)):
        for linear in linears:
            weight = layer.get_submodule(linear).weight
            assert isinstance(weight, nn.Parameter)
            found[f"{path}.{index}.{linear}.weight"] = weight
    return found


def word_embedding_name(model: nn.Module) -> str:
    """Module name of the word embedding table."""
    hub: Any = model
    table = hub.get_input_embeddings()
    return str(next(name for name, module in model.named_modules() if module is table))
