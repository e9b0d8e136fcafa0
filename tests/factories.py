"""Tiny real checkpoints, made on the spot: random weights, a real tokenizer, every supported family."""

from __future__ import annotations

from pathlib import Path

WORDS = [
    "turn", "switch", "on", "off", "the", "a", "light", "lamp", "fan", "in", "kitchen", "hall", "bedroom",
    "play", "stop", "music", "song", "louder", "set", "timer", "for", "minutes", "ten", "five", "what", "is",
    "weather", "today", "tomorrow", "please", "my", "to", "call", "mum", "message", "send",
]  # fmt: skip
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LABELS = ("light", "music", "timer")
ARCHITECTURES = ("bert", "distilbert", "roberta", "electra")


def vocabulary() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [*SPECIAL, *WORDS, *letters, *("##" + c for c in letters)]


def make_checkpoint(
    path: Path,
    architecture: str = "bert",
    *,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 2,
    intermediate: int = 64,
    embedding: int | None = None,
    labels: tuple[str, ...] = LABELS,
    seed: int = 0,
) -> Path:
    """Write a Hugging Face folder with random weights (std 0.2, so that logits differ) and return it.

    `embedding`: ELECTRA's embedding width when it differs from `hidden`.
    """
    import torch
    import transformers as tf
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    words = vocabulary()
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    common = {
        "vocab_size": len(words),
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    geometry = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": 64,
    }
    configs = {
        "bert": lambda: tf.BertConfig(**common, **geometry),
        "roberta": lambda: tf.RobertaConfig(
            **common, **{**geometry, "max_position_embeddings": 66}, type_vocab_size=2
        ),
        "electra": lambda: tf.ElectraConfig(**common, **geometry, embedding_size=embedding or hidden),
        "distilbert": lambda: tf.DistilBertConfig(
            **common, dim=hidden, n_layers=layers, n_heads=heads, hidden_dim=intermediate,
            max_position_embeddings=64,
        ),
    }  # fmt: skip
    torch.manual_seed(seed)
    model = tf.AutoModelForSequenceClassification.from_config(configs[architecture]())
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    inputs = ["input_ids", "attention_mask"]
    if architecture in ("bert", "electra"):
        inputs.insert(1, "token_type_ids")
    tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=inputs,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(path)
    return path


def task_sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) pairs that a tiny model can learn: the label follows from one word of the sentence."""
    import random

    keys = {"light": ["light", "lamp"], "music": ["music", "song"], "timer": ["timer", "minutes"]}
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        label = rng.choice(sorted(keys))
        rest = [w for w in WORDS if not any(w in k for k in keys.values())]
        words = rng.choices(rest, k=rng.randint(2, 8))
        words.insert(rng.randint(0, len(words)), rng.choice(keys[label]))
        rows.append((" ".join(words), label))
    return rows
