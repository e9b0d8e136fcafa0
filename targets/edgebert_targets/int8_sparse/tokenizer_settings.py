"""What the engine's tokenizer has to know, read from a checkpoint's tokenizer.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgebert_targets.errors import UnsupportedModelError, one_line

Kind = Literal["wordpiece", "byte-bpe"]

TEXT, PAIR = -1, -2  # where a template takes the text and the pair
LONGEST_ADDED_TOKEN = 256  # bytes
LONGEST_TOKEN = 4096  # bytes
_NEXT_STEP = "use the x86 or arm64 target for this model"


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else happens to it."""

    content: str
    id: int
    single_word: bool
    strip_left: bool
    strip_right: bool
    normalized: bool


@dataclass(frozen=True)
class TokenizerSettings:
    """The engine's TokenizerSettings, field by field. Truncation and padding are the caller's."""

    kind: Kind
    clean_text: bool
    chinese_characters: bool
    strip_accents: bool
    lowercase: bool
    unknown: str  # "" with byte-bpe: bytes without a token are left out
    prefix: str
    max_word_characters: int
    add_prefix_space: bool
    tokens: tuple[str, ...]  # by id; "" for ids that only added tokens have, or none
    merges: tuple[str, ...]  # "left right", by rank
    added: tuple[AddedToken, ...]
    single: tuple[int, ...]
    single_types: tuple[int, ...]
    pair: tuple[int, ...]
    pair_types: tuple[int, ...]


def read_tokenizer_settings(path: Path) -> TokenizerSettings:
    """Settings from the file tokenizer.json.

    Raises UnsupportedModelError when the file cannot be read, or has a part that the engine does not do
    exactly as the `tokenizers` library does; the message names it.
    """
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UnsupportedModelError(
            f"{path} cannot be read as a tokenizer ({one_line(error)}); save it again with transformers"
        ) from error
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    tokens = _tokens(vocabulary)  # before to_str, which visits every number up to the largest id
    # The library's own form of the file has every field, defaults included, and the ids that it gave.
    parts = json.loads(tokenizer.to_str())
    model = parts["model"]
    clean, chinese, accents, lower = _normalizer(parts["normalizer"])
    pre_tokenizer = _single("pre-tokenizer", parts["pre_tokenizer"], "pretokenizers")
    single, pair = _templates(parts["post_processor"])
    kind: Kind
    match model["type"], pre_tokenizer.get("type"):
        case "WordPiece", "BertPreTokenizer":
            kind = "wordpiece"
            unknown = model["unk_token"]
            if unknown not in vocabulary:
                raise _unsupported("a vocabulary without its unknown token", unknown)
        case "BPE", "ByteLevel":
            kind = "byte-bpe"
            unknown = _byte_bpe_unknown(model, vocabulary)
            if not pre_tokenizer["use_regex"]:
                raise _unsupported("a ByteLevel pre-tokenizer with use_regex", False)
        case model_type, splitter:
            raise _unsupported("a tokenizer of model and pre-tokenizer", f"{model_type}, {splitter}")
    is_wordpiece = kind == "wordpiece"
    return TokenizerSettings(
        kind=kind,
        clean_text=clean,
        chinese_characters=chinese,
        strip_accents=accents,
        lowercase=lower,
        unknown=unknown,
        prefix=_text(model["continuing_subword_prefix"]) if is_wordpiece else "",
        max_word_characters=_within_32_bits(model["max_input_chars_per_word"]) if is_wordpiece else 0,
        add_prefix_space=not is_wordpiece and pre_tokenizer["add_prefix_space"],
        tokens=tokens,
        merges=() if is_wordpiece else _merges(model["merges"]),
        added=_added(parts["added_tokens"], tokenizer.normalizer),
        single=tuple(i for i, _ in single),
        single_types=tuple(t for _, t in single),
        pair=tuple(i for i, _ in pair),
        pair_types=tuple(t for _, t in pair),
    )


def _unsupported(what: str, value: object) -> UnsupportedModelError:
    return UnsupportedModelError(f"the engine does not take {what} {str(value)[:80]!r}; {_NEXT_STEP}")


def _single(what: str, part: dict[str, Any] | None, key: str) -> dict[str, Any]:
    """The part itself, or the only one of a Sequence; {} for none."""
    while part is not None and part["type"] == "Sequence":
        members = part[key]
        if len(members) > 1:
            raise _unsupported(f"a Sequence as {what}:", ", ".join(m["type"] for m in members))
        part = members[0] if members else None
    return part or {}


def _normalizer(part: dict[str, Any] | None) -> tuple[bool, bool, bool, bool]:
    """clean_text, chinese_characters, strip_accents, lowercase."""
    normalizer = _single("normalizer", part, "normalizers")
    if not normalizer:
        return False, False, False, False
    if normalizer["type"] != "BertNormalizer":
        raise _unsupported("the normalizer", normalizer["type"])
    lower = normalizer["lowercase"]
    accents = lower if normalizer["strip_accents"] is None else normalizer["strip_accents"]
    return normalizer["clean_text"], normalizer["handle_chinese_chars"], accents, lower


def _byte_bpe_unknown(model: dict[str, Any], vocabulary: dict[str, int]) -> str:
    """The token of bytes that the vocabulary lacks; "" where they are left out, or where it lacks none."""
    from tokenizers.pre_tokenizers import ByteLevel

    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model[option]:
            raise _unsupported(f"a BPE model with {option}", model[option])
    if all(character in vocabulary for character in ByteLevel.alphabet()):
        return ""
    for option in ("byte_fallback", "fuse_unk"):
        if model[option]:
            raise _unsupported(f"a BPE model that lacks bytes and has {option}", model[option])
    unknown = _text(model["unk_token"] or "")
    if unknown and unknown not in vocabulary:
        raise _unsupported("a vocabulary without its unknown token", unknown)
    return unknown


def _text(value: str) -> str:
    if "\0" in value:
        raise _unsupported("a token with a zero byte:", value)
    return value


def _within_32_bits(value: int) -> int:
    if value >= 1 << 32:
        raise _unsupported("max_input_chars_per_word", value)
    return value


def _tokens(vocabulary: dict[str, int]) -> tuple[str, ...]:
    largest = max(vocabulary.values(), default=-1)
    if largest >= 2 * len(vocabulary) + 65536:
        raise _unsupported(f"a vocabulary of {len(vocabulary)} tokens with the id", largest)
    tokens = [""] * (largest + 1)
    for token, number in vocabulary.items():
        if tokens[number]:
            raise _unsupported(f"two tokens of id {number}:", f"{tokens[number]}, {token}")
        if len(token.encode()) > LONGEST_TOKEN:
            raise _unsupported(f"a token of more than {LONGEST_TOKEN} bytes:", token)
        tokens[number] = _text(token)
    return tuple(tokens)


def _merges(merges: list[list[str]]) -> tuple[str, ...]:
    for left, right in merges:
        if not left or not right or " " in left + right:
            raise _unsupported("a merge with a space or an empty side:", f"{left}, {right}")
    return tuple(_text(f"{left} {right}") for left, right in merges)


def _added(added: list[dict[str, Any]], normalizer: Any) -> tuple[AddedToken, ...]:
    looked_for = set()
    for token in added:
        content, is_normalized = token["content"], token["normalized"]
        if len(content.encode()) > LONGEST_ADDED_TOKEN:
            raise _unsupported(f"an added token of more than {LONGEST_ADDED_TOKEN} bytes:", content)
        form = normalizer.normalize_str(content) if is_normalized and normalizer else content
        if not form or (form, is_normalized) in looked_for:
            raise _unsupported("an added token that normalizing makes empty or equal to another:", content)
        looked_for.add((form, is_normalized))
    return tuple(
        AddedToken(
            content=_text(token["content"]),
            id=token["id"],
            single_word=token["single_word"],
            strip_left=token["lstrip"],
            strip_right=token["rstrip"],
            normalized=token["normalized"],
        )
        for token in added
    )


Template = list[tuple[int, int]]  # id and token type


def _templates(part: dict[str, Any] | None) -> tuple[Template, Template]:
    """The single and the pair template of a post-processor."""
    members: list[dict[str, Any]] = [] if part is None else part.get("processors", [part])
    # ByteLevel only changes offsets, which the engine does not have.
    members = [member for member in members if member["type"] != "ByteLevel"]
    if len(members) > 1:
        raise _unsupported("the post-processors", ", ".join(m["type"] for m in members))
    processor: dict[str, Any] = members[0] if members else {"type": None}
    match processor["type"]:
        case None:
            single, pair = [(TEXT, 0)], [(TEXT, 0), (PAIR, 1)]
        case "BertProcessing":
            start, end = processor["cls"][1], processor["sep"][1]
            single = [(start, 0), (TEXT, 0), (end, 0)]
            pair = [*single, (PAIR, 1), (end, 1)]
        case "RobertaProcessing":
            start, end = processor["cls"][1], processor["sep"][1]
            single = [(start, 0), (TEXT, 0), (end, 0)]
            pair = [*single, (end, 0), (PAIR, 0), (end, 0)]
        case "TemplateProcessing":
            single, pair = (_template(processor, name) for name in ("single", "pair"))
        case other:
            raise _unsupported("the post-processor", other)
    for name, template, wanted in (("single", single, [TEXT]), ("pair", pair, [TEXT, PAIR])):
        if sorted((i for i, _ in template if i < 0), reverse=True) != wanted:
            raise _unsupported(f"a {name} template that does not hold each text once:", template)
    return single, pair


def _template(processor: dict[str, Any], name: str) -> Template:
    template: Template = []
    for piece in processor[name]:
        ((form, item),) = piece.items()
        if form == "Sequence":
            ids = [TEXT if item["id"] == "A" else PAIR]
        elif item["id"] in processor["special_tokens"]:
            ids = processor["special_tokens"][item["id"]]["ids"]
        else:
            raise _unsupported(f"a {name} template with the undefined token", item["id"])
        template += [(i, item["type_id"]) for i in ids]
    return template
