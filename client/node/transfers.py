"""A silo's transfers: what has arrived stays, and how much one call carries follows the link.

Where the server has the calls of `strategies.wire.transfer_calls`, objects travel in parts. A part
is as large as the link carries in some seconds, as measured, so that a broken call costs seconds
and a heartbeat never waits long behind one; a call that fails is followed by one for what is still
missing, on either side. Over a fast link a call carries a whole chunk, or all small objects of a
message at once. There is no deadline for a transfer: it goes on as long as parts arrive.

Objects of the last large message are kept, by their digest: evaluation of one round and training of
the next begin from the same model, and it is received once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from client.node.arrivals import LARGEST, Arrivals, Gap
from client.node.pace import FAST, CallLost, Pace
from strategies.wire.frames import Buffer, Content, range_of
from strategies.wire.transfer_calls import (
    ABSENT,
    MOST_HEAD,
    MOST_PARTS,
    Part,
    PullPartsRequest,
    PushPartsRequest,
)

log = logging.getLogger(__name__)

OBJECTS_AT_ONCE: Final = 2
"""One is on the wire while the other is signed and copied."""
PART_DEADLINE: Final = 20.0
"""After which a call has failed: the link is a tenth of what it was, or carries nothing at all."""
MOST_FRUITLESS: Final = 10
"""Calls one after the other that are answered and move nothing, before a transfer is given up."""
LOG_SECONDS: Final = 30.0
"""Between two lines of the log about a transfer that takes long."""

A = TypeVar("A")
B = TypeVar("B")


DOWN: Final = "down"
UP: Final = "up"
WORTH_TELLING: Final = 3.0
"""Seconds that a transfer takes before somebody is told: most are over sooner."""
WATCH_SECONDS: Final = 2.0
"""Between two times that somebody is told of a transfer that takes long."""
Watch = Callable[[str, int, float], None]
"""Is told of a transfer that takes long: `DOWN` or `UP`, bytes left (0: it is over), bytes a second."""


class TransferLost(Exception):
    """The server does not know this transfer (any more), or refuses an object of it."""


class Once(Protocol):
    """Makes a call once; raises CallLost where there is no answer, after a pause."""

    def __call__(self, name: str, request: Any, deadline: float) -> Any:
        """Return the answer."""


@dataclass(frozen=True)
class Pulled:
    """The objects of a message, by id."""

    contents: dict[str, Buffer]
    in_one_call: bool
    """Whether the server has sent all of them in one call, and needs no confirmation."""


class Transfers:
    """What a connection receives and sends in parts."""

    def __init__(
        self,
        once: Once,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        most: int = LARGEST,
    ) -> None:
        self._once = once
        self._clock = clock
        self._watch = watch or (lambda direction, left, rate: None)
        self._down = Pace()
        self._up = Pace()
        self._arrivals = Arrivals(most)
        self._sent: dict[str, int] = {}
        """Of the objects that are being sent, how many bytes the server has said it has."""
        self._began = 0.0
        self._logged_at = 0.0
        self._watched_at = 0.0

    def pull(self, node: Any, run_id: int, ids: Sequence[str]) -> Pulled:
        """Return a message's objects; those of the last large message are not asked for again.

        Raises TransferLost where the server has one no longer; what has arrived stays for the next
        call. Raises WireError MDW-651.
        """
        self._arrivals.begin(ids)
        self._begin()
        calls = 0
        fruitless = 0
        all_asked = len(self._arrivals.missing(ids)) == len(ids)
        while gaps := self._arrivals.missing(ids):
            unknown = any(gap.size is None for gap in gaps)
            left = sum(gap.bytes for gap in gaps)
            if not unknown:
                self._arrivals.make_room(ids)
                self._tell(DOWN, left, self._down)
            groups = _groups(gaps, self._down.bytes)
            if unknown or self._down.bytes < FAST:
                groups = groups[:1]

            def one(group: list[Gap], left: int = left) -> Any:
                return self._pull_group(node, run_id, group, left)

            calls += len(groups)
            answered = False
            gained = 0
            for answer in side_by_side(one, groups):
                for part in answer:
                    answered = True
                    gained += len(part.content)
                    if part.size == ABSENT:
                        raise TransferLost(f"object {part.object_id[:12]} is not there any more")
                    self._arrivals.add(part)
            fruitless = _fruitless(fruitless, answered and not gained)
        self._end(DOWN)
        return Pulled(self._arrivals.finish(ids), all_asked and calls == 1)

    def push_at_once(self, head: Any, run_id: int, contents: Mapping[str, Content]) -> bool:
        """Send a small reply, head and all, in one call; False where it is too large for that, or
        where the call was lost: then `push` does it.
        """
        size = sum(len(content) for content in contents.values())
        if size > self._up.bytes or len(contents) > MOST_PARTS or head.ByteSize() > MOST_HEAD // 2:
            return False
        parts = [
            Part(object_id=id, size=len(content), content=content)
            for id, content in contents.items()
        ]
        request = PushPartsRequest(node=head.node, run_id=run_id, parts=parts, head=head)
        try:
            answer = self._once("PushParts", request, PART_DEADLINE)
        except CallLost as error:
            self._up.lost(error)
            return False
        here = {part.object_id for part in answer.parts if part.start == part.size}
        return here == set(contents)

    def heard(self, begun: Mapping[str, int], contents: Mapping[str, Content]) -> None:
        """Note what a server says that it has of the objects that are to be sent, before `push`."""
        before = sum(self._sent.values())
        self._sent = {
            id: count for id, count in begun.items() if 0 <= count < len(contents.get(id, b""))
        }
        if before and not self._sent:
            log.info("the server has nothing of the objects that were being sent: they go anew")

    def push(
        self,
        node: Any,
        run_id: int,
        session: str,
        contents: Mapping[str, Content],
        ids: Sequence[str],
    ) -> bool:
        """Send objects of `contents`; False where the server does not know the upload any more.

        What the server has of them already, after a transfer that was interrupted, is not sent
        again. Raises TransferLost where it does not take one.
        """
        self._sent = {id: self._sent.get(id, 0) for id in ids}
        self._begin()
        fruitless = 0
        while gaps := self._unsent(contents):
            groups = _groups(gaps, self._up.bytes)
            if self._up.bytes < FAST:
                groups = groups[:1]
            left = sum(gap.bytes for gap in gaps)
            self._tell(UP, left, self._up)

            def one(group: list[Gap], left: int = left) -> Any:
                return self._push_group(node, run_id, session, contents, group, left)

            answered = False
            for answer in side_by_side(one, groups):
                if answer is UNKNOWN:
                    return False
                for part in answer:
                    answered = True
                    self._sent[part.object_id] = part.start
            lefts = sum(gap.bytes for gap in self._unsent(contents))
            fruitless = _fruitless(fruitless, answered and lefts >= left)
        self._end(UP)
        self._sent = {}
        return True

    def _unsent(self, contents: Mapping[str, Content]) -> list[Gap]:
        gaps = [Gap(id, start, len(contents[id])) for id, start in self._sent.items()]
        return [gap for gap in gaps if gap.bytes > 0]

    def _pull_group(self, node: Any, run_id: int, group: list[Gap], left: int) -> Any:
        """Return the parts of one call, none where it was lost."""
        most = self._down.bytes
        parts = [Part(object_id=gap.id, start=gap.start) for gap in group]
        others = max(0, left - sum(gap.bytes for gap in group))
        request = PullPartsRequest(node=node, run_id=run_id, parts=parts, most=most, left=others)
        began = self._clock()
        try:
            answer = self._once("PullParts", request, PART_DEADLINE)
        except CallLost as error:
            self._down.lost(error)
            return ()
        count = sum(len(part.content) for part in answer.parts)
        self._down.carried(count, self._clock() - began)
        return answer.parts

    def _push_group(
        self,
        node: Any,
        run_id: int,
        session: str,
        contents: Mapping[str, Content],
        group: list[Gap],
        left: int,
    ) -> Any:
        """Return what the server then has of each object; UNKNOWN where it knows no such upload."""
        room = self._up.bytes
        parts = []
        for gap in group:
            content = range_of(contents[gap.id], gap.start, room)
            room -= len(content)
            parts.append(
                Part(object_id=gap.id, start=gap.start, size=len(contents[gap.id]), content=content)
            )
        count = sum(len(part.content) for part in parts)
        request = PushPartsRequest(
            node=node, run_id=run_id, session_id=session, parts=parts, left=left - count
        )
        began = self._clock()
        try:
            answer = self._once("PushParts", request, PART_DEADLINE)
        except CallLost as error:
            self._up.lost(error)
            return ()
        self._up.carried(count, self._clock() - began)
        return answer.parts or UNKNOWN

    def _begin(self) -> None:
        self._began = self._clock()
        self._logged_at = self._began
        self._watched_at = self._began

    def _tell(self, direction: str, left: int, pace: Pace) -> None:
        """Tell of a transfer in progress, in the log and to whoever watches, now and then."""
        now = self._clock()
        if now - self._began >= WORTH_TELLING and now - self._watched_at >= WATCH_SECONDS:
            self._watched_at = now
            self._watch(direction, left, pace.rate)
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            what = "receiving" if direction == DOWN else "sending"
            log.info(
                "%s: %.1f MB left, %.0f kB/s in the last call", what, left / 1e6, pace.rate / 1e3
            )

    def _end(self, direction: str) -> None:
        if self._watched_at > self._began:
            self._watch(direction, 0, 0.0)


UNKNOWN: Final = ("unknown",)
"""In place of an answer: the server does not know the upload."""


def _fruitless(before: int, again: bool) -> int:
    """Count calls one after the other that were answered and moved nothing.

    Raises TransferLost after `MOST_FRUITLESS`: a server that means well moves something.
    """
    now = before + 1 if again else 0
    if now > MOST_FRUITLESS:
        raise TransferLost("the server answers, and moves nothing")
    return now


def _groups(gaps: Sequence[Gap], most: int) -> list[list[Gap]]:
    """Divide what is missing into calls, in order: as many as fit into `most` bytes, at least one."""
    groups: list[list[Gap]] = []
    room = 0
    for gap in gaps:
        if not groups or gap.bytes > room or len(groups[-1]) >= MOST_PARTS:
            groups.append([])
            room = most
        groups[-1].append(gap)
        room -= gap.bytes
    return groups


def side_by_side(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield the results of a few at a time, in no order; the first failure stops the rest."""
    running = set[Future[B]]()
    pool = ThreadPoolExecutor(OBJECTS_AT_ONCE, thread_name_prefix="objects")
    try:
        for item in items:
            running.add(pool.submit(work, item))
            if len(running) >= 2 * OBJECTS_AT_ONCE:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        yield from (one.result() for one in running)
    finally:
        # Without waiting: a call that is being made again would hold up a process that was told to
        # end.
        pool.shutdown(wait=False, cancel_futures=True)
