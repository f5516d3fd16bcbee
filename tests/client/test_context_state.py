"""A round asked again starts from that round's state; runs do not mix; evaluation changes nothing."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from client.context_state import holds, state_mod
from conf.errors import CheckpointError
from strategies.wire import protocol

pytestmark = pytest.mark.usefixtures("task_identity")


def context() -> Context:
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})


def count(message: Message, context: Context) -> Message:
    """A ClientApp that counts in its state how often it was called."""
    so_far = context.state.metric_records.get("count", MetricRecord({"n": 0}))["n"]
    assert isinstance(so_far, int)
    context.state["count"] = MetricRecord({"n": so_far + 1})
    return Message(
        RecordDict({protocol.METRICS: MetricRecord({"n": so_far + 1})}), reply_to=message
    )


def ask(
    context: Context,
    round: int,
    run: str = "run",
    kind: str = "train",
    counted: int | None = None,
) -> int:
    config = ConfigRecord({protocol.RUN_ID: run, protocol.ROUND: round})
    if counted is not None:
        config[protocol.COUNTED] = counted
    reply = state_mod(Message(RecordDict({protocol.CONFIG: config}), 2, kind), context, count)
    n = reply.content.metric_records[protocol.METRICS]["n"]
    assert isinstance(n, int)
    return n


def test_a_round_asked_again_starts_from_the_state_before_it() -> None:
    here = context()
    assert [ask(here, 1), ask(here, 2), ask(here, 2), ask(here, 2), ask(here, 3)] == [1, 2, 2, 2, 3]


def test_going_back_two_rounds_is_possible_and_forgets_the_later_ones() -> None:
    here = context()
    assert [ask(here, r) for r in (1, 2, 3)] == [1, 2, 3]
    assert [ask(here, 3), ask(here, 4)] == [3, 4]


def test_what_an_archive_holds_can_be_asked() -> None:
    here = context()
    ask(here, 1)
    ask(here, 12)
    assert holds(here.state, "run", 12) and holds(here.state, "run", 1)
    assert not holds(here.state, "run", 2) and not holds(here.state, "other", 1)


def test_runs_do_not_mix() -> None:
    here = context()
    assert [ask(here, 1), ask(here, 1, run="other"), ask(here, 2), ask(here, 2, run="other")] == [
        1,
        1,
        2,
        2,
    ]


def test_evaluation_sees_the_state_and_leaves_it_alone() -> None:
    here = context()
    ask(here, 1)
    assert [ask(here, 2, kind="evaluate"), ask(here, 2, kind="evaluate"), ask(here, 2)] == [2, 2, 2]


def test_the_archive_does_not_grow() -> None:
    here = context()
    for round in range(1, 30):
        ask(here, round)
    assert len(here.state) == 2


def test_a_round_starts_from_the_last_one_that_counted() -> None:
    here = context()
    assert [ask(here, 1, counted=0), ask(here, 2, counted=1)] == [1, 2]
    # Round 2 was lost, and so was round 3.
    assert [ask(here, 3, counted=1), ask(here, 4, counted=1)] == [2, 2]
    # Round 4 counted; then the silo was not asked for a while.
    assert [ask(here, 9, counted=4), ask(here, 10, counted=9)] == [3, 4]
    assert len(here.state) == 2


def test_an_evaluation_sees_what_its_round_has_left() -> None:
    here = context()
    ask(here, 1, counted=0)
    assert ask(here, 1, kind="evaluate", counted=1) == 2
    assert ask(here, 1, kind="evaluate", counted=0) == 1


def test_a_round_whose_state_is_gone_starts_empty_for_the_app_to_notice() -> None:
    here = context()
    assert ask(here, 5, counted=4) == 1


def test_a_message_without_a_run_passes_through() -> None:
    here = context()
    state_mod(
        Message(RecordDict(), 2, "query.hello"),
        here,
        lambda m, c: Message(RecordDict(), reply_to=m),
    )
    assert len(here.state) == 0


@pytest.mark.parametrize(
    ("name", "code"),
    [("99|run|1|count", "MDW-505"), ("0|run|1|count", "MDW-505"), ("run|1|count", "MDW-506"),
     ("count", "MDW-506"), ("1|run|one|count", "MDW-506")],
)  # fmt: skip
def test_a_state_of_another_version_or_damaged_is_refused_and_kept(name: str, code: str) -> None:
    here = context()
    here.state[name] = MetricRecord({"n": 7})
    with pytest.raises(CheckpointError, match=code):
        ask(here, 2)
    assert list(here.state) == [name]
