"""The home-intents task as data: labels, training draws, held-out sentences and the model's folder."""

import json
from functools import cache
from pathlib import Path

from edgebert.demo.home_intents import grammar
from edgebert.errors import DataError

HERE = Path(__file__).parent
LABELS: tuple[str, ...] = (
    "light_on",
    "light_off",
    "light_brighter",
    "light_dimmer",
    "light_color",
    "temperature_up",
    "temperature_down",
    "weather_query",
    "time_query",
    "music_play",
    "music_pause",
    "music_next",
    "volume_up",
    "volume_down",
    "alarm_set",
    "alarm_cancel",
    "timer_set",
    "reminder_add",
    "call_start",
    "message_send",
    "door_lock",
    "door_unlock",
    "blinds_open",
    "blinds_close",
    "vacuum_start",
    "vacuum_stop",
    "shopping_add",
    "navigation_start",
    "phone_find",
    "out_of_scope",
)


def training_examples(seed: int = 0, count: int = 12000) -> list[tuple[str, str]]:
    """`count` different (text, label) pairs drawn from the grammar and shuffled; the same each time.

    Raises DataError for a count below one per label or beyond what the grammar can give.
    """
    if count < 4 * len(LABELS):
        raise DataError(
            f"{count} training sentences for {len(LABELS)} labels are too few: ask for 120 or more"
        )
    try:
        return grammar.load().examples(seed, count)
    except ValueError as error:
        raise DataError(str(error)) from error


@cache
def _read(name: str) -> tuple[tuple[str, str], ...]:
    rows = [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines() if line]
    return tuple((row["text"], row["label"]) for row in rows)


def heldout_examples() -> list[tuple[str, str]]:
    """The (text, label) pairs written by hand for testing; the model never sees them in training."""
    return list(_read("heldout.jsonl"))


def dev_examples() -> list[tuple[str, str]]:
    """The (text, label) pairs written by hand that guided the grammar."""
    return list(_read("dev.jsonl"))


def model_folder() -> Path:
    """The bundled checkpoint: a BertForSequenceClassification folder with its tokenizer."""
    return HERE / "model"
