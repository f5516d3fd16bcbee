"""The round loop on a grid without processes: what becomes part of the run, and what does not."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.serverapp.strategy import Strategy

from azureml_jobs.storage.folder_store import FolderStore
from conf.compose import compose
from conf.errors import ConfigError, RoundError
from conf.schema import Conf
from conf.seeds import seed_for
from server.observers.base import Observer
from server.round.cohort import select
from server.round.exchange import Answer, Closing, Judge, exchange
from server.round.rounds import Rounds
from server.run.checkpoint import Checkpoints
from server.run.history import Mark, read_history
from server.run.result import Metrics, RoundRecord
from server.run.verdict import verify_file
from strategies.fedavg import FedAvg
from strategies.wire import protocol
from tests.server.round.scripted_grid import Clock, TrainingGrid, sums_of, weights
from tests.server.round.sessions import session_in, weight

pytestmark = pytest.mark.usefixtures("task_identity")

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


@pytest.fixture(scope="module")
def composed() -> Conf:
    return compose(["run.rounds=2", "run.reconnect_patience=0"])


@pytest.fixture
def conf(composed: Conf) -> Conf:
    return copy.deepcopy(composed)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def grid(clock: Clock) -> TrainingGrid:
    """Three silos, of which the last in the order of names answers first."""
    grid = TrainingGrid(clock, {1: "a", 2: "b", 3: "c"})
    grid.after = {("train", 1): 3.0, ("train", 2): 2.0, ("train", 3): 1.0}
    return grid


def rounds_over(
    grid: TrainingGrid,
    conf: Conf,
    folder: Path,
    strategy: Strategy | None = None,
    observer: Observer | None = None,
    **more: Any,
) -> Rounds:
    clock = grid.clock
    more.setdefault("step", partial(exchange, clock=clock, sleep=clock.sleep))
    session = session_in(folder, conf, observer)
    return Rounds(session, grid, strategy or FedAvg(), clock=clock, **more)


def history_of(folder: Path) -> list[RoundRecord]:
    return list(read_history(folder))


def test_two_rounds_give_the_mean_twice(grid: TrainingGrid, conf: Conf, tmp_path: Path) -> None:
    rounds = rounds_over(grid, conf, tmp_path)
    state = rounds.session.state
    assert not rounds.run()
    assert (state.round, weight(state)) == (2, 4.0)
    assert [record.replied for record in history_of(tmp_path)] == [["a", "b", "c"]] * 2
    assert verify_file(tmp_path / "ledger.jsonl").faults == []
    closed = [
        json.loads(line)
        for line in (tmp_path / "ledger.jsonl").read_text().splitlines()
        if '"round closed"' in line
    ]
    assert closed[-1]["history"] == state.history.head
    stored = Checkpoints(FolderStore(tmp_path)).load()
    assert stored is not None
    assert (stored.round, weight(stored), stored.history) == (2, 4.0, state.history)
    assert state.history == rounds.session.history.mark


def test_what_a_round_cost_is_in_its_record(grid: TrainingGrid, conf: Conf, tmp_path: Path) -> None:
    grid.after = {("train", 1): 9.0, ("train", 2): 5.0, ("evaluate", 3): 4.0}
    grid.metrics = {("train", 1): {protocol.SECONDS: 6.0}, ("train", 2): {protocol.SECONDS: 2.0}}
    rounds = rounds_over(grid, conf, tmp_path)
    rounds.run()
    record = history_of(tmp_path)[0]
    assert record.seconds == pytest.approx(13)
    assert rounds.session.state.seconds == pytest.approx(26), "of two such rounds"
    assert record.seconds_training == {"a": 6.0, "b": 2.0, "c": 0.0}
    assert record.seconds_waiting == pytest.approx(9 - 6), "beyond the slowest silo's own training"
    assert record.bytes_down == record.bytes_up == {"a": 12, "b": 12, "c": 12}
    assert record.train["b"]["update-norm"] == pytest.approx(2 * 3**0.5)
    metrics = {"train_loss", "loss", "accuracy", "f1"}
    assert set(record.aggregate) == metrics, "seconds have no mean over silos"


def test_the_metrics_of_a_round_are_those_of_the_union_and_not_means_over_silos(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    def answer(examples: int, loss: float, right: int) -> RecordDict:
        claimed = MetricRecord({protocol.NUM_EXAMPLES: examples, "f1": 1.0})
        return RecordDict(
            {protocol.SUMS: sums_of(examples, loss, right), protocol.METRICS: claimed}
        )

    grid.wrong[("evaluate", 1)] = answer(1, 3.0, right=0)
    grid.wrong[("evaluate", 2)] = answer(8, 1.0, right=8)
    grid.wrong[("evaluate", 3)] = answer(1, 3.0, right=1)
    rounds_over(grid, conf, tmp_path).run()
    record = history_of(tmp_path)[0]
    # Nine of ten zeros are recognised, one is taken for a one: F1 of 18/19, and 0.
    assert record.aggregate["accuracy"] == 0.9
    assert record.aggregate["f1"] == pytest.approx(9 / 19)
    assert record.aggregate["loss"] == pytest.approx(1.4)
    # What a silo says of itself counts for nothing: its numbers are made of its sums, too.
    assert [record.metrics[silo]["f1"] for silo in "abc"] == [0.0, 1.0, 1.0]


def test_a_reason_that_many_silos_share_is_said_once(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    for node, silo in grid.known.items():
        grid.wrong[("train", node)] = Error(2, f"ValueError: {silo} has no disk")
    reasons = r"0 of the 2 updates it needs \(a, b, c: ValueError: the silo has no disk\)"
    with pytest.raises(RoundError, match=reasons):
        rounds_over(grid, conf, tmp_path).run()


def test_what_breaks_off_a_round_leaves_the_state_of_the_one_before(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    grid.wrong[("evaluate", 2)] = KeyboardInterrupt()
    rounds = rounds_over(grid, conf, tmp_path)
    state = rounds.session.state
    with pytest.raises(KeyboardInterrupt):
        rounds.run()
    assert ("evaluate", 2) in grid.asked, "it was broken off after the training had been averaged"
    assert (state.round, weight(state), state.history) == (0, 0.0, Mark())
    stored = Checkpoints(FolderStore(tmp_path)).load()
    assert stored is not None
    assert (stored.round, weight(stored)) == (0, 0.0)


def test_a_resumed_run_continues_after_its_last_round_and_ends_at_the_goal(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    rounds = rounds_over(grid, conf, tmp_path)
    rounds.run()
    anchor = rounds.session.state.anchor
    conf.run.rounds = 3
    resumed = Rounds(rounds.session, grid, FedAvg(), step=rounds.step, clock=grid.clock)
    assert not resumed.run()
    assert [record.round for record in history_of(tmp_path)] == [1, 2, 3]
    config = grid.silos.sent[-1].content.config_records[protocol.CONFIG]
    assert (config[protocol.ROUND], config[protocol.LEDGER]) == (3, anchor)


def test_a_resumed_run_gives_its_strategy_back_what_it_remembered(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    class Counting(FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.replies = 0

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
            given = list(replies)
            self.replies += len(given)
            return super().aggregate_train(server_round, given)

    rounds = rounds_over(grid, conf, tmp_path, Counting())
    rounds.run()
    conf.run.rounds = 3
    anew = Counting()
    Rounds(rounds.session, grid, anew, step=rounds.step, clock=grid.clock).run()
    assert anew.replies == 9


def test_a_metric_that_is_not_there_stops_before_the_round_counts(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    conf.run.early_stop.patience = 1
    conf.run.early_stop.metric = "auroc"
    conf.run.early_stop.mode = "max"
    rounds = rounds_over(grid, conf, tmp_path)
    with pytest.raises(ConfigError, match="MDW-107"):
        rounds.run()
    assert (rounds.session.state.round, rounds.session.state.history) == (0, Mark())


def test_a_run_without_improvement_stops_early_and_says_so(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    conf.run.rounds = 9
    conf.run.early_stop.patience = 2
    conf.run.early_stop.metric = "loss"
    rounds = rounds_over(grid, conf, tmp_path)
    assert rounds.run()
    assert rounds.session.state.round == 3
    assert rounds.session.state.early_stop == {"best": 1.0, "since": 2}


class TestTheStrategy:
    """What a strategy is given, and what it may do with it."""

    class Reading(FedAvg):
        """A streaming strategy that reads replies as `reads` says."""

        def __init__(self, reads: Any) -> None:
            super().__init__()
            self.reads = reads
            self.rounds: list[int] = []

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
            self.rounds.append(server_round)
            self.reads(replies)
            return None, None

    def test_that_declares_streaming_gets_each_reply_in_the_moment_of_its_arrival(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        seen: list[tuple[float, int]] = []

        def reads(replies: Iterator[Message]) -> None:
            seen.extend((grid.clock.now, reply.metadata.src_node_id) for reply in replies)

        conf.run.rounds = 1
        rounds_over(grid, conf, tmp_path, self.Reading(reads)).run()
        assert seen == [(1.0, 3), (2.0, 2), (3.0, 1)]

    def test_that_declares_nothing_gets_a_list_in_the_order_of_the_silos_names(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        given: list[Any] = []
        rounds: list[int] = []

        class Listing(FlowerFedAvg):
            def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
                given.append(replies)
                rounds.append(server_round)
                return super().aggregate_train(server_round, replies)

            def aggregate_evaluate(
                self, server_round: int, replies: Iterable[Message]
            ) -> MetricRecord | None:
                given.append(replies)
                rounds.append(server_round)
                return super().aggregate_evaluate(server_round, replies)

        grid.after |= {("evaluate", 1): 3.0, ("evaluate", 2): 2.0, ("evaluate", 3): 1.0}
        conf.run.rounds = 1
        rounds_over(grid, conf, tmp_path, Listing()).run()
        assert rounds == [1, 1]
        assert [type(replies) for replies in given] == [list, list]
        assert [[m.metadata.src_node_id for m in replies] for replies in given] == [[1, 2, 3]] * 2

    def test_that_stops_reading_makes_nobody_late_and_leaves_no_hole_in_the_ledger(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        conf.run.rounds = 1
        rounds_over(grid, conf, tmp_path, self.Reading(lambda replies: next(replies))).run()
        (record,) = history_of(tmp_path)
        assert (record.replied, record.failed) == (["a", "b", "c"], {})
        assert (tmp_path / "ledger.jsonl").read_text().count('"update admitted"') == 3

    def test_that_reads_nothing_at_all_does_no_harm_either(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        strategy = self.Reading(lambda replies: None)
        rounds = rounds_over(grid, conf, tmp_path, strategy)
        rounds.run()
        assert strategy.rounds == [1, 2]
        assert rounds.session.state.round == 2
        assert weight(rounds.session.state) == 0.0, "no mean leaves the model as it is"

    def test_that_reads_twice_is_told_so(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        def twice(replies: Iterable[Message]) -> None:
            assert len(list(replies)) == 3
            list(replies)

        rounds = rounds_over(grid, conf, tmp_path, self.Reading(twice))
        with pytest.raises(RoundError, match="MDW-403: The strategy Reading reads"):
            rounds.run()
        assert rounds.session.state.round == 0

    def test_that_reads_one_reply_and_then_the_rest_reads_once(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        def first_and_rest(replies: Iterator[Message]) -> None:
            first = next(replies)
            assert first.metadata.src_node_id not in [m.metadata.src_node_id for m in replies]

        rounds_over(grid, conf, tmp_path, self.Reading(first_and_rest)).run()

    def test_that_raises_leaves_the_state_and_no_message_open(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        def raises(replies: Iterator[Message]) -> None:
            next(replies)
            raise LookupError("a strategy of a user")

        rounds = rounds_over(grid, conf, tmp_path, self.Reading(raises))
        with pytest.raises(
            RoundError, match=r"MDW-408: .* raised LookupError with the update of c"
        ):
            rounds.run()
        assert grid.forgotten == {"m1", "m2"}, "the third had answered"
        assert rounds.session.state.round == 0

    def test_that_asks_a_node_outside_the_cohort_is_refused_before_anything_is_sent(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        class Straying(FedAvg):
            def configure_train(
                self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
            ) -> Iterable[Message]:
                inside = super().configure_train(server_round, arrays, config, grid)
                return [*inside, Message(RecordDict(), 77, "train")]

        with pytest.raises(RoundError, match=r"MDW-404: The strategy Straying .*\[77\]") as raised:
            rounds_over(grid, conf, tmp_path, Straying()).run()
        assert "get_node_ids" in raised.value.hint
        assert grid.asked == []

    def test_sees_the_cohort_and_no_other_silo(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        seen: list[list[int]] = []

        class Looking(FedAvg):
            def configure_train(
                self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
            ) -> Iterable[Message]:
                seen.append([node.node_id for node in grid.get_nodes()])
                return super().configure_train(server_round, arrays, config, grid)

        conf.run.cohort = 2
        conf.run.rounds = 6
        rounds_over(grid, conf, tmp_path, Looking()).run()
        drawn = [select(["a", "b", "c"], cohort=2, seed=0, round=n) for n in range(1, 7)]
        assert [record.cohort for record in history_of(tmp_path)] == drawn
        assert [[grid.known[node] for node in nodes] for nodes in seen] == drawn
        assert [record.replied for record in history_of(tmp_path)] == drawn
        assert len({tuple(cohort) for cohort in drawn}) > 1, "another draw each round"
        assert len([kind for kind, _ in grid.asked if kind == "train"]) == 12

    def test_draws_the_same_from_the_global_generators_when_a_round_is_done_again(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        drawn: list[tuple[float, float]] = []

        class Drawing(FedAvg):
            def configure_train(
                self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
            ) -> Iterable[Message]:
                drawn.append((random.random(), float(np.random.random())))
                return super().configure_train(server_round, arrays, config, grid)

        rounds_over(grid, conf, tmp_path / "one", Drawing()).run()
        rounds_over(grid, conf, tmp_path / "two", Drawing()).run()
        assert drawn[:2] == drawn[2:]
        assert drawn[0] != drawn[1]
        first = random.Random(seed_for(0, "server", 1, "strategy")).random()
        assert drawn[0][0] == first, "another seed would be another run"


class TestASilo:
    """What one silo sends, or fails to send, and what that costs."""

    @pytest.fixture(autouse=True)
    def one_round(self, conf: Conf) -> None:
        conf.run.rounds = 1

    def bad(self, values: Any, examples: int = 10) -> RecordDict:
        metrics = MetricRecord({protocol.NUM_EXAMPLES: examples, protocol.LOSS: 1.0})
        return RecordDict({protocol.ARRAYS: weights(np.array(values)), protocol.METRICS: metrics})

    def test_whose_update_is_not_finite_is_left_out_named_and_in_the_ledger(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        grid.wrong[("train", 2)] = self.bad([np.nan, 0, 0])
        rounds = rounds_over(grid, conf, tmp_path)
        rounds.run()
        (record,) = history_of(tmp_path)
        assert weight(rounds.session.state) == 2.0
        assert record.replied == ["a", "c"]
        assert "not finite" in record.failed["b"]
        assert record.codes == {"b": "MDW-614"}
        assert '"MDW-614"' in (tmp_path / "ledger.jsonl").read_text()

    def test_whose_values_are_absurd_costs_its_own_update_and_not_the_run(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        grid.wrong[("train", 2)] = self.bad([1e15, 0, 0])
        rounds = rounds_over(grid, conf, tmp_path)
        rounds.run()
        assert weight(rounds.session.state) == 2.0
        assert history_of(tmp_path)[0].failed["b"].startswith("b, round 1, train: 'w' is too")

    def test_whose_bytes_can_not_be_read_costs_its_own_update_and_not_the_run(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        content = self.bad([0, 0, 0])
        content.array_records[protocol.ARRAYS]["w"].data = b"\x93NUMPY\x01\x00\xff\xff{{{{"
        grid.wrong[("train", 2)] = content
        rounds_over(grid, conf, tmp_path).run()
        assert "can't be read" in history_of(tmp_path)[0].failed["b"]

    def test_that_raised_is_named_and_too_many_of_them_end_the_run(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        raised = Error(2, "ValueError: no disk")
        grid.wrong[("train", 3)] = raised
        rounds_over(grid, conf, tmp_path / "one").run()
        assert history_of(tmp_path / "one")[0].failed == {"c": "ValueError: no disk"}
        grid.wrong[("train", 2)] = raised
        with pytest.raises(RoundError, match=r"1 of the 2 updates.*b, c: ValueError: no disk"):
            rounds_over(grid, conf, tmp_path / "two").run()

    def test_that_is_late_is_named_with_a_line_in_the_ledger(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        conf.run.round_timeout = 60.0
        grid.after[("train", 1)] = 1000.0
        rounds_over(grid, conf, tmp_path).run()
        (record,) = history_of(tmp_path)
        assert record.failed == {"a": "no reply before the round closed"}
        assert record.replied == ["b", "c"]
        assert "no reply before the round closed" in (tmp_path / "ledger.jsonl").read_text()

    def test_that_fails_twice_in_a_round_is_named_with_its_first_reason(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        grid.wrong[("train", 1)] = Error(2, "MemoryError")
        grid.wrong[("evaluate", 1)] = Error(2, "KeyError: the model of this round")
        rounds_over(grid, conf, tmp_path).run()
        assert history_of(tmp_path)[0].failed == {"a": "MemoryError"}
        assert history_of(tmp_path)[0].codes == {"a": "MDW-304"}

    def test_whose_key_was_changed_is_asked_once_at_its_new_node(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        conf.run.rounds = 2
        rounds = rounds_over(grid, conf, tmp_path)
        grid.known = {1: "a", 3: "c", 7: "b"}
        rounds.run()
        assert [record.cohort for record in history_of(tmp_path)] == [["a", "b", "c"]] * 2
        assert [node for kind, node in grid.asked if kind == "train"] == [1, 3, 7, 1, 3, 7]

    def test_that_holds_nothing_out_has_answered_and_has_no_metrics(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        grid.metrics[("evaluate", 2)] = {protocol.NUM_EXAMPLES: 0, protocol.LOSS: 99.0}
        told = Told()
        rounds_over(grid, conf, tmp_path, observer=told).run()
        (record,) = history_of(tmp_path)
        assert (sorted(record.metrics), record.failed) == (["a", "c"], {})
        assert record.aggregate["loss"] == 1.0
        assert "reply evaluate b" in told.words

    def test_that_answers_for_none_leaves_the_round_without_metrics(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        for node in (1, 2, 3):
            grid.wrong[("evaluate", node)] = Error(2, "TypeError: a metric")
        rounds_over(grid, conf, tmp_path).run()
        (record,) = history_of(tmp_path)
        assert record.aggregate == {"train_loss": 1.0}
        assert record.failed == dict.fromkeys("abc", "TypeError: a metric")


class TestTheQuorum:
    """How many updates close a round."""

    @pytest.mark.parametrize(
        ("silos", "raised", "enough"), [(3, 1, True), (4, 1, True), (4, 2, False)]
    )
    def test_is_more_than_half_of_the_cohort_where_nobody_says(
        self, clock: Clock, conf: Conf, tmp_path: Path, silos: int, raised: int, enough: bool
    ) -> None:
        grid = TrainingGrid(clock, {node: f"silo-{node}" for node in range(silos)})
        for node in range(raised):
            grid.wrong[("train", node)] = Error(2, "ValueError")
        rounds = rounds_over(grid, conf, tmp_path)
        if enough:
            rounds.run()
        else:
            with pytest.raises(RoundError, match="MDW-401: Round 1 has 2 of the 3 updates"):
                rounds.run()

    def test_is_what_the_run_asks_for_and_one_less_ends_it(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        conf.run.quorum = 3
        rounds_over(grid, conf, tmp_path / "one").run()
        grid.wrong[("train", 1)] = Error(2, "ValueError")
        rounds = rounds_over(grid, conf, tmp_path / "two")
        with pytest.raises(RoundError, match="has 2 of the 3") as raised:
            rounds.run()
        assert f"run.resume={tmp_path / 'two'}" in raised.value.hint
        assert rounds.session.state.round == 0

    def test_that_the_cohort_can_not_reach_ends_the_run_though_nobody_failed(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        conf.run.quorum = 4
        with pytest.raises(RoundError, match=r"3 of the 4 updates it needs \(none failed\)"):
            rounds_over(grid, conf, tmp_path).run()

    def test_closes_a_round_as_the_run_s_times_say(
        self, grid: TrainingGrid, conf: Conf, tmp_path: Path
    ) -> None:
        conf.run.rounds = 1
        conf.run.round_timeout = 70.0
        conf.run.grace = 7.0
        conf.run.reconnect_patience = 17.0
        closings: list[Closing] = []

        def noting(
            grid: Grid, messages: Iterable[Message], closing: Closing, judge: Judge
        ) -> Iterator[Answer]:
            closings.append(closing)
            return exchange(grid, messages, closing, judge)

        rounds_over(grid, conf, tmp_path, step=noting).run()
        train, evaluate = closings
        assert train == Closing(timeout=70.0, quorum=2, grace=7.0, patience=17.0)
        assert evaluate == train, "one rule for both"


def test_another_step_may_exchange_as_often_as_it_needs(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    def keys_first(
        grid: Grid, messages: Iterable[Message], closing: Closing, judge: Judge
    ) -> Iterator[Answer]:
        sent = list(messages)
        hello = [Message(RecordDict(), m.metadata.dst_node_id, "query") for m in sent]
        clock: Clock = grid.clock  # type: ignore[attr-defined]
        list(exchange(grid, hello, closing, clock=clock, sleep=clock.sleep))
        return exchange(grid, sent, closing, judge, clock=clock, sleep=clock.sleep)

    conf.run.rounds = 1
    rounds = rounds_over(grid, conf, tmp_path, step=keys_first)
    rounds.run()
    assert [kind for kind, _ in grid.asked] == ["query"] * 3 + ["train"] * 3 + ["query"] * 3 + [
        "evaluate"
    ] * 3
    assert weight(rounds.session.state) == 2.0


def test_a_central_test_set_is_scored_each_round_only_where_its_curve_is_asked_for(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    def score(arrays: ArrayRecord) -> Callable[[], Metrics]:
        return lambda: {"accuracy": float(arrays["w"].numpy()[0])}

    rounds_over(grid, conf, tmp_path / "end", score=score).run()
    assert all("central_accuracy" not in r.aggregate for r in history_of(tmp_path / "end"))
    conf.run.test = "rounds"
    rounds = rounds_over(grid, conf, tmp_path / "rounds", score=score)
    rounds.run()
    scores = [r.aggregate["central_accuracy"] for r in history_of(tmp_path / "rounds")]
    assert scores == [2.0, 4.0], "each of the round's own model"
    assert rounds.test().central == {"accuracy": 4.0}


class Told(Observer):
    """Writes down what it is told, in words."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.metrics: dict[tuple[str, str], Metrics] = {}

    def round_started(self, round: int, cohort: list[str]) -> None:
        self.words.append(f"started {round} {'+'.join(cohort)}")

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        self.words.append(f"reply {phase} {silo}")
        self.metrics[phase, silo] = metrics

    def round_closed(self, record: RoundRecord) -> None:
        self.words.append(f"closed {record.round}")


def test_observers_are_told_of_a_round_in_the_order_in_which_it_happens(
    grid: TrainingGrid, conf: Conf, tmp_path: Path
) -> None:
    conf.run.rounds = 1
    grid.wrong[("train", 2)] = Error(2, "ValueError")
    told = Told()
    rounds_over(grid, conf, tmp_path, observer=told).run()
    assert told.words == [
        "started 1 a+b+c",
        "reply train c",
        "reply train a",
        "reply evaluate a",
        "reply evaluate b",
        "reply evaluate c",
        "closed 1",
    ]
    (record,) = history_of(tmp_path)
    assert told.metrics["evaluate", "c"] == record.metrics["c"]
    measured = {"update-norm", "update-share", "update-cosine"}
    assert record.train["c"].keys() == told.metrics["train", "c"].keys() | measured


def test_a_thousand_silos_take_part_in_one_round(clock: Clock, conf: Conf, tmp_path: Path) -> None:
    conf.run.rounds = 1
    grid = TrainingGrid(clock, {node: f"silo-{node:04d}" for node in range(1000)})
    grid.after = {("train", node): float((node * 617) % 1000) for node in range(1000)}
    rounds = rounds_over(grid, conf, tmp_path)
    rounds.run()
    (record,) = history_of(tmp_path)
    assert (len(record.replied), record.failed) == (1000, {})
    assert weight(rounds.session.state) == pytest.approx(499.5)


class Saying(TrainingGrid):
    """Silos that say what they run; `said` by node, one for each training in turn."""

    said: dict[int, list[dict[str, str]]]

    def _trained(self, message: Message, key: tuple[str, int]) -> RecordDict:
        content = super()._trained(message, key)
        phase, node = key
        if phase == "train" and self.said.get(node):
            content[protocol.SOFTWARE] = ConfigRecord({**self.said[node].pop(0)})
        return content


class Looking(FedAvg):
    """Notes the records of the updates that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: set[str] = set()

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        def looked() -> Iterator[Message]:
            for reply in replies:
                self.records |= set(reply.content)
                yield reply

        return super().aggregate_train(server_round, looked())


def test_what_silos_run_is_noted_at_first_and_where_it_changes_and_a_liar_costs_its_own_update(
    clock: Clock, conf: Conf, tmp_path: Path
) -> None:
    grid = Saying(clock, {1: "a", 2: "b", 3: "c"})
    old, new = {"torch": "2.8.0"}, {"torch": "2.9.0"}
    grid.said = {1: [old, old, new], 2: [old, old, old], 3: [old, {"torch": "x" * 2**20}, old]}
    conf.run.rounds = 3
    conf.run.quorum = 2
    strategy = Looking()
    rounds = rounds_over(grid, conf, tmp_path, strategy)
    rounds.run()
    records = history_of(tmp_path)
    assert [record.software for record in records] == [
        {"a": old, "b": old, "c": old},
        {},
        {"a": new},
    ]
    assert rounds.session.result.software == {"a": new, "b": old, "c": old}
    assert [record.replied for record in records] == [["a", "b", "c"], ["a", "b"], ["a", "b", "c"]]
    assert "what it says that it runs can't be read" in records[1].failed["c"]
    assert strategy.records == {protocol.ARRAYS, protocol.METRICS}
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    noted = [(line["round"], line["silo"]) for line in lines if line["event"] == "software"]
    assert sorted(noted) == [(1, "a"), (1, "b"), (1, "c"), (3, "a")]
    assert verify_file(tmp_path / "ledger.jsonl").faults == []
