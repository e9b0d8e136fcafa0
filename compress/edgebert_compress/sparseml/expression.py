"""Arithmetic in recipes, such as `warmup_epochs + 2`, over Python's syntax tree; nothing is executed."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

MAX_CHARACTERS = 1000
OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,  # of floats only: 9**9**9 overflows at once instead of filling the memory
}
FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "float": float,
    "floor": math.floor,
    "int": int,
    "max": max,
    "min": min,
    "round": round,
}


def evaluate(text: str, lookup: Callable[[str], float]) -> float:
    """The value of an arithmetic expression; names are looked up. A whole result is an int.

    Raises ValueError, with a reason, for anything but numbers, names, + - * / // % **, parentheses and
    `FUNCTIONS`, and for a result that is not finite.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = float(_compute(tree.body, lookup))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not an arithmetic expression") from error
    except (ArithmeticError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return int(value) if value.is_integer() else value


def _compute(node: ast.expr, lookup: Callable[[str], float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return lookup(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_compute(left, lookup), _compute(right, lookup))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_compute(operand, lookup)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _compute(operand, lookup)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](*(_compute(arg, lookup) for arg in args))
    raise ValueError(f"'{ast.unparse(node)[:60]}' is no arithmetic")
