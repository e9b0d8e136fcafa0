"""What `edgebert run` reads and prints, one class a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from edgebert.cli.output import clean
from edgebert.errors import DataError, UsageError

SHOWN = 80  # characters of a text that a line shows
NUMBERS = 8  # of a vector that a line shows

Options = Mapping[str, Any]
TextPair = tuple[str, str | None]


@dataclass(frozen=True)
class Shown:
    """One answer: a JSON object, and lines for people with tab-separated fields."""

    as_json: dict[str, Any]
    lines: tuple[str, ...]


class Verb(Protocol):
    """How a task is asked. `example`: arguments to try a package with."""

    @property
    def task(self) -> str: ...

    @property
    def example(self) -> str: ...

    @property
    def options(self) -> tuple[str, ...]:
        """Options of the command that mean something for the task."""
        ...

    def from_text(self, text: str, options: Options) -> Any:
        """One argument, or line of stdin, as what `ask` takes."""
        ...

    def from_row(self, row: Mapping[str, Any], where: str) -> Any:
        """One JSON object as what `ask` takes. Raises DataError."""
        ...

    def ask(self, model: Any, inputs: Sequence[Any], options: Options) -> list[Shown]:
        """The answers of a model of the task, in order."""
        ...


def check_options(verb: Verb, given: Options) -> None:
    """Raises UsageError for an option that the verb has not."""
    for name in given:
        if name not in verb.options:
            raise UsageError(f"--{name.replace('_', '-')} means nothing for {verb.task}; leave it out")


def string(row: Mapping[str, Any], name: str, where: str) -> str:
    """A string of a JSON object. Raises DataError."""
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f"{where}: needs an object with a string '{name}'")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: holds a lone surrogate; write characters beyond U+FFFF as UTF-8") from None
    return value


def short(text: str) -> str:
    """`text` on one short line."""
    shown = clean(text)
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"


@dataclass(frozen=True)
class Classify:
    """A line a text: label and score of each class shown, then the text."""

    task: str = "text-classification"
    example: str = '"some text"'
    options: tuple[str, ...] = ("pair", "top_k")

    def from_text(self, text: str, options: Options) -> TextPair:
        return text, options["pair"]

    def from_row(self, row: Mapping[str, Any], where: str) -> TextPair:
        text, pair = string(row, "text", where), row.get("text_pair")
        if not isinstance(pair, str | None):
            raise DataError(f"{where}: 'text_pair' must be a string")
        return text, None if pair is None else string(row, "text_pair", where)

    def ask(self, model: Any, inputs: Sequence[TextPair], options: Options) -> list[Shown]:
        top_k = options["top_k"] or 1
        found = model.classify([text for text, _ in inputs], [pair for _, pair in inputs], top_k)
        return [self._shown(*pair, one) for pair, one in zip(inputs, found, strict=True)]

    def _shown(self, text: str, pair: str | None, prediction: Any) -> Shown:
        row: dict[str, Any] = {"text": text} | ({} if pair is None else {"text_pair": pair})
        scores = [{"label": label, "score": score} for label, score in prediction.scores]
        row |= {"label": prediction.label, "score": prediction.score, "scores": scores}
        classes = "\t".join(f"{clean(label)}\t{score:.4f}" for label, score in prediction.scores)
        return Shown(row, (f"{classes}\t{short(text if pair is None else f'{text} | {pair}')}",))


@dataclass(frozen=True)
class Tag:
    """A line a word: tag, score, first and past-the-last character, word; an empty line after each text."""

    task: str = "token-classification"
    example: str = '"some text"'
    options: tuple[str, ...] = ()

    def from_text(self, text: str, options: Options) -> str:
        return text

    def from_row(self, row: Mapping[str, Any], where: str) -> str | tuple[str, ...]:
        words = row.get("tokens")
        if words is None:
            return string(row, "text", where)
        if not isinstance(words, list) or not words:
            raise DataError(f"{where}: 'tokens' must be a list of one or more words")
        return tuple(string({"tokens": word}, "tokens", where) for word in words)

    def ask(self, model: Any, inputs: Sequence[str | tuple[str, ...]], options: Options) -> list[Shown]:
        texts = [one for one in inputs if isinstance(one, str)]
        known = [one for one in inputs if not isinstance(one, str)]
        read, cut = iter(model.tag(texts)), iter(model.tag_words(known))
        return [self._shown(next(read if isinstance(one, str) else cut)) for one in inputs]

    def _shown(self, tagging: Any) -> Shown:
        lines = [f"{clean(w.tag)}\t{w.score:.4f}\t{w.start}\t{w.end}\t{clean(w.word)}" for w in tagging.words]
        return Shown(asdict(tagging), (*lines, ""))


@dataclass(frozen=True)
class Answer:
    """A line a question: score, first and past-the-last character, the answer, then the question."""

    task: str = "question-answering"
    example: str = '--context "some text" "a question on it"'
    options: tuple[str, ...] = ("context", "no_answer")

    def from_text(self, text: str, options: Options) -> tuple[str, str]:
        if options["context"] is None:
            raise UsageError("a question needs the text that it is about; add --context TEXT, or use --jsonl")
        return text, options["context"]

    def from_row(self, row: Mapping[str, Any], where: str) -> tuple[str, str]:
        return string(row, "question", where), string(row, "context", where)

    def ask(self, model: Any, inputs: Sequence[tuple[str, str]], options: Options) -> list[Shown]:
        questions, contexts = [one for one, _ in inputs], [other for _, other in inputs]
        found = model.answer(questions, contexts, may_be_none=bool(options["no_answer"]))
        return [self._shown(question, one) for question, one in zip(questions, found, strict=True)]

    def _shown(self, question: str, answer: Any) -> Shown:
        row = {"question": question, **asdict(answer)}
        place = f"{answer.start}\t{answer.end}"
        return Shown(row, (f"{answer.score:.4f}\t{place}\t{clean(answer.text)}\t{short(question)}",))


@dataclass(frozen=True)
class Embed:
    """A line a text: the first numbers of its vector, then the text. JSON has them all."""

    task: str = "embedding"
    example: str = '"some text" --json'
    options: tuple[str, ...] = ()

    def from_text(self, text: str, options: Options) -> str:
        return text

    def from_row(self, row: Mapping[str, Any], where: str) -> str:
        return string(row, "text", where)

    def ask(self, model: Any, inputs: Sequence[str], options: Options) -> list[Shown]:
        return [self._shown(*pair) for pair in zip(inputs, model.embed(inputs).tolist(), strict=True)]

    def _shown(self, text: str, vector: list[float]) -> Shown:
        first = " ".join(f"{value:.4f}" for value in vector[:NUMBERS])
        more = f" … ({len(vector)} numbers)" if len(vector) > NUMBERS else ""
        return Shown({"text": text, "vector": vector}, (f"{first}{more}\t{short(text)}",))


VERBS: Mapping[str, Verb] = {verb.task: verb for verb in (Classify(), Tag(), Answer(), Embed())}


def get_verb(task: str) -> Verb:
    """How a package of `task` is asked."""
    return VERBS[task]
