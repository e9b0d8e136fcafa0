"""The engine's tokenizer gives the ids of Hugging Face `tokenizers`, on everything."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers

from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.int8_sparse.tokenizer_settings import (
    AddedToken,
    TokenizerSettings,
    read_tokenizer_settings,
)
from tests.targets.tokenizer_driver import ENGINE, EngineTokenizer, Pair, Refusal, Request, build_driver
from tests.targets.tokenizer_texts import (
    FAMILY,
    ODD,
    bert_normalizer,
    changed,
    damaged_utf8,
    every_code_point,
    family,
    generated_texts,
    random_added_tokens,
    real_texts,
)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

EB_ERROR_FORMAT, EB_ERROR_INPUT = 2, 6


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("tokenizer-driver"))


def opened(
    driver: Path, factory: pytest.TempPathFactory, tokenizers: dict[str, Tokenizer]
) -> dict[str, Pair]:
    return {name: Pair(driver, t, factory.mktemp(name)) for name, t in tokenizers.items()}


@pytest.fixture(scope="session")
def pairs(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """Vocabularies with the characters of the first planes' living scripts."""
    code_points = [
        *range(0x21, 0x3400),
        *range(0xA000, 0xAC00),
        *range(0xF900, 0x10000),
        *range(0x1D100, 0x1D250),
    ]
    made = opened(driver, tmp_path_factory, family(code_points))
    yield made
    for pair in made.values():
        pair.engine.close()


@pytest.fixture(scope="session")
def wide_pairs(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """Vocabularies with every character of the first two planes, so that no difference hides in [UNK]."""
    code_points = [c for c in every_code_point() if c < 0x20000]
    made = opened(driver, tmp_path_factory, family(code_points))
    yield made
    for pair in made.values():
        pair.engine.close()


def test_the_family_is_complete(pairs: dict[str, Pair]) -> None:
    assert tuple(pairs) == FAMILY


@pytest.mark.parametrize("name", FAMILY)
def test_same_ids(pairs: dict[str, Pair], name: str) -> None:
    seed = FAMILY.index(name)
    texts = [*ODD, *generated_texts(seed, 500), *random.Random(seed).sample(real_texts(), 100)]
    pairs[name].check(texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_same_ids_on_many_texts(wide_pairs: dict[str, Pair], name: str) -> None:
    texts = [*ODD, *real_texts(), *generated_texts(100 + FAMILY.index(name), 15_000)]
    wide_pairs[name].check(texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uncased", "cased", "unclean", "roberta"])
def test_same_ids_on_each_code_point(wide_pairs: dict[str, Pair], name: str) -> None:
    # Alone and between letters; the last planes hold next to nothing, so there the texts hold many.
    single = [c for c in every_code_point() if c < 0x3400 or 0xA000 <= c < 0xAC00 or 0xD7A0 <= c < 0x20000]
    texts = [text for c in single for text in (chr(c), f"a{chr(c)}b")]
    points = every_code_point()
    texts += [" ".join(f"{chr(c)} a{chr(c)}b" for c in points[i : i + 64]) for i in range(0, len(points), 64)]
    wide_pairs[name].check(texts)


@given(text=st.text(max_size=60))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("name", ["uncased", "unclean", "roberta-prefix"])
def test_same_ids_on_any_text(pairs: dict[str, Pair], name: str, text: str) -> None:
    pairs[name].check([text])


@pytest.mark.parametrize("name", ["uncased", "roberta"])
def test_long_words_and_runs(pairs: dict[str, Pair], name: str) -> None:
    rng = random.Random(1)
    size = 20_000
    pairs[name].check(
        [
            *("a" * n for n in (99, 100, 101, 5000)),
            *("é" * n for n in (99, 100, 101)),
            "".join(rng.choices("abcdefghij", k=size)),
            "e" + "".join(rng.choices("\u0301\u0323\u0334\u0315", k=size)),
            " " * size + "a",
            "!?" * size,
            "가" * size,
        ]
    )


def decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@pytest.mark.parametrize("name", ["no-normalizer", "roberta", "uncased"])
def test_ill_formed_utf8_counts_as_python_decodes_it(pairs: dict[str, Pair], name: str) -> None:
    inputs = [
        bytes([a, b]) for a in range(0xBE, 0x100) for b in (0x41, 0x7F, *range(0x80, 0xC3, 3), 0xE0, 0xF4)
    ]
    inputs += [
        bytes([a, b, c])
        for a in (0xE0, 0xED, 0xEF, 0xF0, 0xF4)
        for b in range(0x7F, 0xC1)
        for c in (0x41, 0x80)
    ]
    inputs += [
        bytes([a, b, 0xBF, c])
        for a in (0xF0, 0xF1, 0xF4, 0xF5)
        for b in range(0x7F, 0xC1)
        for c in (0x41, 0x80)
    ]
    inputs += damaged_utf8(FAMILY.index(name), 300)
    found = pairs[name].engine.answers([Request(data) for data in inputs])
    expected = pairs[name].expected([decoded(data) for data in inputs])
    assert found == expected


@given(data=st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_same_ids_on_any_bytes(pairs: dict[str, Pair], data: bytes) -> None:
    assert pairs["roberta"].engine.answers([Request(data)]) == pairs["roberta"].expected([decoded(data)])


@pytest.mark.parametrize("name", FAMILY)
def test_pairs_and_truncation(pairs: dict[str, Pair], name: str) -> None:
    rng = random.Random(FAMILY.index(name))
    pool = ["", "one", "one two three four five six", *generated_texts(7, 60)]
    library = Tokenizer.from_str(pairs[name].library.to_str())
    for length in range(5, 40):
        requests = [
            Request(
                rng.choice(pool).encode(), None if rng.random() < 0.3 else rng.choice(pool).encode(), length
            )
            for _ in range(12)
        ]
        library.enable_truncation(length)
        expected = []
        for request in requests:
            second = None if request.pair is None else request.pair.decode()
            encoded = library.encode(request.text.decode(), second)
            expected.append((encoded.ids, encoded.type_ids))
        assert pairs[name].engine.answers(requests) == expected


def test_cut_to_the_special_tokens_and_below(pairs: dict[str, Pair]) -> None:
    engine = pairs["roberta"].engine
    exact = engine.answers([Request(b"a b", None, 2), Request(b"a b", b"c", 4)])
    assert exact == [([0, 2], [0, 0]), ([0, 2, 2, 2], [0, 0, 0, 0])]
    below = engine.answers([Request(b"a b", None, 1), Request(b"", b"", 3), Request(b"", b"", 0)])
    assert all(isinstance(answer, Refusal) and answer.status == EB_ERROR_INPUT for answer in below)
    assert isinstance(below[0], Refusal)
    assert below[0].message == "max_length is 1; the special tokens alone are 2"


@pytest.mark.parametrize("seed", range(12))
def test_added_tokens(driver: Path, pairs: dict[str, Pair], tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    parts = json.loads(pairs["roberta" if seed % 3 == 0 else "demo"].library.to_str())
    if seed % 3:
        options = {name: rng.random() < 0.6 for name in ("clean_text", "handle_chinese_chars", "lowercase")}
        parts["normalizer"].update(options, strip_accents=rng.choice([None, True, False]))
    vocabulary = parts["model"]["vocab"]
    base = [token for token in parts["added_tokens"] if token["id"] < 3]
    size = len(vocabulary)
    new = [token for token in random_added_tokens(rng, size) if token["content"] not in vocabulary]
    parts["added_tokens"] = base + [{**token, "id": size + i} for i, token in enumerate(new)]
    try:
        pair = Pair(driver, Tokenizer.from_str(json.dumps(parts)), tmp_path)
    except UnsupportedModelError as error:
        assert "normalizing makes empty or equal" in str(error)
        return
    pieces = [*(token["content"] for token in new), *"aBé<> -_1", "中", "\u00a0", "  ", "ing", "\u0301"]
    texts = ["".join(rng.choice(pieces) for _ in range(rng.randint(0, 16))) for _ in range(300)]
    compared = 0
    for text, found in zip(texts, pair.engine.answers([Request(t.encode()) for t in texts]), strict=True):
        try:
            expected = pair.library.encode(text).ids
        except BaseException as error:
            # The library panics where tokens overlap spaces that another one took.
            assert type(error).__name__ == "PanicException"
            continue
        assert not isinstance(found, Refusal)
        assert found[0] == expected, (text, new)
        compared += 1
    assert compared > 250
    pair.engine.close()


Change = Callable[[dict[str, Any]], None]


def set_in(*path: str | int, value: Any) -> Change:
    def change(parts: dict[str, Any]) -> None:
        inner: Any = parts
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("demo", set_in("normalizer", value={"type": "NFKC"}), "normalizer 'NFKC'"),
        (
            "demo",
            set_in(
                "normalizer",
                value={"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]},
            ),
            "'NFD, Lowercase'",
        ),
        ("demo", set_in("pre_tokenizer", value={"type": "Whitespace"}), "Whitespace"),
        ("demo", set_in("pre_tokenizer", value=None), "pre-tokenizer 'WordPiece, None'"),
        ("demo", set_in("model", value={"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}), "Unigram"),
        ("demo", set_in("model", "unk_token", value="<nothing>"), "unknown token '<nothing>'"),
        ("demo", set_in("model", "vocab", "zebra", value=7), "two tokens of id 7"),
        ("demo", set_in("model", "vocab", "a\0b", value=7000), "zero byte"),
        ("demo", set_in("model", "vocab", "x" * 5000, value=7000), "4096 bytes"),
        ("demo", set_in("model", "vocab", "zebra", value=200_000), "200000"),
        ("demo", set_in("added_tokens", 0, "content", value="x" * 300), "256 bytes"),
        (
            "demo",
            set_in("post_processor", "single", value=[{"Sequence": {"id": "B", "type_id": 0}}]),
            "single",
        ),
        ("demo", set_in("post_processor", "single", 0, "SpecialToken", "id", value="[X]"), "[X]"),
        ("roberta", set_in("model", "dropout", value=0.1), "dropout"),
        ("roberta", set_in("model", "ignore_merges", value=True), "ignore_merges"),
        ("roberta", set_in("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix"),
        ("roberta", set_in("pre_tokenizer", "use_regex", value=False), "use_regex"),
        ("bpe-unknown-bytes", set_in("model", "fuse_unk", value=True), "fuse_unk"),
        ("bpe-unknown-bytes", set_in("model", "unk_token", value="<nothing>"), "unknown token '<nothing>'"),
    ],
)
def test_refused_tokenizers(
    pairs: dict[str, Pair], tmp_path: Path, name: str, change: Change, named: str
) -> None:
    parts = json.loads(pairs[name].path.read_text("utf-8"))
    change(parts)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(parts), "utf-8")
    with pytest.raises(UnsupportedModelError) as caught:
        read_tokenizer_settings(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"version": "1.0"', b"\xff", b"[" * 100_000])
def test_damaged_tokenizer_files(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match="cannot be read as a tokenizer"):
        read_tokenizer_settings(path)


def added(content: str, number: int, *, normalized: bool = False) -> AddedToken:
    return AddedToken(content, number, False, False, False, normalized)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("demo", {"unknown": ""}, "the unknown token '' is not in the vocabulary"),
        ("demo", {"unknown": "[NONE]"}, "the unknown token '[NONE]' is not in the vocabulary"),
        ("demo", {"tokens": ("a", "b", "a")}, "tokens 0 and 2 are the same text"),
        ("demo", {"tokens": ("a" * 5000,)}, "a token of 5000 bytes"),
        ("demo", {"single": (2, -1, 7000)}, "template 'single' has id 7000"),
        ("demo", {"single": (2, -3, -1)}, "template 'single' has id -3"),
        ("demo", {"single": (2, 3, 3)}, "the text 0 times"),
        ("demo", {"single": (-1, -1, 3)}, "the text 2 times"),
        ("demo", {"single": (-1, -2, 3)}, "the pair 1 times"),
        ("demo", {"pair": (2, -1, 3, 3, 3)}, "template 'pair' has the text 1 times and the pair 0 times"),
        ("demo", {"single_types": (0, 0)}, "3 ids and 2 token types"),
        ("demo", {"single_types": (0, -1, 0)}, "token type -1"),
        ("demo", {"added": (added("", 0),)}, "added token 0 has 0 bytes"),
        ("demo", {"added": (added("\u0301", 9, normalized=True),)}, "added token 9 has 0 bytes"),
        ("demo", {"added": (added("x" * 1025, 0),)}, "1025 bytes"),
        ("demo", {"added": (added("x", 0), added("x", 1))}, "are the same text"),
        ("demo", {"added": (added("Y", 0, normalized=True), added("y", 1, normalized=True))}, "same text"),
        ("demo", {"added": (added("x", -1),)}, "has id -1"),
        ("roberta", {"unknown": "[NONE]"}, "the unknown token '[NONE]' is not in the vocabulary"),
        ("roberta", {"merges": ("a b", "ab")}, "merge 1, 'ab', is not two tokens that make a third"),
        ("roberta", {"merges": ("a b", "")}, "merge 1, ''"),
        ("roberta", {"merges": ("a  b",)}, "merge 0, 'a  b'"),
        ("roberta", {"tokens": ("<s>", "a", "b"), "merges": ("a b",)}, "merge 0, 'a b'"),
    ],
)  # fmt: skip
def test_refused_settings(driver: Path, pairs: dict[str, Pair], name: str, changes: Any, said: str) -> None:
    engine = EngineTokenizer(driver, replace(pairs[name].settings, **changes))
    assert engine.refusal is not None
    assert engine.refusal.status == EB_ERROR_FORMAT
    assert said in engine.refusal.message
    engine.close()


def test_settings_of_the_demo(pairs: dict[str, Pair]) -> None:
    found = pairs["demo"].settings
    assert replace(found, tokens=(), added=()) == TokenizerSettings(
        kind="wordpiece",
        clean_text=True,
        chinese_characters=True,
        strip_accents=True,
        lowercase=True,
        unknown="[UNK]",
        prefix="##",
        max_word_characters=100,
        add_prefix_space=False,
        tokens=(),
        merges=(),
        added=(),
        single=(2, -1, 3),
        single_types=(0, 0, 0),
        pair=(2, -1, 3, -2, 3),
        pair_types=(0, 0, 0, 1, 1),
    )
    assert found.tokens[:3] == ("[PAD]", "[UNK]", "[CLS]")
    assert added("[MASK]", 4) in found.added


def test_a_normalizer_may_be_nested(pairs: dict[str, Pair], tmp_path: Path) -> None:
    nested = normalizers.Sequence([normalizers.Sequence([bert_normalizer(strip_accents=False)])])
    path = tmp_path / "tokenizer.json"
    changed(pairs["demo"].library, normalizer=nested).save(str(path))
    found = read_tokenizer_settings(path)
    assert (found.lowercase, found.strip_accents) == (True, False)


@pytest.mark.slow
def test_the_unicode_tables_are_what_the_generator_writes(tmp_path: Path) -> None:
    output = tmp_path / "unicode_tables.cpp"
    subprocess.run([sys.executable, ENGINE / "tools" / "make_unicode_tables.py", output], check=True)
    assert output.read_bytes() == (ENGINE / "src" / "unicode_tables.cpp").read_bytes()
