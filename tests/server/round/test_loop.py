"""The round loop on a grid without processes: what becomes part of the run, and what does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.run import Run

from conf.compose import compose
from conf.errors import ConfigError, RoundError
from conf.schema import Conf
from server.round.grid import SiloGrid
from server.round.loop import Rounds
from server.run.checkpoint import Checkpoints
from server.run.history import Mark, read_history
from server.run.ledger import verify_file
from server.store.folder import FolderStore
from strategies import build_strategy
from strategies.wire import protocol
from tests.server.round.sessions import session_in, weight

pytestmark = pytest.mark.usefixtures("task_identity")


class Adding(SiloGrid):
    """Silos that add their node's number to each weight, at once; `broken` ones answer with what it holds."""

    def __init__(self, silos: dict[int, str], broken: dict[int, Any] | None = None) -> None:
        self.silos, self.broken = silos, broken or {}
        self.asked: list[tuple[str, int]] = []
        self.answers: dict[str, Message] = {}

    def names(self) -> dict[int, str]:
        return dict(self.silos)

    def get_node_ids(self) -> list[int]:
        return list(self.silos)

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            node, kind = message.metadata.dst_node_id, message.metadata.message_type
            id = message.metadata.__dict__["_message_id"] = f"{len(self.asked)}"
            self.asked.append((kind, node))
            self.answers[id] = self.answer(message, node, kind)
            ids.append(id)
        return ids

    def answer(self, message: Message, node: int, kind: str) -> Message:
        wrong = self.broken.get(node)
        if isinstance(wrong, Error):
            return Message(wrong, reply_to=message)
        if isinstance(wrong, BaseException) and kind == "evaluate":
            raise wrong
        metrics = MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 1.0})
        if kind == "evaluate":
            return Message(RecordDict({protocol.METRICS: metrics}), reply_to=message)
        arrays = protocol.to_numpy(protocol.records(message.content, ArrayRecord)[protocol.ARRAYS])
        added = np.full_like(arrays["w"], np.nan) if wrong == "nan" else arrays["w"] + node
        content = RecordDict(
            {protocol.ARRAYS: ArrayRecord({"w": Array(added)}), protocol.METRICS: metrics}
        )
        return Message(content, reply_to=message)

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        return iter(
            [self.answers.pop(id) for id in reversed(list(message_ids)) if id in self.answers]
        )

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return list(self.replies(message_ids, 0))

    def forget(self, message_ids: Iterable[str]) -> None:
        for id in message_ids:
            self.answers.pop(id, None)


@pytest.fixture
def conf() -> Conf:
    return compose(["run.rounds=2", "run.reconnect_patience=0"])


def rounds_over(grid: Adding, conf: Conf, folder: Path) -> Rounds:
    return Rounds(session_in(folder, conf), grid, build_strategy(conf.strategy))


def test_two_rounds_give_the_mean_twice(conf: Conf, tmp_path: Path) -> None:
    rounds = rounds_over(Adding({1: "a", 2: "b", 3: "c"}), conf, tmp_path)
    state = rounds.session.state
    assert not rounds.run()
    assert (state.round, weight(state)) == (2, 4.0)
    assert [record.replied for record in read_history(tmp_path)] == [["a", "b", "c"]] * 2
    assert verify_file(tmp_path / "ledger.jsonl").faults == []


def test_what_breaks_off_a_round_leaves_the_state_of_the_one_before(
    conf: Conf, tmp_path: Path
) -> None:
    grid = Adding({1: "a", 2: "b"}, {2: KeyboardInterrupt()})
    rounds = rounds_over(grid, conf, tmp_path)
    state = rounds.session.state
    with pytest.raises(KeyboardInterrupt):
        rounds.run()
    assert ("evaluate", 2) in grid.asked, "it was broken off after the training had been averaged"
    assert (state.round, weight(state), state.history) == (0, 0.0, Mark())
    stored = Checkpoints(FolderStore(tmp_path)).load()
    assert stored is not None
    assert (stored.round, weight(stored)) == (0, 0.0)


def test_a_metric_that_is_not_there_stops_before_the_round_counts(
    conf: Conf, tmp_path: Path
) -> None:
    conf.run.early_stop.patience, conf.run.early_stop.metric = 1, "accuracy"
    rounds = rounds_over(Adding({1: "a"}), conf, tmp_path)
    with pytest.raises(ConfigError, match="MDW-107"):
        rounds.run()
    assert (rounds.session.state.round, rounds.session.state.history) == (0, Mark())


def test_an_update_that_is_not_finite_is_left_out_named_and_in_the_ledger(
    conf: Conf, tmp_path: Path
) -> None:
    rounds = rounds_over(Adding({1: "a", 2: "b", 3: "c"}, {2: "nan"}), conf, tmp_path)
    state = rounds.session.state
    rounds.run()
    assert weight(state) == 4.0
    assert "not finite" in next(read_history(tmp_path)).failed["b"]
    assert '"MDW-614"' in (tmp_path / "ledger.jsonl").read_text()


def test_a_silo_that_failed_is_named_and_too_many_of_them_end_the_run(
    conf: Conf, tmp_path: Path
) -> None:
    raised = Error(2, "ValueError: no disk")
    names = {1: "a", 2: "b", 3: "c"}
    one = rounds_over(Adding(names, {3: raised}), conf, tmp_path / "one")
    one.run()
    assert next(read_history(tmp_path / "one")).failed == {"c": "ValueError: no disk"}
    two = rounds_over(Adding(names, {2: raised, 3: raised}), conf, tmp_path / "two")
    with pytest.raises(RoundError, match=r"1 of the 2 updates.*b, c: ValueError: no disk"):
        two.run()


def test_a_silo_whose_key_was_changed_is_asked_once_at_its_new_node(
    conf: Conf, tmp_path: Path
) -> None:
    grid = Adding({1: "a", 2: "b"})
    rounds = rounds_over(grid, conf, tmp_path)
    state = rounds.session.state
    grid.silos = {1: "a", 7: "b"}
    rounds.run()
    assert [record.cohort for record in read_history(tmp_path)] == [["a", "b"], ["a", "b"]]
    assert [node for kind, node in grid.asked if kind == "train"] == [1, 7, 1, 7]
    assert weight(state) == 8.0
