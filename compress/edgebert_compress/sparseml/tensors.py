"""Which encoder matrices a modifier means, tried on the names that the models have."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from edgebert_compress.sparseml.fields import Fields

# As in architecture.FAMILIES, which needs torch: path of the layers -> the linears of one of them.
_BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
         "intermediate.dense", "output.dense")  # fmt: skip
_DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1",
               "ffn.lin2")  # fmt: skip
LAYERS: Mapping[str, tuple[str, ...]] = {
    "bert.encoder.layer": _BERT,
    "distilbert.transformer.layer": _DISTILBERT,
    "roberta.encoder.layer": _BERT,
    "electra.encoder.layer": _BERT,
}
DEEPEST = 48  # layers that a pattern is tried on
EVERYTHING = ("__ALL_PRUNABLE__",)
MAX_PATTERN = 200
MAX_REPEATS = 4  # more of them could take minutes on a name that nearly fits
# What stands before `encoder.layer` where one of our encoders is part of a larger model, or has no head.
WRAPPERS = ("", "bert_model", "model", "auto_model", "question_encoder", "ctx_encoder", "question_model",
            "ctx_model")  # fmt: skip
WRAPPED = re.compile(r"(re:\^?)?((?:\w+\\?\.)*)(?=encoder\\?\.layer\\?\.)")

# Weights of other kinds, by which a pattern shows that it means more than the matrices.
OTHERS = ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.LayerNorm.weight",
          "bert.pooler.dense.weight", "classifier.weight", "qa_outputs.weight")  # fmt: skip

Found = dict[str, set[tuple[int, str]]]


def layer_number(name: str) -> int | None:
    """The index in a layer's name, such as 'bert.encoder.layer.7'; None for any other module."""
    found = re.fullmatch(r"(?:\w+\.)+layers?\.(\d{1,4})", name)
    return int(found[1]) if found else None


def tensor_patterns(fields: Fields, dropped: Collection[int]) -> tuple[tuple[str, ...] | None, list[str]]:
    """The `tensors` of a prune stage for the modifier's `params`, and notes.

    None: all six matrices of every layer. SparseML keeps the numbers of the layers when some are `dropped`,
    we number them anew. Raises RecipeError for a parameter that is no encoder matrix.
    """
    names = fields.names("params")
    if not names:
        raise fields.refuse("params", "names nothing to prune")
    found: Found = {path: set() for path in LAYERS}
    notes = []
    for name in names:
        if name in EVERYTHING:
            return None, ["__ALL_PRUNABLE__ prunes the encoder's matrices; pooler and head stay dense here"]
        hits = _matches(name, fields)
        inner = _unwrapped(name)
        if inner is not None and not any(hits.values()):
            hits = _matches(inner[1], fields)
            notes.append(f"'{inner[0]}encoder.layer' is taken for the encoder's own layers")
        if not any(hits.values()):
            raise fields.refuse(
                "params",
                f"names '{name[:80]}', which is no encoder matrix of BERT, DistilBERT, RoBERTa or ELECTRA; "
                "only those are pruned",
            )
        if name.startswith("re:") and any(re.match(name[3:], other) for other in OTHERS):
            notes.append(f"'{name[:80]}' names more than the encoder's matrices; the rest stays dense here")
        for path, pairs in hits.items():
            found[path] |= pairs
    path = next(path for path, pairs in found.items() if pairs)
    return _as_globs(path, found[path], dropped), list(dict.fromkeys(notes))


def _unwrapped(name: str) -> tuple[str, str] | None:
    """What stands before `encoder.layer`, and the name as BERT has it; None for unknown models."""
    found = WRAPPED.match(name)
    if found is None:
        return None
    before = found[2].replace("\\", "")
    if before.rstrip(".").rpartition(".")[2] not in WRAPPERS:
        return None
    return before, f"{found[1] or ''}bert.{name[found.end() :]}"


def _matches(name: str, fields: Fields) -> Found:
    fits: Callable[[str], object]
    if not name.startswith("re:"):
        fits = name.__eq__
    else:
        pattern = name[3:]
        if len(pattern) > MAX_PATTERN or len(re.findall(r"[*+{]", pattern)) > MAX_REPEATS:
            raise fields.refuse(
                "params", f"has the pattern '{name[:60]}', which is too long; name the tensors"
            )
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise fields.refuse("params", f"has '{name[:60]}', no regular expression ({error})") from error
        fits = compiled.match  # as SparseML: the beginning must fit, more may follow
    return {
        path: {
            (layer, linear)
            for layer in range(DEEPEST)
            for linear in linears
            if fits(f"{path}.{layer}.{linear}.weight")
        }
        for path, linears in LAYERS.items()
    }


def _as_globs(path: str, pairs: set[tuple[int, str]], dropped: Collection[int]) -> tuple[str, ...] | None:
    linears = [linear for linear in LAYERS[path] if any(kind == linear for _, kind in pairs)]
    everywhere = {linear for linear in linears if all((layer, linear) in pairs for layer in range(DEEPEST))}
    if everywhere == set(LAYERS[path]):
        return None
    # The digit before the dot tells `layer.3.output` from `attention.output`.
    globs = tuple(f"*[0-9].{linear}.weight" for linear in linears if linear in everywhere)
    single = {(layer, linear) for layer, linear in pairs if linear not in everywhere and layer not in dropped}
    return globs + tuple(
        f"{path}.{layer - sum(gone < layer for gone in dropped)}.{linear}.weight"
        for layer in range(DEEPEST)
        for linear in linears
        if (layer, linear) in single
    )
