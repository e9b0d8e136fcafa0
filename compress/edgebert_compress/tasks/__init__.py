"""The tasks that models can be trained, pruned and quantised for."""

from edgebert_compress.architecture import TaskName
from edgebert_compress.errors import TrainingError
from edgebert_compress.tasks.base import Batch, TrainingTask
from edgebert_compress.tasks.masked_language_model import MaskedLanguageModel
from edgebert_compress.tasks.question_answering import QuestionAnswering
from edgebert_compress.tasks.text_classification import TextClassification
from edgebert_compress.tasks.token_classification import TokenClassification

__all__ = [
    "MASKED_LANGUAGE_MODEL", "QUESTION_ANSWERING", "TASKS", "TEXT_CLASSIFICATION", "TOKEN_CLASSIFICATION",
    "Batch", "TaskName", "TrainingTask", "get_task",
]  # fmt: skip

TEXT_CLASSIFICATION = TextClassification()
TOKEN_CLASSIFICATION = TokenClassification()
QUESTION_ANSWERING = QuestionAnswering()
MASKED_LANGUAGE_MODEL = MaskedLanguageModel()
TASKS: dict[str, TrainingTask] = {
    task.name: task
    for task in (TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, MASKED_LANGUAGE_MODEL)
}


def get_task(name: str) -> TrainingTask:
    """The task called `name`. Raises TrainingError for an unknown one."""
    if name not in TASKS:
        raise TrainingError(f"unknown task '{name[:60]}'; known: {', '.join(TASKS)}")
    return TASKS[name]
