"""The JSON schema of a recipe, made from the dataclasses that read it.

It says what one key may hold. Rules between keys (initial below final sparsity, quantising last) are checked
when the recipe is read.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal, Union

from edgebert_compress.located import Range
from edgebert_compress.recipe_stages import STAGE_KINDS
from edgebert_compress.recipe_training import FineTuneStage

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The schema of a whole recipe, draft 2020-12, in plain JSON types."""
    return {
        "$schema": DIALECT,
        "title": "EdgeBERT recipe",
        "description": "Which compression stages run, in which order, with which settings.",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "name": {"type": "string", "description": "Name; default: that of the file."},
            "description": {"type": "string", "description": "One line on what it is for.", "default": ""},
            "fine_tune": _object(FineTuneStage),
            "stages": {
                "type": "array",
                "description": "Stages in order; 'quantize' only last.",
                "minItems": 1,
                "items": {"oneOf": [_stage(kind, stage) for kind, stage in STAGE_KINDS.items()]},
            },
        },
    }


def _stage(kind: str, stage: type) -> dict[str, Any]:
    schema = _object(stage)
    schema["properties"] = {
        "kind": {"const": kind, "description": "Which stage this is."},
        **{key: value for key, value in schema["properties"].items() if key != "kind"},
    }
    return {"title": kind, **schema, "required": ["kind"]}


def _object(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties = {}
    for field in dataclasses.fields(kind):
        schema = _value(hints[field.name], field.metadata.get("range"))
        default = default_of(field)
        if dataclasses.is_dataclass(default):
            schema = _with_defaults(schema, default)
        elif default is not None:
            schema["default"] = default
        if "about" in field.metadata:
            schema["description"] = field.metadata["about"]
        properties[field.name] = schema
    return {
        "type": "object",
        "description": (kind.__doc__ or "").split("\n", maxsplit=1)[0].strip(),
        "additionalProperties": False,
        "properties": properties,
    }


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The value that a field takes when the recipe leaves it out."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _with_defaults(schema: dict[str, Any], instance: Any) -> dict[str, Any]:
    """The schema of a nested mapping with the defaults that the stage around it sets."""
    properties = {
        key: value | ({} if getattr(instance, key) is None else {"default": getattr(instance, key)})
        for key, value in schema["properties"].items()
    }
    return schema | {"properties": properties}


def _value(annotation: Any, allowed: Range | None) -> dict[str, Any]:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        options = [_value(option, allowed) for option in args]
        return {"anyOf": options}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "minItems": 1, "items": _value(args[0], None)}
    if dataclasses.is_dataclass(annotation):
        return _object(typing.cast(type, annotation))
    names = {float: "number", int: "integer", bool: "boolean", str: "string", type(None): "null"}
    schema: dict[str, Any] = {"type": names[annotation]}
    if allowed is not None and annotation in (int, float):
        schema["exclusiveMinimum" if allowed.low_open else "minimum"] = allowed.low
        if not math.isinf(allowed.high):
            schema["exclusiveMaximum" if allowed.high_open else "maximum"] = allowed.high
    return schema
