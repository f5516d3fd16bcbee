"""This process is the server of a run as long as it says so, and then who it was."""

from __future__ import annotations

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from server.engines.server_identity import give_identity_back, take_identity


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is nothing to Flower yet, whatever other tests have made of it."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, None)


def test_a_message_can_be_made_while_the_identity_is_taken_and_not_after() -> None:
    before = take_identity(7)
    assert Message(RecordDict(), 2, "train").metadata.run_id == 7
    give_identity_back(before)
    with pytest.raises(RuntimeError, match="is not set"):
        Message(RecordDict(), 2, "train")


def test_one_inside_another_is_given_back_to_the_outer() -> None:
    before = take_identity(1)
    inner = take_identity(2)
    give_identity_back(inner)
    assert TaskIdentity.run_id == 1
    give_identity_back(before)
