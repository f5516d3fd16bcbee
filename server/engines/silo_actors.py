"""Ray's actors, each the home of some silos: a silo's data is loaded by one actor, and stays there.

Flower's own pool gives a message to whichever actor is idle, so that after a few rounds each of them
has loaded the data of all silos. Here it waits for the silo's home, unless that is busy for longer
than another would need to load the data; the silo then moves, and its old home lets the data go.
Nothing of a result depends on the actor: the silo's state travels with each message.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.simulation.ray_transport.ray_actor import BasicActorPool, ClientAppActor

from server.engines.assignment import SiloCosts, WorkerAssignment
from server.engines.queues import STEAL_SECONDS
from server.engines.worker import let_go, load_app

MOST_WAITING: Final = 64
"""Messages taken from Flower's queue at once: an idle actor must find its own silos' among them, and
not take another's because that is all that was looked at.
"""

Job = tuple[Callable[[], ClientApp], Message, str, Context]


class Homes:
    """Which actor each silo's next message goes to; one message at a time for each actor."""

    def __init__(self, silos: int, actors: int) -> None:
        self._costs = SiloCosts()
        self._assignment = WorkerAssignment(silos, actors, self._costs)
        self._since: list[float | None] = [None] * actors
        """When each actor began what it works on, None while it is idle."""
        self._waiting = [0] * actors
        """Messages that wait for each actor."""
        self._started = [False] * actors
        """Which actors have answered: they start one after another, and the first must not take the
        silos of all others.
        """
        self._left: list[list[int]] = [[] for _ in range(actors)]
        """Silos that have moved away from an actor, which does not know it yet."""
        self._change = threading.Condition()

    def take(self, silo: int) -> tuple[int, list[int]]:
        """Wait for the silo's home, or for another where that pays; return the actor, and the silos
        whose data it is to let go first.
        """
        began = time.monotonic()
        with self._change:
            home = self._assignment.worker_of(silo)
            self._waiting[home] += 1
            while (actor := self._choose(silo, time.monotonic() - began)) is None:
                self._change.wait(self._until_moving(silo, time.monotonic() - began))
            self._waiting[home] -= 1
            self._since[actor] = time.monotonic()
            left, self._left[actor] = self._left[actor], []
            # A silo may have come back since.
            return actor, [one for one in left if self._assignment.worker_of(one) != actor]

    def give_back(self, actor: int, silo: int, kind: str) -> None:
        """Note that an actor is done with a silo's message of a kind."""
        with self._change:
            since, self._since[actor] = self._since[actor], None
            self._started[actor] = True
            if since is not None:
                self._costs.record(silo, kind, time.monotonic() - since)
            self._change.notify_all()

    def is_idle(self) -> bool:
        """Say whether an actor waits for work."""
        return None in self._since

    def _choose(self, silo: int, waited: float) -> int | None:
        home = self._assignment.worker_of(silo)
        if self._since[home] is None:
            return home
        if not self._started[home] or waited < self._patience(silo):
            return None
        other = self._without_work()
        if other is not None:
            self._assignment.move(silo, other)
            self._left[home].append(silo)
        return other

    def _without_work(self) -> int | None:
        """Return an idle actor for which nothing waits: one that has just answered is no other's."""
        for actor, since in enumerate(self._since):
            if since is None and not self._waiting[actor]:
                return actor
        return None

    def _patience(self, silo: int) -> float:
        """Return how long a message waits for its home before it takes another actor."""
        return max(STEAL_SECONDS, self._costs.loading(silo))

    def _until_moving(self, silo: int, waited: float) -> float | None:
        """Return after how long to look again; None: when something has changed."""
        left = self._patience(silo) - waited
        return left if left > 0 else None


class SiloActors(BasicActorPool):
    """Flower's pool, in which a silo's messages go to its home.

    `silos` are the silos' names in the order of Flower's partitions, `app` is the ClientApp as
    `module:attribute`: one that was sent along would lose what it keeps each time.
    """

    def __init__(
        self,
        resources: dict[str, Any],
        arguments: dict[str, Any],
        silos: Sequence[str],
        app: str,
    ) -> None:
        super().__init__(ClientAppActor, resources, arguments)
        self._silos = silos
        self._app = app
        self._homes: Homes | None = None
        self._asked: dict[Any, tuple[int, int, str]] = {}
        """By future: the actor, the silo, and the kind of message."""

    def open(self) -> None:
        """Begin, once all actors are there."""
        self._homes = Homes(len(self._silos), len(self.pool))

    def is_actor_available(self) -> bool:
        """See `BasicActorPool`."""
        return self._homes is not None and self._homes.is_idle()

    def submit(self, actor_fn: Any, job: Job) -> Any:
        """Give a message to its silo's home, as soon as that is idle; return the future."""
        assert self._homes is not None  # `open` was called
        _, message, partition, context = job
        silo = int(partition)
        kind = message.metadata.message_type.partition(".")[0]
        actor, left = self._homes.take(silo)
        app = functools.partial(app_without, self._app, [self._silos[one] for one in left])
        try:
            future = actor_fn(self.pool[actor], app, message, partition, context)
        except BaseException:
            self._homes.give_back(actor, silo, kind)
            raise
        self._asked[future] = (actor, silo, kind)
        return future

    def add_actor_back_to_pool(self, future: Any) -> None:
        """See `BasicActorPool`."""
        assert self._homes is not None  # something was submitted
        self._homes.give_back(*self._asked.pop(future))


def app_without(app: str, silos: list[str]) -> ClientApp:
    """Return the ClientApp of an actor, once the data of some silos was let go there."""
    let_go(silos)
    return load_app(app)
