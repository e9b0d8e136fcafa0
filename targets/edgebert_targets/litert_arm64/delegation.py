"""Which operators XNNPACK takes over, as the loaded runtime itself has decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DELEGATE = "DELEGATE"


@dataclass(frozen=True)
class Delegation:
    """`pieces`: parts of the graph that XNNPACK runs; `left`: names of the operators outside of them."""

    pieces: int
    operators: int
    left: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the operators, in [0, 1]."""
        return 1 - len(self.left) / self.operators if self.operators else 0.0


def delegation(interpreter: Any) -> Delegation:
    """Of the first subgraph of an ai_edge_litert Interpreter, whose tensors this allocates."""
    interpreter.allocate_tensors()
    return _delegation(interpreter._get_ops_details())


def _delegation(listed: Sequence[Mapping[str, Any]]) -> Delegation:
    """The runtime lists the graph's operators as they were, then the delegates that replace some of them.

    With one piece, what feeds it and what it feeds lies outside; everything else is inside.
    """
    delegates = [op for op in listed if op["op_name"] == DELEGATE]
    operators = [op for op in listed if op["op_name"] != DELEGATE]
    if len(delegates) != 1:
        return Delegation(len(delegates), len(operators), tuple(op["op_name"] for op in operators))
    before = _reached(operators, delegates[0]["inputs"], "outputs", "inputs")
    after = _reached(operators, delegates[0]["outputs"], "inputs", "outputs")
    # What the delegate makes was made by an operator that is inside.
    inside = set(map(int, delegates[0]["outputs"]))
    left = [
        op["op_name"]
        for i, op in enumerate(operators)
        if i in before | after and not inside & set(map(int, op["outputs"]))
    ]
    return Delegation(1, len(operators), tuple(left))


def _reached(
    operators: Sequence[Mapping[str, Any]], tensors: Iterable[Any], meets: str, leads: str
) -> set[int]:
    """Operators whose `meets` touch `tensors`, and those that theirs lead to."""
    known, found = set(map(int, tensors)), set[int]()
    while True:
        new = {i for i, op in enumerate(operators) if i not in found and known & set(map(int, op[meets]))}
        if not new:
            return found
        found |= new
        known |= {int(tensor) for i in new for tensor in operators[i][leads]}
