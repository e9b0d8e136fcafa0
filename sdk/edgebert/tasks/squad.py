"""Questions on a text: reading SQuAD files, and SQuAD's two figures (arXiv 1606.05250, section 6.1)."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.data import checked_text, json_fault, json_lines, read_utf8
from edgebert.errors import DataError
from edgebert.tasks.base import check_not_empty

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class QuestionExample:
    """`answers` are parts of `context` that begin at the characters `starts`; both empty: no answer there."""

    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class SpanFigures:
    """Over `examples` questions, as fractions of one."""

    examples: int
    exact_match: float
    f1: float


def read_questions(path: Path) -> list[QuestionExample]:
    """All questions of a SQuAD .json or a .jsonl file. Raises DataError with the file and the place."""
    suffix = path.suffix.lower()
    if suffix not in (".json", ".jsonl"):
        raise DataError(f"'{path}' has an unknown format '{path.suffix}'; use SQuAD .json, or .jsonl")
    text = read_utf8(path)
    if suffix == ".jsonl":
        examples = [_from_row(row, where) for where, row in json_lines(path, text)]
    else:
        examples = list(_from_squad(path, text))
    check_not_empty(len(examples), path)
    return examples


def normalized(answer: str) -> str:
    """Lower case; no punctuation, no articles, single blanks."""
    bare = answer.lower().translate(NO_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, truth: str) -> float:
    """1 where the two are equal once normalised."""
    return float(normalized(answer) == normalized(truth))


def word_f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall over the normalised words; of two empty answers 1."""
    got, wanted = normalized(answer).split(), normalized(truth).split()
    if not got or not wanted:
        return float(got == wanted)
    return 2 * (Counter(got) & Counter(wanted)).total() / (len(got) + len(wanted))


def span_figures(answers: Sequence[str], examples: Sequence[QuestionExample]) -> SpanFigures:
    """Means over the questions, at least one; of several true answers the one that fits best counts."""
    exact = f1 = 0.0
    for answer, example in zip(answers, examples, strict=True):
        truths = example.answers or ("",)
        exact += max(exact_match(answer, truth) for truth in truths)
        f1 += max(word_f1(answer, truth) for truth in truths)
    return SpanFigures(len(examples), exact / len(examples), f1 / len(examples))


def _from_row(row: dict[str, Any], where: str) -> QuestionExample:
    answers = row.get("answers")
    if not isinstance(answers, dict):
        raise DataError(f"{where}: 'answers' must be an object with the lists text and answer_start")
    return _example(row, row.get("context"), answers.get("text"), answers.get("answer_start"), where)


def _from_squad(path: Path, text: str) -> Iterator[QuestionExample]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path}{line}: not valid JSON ({json_fault(error)}); give a SQuAD file") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: a {type(tree).__name__}, not an object with 'data'; give a SQuAD file")
    for article_at, article in _children(tree, "data", str(path)):
        for paragraph_at, paragraph in _children(article, "paragraphs", article_at):
            for where, question in _children(paragraph, "qas", paragraph_at):
                answers = [answer for _, answer in _children(question, "answers", where)]
                texts = [answer.get("text") for answer in answers]
                starts = [answer.get("answer_start") for answer in answers]
                yield _example(question, paragraph.get("context"), texts, starts, where)


def _children(parent: dict[str, Any], key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = parent.get(key)
    if not isinstance(rows, list):
        raise DataError(f"{where}: no list '{key}'; give a SQuAD file")
    for number, row in enumerate(rows):
        place = f"{where}, {key}[{number}]"
        if not isinstance(row, dict):
            raise DataError(f"{place}: a {type(row).__name__}, not an object; give a SQuAD file")
        yield place, row


def _example(
    row: dict[str, Any], context: object, texts: object, starts: object, where: str
) -> QuestionExample:
    question = checked_text(row.get("question"), where, "question")
    context = checked_text(context, where, "context")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise DataError(f"{where}: an answer needs text and answer_start; give one start for each text")
    for text, start in zip(texts, starts, strict=True):
        answer = checked_text(text, where, "answer text")
        if type(start) is not int or start < 0 or context[start : start + len(answer)] != answer:
            raise DataError(
                f"{where}: the context does not have '{answer[:40]}' at answer_start {repr(start)[:20]}; "
                "count characters of the context from 0"
            )
    return QuestionExample(question, context, tuple(texts), tuple(starts))
