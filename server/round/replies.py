"""A round's admitted replies as a strategy gets them: one by one as they arrive, or all in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp.strategy import Strategy

from conf.errors import RoundError


class ReadOnce(Iterator[Message]):
    """The replies as a streaming strategy gets them.

    A second reading would find nothing, so it is an error.
    """

    def __init__(self, updates: Iterator[tuple[str, Message]], strategy: Strategy) -> None:
        self._updates = updates
        self._reader = type(strategy).__name__
        self._ended = False

    def __iter__(self) -> Iterator[Message]:
        if self._ended:
            raise RoundError(
                "MDW-403",
                f"The strategy {self._reader} reads a round's replies twice;"
                " it declares that it reads them once.",
                "Keep what it needs of each reply, or do not derive it from Streaming.",
            )
        return self

    def __next__(self) -> Message:
        try:
            return next(self._updates)[1]
        except StopIteration:
            self._ended = True
            raise


def in_order(updates: Iterable[tuple[str, Message]]) -> list[Message]:
    """Return replies in the order of their silos' names: arrival must not change the model.

    The name is the one that was asked, not one that a reply says.
    """
    return [reply for _, reply in sorted(updates, key=lambda update: update[0])]
