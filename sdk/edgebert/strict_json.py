"""JSON from strangers: no repeated keys, no NaN, every field's type and range checked, nothing left over."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from edgebert.errors import PackageError

T = TypeVar("T")

FILE_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_])?", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
MAX_INTEGER = 1 << 48


def parse_json(raw: bytes, name: str) -> Any:
    """Parse UTF-8 JSON. Raises PackageError that names the file `name`."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) != len(items):
            raise ValueError("a repeated key")
        return dict(items)

    def constant(text: str) -> NoReturn:
        raise ValueError(f"the number {text}")

    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # lone surrogates, 1e999
        return value
    except (ValueError, RecursionError) as error:
        what = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise PackageError(
            f"{name} is not valid JSON ({what}); download or build the package again"
        ) from None


class Fields:
    """The members of one JSON object, each taken once; `finish` refuses what nobody took."""

    def __init__(self, value: object, where: str) -> None:
        self._where = where
        if not isinstance(value, dict):
            self._fail("must be a JSON object", value)
        self._left: dict[str, Any] = dict(value)

    def _fail(self, what: str, value: object) -> NoReturn:
        raise PackageError(
            f"{self._where} {what}, not {repr(value)[:60]}; download or build the package again"
        )

    def _take(self, key: str) -> Any:
        if key not in self._left:
            raise PackageError(f"{self._where} has no '{key}'; download or build the package again")
        return self._left.pop(key)

    def finish(self) -> None:
        if self._left:
            key = sorted(self._left)[0]
            raise PackageError(
                f"{self._where} has an unknown key {key[:60]!r}; update edgebert or build it again"
            )

    def done(self, value: T) -> T:
        """`value`, after checking that every key was taken."""
        self.finish()
        return value

    def text(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str) or not value:
            self._fail(f"needs a non-empty string in '{key}'", value)
        return value

    def choice(self, key: str, *allowed: str) -> str:
        value = self.text(key)
        if value not in allowed:
            self._fail(f"needs {' or '.join(allowed)} in '{key}'", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        if not all(isinstance(value, str) and value for value in values):
            self._fail(f"needs non-empty strings in '{key}'", values)
        return tuple(values)

    def file_name(self, key: str) -> str:
        value = self.text(key)
        if not FILE_NAME.fullmatch(value):
            self._fail(f"needs a plain file name without folders in '{key}'", value)
        return value

    def sha256(self, key: str) -> str:
        value = self.text(key)
        if not SHA256.fullmatch(value):
            self._fail(f"needs a SHA-256 of 64 hex digits in '{key}'", value)
        return value

    def integer(self, key: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._fail(f"needs an integer from {low} to {high} in '{key}'", value)
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        values = self._list(key)
        if not all(type(value) is int and 0 <= value <= MAX_INTEGER for value in values):
            self._fail(f"needs non-negative integers in '{key}'", values)
        return tuple(values)

    def number(self, key: str) -> float:
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_INTEGER:
            self._fail(f"needs a number in '{key}'", value)
        return value  # an int stays one: the manifest must come out as it went in

    def flag(self, key: str) -> bool:
        value = self._take(key)
        if not isinstance(value, bool):
            self._fail(f"needs true or false in '{key}'", value)
        return value

    def shape(self, key: str) -> tuple[int | str, ...]:
        values = self._list(key)
        if not all(type(v) is str or (type(v) is int and 0 < v <= MAX_INTEGER) for v in values):
            self._fail(f"needs positive integers or names in '{key}'", values)
        return tuple(values)

    def object(self, key: str) -> Fields:
        return Fields(self._take(key), f"{self._where}, '{key}',")

    def objects(self, key: str) -> list[Fields]:
        return [Fields(value, f"{self._where}, '{key}' {i},") for i, value in enumerate(self._list(key))]

    def free(self, key: str) -> Mapping[str, Any]:
        """Any JSON object."""
        value = self._take(key)
        if not isinstance(value, dict):
            self._fail(f"needs an object in '{key}'", value)
        return value

    def integer_map(self) -> dict[str, int]:
        return {key: self.integer(key, low=-MAX_INTEGER) for key in list(self._left)}

    def number_map(self) -> dict[str, float]:
        return {key: self.number(key) for key in list(self._left)}

    def sha256_map(self) -> dict[str, str]:
        return {key: self.sha256(key) for key in list(self._left)}

    def _list(self, key: str) -> list[Any]:
        value = self._take(key)
        if not isinstance(value, list):
            self._fail(f"needs a list in '{key}'", value)
        return value
