"""A grid on a clock of its own.

Silos answer when a script says so, and time passes only when somebody waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.run import Run

from server.round.exchange import Answer
from server.round.silo_grid import SiloGrid
from strategies.wire import protocol
from tests.unused_grid import UnusedGrid

FAILS = -1.0
"""In a script: the message can't be sent."""

Script = dict[int, list[tuple[float, int | None]]]


def sums_of(examples: int, loss: float, right: int = 0) -> ArrayRecord:
    """Return the sums of an evaluation of digits.

    `right` of the zeros are recognised, others not.
    """
    confusion = np.zeros((10, 10), np.int64)
    confusion[0, 0] = right
    confusion[0, 1] = examples - right
    return ArrayRecord(
        {
            "loss": Array(np.array(loss * examples)),
            "size": Array(np.array(examples)),
            "confusion": Array(confusion),
        }
    )


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Silos:
    """Answers a node's n-th message after so many seconds.

    `script[node] = [(seconds, error code), ...]`.
    """

    def __init__(self, clock: Clock, script: Script) -> None:
        self.clock = clock
        self.script = script
        self.sent: list[Message] = []
        self.due: list[tuple[float, Message]] = []
        self.online_at: dict[int, float] = {}

    def push(self, message: Message) -> str:
        """Take a message and return its id.

        An empty one where the script says that it can't be sent.
        """
        seconds, error = self.script[message.metadata.dst_node_id].pop(0)
        if seconds == FAILS:
            return ""
        self.sent.append(message)
        message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
        if error is None:
            reply = Message(RecordDict(), reply_to=message)
        else:
            reply = Message(Error(error, "scripted"), reply_to=message)
        self.due.append((self.clock.now + seconds, reply))
        return f"m{len(self.sent)}"

    def arrived(self, message_ids: Iterable[str]) -> list[Message]:
        """Return, once, the replies that are there by now."""
        wanted = set(message_ids)
        here = [
            one
            for one in self.due
            if one[0] <= self.clock.now and one[1].metadata.reply_to_message_id in wanted
        ]
        self.due = [one for one in self.due if one not in here]
        return [reply for _, reply in sorted(here, key=lambda one: one[0])]

    def there(self) -> list[int]:
        """Return the nodes that are online."""
        return [node for node in self.script if self.clock.now >= self.online_at.get(node, 0.0)]


class ScriptedGrid(SiloGrid):
    """A grid of ours over such silos. `stray` replies are yielded once, whatever was asked for."""

    def __init__(self, clock: Clock, script: Script) -> None:
        self.silos = Silos(clock, script)
        self.clock = clock
        self.stray: list[Message] = []
        self.forgotten: set[str] = set()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self.silos.push(message) for message in messages]

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        assert timeout is not None, "an exchange never waits without a limit"
        while self.stray:
            yield self.stray.pop()
        waiting = set(message_ids)
        end = self.clock.now + timeout
        moments = sorted(
            at for at, reply in self.silos.due if reply.metadata.reply_to_message_id in waiting
        )
        for at in moments:
            if at > end:
                break
            self.clock.now = max(self.clock.now, at)
            yield from self.silos.arrived(waiting)
        else:
            return
        self.clock.now = max(self.clock.now, end)

    def forget(self, message_ids: Iterable[str]) -> None:
        self.forgotten |= set(message_ids)

    def get_node_ids(self) -> list[int]:
        return self.silos.there()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError

    def names(self) -> dict[int, str]:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError


class TrainingGrid(ScriptedGrid):
    """Silos that add their node's number to each weight; by phase and node it can be changed.

    `after`: seconds until the reply. `wrong`: what comes in place of the reply, or is raised.
    `metrics`: more of them.
    """

    def __init__(self, clock: Clock, names: dict[int, str]) -> None:
        super().__init__(clock, {})
        self.known = dict(names)
        self.after: dict[tuple[str, int], float] = {}
        self.wrong: dict[tuple[str, int], RecordDict | Error | BaseException] = {}
        self.metrics: dict[tuple[str, int], dict[str, float | int]] = {}

    @property
    def asked(self) -> list[tuple[str, int]]:
        """The phase and the node of every message so far."""
        sent = self.silos.sent
        return [(message.metadata.message_type, message.metadata.dst_node_id) for message in sent]

    def names(self) -> dict[int, str]:
        return dict(self.known)

    def get_node_ids(self) -> list[int]:
        return list(self.known)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        key = (message.metadata.message_type, message.metadata.dst_node_id)
        self.silos.sent.append(message)
        message_id = f"m{len(self.silos.sent)}"
        message.metadata.__dict__["_message_id"] = message_id
        wrong = self.wrong.get(key)
        if isinstance(wrong, BaseException):
            raise wrong
        if isinstance(wrong, Error):
            reply = Message(wrong, reply_to=message)
        else:
            reply = Message(wrong or self._trained(message, key), reply_to=message)
        self.silos.due.append((self.clock.now + self.after.get(key, 0.0), reply))
        return message_id

    def _trained(self, message: Message, key: tuple[str, int]) -> RecordDict:
        metrics: dict[str, float | int] = {protocol.NUM_EXAMPLES: 10, protocol.LOSS: 1.0}
        metrics |= self.metrics.get(key, {})
        content = RecordDict({protocol.METRICS: MetricRecord({**metrics})})
        examples = int(metrics[protocol.NUM_EXAMPLES])
        if key[0] == "evaluate" and examples:
            content[protocol.SUMS] = sums_of(examples, metrics[protocol.LOSS])
        if key[0] == "train":
            sent = protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]
            content[protocol.ARRAYS] = weights(sent["w"].numpy() + key[1])
        return content


def weights(values: np.ndarray) -> ArrayRecord:
    """Return a model that is one array."""
    return ArrayRecord({"w": Array(values.astype(np.float32))})


class PolledGrid(UnusedGrid):
    """A grid as Flower has it, which has to be asked again and again, over such silos."""

    def __init__(self, clock: Clock, script: Script) -> None:
        self.silos = Silos(clock, script)
        self.clock = clock
        self.looks = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self.silos.push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.looks += 1
        return self.silos.arrived(message_ids)

    def get_node_ids(self) -> list[int]:
        return self.silos.there()


def outcome(answer: Answer) -> tuple[int, int | None]:
    """Return an answer's node and its error code, None where it is no error."""
    if answer.reply.has_error():
        return answer.node, answer.reply.error.code
    return answer.node, None
