"""A silo is sent what it lacks of a model: nothing, a step, or all of it; and no round is lost over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.supercore.run import Run

from client import model_step
from client.model_step import step_mod
from conf.compose import compose
from conf.errors import MeadowError
from server.orchestrator.packed_grid import MOST_MISSED, PackedGrid, PackingGrid
from server.round.downlink import Downlink
from server.round.exchange import Closing, exchange
from strategies.wire import protocol, run_config
from strategies.wire.digests import arrays_digest
from strategies.wire.packing import packing_mod

pytestmark = pytest.mark.usefixtures("task_identity")

CONF = compose(["task=digits", "compression.down=int8"])
CLOSING = Closing(timeout=30, quorum=2, patience=30)


class Silos(PackingGrid):
    """Two nodes that answer at once, each with the digest of the model that its app was given."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, ArrayRecord]] = {1: {}, 2: {}}
        self.sizes: list[int] = []
        """Bytes of arrays of each message."""
        self.own = True
        self._replies: dict[str, Message] = {}

    @property
    def run(self) -> Run:
        return Run.create_empty(0)

    def names(self) -> dict[int, str]:
        return {1: "north", 2: "south"}

    def get_node_ids(self) -> list[int]:
        return [1, 2]

    def packs(self, node: int) -> bool:
        return self.own

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            id = f"message {len(self.sizes)}"
            message.metadata.__dict__["_message_id"] = id
            self.sizes.append(protocol.size(message.content))
            self._replies[id] = self._answer(message)
            ids.append(id)
        return ids

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(0, node, {}, RecordDict(), {})
        # Each node is a process of its own.
        model_step._models = self.kept[node]
        given = make_message(metadata=message.metadata, content=RecordDict({**message.content}))
        try:
            return packing_mod(given, context, lambda m, c: step_mod(m, c, app))
        except MeadowError as error:
            return Message(Error(0, f"the silo says {error.code}"), reply_to=message)

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        for id in list(message_ids):
            if id in self._replies:
                yield self._replies.pop(id)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return list(self.replies(message_ids, 0))

    def forget(self, message_ids: Iterable[str]) -> None:
        """Nothing is open."""


def app(message: Message, context: Context) -> Message:
    arrays = protocol.records(message.content, ArrayRecord)
    assert list(arrays) == [protocol.ARRAYS] and protocol.STEP not in message.content
    digest = arrays_digest(arrays[protocol.ARRAYS])
    return Message(RecordDict({"saw": ConfigRecord({"digest": digest})}), reply_to=message)


def model(shift: float) -> ArrayRecord:
    return protocol.to_record({"w": torch.linspace(-1, 1 + shift, 5000)})


class Rounds:
    """What the round loop does with a grid and a downlink."""

    def __init__(self) -> None:
        self.silos = Silos()
        self.grid = PackedGrid(self.silos)
        made = Downlink.of(CONF.compression, {"w"}, 0)
        assert made is not None
        self.down = made
        self.model = model(0.0)
        self.grid.offer(self.down.sent(self.model))

    def ask(self) -> list[str]:
        """Send the model to both silos, which must see it; return how each was sent it."""
        text = run_config.pack(CONF)
        config = ConfigRecord({protocol.RUN_CONFIG: text})
        content = RecordDict({protocol.ARRAYS: self.model, protocol.CONFIG: config})
        messages = [Message(content, node, "train") for node in (1, 2)]
        told = [self.grid.bytes_of(message) for message in messages]
        self.silos.sizes.clear()
        answers = list(exchange(self.grid, messages, CLOSING))
        assert len(answers) == 2
        for _, reply, _ in answers:
            assert reply.content["saw"]["digest"] == arrays_digest(self.model)  # type: ignore[index]  # a config record
        assert told == self.silos.sizes[:2]
        whole = protocol.size(content)
        return [how(size / whole) for size in self.silos.sizes]

    def next(self, shift: float) -> None:
        """Close a round."""
        offer = self.down.next(self.model, model(shift), int(shift * 100))
        self.model = offer.model
        self.grid.offer(offer)


def how(share: float) -> str:
    return "whole" if share == 1 else "nothing" if share == 0 else "step" if share < 0.3 else "?"


def test_a_silo_is_sent_what_it_lacks() -> None:
    rounds = Rounds()
    assert rounds.ask() == ["whole", "whole"]
    assert rounds.ask() == ["nothing", "nothing"]
    rounds.next(0.01)
    assert rounds.ask() == ["step", "step"]
    assert rounds.ask() == ["nothing", "nothing"]
    rounds.next(0.02)
    rounds.next(0.03)
    # Two steps behind: only the last one is there.
    assert rounds.ask() == ["whole", "whole"]


def test_a_process_that_was_started_again_is_sent_the_whole_model_in_the_same_round() -> None:
    rounds = Rounds()
    rounds.ask()
    rounds.next(0.01)
    rounds.silos.kept[2].clear()
    assert rounds.ask() == ["step", "step", "whole"]
    rounds.next(0.02)
    assert rounds.ask() == ["step", "step"]


def test_one_that_never_has_it_is_soon_sent_whole_models_only() -> None:
    rounds = Rounds()
    for number in range(MOST_MISSED + 2):
        for kept in rounds.silos.kept.values():
            kept.clear()
        ways = rounds.ask()
        assert ("step" in ways) == (0 < number <= MOST_MISSED)
        rounds.next((number + 1) / 100)


def test_nodes_of_another_kind_and_other_models_get_all_of_it() -> None:
    rounds = Rounds()
    rounds.ask()
    rounds.next(0.01)
    rounds.model = model(0.5)
    assert rounds.ask() == ["whole", "whole"]


def test_of_a_node_whose_answer_was_not_waited_for_nobody_knows_what_it_has() -> None:
    rounds = Rounds()
    rounds.ask()
    rounds.next(0.01)
    content = RecordDict({protocol.ARRAYS: rounds.model, protocol.CONFIG: ConfigRecord()})
    ids = rounds.grid.push_messages([Message(content, 2, "train")])
    rounds.grid.forget(ids)
    assert rounds.ask() == ["step", "whole"]
