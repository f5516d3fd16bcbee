"""What a model of this tree asks of a task's examples."""

from __future__ import annotations

import math

from client.tasks.base import Contract
from conf.errors import DataError


def features(contract: Contract, model: str) -> int:
    """Return how many numbers an example has.

    Raises DataError MDW-207 where that varies, or where one answer an example is not enough.
    """
    if contract.dense:
        raise unfit(
            f"model={model} gives one answer an example, and the task needs one for each element"
            " of it",
            "Use the task's own model (model=task).",
        )
    sides = [side for side in contract.shape if side is not None]
    if len(sides) < len(contract.shape):
        raise unfit(
            f"model={model} needs examples of one size, the task's are {said(contract)}",
            "Have the task pad or cut its examples, or bring its own model (model=task).",
        )
    return math.prod(sides)


def image(contract: Contract, model: str) -> tuple[int, int, int]:
    """Return channels, height and width; raises DataError MDW-207 where examples are no images."""
    if len(contract.shape) != 3:
        raise unfit(
            f"model={model} needs images (channels, height, width),"
            f" the task's examples are {said(contract)}",
            "Use model=mlp, or have the task bring its own model (model=task).",
        )
    # Where a side varies this says so.
    features(contract, model)
    channels, height, width = contract.shape
    assert channels is not None and height is not None and width is not None
    return channels, height, width


def said(contract: Contract) -> str:
    """Return an example's shape as a person writes it: 3 x 32 x 32."""
    sides = ["any" if side is None else str(side) for side in contract.shape]
    return " x ".join(sides) or "single numbers"


def unfit(what: str, hint: str) -> DataError:
    """Return the error for a model that does not fit the task's examples."""
    return DataError("MDW-207", f"{what}.", hint)
