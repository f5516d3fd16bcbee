"""Errors leave a silo without their text, whoever's node runs its app; in a simulation they stay whole."""

from __future__ import annotations

import logging

import pytest
from flwr.app import Context, Message, RecordDict

from client.app import app
from client.border_mod import OWN_NODE, border_mod
from conf.border import CrossedError
from conf.errors import DataError

SECRET = "/data/patients/Jane Doe.csv"


def context(**node: str | int | bool) -> Context:
    return Context(1, 1, {name.replace("_", "-"): v for name, v in node.items()}, RecordDict(), {})


def asked() -> Message:
    return Message(RecordDict(), 7, "train")


@pytest.mark.usefixtures("task_identity")
@pytest.mark.parametrize("error", [ValueError(SECRET), DataError("MDW-201", SECRET)])
def test_a_node_of_flower_s_sends_no_text(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(message: Message, context: Context) -> Message:
        raise error

    with pytest.raises(CrossedError, match=r"^MDW-(647|201)") as crossed:
        border_mod(asked(), context(silo="{}"), broken)
    assert SECRET not in str(crossed.value)
    assert crossed.value.__cause__ is None and crossed.value.__suppress_context__
    assert SECRET in caplog.text, "the silo's own log has it"


@pytest.mark.usefixtures("task_identity")
@pytest.mark.parametrize("node", [{"partition_id": 0}, {OWN_NODE.replace("-", "_"): True}])
def test_where_there_is_no_border_or_another_guard_the_error_stays_whole(
    node: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(message: Message, context: Context) -> Message:
        raise ValueError(SECRET)

    caplog.set_level(logging.ERROR)
    with pytest.raises(ValueError, match="Jane"):
        border_mod(asked(), context(**node), broken)
    assert caplog.text == ""


def test_the_app_has_the_guard_outermost() -> None:
    assert app._mods[0] is border_mod
