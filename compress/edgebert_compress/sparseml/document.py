"""A SparseML recipe as it lies in the file: phases of modifiers, their settings with variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import Located, as_number, from_yaml, place
from edgebert_compress.sparseml.expression import evaluate

# A local tag that ends in Modifier, or a top-level list of modifiers; comments do not count.
SIGNS = re.compile(r"^[^#\n]*![A-Za-z_]\w*Modifier\b|^\s*(\w+_)?modifiers\s*:", re.MULTILINE)
FENCE = re.compile(r"^(---|\+\+\+)\s*$")
MAX_DEPTH = 20


@dataclass(frozen=True)
class Modifier:
    """One `!Modifier` of a recipe with its settings, evaluated, by name."""

    name: str
    line: int
    settings: Mapping[str, Located]


@dataclass(frozen=True)
class Phase:
    """The modifiers of one time axis, in the order of the file. `name` is empty where there is only one."""

    name: str
    modifiers: tuple[Modifier, ...]


def is_sparseml(text: str) -> bool:
    """Whether `text` holds a SparseML recipe rather than one of ours."""
    return SIGNS.search(text) is not None


def front_matter(text: str, source: str) -> str:
    """The recipe inside a Markdown card: its front matter, else its only fenced block, else `text` itself.

    Lines before it are blanked, not cut, so that errors name the line of the file.
    Raises RecipeError when several blocks hold recipes.
    """
    lines = text.splitlines()

    def recipe_between(start: int, end: int) -> str | None:
        inner = "\n".join(lines[start + 1 : end])
        return "\n" * (start + 1) + inner if is_sparseml(inner) else None

    fences = [number for number, line in enumerate(lines) if FENCE.match(line)]
    if fences:
        found = recipe_between(fences[0], [*fences, len(lines)][1])
        if found is not None:
            return found
    closing = [number for number, line in enumerate(lines) if line.strip() == "```"]
    blocks = {
        start + 2: recipe_between(start, min([end for end in closing if end > start], default=len(lines)))
        for start, line in enumerate(lines)
        if line.strip() in ("```yaml", "```yml")
    }
    recipes = {line: block for line, block in blocks.items() if block is not None}
    if len(recipes) > 1:
        where = ", ".join(map(str, recipes))
        raise RecipeError(
            f"{source}: holds {len(recipes)} recipes (lines {where}); save one to a file of its own"
        )
    return next(iter(recipes.values()), text)


def read_document(text: str, source: str) -> tuple[tuple[Phase, ...], list[str]]:
    """The phases of a recipe and what to tell its user. Raises RecipeError naming line and key."""
    notes: list[str] = []

    def repeated(key: str, line: int) -> None:
        notes.append(f"line {line}: '{key}' is given twice; the last one counts")

    root = from_yaml(front_matter(text, source), source, repeated)
    if isinstance(root.data, list):  # a bare list of modifiers
        root = Located({"modifiers": root}, root.line)
    if not isinstance(root.data, dict):
        raise RecipeError(f"{place(source, root.line)}: a SparseML recipe is a mapping; this is none")
    variables = {key: value for key, value in root.data.items() if not _holds_modifiers(key, value)}
    phases = []
    own = {key: value for key, value in root.data.items() if _is_section(key)}
    if own:
        phases.append(Phase("", _modifiers(own, variables, source)))
    for name, stage in root.data.items():
        if _is_section(name) or not _holds_modifiers(name, stage):
            continue
        sections = {key: value for key, value in stage.data.items() if _is_section(key)}
        inner = {key: value for key, value in stage.data.items() if not _is_section(key)}
        phases.append(Phase(name, _modifiers(sections, {**variables, **inner}, source)))
    if not any(phase.modifiers for phase in phases):
        raise RecipeError(f"{source}: a SparseML recipe without modifiers; there is nothing to do")
    return tuple(phases), notes


def _is_section(key: str) -> bool:
    return key == "modifiers" or key.endswith("_modifiers")


def _holds_modifiers(key: str, value: Located) -> bool:
    if _is_section(key):
        return True
    return isinstance(value.data, dict) and any(_is_section(inner) for inner in value.data)


def _modifiers(
    sections: Mapping[str, Located], variables: Mapping[str, Located], source: str
) -> tuple[Modifier, ...]:
    found = []
    for key, section in sections.items():
        items = section.data if isinstance(section.data, list) and not section.tag else [section]
        for item in items:
            if item.data is None:
                continue  # an empty section
            if not item.tag:
                raise RecipeError(
                    f"{place(source, item.line)}: '{key}' holds something that is no '!…Modifier'; "
                    "only recipes of SparseML up to 1.5 have an equivalent"
                )
            if not isinstance(item.data, dict) and item.data != "":
                raise RecipeError(f"{place(source, item.line)}: {item.tag} has no settings but a value")
            settings = item.data if isinstance(item.data, dict) else {}
            found.append(
                Modifier(
                    item.tag,
                    item.line,
                    {name: _filled(value, variables, source) for name, value in settings.items()},
                )
            )
    return tuple(found)


def _filled(value: Located, variables: Mapping[str, Located], source: str, depth: int = 0) -> Located:
    """`value` with every `eval(…)` in it replaced by what it stands for."""
    if depth > MAX_DEPTH:
        raise RecipeError(f"{place(source, value.line)}: variables refer to each other without end")
    if isinstance(value.data, dict):
        items = {key: _filled(item, variables, source, depth + 1) for key, item in value.data.items()}
        return Located(items, value.line, value.tag)
    if isinstance(value.data, list):
        return Located(
            [_filled(item, variables, source, depth + 1) for item in value.data], value.line, value.tag
        )
    text = value.data
    if not (isinstance(text, str) and text.startswith("eval(") and text.endswith(")")):
        return value
    inner = text[5:-1].strip()

    def stands_for(name: str) -> Any:
        if name not in variables:
            known = ", ".join(variables) or "none"
            raise RecipeError(
                f"{place(source, value.line)}: unknown variable '{name[:60]}'; the recipe has: {known[:200]}"
            )
        return _filled(variables[name], variables, source, depth + 1).data

    def number(name: str) -> float:
        data = as_number(stands_for(name))
        if not isinstance(data, int | float):
            raise ValueError(f"variable '{name[:60]}' is no number")
        return data

    if inner.isidentifier():
        return Located(stands_for(inner), value.line)
    try:
        return Located(evaluate(inner, number), value.line)
    except ValueError as error:
        where = place(source, value.line)
        raise RecipeError(f"{where}: cannot compute '{text[:80]}': {error}; write the number") from error
