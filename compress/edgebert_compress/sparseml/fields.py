"""The settings of one modifier by type; what has no equivalent is refused by line, modifier and field."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import Located, as_number, place, show
from edgebert_compress.sparseml.document import Modifier

EPSILON = 1e-9
LARGEST = 1e9  # nothing in a recipe comes near it


class Fields:
    """Reads `modifier`; `done` refuses the settings that nobody asked for."""

    def __init__(self, modifier: Modifier, source: str) -> None:
        self.modifier = modifier
        self.source = source
        self.seen: set[str] = set()

    def refuse(self, key: str, reason: str) -> RecipeError:
        """The error that names line, modifier and field."""
        value = self.modifier.settings.get(key)
        where = place(self.source, value.line if value else self.modifier.line)
        given = f"'{key}: {_short(value)}'" if value else f"'{key}'"
        return RecipeError(_one_line(f"{where}: {self.modifier.name}: {given} {reason}"))

    def reject(self, reason: str) -> RecipeError:
        """An error about the modifier as a whole."""
        return RecipeError(
            _one_line(f"{place(self.source, self.modifier.line)}: {self.modifier.name} {reason}")
        )

    def raw(self, key: str) -> Located | None:
        """The setting as it is; None when it is missing or null."""
        self.seen.add(key)
        value = self.modifier.settings.get(key)
        return None if value is None or value.data is None else value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw(key)
        if value is None:
            if default is None:
                raise self.reject(f"has no '{key}'; add it")
            return float(default)
        number = as_number(value.data)
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= LARGEST:
            raise self.refuse(key, f"must be a number up to {LARGEST:g}")
        return float(number)

    def whole(self, key: str, default: int) -> int:
        number = self.number(key, default)
        if not number.is_integer():
            raise self.refuse(key, "must be a whole number")
        return int(number)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if value.data in (True, False, 0, 1):
            return bool(value.data)
        raise self.refuse(key, "must be true or false")

    def text(self, key: str, default: str) -> str:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value.data, str):
            raise self.refuse(key, "must be a name")
        return value.data

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names, or one; empty when it is missing."""
        value = self.raw(key)
        if value is None:
            return ()
        items = value.data if isinstance(value.data, list) else [value]
        if not all(isinstance(item.data, str) for item in items):
            raise self.refuse(key, "must be a list of names")
        return tuple(item.data for item in items)

    def span(self, end: float) -> tuple[float, float]:
        """`start_epoch` and `end_epoch`; -1 or nothing stands for the beginning and for `end`."""
        first, last = self.number("start_epoch", -1.0), self.number("end_epoch", -1.0)
        return max(first, 0.0), end if last < 0 else last

    def expect(self, key: str, allowed: Collection[Any], reason: str) -> None:
        """Accept `key` only when it is missing or one of `allowed`."""
        value = self.raw(key)
        if value is not None and as_number(value.data) not in allowed:
            raise self.refuse(key, reason)

    def ignore(self, *keys: str) -> None:
        """Settings that change nothing here."""
        self.seen.update(keys)

    def done(self) -> None:
        """Raises RecipeError for the first setting that nothing has read."""
        for key in self.modifier.settings:
            if key not in self.seen:
                raise self.refuse(key, "has no equivalent; take it out to go on without it")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(value: Located) -> str:
    if isinstance(value.data, list | dict):
        return "…"
    return show(value.data).strip("'")[:40]
