"""Writes src/unicode_tables.cpp: what the `tokenizers` library makes of every code point.

The library's parts follow different Unicode versions, so its behaviour is asked for, not a Unicode file:
    python make_unicode_tables.py OUTPUT
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)
BLOCK = 128
MARKER = "<m>"

# Bits of a code point's class, in the order of enum Property in unicode.h.
PROPERTIES = (
    "space",
    "control",
    "chinese",
    "nonspacing_mark",
    "punctuation",
    "letter",
    "number",
    "word",
    "decomposes",
    "combines",
    "has_lowercase",
)


def bert_normalizer(**switched_on: bool) -> normalizers.Normalizer:
    """A BertNormalizer with every step off but those named."""
    options = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**options, **switched_on})


def chunks(size: int) -> Iterator[list[int]]:
    for start in range(0, len(CODE_POINTS), size):
        yield CODE_POINTS[start : start + size]


def normalized(normalizer: normalizers.Normalizer) -> dict[int, str]:
    """What becomes of each code point alone."""
    results = {ord("|"): normalizer.normalize_str("|")}
    for chunk in chunks(8192):
        others = [c for c in chunk if c != ord("|")]
        pieces = normalizer.normalize_str("|".join(map(chr, others))).split("|")
        results.update(zip(others, pieces, strict=True))
    return results


def matched_by(pattern: str) -> set[int]:
    """Code points that the byte-level pre-tokenizer's regular expression engine puts in a class."""
    splitter = pre_tokenizers.Split(Regex(pattern), "removed")
    found: set[int] = set()
    for chunk in chunks(8192):
        kept = {
            i
            for _, (start, end) in splitter.pre_tokenize_str("".join(map(chr, chunk)))
            for i in range(start, end)
        }
        found.update(c for i, c in enumerate(chunk) if i not in kept)
    return found


def bert_splits() -> tuple[set[int], set[int]]:
    """Code points at which BertPreTokenizer splits: dropped ones (space), kept ones (punctuation)."""
    space: set[int] = set()
    punctuation: set[int] = set()
    splitter = pre_tokenizers.BertPreTokenizer()
    for chunk in chunks(8192):
        width = {}
        for _, (start, end) in splitter.pre_tokenize_str("".join(f"a{chr(c)}a " for c in chunk)):
            width.update(dict.fromkeys(range(start, end), end - start))
        space.update(c for i, c in enumerate(chunk) if 4 * i + 1 not in width)
        punctuation.update(c for i, c in enumerate(chunk) if width.get(4 * i + 1) == 1)
    return space, punctuation


def marker_starts(token: AddedToken, before: str) -> Iterator[tuple[list[int], set[int], int]]:
    """Chunks of code points, where the added token was found in `before`, c, marker, space; the step."""
    unknown = "unknown"
    tokenizer = Tokenizer(WordLevel({unknown: 0}, unk_token=unknown))
    tokenizer.add_tokens([token])
    step = len(before) + 1 + len(MARKER) + 1
    for chunk in chunks(256):
        encoded = tokenizer.encode("".join(f"{before}{chr(c)}{MARKER} " for c in chunk))
        starts = {start for (start, _), i in zip(encoded.offsets, encoded.ids, strict=True) if i == 1}
        yield chunk, starts, step


def word_characters() -> set[int]:
    """Code points next to which a single-word added token is not found."""
    token = AddedToken(MARKER, single_word=True, normalized=False)
    return {
        c
        for chunk, starts, step in marker_starts(token, "")
        for i, c in enumerate(chunk)
        if i * step + 1 not in starts
    }


def stripped_spaces() -> set[int]:
    """Code points that an added token swallows on its left."""
    token = AddedToken(MARKER, lstrip=True, normalized=False)
    return {
        c
        for chunk, starts, step in marker_starts(token, "x")
        for i, c in enumerate(chunk)
        if i * step + 1 in starts
    }


def combining_classes(nfd: dict[int, str]) -> dict[int, int]:
    """Code points that NFD reorders, with a number that orders them as their combining classes do."""
    normalize: Callable[[str], str] = normalizers.NFD().normalize_str
    simple = [c for c in CODE_POINTS if nfd[c] == chr(c) and c != ord("|")]
    # U+0345 has the highest class and U+0334 the lowest, so a nonstarter moves past one of them.
    after = normalize("|".join(f"\u0345{chr(c)}" for c in simple)).split("|")
    before = normalize("|".join(f"{chr(c)}\u0334" for c in simple)).split("|")
    movable = [
        c
        for c, a, b in zip(simple, after, before, strict=True)
        if a != f"\u0345{chr(c)}" or b != f"{chr(c)}\u0334"
    ]
    classes: list[list[int]] = []
    for c in movable:

        def is_lower(members: list[int], c: int = c) -> bool:
            pair = chr(c) + chr(members[0])
            return normalize(pair) != pair

        at = bisect_left(classes, True, key=lambda members: not is_lower(members))
        pair = chr(classes[at][0]) + chr(c) if at < len(classes) else ""
        if at < len(classes) and normalize(pair) == pair:
            classes[at].append(c)
        else:
            classes.insert(at, [c])
    return {c: number for number, members in enumerate(classes, 1) for c in members}


@dataclass(frozen=True)
class Facts:
    """Everything the engine has to know of code points."""

    properties: dict[str, set[int]]
    lowercase: dict[int, str]
    decomposition: dict[int, str]
    combining: dict[int, int]


def gather() -> Facts:
    """Asks the library. Raises ValueError where its answers do not fit the engine's model of it."""
    cleaned = normalized(bert_normalizer(clean_text=True))
    padded = normalized(bert_normalizer(handle_chinese_chars=True))
    stripped = normalized(bert_normalizer(strip_accents=True))
    lower = normalized(bert_normalizer(lowercase=True))
    nfd = normalized(normalizers.NFD())
    space, punctuation = bert_splits()
    control = {c for c in CODE_POINTS if not cleaned[c]}
    chinese = {c for c in CODE_POINTS if padded[c] != chr(c)}
    marks = {c for c in CODE_POINTS if nfd[c] == chr(c) and not stripped[c]}
    combining = combining_classes(nfd)
    check = {
        "clean_text": all(
            cleaned[c] == (" " if c in space else chr(c)) for c in CODE_POINTS if c not in control
        ),
        "chinese": all(padded[c] == f" {chr(c)} " for c in chinese),
        "strip_accents": all(
            stripped[c] == "".join(m for m in nfd[c] if ord(m) not in marks) for c in CODE_POINTS
        ),
        "white space": space == matched_by(r"\s") == stripped_spaces(),
        "Hangul": all(nfd[c] == hangul(c) for c in HANGUL),
    }
    if not all(check.values()):
        raise ValueError(f"tokenizers behaves unlike the engine: {[k for k, v in check.items() if not v]}")
    decomposition = {c: nfd[c] for c in CODE_POINTS if nfd[c] != chr(c)}
    lowercase = {c: lower[c] for c in CODE_POINTS if lower[c] != chr(c)}
    sets = [space, control, chinese, marks, punctuation, matched_by(r"\p{L}"), matched_by(r"\p{N}")]
    sets += [word_characters(), set(decomposition), set(combining), set(lowercase)]
    properties = dict(zip(PROPERTIES, sets, strict=True))
    for c in HANGUL:
        del decomposition[c]
    return Facts(properties, lowercase, decomposition, combining)


def hangul(c: int) -> str:
    """The jamo of a syllable, by Unicode's arithmetic."""
    leading, rest = divmod(c - 0xAC00, 588)
    vowel, trailing = divmod(rest, 28)
    return chr(0x1100 + leading) + chr(0x1161 + vowel) + (chr(0x11A7 + trailing) if trailing else "")


def array(declaration: str, values: Sequence[int]) -> str:
    """A C++ array in lines of at most 110 characters."""
    lines, line = [], "   "
    for value in values:
        item = f" {value},"
        if len(line) + len(item) > 108:
            lines.append(line)
            line = "   "
        line += item
    return "\n".join([f"{declaration} = {{", *lines, line, "};"])


def expansions(name: str, table: dict[int, str], pool: list[int]) -> str:
    """Keys and, beside them, where in the pool the replacement lies: offset * 8 + length."""
    keys = sorted(table)
    places = []
    for key in keys:
        places.append(len(pool) * 8 + len(table[key]))
        pool.extend(map(ord, table[key]))
    return "\n".join(
        (
            f"const uint32_t {name}_count = {len(keys)};",
            array(f"const uint32_t {name}_keys[{len(keys)}]", keys),
            array(f"const uint16_t {name}_places[{len(keys)}]", places),
        )
    )


def combining_ranges(combining: dict[int, int]) -> list[int]:
    """first * 256 + class where a run of equal classes starts; class 0 between the runs."""
    ranges: list[int] = []
    previous = 0
    for c in range(max(combining) + 2):
        number = combining.get(c, 0)
        if number != previous:
            ranges.append(c * 256 + number)
            previous = number
    return ranges


def render(facts: Facts) -> str:
    """The whole source file."""
    sets = list(facts.properties.values())
    flags = [sum((c in members) << bit for bit, members in enumerate(sets)) for c in range(0x110000)]
    kinds = sorted(set(flags))
    number = {kind: i for i, kind in enumerate(kinds)}
    blocks: dict[tuple[int, ...], int] = {}
    index = []
    for start in range(0, 0x110000, BLOCK):
        block = tuple(number[f] for f in flags[start : start + BLOCK])
        index.append(blocks.setdefault(block, len(blocks)))
    if len(blocks) > 256 or len(kinds) > 256:
        raise ValueError(f"{len(blocks)} blocks of {len(kinds)} classes do not fit bytes: widen the tables")
    pool: list[int] = []
    ranges = combining_ranges(facts.combining)
    parts = [
        "// What each code point is to the tokenizer. Made by tools/make_unicode_tables.py: do not edit.",
        '#include "unicode_tables.h"',
        "",
        "// clang-format off",
        "namespace edgebert::unicode_tables {",
        "",
        array(f"const uint16_t kinds[{len(kinds)}]", kinds),
        array(f"const uint8_t block_index[{len(index)}]", index),
        array(f"const uint8_t blocks[{len(blocks) * BLOCK}]", [kind for block in blocks for kind in block]),
        expansions("lowercase", facts.lowercase, pool),
        expansions("decomposition", facts.decomposition, pool),
        array(f"const uint32_t pool[{len(pool)}]", pool),
        f"const uint32_t combining_count = {len(ranges)};",
        array(f"const uint32_t combining_ranges[{len(ranges)}]", ranges),
        "",
        "}  // namespace edgebert::unicode_tables",
        "",
    ]
    return "\n".join(parts)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_unicode_tables.py OUTPUT")
    output = Path(sys.argv[1])
    partial = output.with_name(output.name + ".partial")
    partial.write_text(render(gather()), encoding="ascii")
    partial.replace(output)


if __name__ == "__main__":
    main()
