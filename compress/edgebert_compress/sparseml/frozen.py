"""Which parameters SparseML's TrainableParamsModifier freezes, as patterns of ours."""

from __future__ import annotations

import re
from collections.abc import Collection

from edgebert_compress.sparseml.fields import Fields

ALL = "__ALL__"
MAX_ALTERNATIVES = 64
MAX_PATTERN = 200
GROUP = re.compile(r"\(([^()]*)\)")
NUMBER = re.compile(r"(\\d|\[0-9\])\+")  # of a layer: below 100
TOKEN = re.compile(
    r"(?P<any>\.\*)|(?P<some>\.\+)|(?P<one>\.)|(?P<dot>\\\.)|(?P<digit>\\d)|\[[\w,-]+\]|[\w-]", re.ASCII
)
GLOBS = {"any": "*", "some": "?*", "one": "?", "dot": ".", "digit": "[0-9]"}


def frozen_patterns(fields: Fields, dropped: Collection[int]) -> tuple[str, ...]:
    """Patterns of the parameters that the modifier freezes; none when it makes weights trainable.

    Raises RecipeError for a regular expression that is no pattern of ours, and for a layer by number where
    layers are dropped: the numbers change.
    """
    frozen = not fields.flag("trainable", True)
    names = fields.names("params")
    if not frozen:
        return ()
    if not names:
        raise fields.refuse("params", "names nothing to freeze")
    if ALL in names:
        raise fields.refuse("params", "freezes every weight, which has no equivalent; nothing would learn")
    found: list[str] = []
    for name in names:
        if dropped and re.search(r"layers?\W+\d", name):
            raise fields.refuse(
                "params",
                f"freezes '{name[:60]}' by number while layers are dropped: no equivalent; drop them first",
            )
        found += _globs(name[3:], fields) if name.startswith("re:") else [_quoted(name)]
    return tuple(dict.fromkeys(found))


def _quoted(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _globs(pattern: str, fields: Fields) -> list[str]:
    """The regular expression as patterns; as in SparseML the beginning must fit and more may follow."""
    try:
        re.compile(pattern)
        if len(pattern) > MAX_PATTERN:
            raise ValueError("too long")
        numbered = NUMBER.sub("([0-9]|[0-9][0-9])", pattern.removeprefix("^"))
        return [_glob(text) for text in _alternatives(numbered)]
    except (re.error, ValueError) as error:
        raise fields.refuse(
            "params", f"has '{pattern[:60]}', which is no pattern of ours; name the parameters"
        ) from error


def _alternatives(pattern: str) -> list[str]:
    """Without groups: a(b|c)d is abd and acd."""
    pending, done = [pattern], []
    while pending:
        text = pending.pop()
        group = GROUP.search(text)
        if group is None:
            done.append(text)
        else:
            before, after = text[: group.start()], text[group.end() :]
            if after[:1] in ("*", "+", "?", "{"):
                raise ValueError("a repeated group")
            pending += [before + inner + after for inner in reversed(group[1].split("|"))]
        if len(pending) + len(done) > MAX_ALTERNATIVES:
            raise ValueError("too many alternatives")
    return done


def _glob(pattern: str) -> str:
    """One alternative as a pattern. Raises ValueError for what a pattern cannot say."""
    whole = pattern.endswith("$")
    text = pattern.removesuffix("$")
    glob = ""
    position = 0
    while position < len(text):
        token = TOKEN.match(text, position)
        if token is None:
            raise ValueError(f"'{text[position:]}'")
        glob += GLOBS.get(str(token.lastgroup), token[0])
        position = token.end()
        if text[position : position + 1] in ("*", "+", "?", "{"):
            raise ValueError("a repetition")
    return glob if whole else f"{glob.rstrip('*')}*"
