"""Texts and tokenizers on which the engine and Hugging Face `tokenizers` must agree."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "sdk" / "edgebert" / "demo" / "home_intents"
SPACES = (
    "\t\n\x0b\x0c\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b"
    "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
MARKS = (
    "\u0300\u0301\u0308\u0315\u0323\u0327\u0334\u0338\u0345\u035c\u0360\u05b0\u05bc\u064b\u0651"
    "\u093c\u094d\u0f39\u0f71\u302a\u3099\U0001d165\U0001d16d\U0001e8d0"
)
EMOJI = [
    "👨\u200d👩\u200d👧",
    "🏳\ufe0f\u200d🌈",
    "👍🏽",
    "🇸🇪",
    "🇫🇷🇩🇪",
    "1\ufe0f\u20e3",
    "❤\ufe0f\u200d🔥",
    "🤷🏻\u200d♀\ufe0f",
    "☎",
    "🫠",
]
ODD = [
    "", " ", "\n\n", "    leading", "trailing    ", "tab\tsep\r\nline", "ｆｕｌｌ ｗｉｄｔｈ", "ﷺ ﷽ ℃ ㏑",
    "don't can't I'll we've they're she'd I'm it's 'twas '' ' 's 'S", "ẞ ß ﬁ ﬀ",
    "ΑΣ ΌΣΟΣ ς", "İstanbul ISTANBUL ı", "한국어 각 갂 힣 \u1112\u1161\u11ab \u1100\u1161",
    "北京は日本語かな漢字㐀\U00020000\U0002f800\uf900々〆ー", "Ω Å \u212b \u2126 \u0340 \u0344 \u0f73",
    "1,000.50 ½ ² ௧௨ ٣٤ Ⅷ ㊿ 🄌", "a\0b\ufffdc\x7fd\xade\u200df", "e\u0301\u0323 \u1ec7 q\u0307\u0323",
    "---...!?¿¡«»„“”‘’…‽〈〉＜＞$+<=>^`|~", "\U00011938\U000112c4 \u0898\u1acf \u0c3c",
]  # fmt: skip


def every_code_point() -> list[int]:
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def real_texts() -> list[str]:
    """The demo's sentences, this repository's pages and code; if EDGEBERT_TEXTS is set, its **/*.jsonl."""
    files = sorted(DEMO.glob("*.jsonl"))
    extra = os.environ.get("EDGEBERT_TEXTS")
    files += sorted(Path(extra).rglob("*.jsonl")) if extra else []
    texts = [json.loads(line)["text"] for file in files for line in file.read_text("utf-8").splitlines()]
    pages = sorted([*(ROOT / "docs").glob("*.md"), *DEMO.glob("*.py"), Path(__file__)])
    return texts + [line for page in pages for line in page.read_text("utf-8").splitlines()]


def generated_texts(seed: int, count: int) -> Iterator[str]:
    """Mixtures of everything that is easy to get wrong."""
    rng = random.Random(seed)
    words = " ".join(real_texts()[:500]).split()
    code_points = every_code_point()
    common = [c for c in code_points if c < 0x3400]

    def piece() -> str:
        kind = rng.randrange(14)
        if kind < 4:
            return rng.choice(words) + rng.choice(["", " ", " "])
        if kind == 4:
            return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 4)))
        if kind == 5:
            return rng.choice("aeoAnkק가ก") + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 6)))
        if kind == 6:
            return rng.choice(EMOJI)
        if kind == 7:
            start = rng.choice(common)
            return "".join(
                chr(start + i) for i in range(rng.randint(1, 12)) if not 0xD800 <= start + i < 0xE000
            )
        if kind == 8:
            return "".join(chr(rng.choice(code_points)) for _ in range(rng.randint(1, 4)))
        if kind == 9:
            return "".join(chr(rng.choice(common)) for _ in range(rng.randint(1, 8)))
        if kind == 10:
            return rng.choice(
                [
                    "[CLS]",
                    "[SEP]",
                    "[MASK]",
                    " [MASK] ",
                    "<mask>",
                    "  <mask>",
                    "<s>",
                    "</s>",
                    "[mask]",
                    "[UNK",
                ]
            )
        if kind == 11:
            return rng.choice(ODD)
        if kind == 12:
            return "".join(chr(0xAC00 + rng.randrange(11172)) for _ in range(rng.randint(1, 4)))
        return rng.choice(words).swapcase() + str(rng.randint(0, 99999)) + rng.choice("'’.,!-_")

    for i in range(count):
        if i % 50 == 0:
            yield rng.choice(words) * rng.randint(5, 40)
        else:
            yield "".join(piece() for _ in range(rng.randint(1, 9)))


def damaged_utf8(seed: int, count: int) -> Iterator[bytes]:
    """Bytes that are mostly UTF-8, and bytes that only look like it."""
    rng = random.Random(seed)
    edges = bytes([0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1])
    edges += bytes([0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF])
    for text in generated_texts(seed, count):
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(data))
            data[at : at + rng.randint(0, 2)] = bytes(rng.choice(edges) for _ in range(rng.randint(0, 4)))
        yield bytes(data)


def training_corpus() -> list[str]:
    """Words of many scripts, always the same."""
    rng = random.Random(0)
    texts = real_texts()[:2000]
    for start in [*range(0xA0, 0x3200, 0x10), *range(0xA000, 0xAC00, 0x20), *range(0x10000, 0x12000, 0x40)]:
        letters = [chr(start + i) for i in range(16)]
        texts += ["".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(4)]
    return texts + ODD[1:] + EMOJI


def trained_wordpiece(code_points: list[int]) -> Tokenizer:
    """Cased; besides what it learnt it has a token of, and one that goes on with, each of `code_points`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    tokenizer.normalizer = bert_normalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=4000, show_progress=False, special_tokens=special)
    tokenizer.train_from_iterator(training_corpus(), trainer)
    parts = json.loads(tokenizer.to_str())
    vocabulary = parts["model"]["vocab"]
    for token in [form for c in code_points for form in (chr(c), f"##{chr(c)}")]:
        if token != "\0":
            vocabulary.setdefault(token, len(vocabulary))
    parts["model"]["vocab"] = {t: i for t, i in vocabulary.items() if "\0" not in t}
    ordered = sorted(parts["model"]["vocab"], key=vocabulary.__getitem__)
    parts["model"]["vocab"] = {t: i for i, t in enumerate(ordered)}
    made = Tokenizer.from_str(json.dumps(parts))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made


def trained_byte_bpe(whole_alphabet: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=None if whole_alphabet else "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if whole_alphabet else [],
    )
    corpus = training_corpus() if whole_alphabet else [t for t in training_corpus() if t.isascii()]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def bert_normalizer(**options: bool | None) -> normalizers.Normalizer:
    """A BertNormalizer with everything on, but for what `options` says."""
    defaults: dict[str, bool | None] = {
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    return normalizers.BertNormalizer(**{**defaults, **options})


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    """A copy with some of normalizer, pre_tokenizer and post_processor replaced."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    for name, part in parts.items():
        setattr(copy, name, part)
    return copy


def family(code_points: list[int]) -> dict[str, Tokenizer]:
    """Tokenizers by name; all that real checkpoints of the supported families have, and more."""
    demo = Tokenizer.from_file(str(DEMO / "model" / "tokenizer.json"))
    demo.no_truncation()
    wordpiece = trained_wordpiece(code_points)
    bpe = trained_byte_bpe(whole_alphabet=True)
    template = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return {
        "demo": demo,
        "uncased": changed(wordpiece, normalizer=bert_normalizer()),
        "cased": wordpiece,
        "cased-no-accents": changed(
            wordpiece, normalizer=bert_normalizer(lowercase=False, strip_accents=True)
        ),
        "uncased-accents": changed(
            wordpiece,
            normalizer=normalizers.Sequence([bert_normalizer(strip_accents=False)]),
            post_processor=processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        ),
        "unclean": changed(
            wordpiece, normalizer=bert_normalizer(clean_text=False, handle_chinese_chars=False)
        ),
        "no-normalizer": _without(wordpiece, "normalizer", "post_processor"),
        "roberta": bpe,
        "roberta-prefix": changed(
            bpe,
            pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)]),
            post_processor=processors.Sequence([processors.ByteLevel(), template]),
        ),
        "bpe-unknown-bytes": trained_byte_bpe(whole_alphabet=False),
    }


def _without(tokenizer: Tokenizer, *names: str) -> Tokenizer:
    parts = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**parts, **dict.fromkeys(names)}))


FAMILY = (
    "demo",
    "uncased",
    "cased",
    "cased-no-accents",
    "uncased-accents",
    "unclean",
    "no-normalizer",
    "roberta",
    "roberta-prefix",
    "bpe-unknown-bytes",
)


def random_added_tokens(rng: random.Random, vocabulary: int) -> list[dict[str, Any]]:
    letters = [
        "a",
        "B",
        "é",
        "E\u0301",
        "<",
        ">",
        " ",
        "\t",
        "\u00a0",
        "中",
        "İ",
        "-",
        "1",
        "_",
        "\u200d",
        "ß",
        "ing",
    ]
    contents = {
        "".join(rng.choice(letters) for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(1, 6))
    }
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        {"id": vocabulary + i, "content": content, **{flag: rng.random() < 0.35 for flag in flags}}
        for i, content in enumerate(sorted(contents))
    ]
