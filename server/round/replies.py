"""A round's admitted replies as a strategy gets them: one by one as they arrive, or all in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message
from flwr.serverapp.strategy import Strategy

from conf.errors import MeadowError, RoundError
from server.round.sent_model import Largest
from strategies.streaming import Replies


class ReadOnce(Replies):
    """The replies as a streaming strategy gets them.

    A second reading would find nothing, so it is an error. `refuse_of` takes the update of a silo
    out of the round, and `largest_of` says how large admission found it to be.
    """

    def __init__(
        self,
        updates: Iterator[tuple[str, Message]],
        strategy: Strategy,
        refuse_of: Callable[[str, MeadowError], None],
        largest_of: Callable[[str], Largest] = lambda silo: {},
    ) -> None:
        self._updates = updates
        self._reader = type(strategy).__name__
        self._refuse_of = refuse_of
        self._largest_of = largest_of
        self._ended = False
        self.last: str | None = None
        """The silo whose update was read last."""
        self.count = 0
        """How many were read."""
        self.raised: BaseException | None = None
        """What the round raised while it waited for an update."""

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
            self.last, reply = next(self._updates)
        except StopIteration:
            self._ended = True
            raise
        except BaseException as error:
            self.raised = error
            raise
        self.count += 1
        return reply

    def refuse(self, why: MeadowError) -> None:
        """See `Replies`."""
        assert self.last is not None
        self._refuse_of(self.last, why)

    def silo(self) -> str:
        """See `Replies`."""
        return self.last or ""

    def largest(self) -> Largest:
        """See `Replies`."""
        return {} if self.last is None else self._largest_of(self.last)


def in_order(updates: Iterable[tuple[str, Message]]) -> list[Message]:
    """Return replies in the order of their silos' names: arrival must not change the model.

    The name is the one that was asked, not one that a reply says.
    """
    return [reply for _, reply in sorted(updates, key=lambda update: update[0])]
