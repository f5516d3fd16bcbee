"""Batches and outputs as trees: tensors in tuples, lists and dicts, however a task nests them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return a tree of the same shape with `function` of each tensor; anything else stays."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        # dict and not type(tree): a model's output is often a dict with a constructor of its own.
        return {key: map_tensors(function, inner) for key, inner in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, inner) for inner in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, inner) for inner in tree)
    return tree


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in its own order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for inner in tree.values():
            yield from tensors_of(inner)
    elif isinstance(tree, list | tuple):
        for inner in tree:
            yield from tensors_of(inner)
