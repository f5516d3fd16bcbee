"""What silos tell before round 1: admitted as an evaluation's sums are, and fitted once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from client.models import build_model
from client.tasks import task_of
from conf.errors import RoundError
from conf.schema import Conf, MlpConf, RunConf, TableConf
from server.round.statistics import fitted
from strategies.wire import protocol
from tests.unused_grid import UnusedGrid

pytestmark = pytest.mark.usefixtures("task_identity")

NAMES = {1: "north", 2: "south", 3: "west"}
COLUMNS = [
    {"name": "age", "low": 0, "high": 100},
    {"name": "sex", "type": "category", "values": ["f", "m"]},
    {"name": "ill", "type": "flag"},
]


def told(examples: int, total: float, squares: float) -> ArrayRecord:
    """Of so many rows, ages in units of the range: -1 to 1."""
    return ArrayRecord(
        {
            "present": Array(np.array([examples, examples])),
            "total": Array(np.array([total, 0.0])),
            "squares": Array(np.array([squares, 0.0])),
            "values": Array(np.array([examples, 0])),
            "classes": Array(np.array([examples, 0])),
            "size": Array(np.array(examples)),
        }
    )


class TellingGrid(UnusedGrid):
    """Each node's answer is what `answers` has for it."""

    def __init__(self, answers: dict[int, ArrayRecord | Error | None]) -> None:
        self.answers = answers
        self._waiting: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
            answer = self.answers[message.metadata.dst_node_id]
            if isinstance(answer, Error):
                self._waiting.append(Message(answer, reply_to=message))
            else:
                content = RecordDict({} if answer is None else {protocol.SUMS: answer})
                self._waiting.append(Message(content, reply_to=message))
            ids.append(f"m{number}")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        replies, self._waiting = self._waiting, []
        return iter(replies)


def mean_after(answers: dict[int, ArrayRecord | Error | None], quorum: int | None = None) -> float:
    conf = Conf(task=TableConf(label="ill", columns=COLUMNS), model=MlpConf(), run=RunConf())
    conf.run.quorum = quorum
    task = task_of(conf.task)
    arrays = protocol.to_record(build_model(conf.model, task, 0).state_dict())
    made = fitted(conf, task, TellingGrid(answers), NAMES, ConfigRecord(), arrays)
    return float(made["input.mean"].numpy()[0])


def test_the_layer_is_fitted_to_all_silos_together() -> None:
    mean = mean_after({1: told(10, -5.0, 4.0), 2: told(30, 15.0, 9.0), 3: told(10, 0.0, 1.0)})

    assert mean == pytest.approx(50 + 50 * 10 / 50)


@pytest.mark.parametrize(
    "lie",
    [
        told(10, 1e30, 1.0),
        told(10, float("nan"), 1.0),
        told(10, 10.5, 1.0),
        told(0, 0.0, 0.0),
        ArrayRecord({"size": Array(np.array(10))}),
        Error(1, "SiloError: MDW-341"),
        None,
    ],
)
def test_one_that_lies_fails_or_tells_nothing_costs_its_own_part_alone(
    lie: ArrayRecord | Error | None, caplog: pytest.LogCaptureFixture
) -> None:
    mean = mean_after({1: told(10, 5.0, 4.0), 2: lie, 3: told(10, 5.0, 4.0)})

    assert mean == pytest.approx(75)
    assert "south tells no statistics" in caplog.text


def test_too_few_that_tell_end_the_run_before_anything_is_trained() -> None:
    with pytest.raises(RoundError, match=r"1 of 3 silos tell .*south: .*west: ") as caught:
        mean_after({1: told(10, 5.0, 4.0), 2: None, 3: None})

    assert caught.value.code == "MDW-416"
