"""Parameters that do not learn during one training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from edgebert_compress.errors import RecipeError


def frozen_names(names: Sequence[str], patterns: Sequence[str]) -> frozenset[str]:
    """Those of the parameter `names` that match one of `patterns`, in which * stands for anything.

    Raises RecipeError for a pattern that matches nothing, and when nothing is left to learn.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(
                f"'frozen' has {pattern[:80]!r}, which matches none of the {len(names)} parameters, "
                f"such as {names[0]}; correct it"
            )
    found = frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
    if found and len(found) == len(names):
        raise RecipeError(f"'frozen' matches all {len(names)} parameters: nothing would learn; name fewer")
    return found


@contextmanager
def frozen(model: nn.Module, patterns: Sequence[str]) -> Iterator[None]:
    """Turn gradients off for the parameters that match `patterns`; on leaving all is as it was.

    Raises RecipeError as `frozen_names` does.
    """
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].requires_grad for name in frozen_names(list(parameters), patterns)}
    for name in before:
        parameters[name].requires_grad_(False)
    try:
        yield
    finally:
        for name, learned in before.items():
            parameters[name].requires_grad_(learned)


def check_pruned(pruned: Collection[str], patterns: Sequence[str]) -> None:
    """Raises RecipeError when a tensor that oBERT prunes is frozen: it needs gradients and moves weights."""
    for name in pruned:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            raise RecipeError(
                f"'frozen' matches {name}, which oBERT prunes and moves; name fewer, or prune by magnitude"
            )
