"""A silo's failure is one line, whatever wraps it."""

from __future__ import annotations

import pytest

from server.round.error_text import plain_reason

RAY = (
    "<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=8, "
    "ip=192.0.2.2, actor_id=3f, repr=<flwr.simulation.ray_transport.ray_actor.ClientAppActor object at 0x7f>)\n"
    '  File "flwr/simulation/ray_transport/ray_actor.py", line 58, in run\n    out_message = app(message=message)\n'
    "    raise error\nconf.errors.DataError: MDW-201: silo north has no examples. Give it some.\n\n"
    "The above exception was the direct cause of the following exception:\n\n"
    "\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=8, ip=192.0.2.2)\n"
    "flwr.clientapp.client_app.ClientAppException: MDW-201: silo north has no examples. Give it some.'>"
)
ACTOR = "The actor died unexpectedly before finishing this task.\n\tclass_name: ClientAppActor\n\tip: 192.0.2.2\n"


@pytest.mark.parametrize(
    ("reason", "plain"),
    [
        (RAY, "DataError: MDW-201: silo north has no examples. Give it some."),
        ("ValueError: no such label", "ValueError: no such label"),
        ("Traceback:\n  File x\nKeyboardInterrupt", "KeyboardInterrupt"),
        (
            f"<class 'ray.exceptions.ActorDiedError'>:<'{ACTOR}'>",
            "The actor died unexpectedly before finishing this task.",
        ),
        (None, "no reason given"),
        ("", "no reason given"),
        ("gone", "gone"),
        (
            "RuntimeError: Error(s) in loading state_dict for Buf:\n"
            '\tMissing key(s) in state_dict: "scale". \n'
            '\tUnexpected key(s) in state_dict: "bias". ',
            "RuntimeError: Error(s) in loading state_dict for Buf:"
            ' Missing key(s) in state_dict: "scale". Unexpected key(s) in state_dict: "bias".',
        ),
        (
            "Traceback (most recent call last):\n  File x\n    Fault: of a line of code\n"
            "torch.OutOfMemoryError: no room\n  Tried: 2 GiB",
            "OutOfMemoryError: no room Tried: 2 GiB",
        ),
        ("the silo refuses:\n  no policy", "the silo refuses: no policy"),
        ("ValueError: " + "x" * 1000, "ValueError: " + "x" * 385 + "..."),
    ],
)
def test_the_reason_is_the_exception_that_the_client_raised(reason: str | None, plain: str) -> None:
    assert plain_reason(reason) == plain
    assert plain_reason(plain_reason(reason)) == plain
