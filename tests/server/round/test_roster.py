"""On a grid of Flower's own each node says its name; who says none, or another's, takes no part."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from conf.compose import compose
from conf.errors import RoundError, SiloError
from conf.schema import Conf
from server.round import roster
from server.round.roster import silo_names
from strategies.wire import protocol
from tests.unused_grid import UnusedGrid

pytestmark = pytest.mark.usefixtures("task_identity")


class NamedGrid(UnusedGrid):
    """Nodes that answer with a name, with something else, or not at all (None)."""

    def __init__(self, says: dict[int, object]) -> None:
        self.says = says

    def get_node_ids(self) -> list[int]:
        return list(self.says)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.sent = {str(m.metadata.dst_node_id): m for m in messages}
        return list(self.sent)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for name in list(message_ids):
            reply = self._reply(self.sent[name])
            if reply is not None:
                reply.metadata.__dict__["_reply_to_message_id"] = name
                replies.append(reply)
        return replies

    def _reply(self, asked: Message) -> Message | None:
        said = self.says[asked.metadata.dst_node_id]
        if said is None:
            return None
        if isinstance(said, Error):
            return Message(said, reply_to=asked)
        content = RecordDict()
        if isinstance(said, str | int):
            content[protocol.CONFIG] = ConfigRecord({protocol.SILO: said})
        return Message(content, reply_to=asked)


def conf(quorum: int = 2) -> Conf:
    return compose([f"run.start_quorum={quorum}", "run.start_timeout=2"])


def names(says: dict[int, object], quorum: int = 2) -> dict[int, str]:
    return silo_names(NamedGrid(says), conf(quorum), len(says), 0)


def test_each_node_says_which_silo_it_is() -> None:
    assert names({1: "a", 2: "b", 3: "c"}) == {1: "a", 2: "b", 3: "c"}


@pytest.mark.parametrize(
    "said", [Error(0, "its app raised"), "", "x" * 5000, "../c", "c\n\x1b[2J", 7, b"no record"]
)
def test_a_node_that_says_no_name_costs_the_others_nothing(
    said: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert names({1: "a", 2: "b", 3: said}) == {1: "a", 2: "b"}
    assert "MDW-302" in caplog.text and "\x1b" not in caplog.text


def test_of_two_nodes_with_one_name_neither_takes_part(caplog: pytest.LogCaptureFixture) -> None:
    assert names({1: "a", 2: "b", 3: "c", 4: "c"}) == {1: "a", 2: "b"}
    assert "MDW-303" in caplog.text


def test_a_run_that_has_too_few_left_says_why() -> None:
    with pytest.raises(SiloError, match="MDW-302"):
        names({1: "a", 2: Error(0, "its app raised")})
    with pytest.raises(SiloError, match="MDW-303"):
        names({1: "a", 2: "c", 3: "c"})


def test_a_node_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "GRACE", 0.1)
    assert names({1: "a", 2: "b", 3: None}) == {1: "a", 2: "b"}


def test_too_few_nodes_are_waited_for_until_the_start_s_timeout() -> None:
    with pytest.raises(RoundError, match=r"MDW-402.*1 of 2"):
        silo_names(
            NamedGrid({1: "a"}), compose(["run.start_quorum=2", "run.start_timeout=0.2"]), 3, 0
        )
