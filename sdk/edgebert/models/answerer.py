"""A package that answers questions with a part of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgebert.errors import DataError
from edgebert.models.base import PackageModel, checked_texts
from edgebert.tasks.question_answering import Answer, best_answers


@dataclass(frozen=True)
class QuestionOn:
    """A question on a text."""

    question: str
    context: str


class Answerer(PackageModel):
    """Opened by `edgebert.load` for question answering."""

    def answer(
        self, questions: Sequence[str], contexts: Sequence[str], *, may_be_none: bool = False
    ) -> list[Answer]:
        """The answer to each question from the context beside it, which is read in windows if it is long.

        `may_be_none`: an empty answer where the model, trained for that, finds none. Raises DataError,
        UsageError.
        """
        checked_texts(questions, "question")
        checked_texts(contexts, "context")
        if len(questions) != len(contexts):
            raise DataError(f"{len(questions)} questions but {len(contexts)} contexts; give one for each")
        examples = [QuestionOn(*pair) for pair in zip(questions, contexts, strict=True)]
        rows = self.rows(examples)
        return best_answers(self.answers(rows), rows, examples, may_be_none=may_be_none)
