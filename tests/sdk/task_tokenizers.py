"""Small real tokenizers: WordPiece as BERT's, and byte-level BPE as RoBERTa's."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgebert.tokenizer import TextTokenizer

CORPUS = [
    "Ada Lovelace met Charles Babbage in London, on the 5th of June 1833.",
    "The Analytical Engine weaves algebraic patterns as the loom weaves flowers.",
    "Who met Babbage? Where did she meet him? When was the engine built?",
    "Grüße aus Köln: Straße, naïve café, 東京 and Москва.",
]  # fmt: skip


@cache
def _wordpiece() -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return str(tokenizer.to_str())


@cache
def _bytelevel(trim: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=350,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    return str(tokenizer.to_str())


def wordpiece(max_length: int = 64) -> TextTokenizer:
    return TextTokenizer.from_json(_wordpiece().encode(), max_length=max_length, pad_id=0, token_types=True)


def bytelevel(max_length: int = 64, *, trim: bool = True) -> TextTokenizer:
    return TextTokenizer.from_json(
        _bytelevel(trim).encode(), max_length=max_length, pad_id=1, token_types=False
    )


TOKENIZERS = {"wordpiece": wordpiece, "byte-level": bytelevel, "untrimmed": lambda: bytelevel(trim=False)}
