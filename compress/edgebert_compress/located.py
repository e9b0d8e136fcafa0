"""Settings read from YAML with the line of every value, and checked against frozen dataclasses.

What a field accepts comes from its annotation; what it means and the allowed range of a number
from its metadata (`about`, `bounded`).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union

from edgebert_compress.errors import RecipeError

T = TypeVar("T")
MAX_NODES = 10_000  # a recipe has some 50; a bomb of YAML aliases has millions


@dataclass(frozen=True)
class Range:
    """Allowed numbers; an open end excludes its bound."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if math.isinf(self.high) or self.low_open:
            return f"{'above' if self.low_open else 'at least'} {self.low:g}" + (
                ""
                if math.isinf(self.high)
                else f" and {'below' if self.high_open else 'at most'} {self.high:g}"
            )
        return (
            f"in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"
        )


def about(text: str, allowed: Range | None = None) -> dict[str, Any]:
    """Metadata of a dataclass field: what the published schema says of it, and the allowed numbers."""
    return {"about": text} | ({"range": allowed} if allowed else {})


def bounded(default: T, allowed: Range, text: str) -> T:
    """A dataclass field with `default` whose number must lie in `allowed`; `text` as in `about`."""
    field: T = dataclasses.field(default=default, metadata=about(text, allowed))
    return field


@dataclass(frozen=True)
class Located:
    """A scalar, a list of Located or a dict of Located, with the line it came from (0: no file).

    `tag`: the name after `!` in the YAML; read only where the caller asks for tags.
    """

    data: Any
    line: int
    tag: str = ""


def place(source: str, line: int) -> str:
    return f"{source}, line {line}" if line else source


def from_plain(value: object, depth: int = 0) -> Located:
    """Wrap what `json.load` gives. Raises RecipeError when it nests too deeply."""
    if depth > 20:
        raise RecipeError("the recipe nests more than 20 levels deep; a recipe has four")
    if isinstance(value, Mapping):
        return Located({str(key): from_plain(item, depth + 1) for key, item in value.items()}, 0)
    if isinstance(value, list | tuple):
        return Located([from_plain(item, depth + 1) for item in value], 0)
    return Located(value, 0)


def from_yaml(text: str, source: str, repeated: Callable[[str, int], None] | None = None) -> Located:
    """Parse one YAML document with the safe loader. Raises RecipeError with the line.

    `repeated` makes it lenient, for recipes of others: local tags are kept as `Located.tag`, and of an anchor
    or a key given twice the last counts, for a key after `repeated(key, line)`.
    """
    import yaml

    class Lenient(yaml.SafeLoader):
        """As YAML 1.2 has it: an anchor given twice stands for the last value."""

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if not self.check_event(yaml.AliasEvent):
                event = self.peek_event()  # type: ignore[no-untyped-call]
                self.anchors.pop(getattr(event, "anchor", None), None)
            return super().compose_node(parent, index)

    loader = yaml.SafeLoader(text) if repeated is None else Lenient(text)
    budget = MAX_NODES

    def mapping_items(node: yaml.MappingNode) -> dict[str, Located]:
        items: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in items:
                if repeated is None:
                    raise RecipeError(f"{place(source, line)}: key '{key[:60]}' is given twice; keep one")
                repeated(key, line)
            items[key] = build(value_node)
        return items

    def build(node: yaml.Node) -> Located:
        nonlocal budget
        budget -= 1
        line = node.start_mark.line + 1
        if budget < 0:
            raise RecipeError(f"{source}: more than {MAX_NODES} values; write the recipe without aliases")
        tag = node.tag[1:] if repeated is not None and node.tag.startswith("!") else ""
        if isinstance(node, yaml.MappingNode):
            return Located(mapping_items(node), line, tag)
        if isinstance(node, yaml.SequenceNode):
            return Located([build(item) for item in node.value], line, tag)
        return Located(node.value if tag else loader.construct_object(node), line, tag)

    try:
        node = loader.get_single_node()
        if node is None:
            raise RecipeError(f"{source}: the file is empty; see the built-in recipes for the form")
        return build(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = place(source, mark.line + 1 if mark else 0)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RecipeError(f"{where}: not valid YAML ({problem}); fix that line") from error
    except (RecursionError, ValueError) as error:
        raise RecipeError(
            f"{source}: not a recipe ({type(error).__name__}); see the built-in ones"
        ) from error
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def as_number(data: object) -> object:
    """YAML 1.1 reads 1e-4 (no dot) as text; people mean the number."""
    if isinstance(data, str):
        try:
            return float(data)
        except ValueError:
            return data
    return data


def _is_integer(data: object) -> bool:
    return isinstance(data, int) and not isinstance(data, bool)


def _convert(  # noqa: PLR0911, PLR0912 - one case a type
    annotation: Any, value: Located, source: str, key: str
) -> Any:
    """`value` as the annotated type. Raises RecipeError."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    data = value.data
    where = place(source, value.line)
    if origin in (Union, types.UnionType):
        problems = []
        for option in args:
            if option is type(None):
                if data is None:
                    return None
                continue
            try:
                return _convert(option, value, source, key)
            except RecipeError as error:
                problems.append(str(error).rsplit(" must be ", 1)[-1].split(",")[0])
        raise RecipeError(f"{where}: '{key}' must be {' or '.join(problems)}, not {show(data)}")
    if dataclasses.is_dataclass(annotation):
        return read_dataclass(typing.cast(type, annotation), value, source, key)
    if origin is Literal:
        if data not in args:
            choices = ", ".join(f"'{arg}'" for arg in args)
            raise RecipeError(
                f"{where}: '{key}' must be one of {choices}, not {show(data)}".replace(", '", " '")
            )
        return data
    if origin is tuple:
        if not isinstance(data, list) or not data:
            example = "['*.query.weight']" if args[0] is str else "[0 2 4]"
            raise RecipeError(f"{where}: '{key}' must be a list such as {example}, not {show(data)}")
        return tuple(_convert(args[0], item, source, key) for item in data)
    if annotation is bool:
        if isinstance(data, bool):
            return data
        raise RecipeError(f"{where}: '{key}' must be true or false, not {show(data)}")
    if annotation is float:
        number = as_number(data)
        if _is_integer(number) or isinstance(number, float):
            return float(typing.cast(float, number))
        raise RecipeError(f"{where}: '{key}' must be a number, not {show(data)}")
    if annotation is int:
        if _is_integer(data):
            return data
        raise RecipeError(f"{where}: '{key}' must be a whole number, not {show(data)}")
    if isinstance(data, str):
        return data
    raise RecipeError(f"{where}: '{key}' must be text, not {show(data)}")


def show(data: object) -> str:
    if isinstance(data, dict):
        return "a mapping"
    if isinstance(data, list):
        return "a list"
    return "nothing" if data is None else f"'{' '.join(str(data).split())[:60]}'"


def unknown_key(key: str, known: list[str], where: str) -> RecipeError:
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
    return RecipeError(f"{where}: unknown key '{key[:60]}'; {hint}")


def mapping(value: Located, source: str, key: str) -> dict[str, Located]:
    if not isinstance(value.data, dict):
        raise RecipeError(f"{place(source, value.line)}: '{key}' must be a mapping, not {show(value.data)}")
    return value.data


def read_dataclass(kind: type[T], value: Located, source: str, key: str) -> T:
    """Build `kind` from a mapping. Raises RecipeError naming source, line and key."""
    items = mapping(value, source, key)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, item in items.items():
        where = place(source, item.line or value.line)
        if name not in fields:
            raise unknown_key(name, list(fields), where)
        found[name] = _convert(hints[name], item, source, name)
        problem = range_problem(fields[name], found[name])
        if problem:
            raise RecipeError(f"{where}: {problem}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in found:
            raise RecipeError(f"{place(source, value.line)}: '{name}' is missing in '{key}'; add it")
    try:
        return kind(**found)
    except RecipeError as error:
        raise RecipeError(f"{place(source, value.line)}: {error}") from error


def range_problem(field: dataclasses.Field[Any], value: object) -> str | None:
    """What is wrong with a number, None when nothing is."""
    allowed = field.metadata.get("range")
    if allowed is None or not isinstance(value, int | float) or value in allowed:
        return None
    return f"'{field.name}' must be {allowed}, not {value:g}"


def check_ranges(instance: Any) -> None:
    """For `__post_init__`: settings built in Python obey the same ranges. Raises RecipeError."""
    for field in dataclasses.fields(instance):
        problem = range_problem(field, getattr(instance, field.name))
        if problem:
            raise RecipeError(problem)
