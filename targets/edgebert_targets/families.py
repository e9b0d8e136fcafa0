"""Which tensor of a checkpoint plays which part, for each supported model family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgebert_targets.encoder import (
    Activation,
    Embeddings,
    EncoderLayer,
    EncoderSpec,
    QuantizedTensor,
    Weight,
    as_float,
    shape_of,
)
from edgebert_targets.errors import ArtifactError, UnsupportedModelError
from edgebert_targets.heads import HeadNames, read_head
from edgebert_targets.loader import Checkpoint

# Names in config.json -> ours; the tanh forms of GELU are one polynomial under several names.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


def encoder_spec(checkpoint: Checkpoint) -> EncoderSpec:
    """The spec of any supported family. Raises UnsupportedModelError and ArtifactError."""
    model_type = checkpoint.config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise UnsupportedModelError(
            f"model type {model_type!r} is not supported; use one of: {', '.join(sorted(FAMILIES))}"
        )
    if checkpoint.config.get("is_decoder") or checkpoint.config.get("add_cross_attention"):
        raise UnsupportedModelError("a decoder cannot be converted; use an encoder (is_decoder false)")
    return family(checkpoint)


def _size(checkpoint: Checkpoint, *names: str) -> int:
    """The first of `names` in config.json, a positive integer."""
    for name in names:
        value = checkpoint.config.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
                raise ArtifactError(f"config.json: {name} is {value!r}, not a positive integer; correct it")
            return value
    raise ArtifactError(f"config.json: no '{names[0]}'; save the model with save_pretrained")


def _eps(checkpoint: Checkpoint) -> float:
    value = checkpoint.config.get("layer_norm_eps", 1e-12)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ArtifactError(f"config.json: layer_norm_eps is {value!r}, not a number in [0, 1); correct it")
    return float(value)


def _activation(checkpoint: Checkpoint, name: str) -> Activation:
    value: Any = checkpoint.config.get(name, "gelu")
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"config.json: activation {value!r} is not supported; use one of: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[value]


def _heads(checkpoint: Checkpoint, hidden: int, *names: str) -> int:
    heads = _size(checkpoint, *names)
    if hidden % heads:
        raise ArtifactError(f"config.json: {heads} heads do not divide the hidden size {hidden}; correct it")
    return heads


def _pad(checkpoint: Checkpoint, vocabulary: int) -> int:
    value = checkpoint.config.get("pad_token_id")
    value = 0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary:
        raise ArtifactError(f"config.json: pad_token_id {value!r} is not in the vocabulary of {vocabulary}")
    return value


def _position_offset(table: Weight, offset: int) -> Weight:
    if shape_of(table)[0] <= offset:
        raise ArtifactError(
            f"position table of {shape_of(table)[0]} rows has no row for a token; save the model again"
        )
    if isinstance(table, QuantizedTensor):
        return QuantizedTensor(table.values[offset:], table.scale[offset:])
    return table[offset:]


def _bert_embeddings(checkpoint: Checkpoint, prefix: str, width: int, hidden: int, offset: int) -> Embeddings:
    name = f"{prefix}embeddings"
    position = _position_offset(checkpoint.weight(f"{name}.position_embeddings.weight", -1, width), offset)
    stored = checkpoint.weight(f"{name}.token_type_embeddings.weight", -1, width)
    token_type: Weight | None = stored
    if shape_of(stored)[0] == 1 and not isinstance(position, QuantizedTensor):
        # One row is a constant: it belongs to every position, and the model needs no such input.
        position, token_type = position + as_float(stored), None
    projected = width != hidden or f"{prefix}embeddings_project.weight" in checkpoint.floats
    return Embeddings(
        name=name,
        word=checkpoint.weight(f"{name}.word_embeddings.weight", _size(checkpoint, "vocab_size"), width),
        position=position,
        token_type=token_type,
        norm=checkpoint.norm(f"{name}.LayerNorm", width, _eps(checkpoint)),
        projection=checkpoint.linear(f"{prefix}embeddings_project", hidden, width) if projected else None,
    )


def _bert_layer(checkpoint: Checkpoint, name: str, hidden: int, intermediate: int) -> EncoderLayer:
    eps = _eps(checkpoint)
    attention = f"{name}.attention"
    return EncoderLayer(
        query=checkpoint.linear(f"{attention}.self.query", hidden, hidden),
        key=checkpoint.linear(f"{attention}.self.key", hidden, hidden),
        value=checkpoint.linear(f"{attention}.self.value", hidden, hidden),
        attention_output=checkpoint.linear(f"{attention}.output.dense", hidden, hidden),
        attention_norm=checkpoint.norm(f"{attention}.output.LayerNorm", hidden, eps),
        intermediate=checkpoint.linear(f"{name}.intermediate.dense", intermediate, hidden),
        output=checkpoint.linear(f"{name}.output.dense", hidden, intermediate),
        output_norm=checkpoint.norm(f"{name}.output.LayerNorm", hidden, eps),
    )


def _bert_like(
    checkpoint: Checkpoint,
    prefix: str,
    names: HeadNames,
    offset: int = 0,
    embedding_size: str = "hidden_size",
) -> EncoderSpec:
    """BERT and its relatives."""
    if checkpoint.config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModelError(
            f"position_embedding_type {checkpoint.config['position_embedding_type']!r} is not supported;"
            " use a model with absolute positions"
        )
    hidden = _size(checkpoint, "hidden_size")
    intermediate = _size(checkpoint, "intermediate_size")
    head, labels = read_head(checkpoint, hidden, names)
    prefix = checkpoint.prefix(prefix)
    embeddings = _bert_embeddings(
        checkpoint, prefix, _size(checkpoint, embedding_size, "hidden_size"), hidden, offset
    )
    return EncoderSpec(
        architecture=str(checkpoint.config["model_type"]),
        hidden_size=hidden,
        heads=_heads(checkpoint, hidden, "num_attention_heads"),
        activation=_activation(checkpoint, "hidden_act"),
        max_length=shape_of(embeddings.position)[0],
        pad_token_id=_pad(checkpoint, _size(checkpoint, "vocab_size")),
        labels=labels,
        embeddings=embeddings,
        layers=tuple(
            _bert_layer(checkpoint, f"{prefix}encoder.layer.{i}", hidden, intermediate)
            for i in range(_size(checkpoint, "num_hidden_layers"))
        ),
        head=head,
        tokenizer_json=checkpoint.tokenizer_json,
    )


def _bert(checkpoint: Checkpoint) -> EncoderSpec:
    return _bert_like(checkpoint, "bert.", HeadNames("bert.pooler.dense", "tanh", "classifier"))


def _electra(checkpoint: Checkpoint) -> EncoderSpec:
    names = HeadNames("classifier.dense", "gelu", "classifier.out_proj")
    return _bert_like(checkpoint, "electra.", names, embedding_size="embedding_size")


def _roberta(checkpoint: Checkpoint) -> EncoderSpec:
    # Positions count from padding_idx + 1 there (fairseq's numbering).
    offset = _pad(checkpoint, _size(checkpoint, "vocab_size")) + 1
    return _bert_like(
        checkpoint, "roberta.", HeadNames("classifier.dense", "tanh", "classifier.out_proj"), offset
    )


def _distilbert(checkpoint: Checkpoint) -> EncoderSpec:
    hidden = _size(checkpoint, "dim", "hidden_size")
    intermediate = _size(checkpoint, "hidden_dim")
    head, labels = read_head(checkpoint, hidden, HeadNames("pre_classifier", "relu", "classifier"))
    prefix = checkpoint.prefix("distilbert.")
    name = f"{prefix}embeddings"
    vocabulary = _size(checkpoint, "vocab_size")
    position = checkpoint.weight(f"{name}.position_embeddings.weight", -1, hidden)
    eps = 1e-12  # fixed in the architecture, not in its config
    layers = []
    for i in range(_size(checkpoint, "n_layers", "num_hidden_layers")):
        layer = f"{prefix}transformer.layer.{i}"
        layers.append(
            EncoderLayer(
                query=checkpoint.linear(f"{layer}.attention.q_lin", hidden, hidden),
                key=checkpoint.linear(f"{layer}.attention.k_lin", hidden, hidden),
                value=checkpoint.linear(f"{layer}.attention.v_lin", hidden, hidden),
                attention_output=checkpoint.linear(f"{layer}.attention.out_lin", hidden, hidden),
                attention_norm=checkpoint.norm(f"{layer}.sa_layer_norm", hidden, eps),
                intermediate=checkpoint.linear(f"{layer}.ffn.lin1", intermediate, hidden),
                output=checkpoint.linear(f"{layer}.ffn.lin2", hidden, intermediate),
                output_norm=checkpoint.norm(f"{layer}.output_layer_norm", hidden, eps),
            )
        )
    return EncoderSpec(
        architecture="distilbert",
        hidden_size=hidden,
        heads=_heads(checkpoint, hidden, "n_heads", "num_attention_heads"),
        activation=_activation(checkpoint, "activation"),
        max_length=shape_of(position)[0],
        pad_token_id=_pad(checkpoint, vocabulary),
        labels=labels,
        embeddings=Embeddings(
            name=name,
            word=checkpoint.weight(f"{name}.word_embeddings.weight", vocabulary, hidden),
            position=position,
            token_type=None,
            norm=checkpoint.norm(f"{name}.LayerNorm", hidden, eps),
            projection=None,
        ),
        layers=tuple(layers),
        head=head,
        tokenizer_json=checkpoint.tokenizer_json,
    )


FAMILIES: dict[str, Callable[[Checkpoint], EncoderSpec]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "electra": _electra,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
}
