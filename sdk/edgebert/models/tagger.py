"""A package that tags the words of a text: names, places, parts of speech."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgebert.errors import DataError
from edgebert.models.base import PackageModel, checked_texts
from edgebert.tasks.token_classification import TokenExample, Worded, entities, word_tags

# A run of letters and digits, or one sign: as the words of tagged corpora are cut.
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Words:
    """A text and where its words stand in it."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TaggedWord:
    """Characters `start` to `end` of the text, their tag and its probability."""

    word: str
    tag: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Entity:
    """Words that belong together by their tags B-TYPE, I-TYPE. `score`: the lowest of theirs."""

    type: str
    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Tagging:
    """The words of a text with their tags, and the entities that they make up."""

    text: str
    words: tuple[TaggedWord, ...]
    entities: tuple[Entity, ...]


class Tagger(PackageModel):
    """Opened by `edgebert.load` for token classification."""

    def tag(self, texts: Sequence[str]) -> list[Tagging]:
        """The tags of each text, however long it is. Raises DataError, UsageError."""
        checked_texts(texts)
        return self._tag([words_in(text) for text in texts])

    def tag_words(self, sentences: Sequence[Sequence[str]]) -> list[Tagging]:
        """As `tag`, for sentences whose words are known; they are read with blanks between them."""
        for number, words in enumerate(sentences, 1):
            if isinstance(words, str) or not words:
                raise DataError(f"sentence {number} is no list of one or more words; pass lists of words")
            checked_texts(words, "word")
        return self._tag([TokenExample(tuple(words), ()) for words in sentences])

    def _tag(self, examples: Sequence[Worded]) -> list[Tagging]:
        rows = self.rows(examples)
        found = word_tags(self.answers(rows), rows, examples, self.labels)
        return [tagging(example, tags) for example, tags in zip(examples, found, strict=True)]


def words_in(text: str) -> Words:
    """The words of a text: runs of letters and digits, and each other sign by itself."""
    return Words(text, tuple(found.span() for found in WORD.finditer(text)))


def tagging(example: Worded, tags: Sequence[tuple[str, float]]) -> Tagging:
    """(tag, probability) of each word, put together with where the words are."""
    text = example.text
    words = tuple(
        TaggedWord(text[start:end], tag, score, start, end)
        for (start, end), (tag, score) in zip(example.spans, tags, strict=True)
    )
    found = []
    for kind, first, stop in entities([tag for tag, _ in tags]):
        part = words[first:stop]
        start, end = part[0].start, part[-1].end
        found.append(Entity(kind, text[start:end], min(word.score for word in part), start, end))
    return Tagging(text, words, tuple(found))
