"""One silo's fault ends at that silo: whatever it answers, the round closes with the others' updates
and says by name and code who was left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import FedAdam, FedMedian, Strategy
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from azureml_jobs.storage.folder_store import FolderStore
from conf.compose import compose
from conf.errors import RoundError
from conf.schema import Conf
from server.orchestrator.packed_grid import PackedGrid, PackingGrid
from server.round.exchange import exchange
from server.round.rounds import Rounds
from server.run.checkpoint import Checkpoints
from server.run.history import Mark, read_history
from server.run.result import RoundRecord
from server.run.verdict import verify_file
from strategies.external import External
from strategies.fedavg import FedAvg
from strategies.wire import protocol
from strategies.wire.packing import PACKED, pack_content
from tests.server.round.scripted_grid import Clock, TrainingGrid, sums_of, weights
from tests.server.round.sessions import session_in, weight

pytestmark = pytest.mark.usefixtures("task_identity")

LIAR = 2
HONEST = ["a", "c"]


def _again(lie: RecordDict | Error | BaseException) -> RecordDict | Error | BaseException:
    if not isinstance(lie, RecordDict):
        return lie
    content = RecordDict()
    for name, record in lie.items():
        content[name] = copy(record)
        content[name].__dict__["_data"] = dict(record)
    return content


class PackedTraining(TrainingGrid, PackingGrid):
    """Silos that answer in packed form, as Meadow's own nodes do."""

    def packs(self, node: int) -> bool:
        return True

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        from strategies.wire.packing import unpack_content

        for message in messages:
            if PACKED in message.content:
                message.content = unpack_content(message.content)
        return super().push_messages(messages)

    def _push(self, message: Message) -> str:
        kept = self.wrong
        # The same lie in each round: the server takes records out of a reply.
        self.wrong = {key: _again(lie) for key, lie in kept.items()}
        try:
            return super()._push(message)
        finally:
            self.wrong = kept


class Federation:
    """Three silos, a, b and c; b is the liar."""

    def __init__(self, folder: Path, *overrides: str, packed: bool = False) -> None:
        self.folder = folder
        self.conf: Conf = compose(["run.rounds=2", "run.reconnect_patience=0", *overrides])
        self.clock = Clock()
        self.silos = PackedTraining(self.clock, {1: "a", LIAR: "b", 3: "c"})
        self.packed = packed

    def lies(self, phase: str, content: RecordDict | Error) -> None:
        """Let b answer so in every round."""
        self.silos.wrong[(phase, LIAR)] = content

    def rounds(self, strategy: Strategy | None = None) -> Rounds:
        """Return the loop over these silos."""
        grid = PackedGrid(self.silos) if self.packed else self.silos
        session = session_in(self.folder, self.conf)
        step = partial(exchange, clock=self.clock, sleep=self.clock.sleep)
        return Rounds(session, grid, strategy or FedAvg(), step=step, clock=self.clock)

    def run(self, strategy: Strategy | None = None) -> list[RoundRecord]:
        """Go through all rounds, and return their records."""
        rounds = self.rounds(strategy)
        try:
            rounds.run()
        finally:
            rounds.session.ledger.close()
        self.state = rounds.session.state
        records = list(read_history(self.folder))
        assert verify_file(self.folder / "ledger.jsonl").faults == []
        return records


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def update(values: np.ndarray | list[float], **numbers: Any) -> RecordDict:
    """An answer to a training, of an array `w`."""
    said = {protocol.NUM_EXAMPLES: 10, protocol.LOSS: 1.0} | {
        name.replace("_", "-"): value for name, value in numbers.items()
    }
    record = weights(np.asarray(values, np.float32))
    return RecordDict({protocol.ARRAYS: record, protocol.METRICS: MetricRecord(said)})


def evaluation(examples: int = 4, size: int | None = None, **numbers: Any) -> RecordDict:
    said = {protocol.NUM_EXAMPLES: examples, protocol.LOSS: 1.0, **numbers}
    record = sums_of(size or examples, 1.0)
    return RecordDict({protocol.SUMS: record, protocol.METRICS: MetricRecord(said)})


def left_out(records: list[RoundRecord], code: str) -> None:
    """Assert that b alone was left out of each round, by this code."""
    assert [record.codes for record in records] == [{"b": code}] * 2, records
    assert [record.replied for record in records] == [HONEST] * 2


# ---- finding 3: one finite number ends the run


@pytest.mark.parametrize("value", [1e30, -1e30, 3.4e38, 1e14])
def test_one_finite_number_costs_its_silo_its_update_and_nobody_the_run(
    federation: Federation, value: float
) -> None:
    federation.lies("train", update([0.0, value, 0.0]))
    left_out(federation.run(), "MDW-621")
    assert weight(federation.state) == 4.0, "the honest silos added 1 and 3 in each round"


def test_a_resumed_run_is_not_ended_by_the_same_number(federation: Federation) -> None:
    federation.lies("train", update([0.0, 1e30, 0.0]))
    federation.run()
    again = Federation(federation.folder, "run.rounds=4")
    again.lies("train", update([0.0, 1e30, 0.0]))
    rounds = again.rounds()
    rounds.session.state.become(federation.state)
    rounds.run()
    assert rounds.session.state.round == 4


def test_an_overflow_in_the_fold_costs_the_update_that_caused_it(federation: Federation) -> None:
    class Heavy(FedAvg):
        """Weighs an update by more than admission knows of."""

        def weight(self, examples: int) -> int:
            return examples * 10**11

    federation.lies("train", update([1e3, 0.0, 0.0]))
    records = federation.run(Heavy())
    left_out(records, "MDW-662")
    assert all("'w'" in record.failed["b"] for record in records)


def test_what_the_model_itself_holds_is_no_silos_fault(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    rounds = federation.rounds()
    mask = np.array([-3.4e38, 1e20, 5.0], np.float32)
    rounds.session.state.arrays = ArrayRecord({"w": Array(mask)})
    rounds.run()
    assert rounds.session.state.round == 2
    result = rounds.session.state.arrays["w"].numpy()
    assert result.tolist() == [mask[0], mask[1], 9.0], "each silo adds its number: 1, 2 and 3"


# ---- finding 4: a layout that can't even be refused

NINES = "9" * 4299
DEEP = [10**9] * 2000
LAYOUTS = {
    "digits that Python does not print": f'[["w","float32",[{NINES},10]]]',
    "many dimensions": json.dumps([["w", "float32", DEEP]]),
    "many large dimensions": f'[["w","float32",[{",".join([NINES] * 50)}]]]',
    "many names": json.dumps([[f"w{i}", "float32", []] for i in range(10_000)]),
    "a long text": "[" + " " * 2**20 + "]",
    "deep nesting": "[" * 100_000,
    "no text": 7,
    "no list": '{"a": 1}',
    "a mapping of three letters": '{"abc": 1}',
    "another name": '[["v","float32",[3]]]',
    "another shape": '[["w","float32",[1,3]]]',
    "no arrays": "[]",
    "an object": '[["w","object",[3]]]',
    "a float as side": '[["w","float32",[3.0]]]',
    "infinity as side": '[["w","float32",[1e400]]]',
    "a surrogate": '[["\\ud800","float32",[3]]]',
}


def packed_update(layout: object) -> RecordDict:
    content = pack_content(update([1.0, 2.0, 3.0]))
    content[PACKED] = ConfigRecord({protocol.ARRAYS: layout})  # type: ignore[dict-item]
    return content


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_costs_its_silo_its_update_and_the_server_no_time(
    tmp_path: Path, case: str
) -> None:
    federation = Federation(tmp_path, packed=True)
    federation.lies("train", packed_update(LAYOUTS[case]))
    started = time.process_time()
    records = federation.run()
    assert time.process_time() - started < 5.0
    assert [record.replied for record in records] == [HONEST] * 2
    assert all(set(record.failed) == {"b"} for record in records)
    assert all(len(record.failed["b"]) < 500 for record in records)


def test_a_packed_answer_that_is_as_it_was_sent_counts(tmp_path: Path) -> None:
    federation = Federation(tmp_path, packed=True)
    federation.lies("train", packed_update('[["w", "float32", [3]]]'))
    assert [record.replied for record in federation.run()] == [["a", "b", "c"]] * 2


# ---- finding 7: one silo owns the model and the score


@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_a_hundred_thousand_metrics_are_refused_and_not_kept(
    federation: Federation, phase: str
) -> None:
    many = {f"m{i}": 1.0 for i in range(100_000)}
    federation.lies(phase, update([1.0] * 3, **many) if phase == "train" else evaluation(**many))
    records = federation.run()
    assert [record.codes for record in records] == [{"b": "MDW-623"}] * 2
    assert (federation.folder / "history.jsonl").stat().st_size < 5_000


def test_a_loss_that_is_not_a_number_does_not_take_it_from_the_others(
    federation: Federation,
) -> None:
    federation.lies("train", update([1.0] * 3, loss=float("nan")))
    assert [record.aggregate["train_loss"] for record in federation.run()] == [1.0, 1.0]


def test_a_missing_accuracy_does_not_take_it_from_the_others(federation: Federation) -> None:
    federation.lies("evaluate", evaluation())
    assert all("accuracy" in record.aggregate for record in federation.run())


def test_a_silo_can_not_say_what_its_accuracy_is(federation: Federation) -> None:
    federation.lies("evaluate", evaluation(accuracy=1.0))
    for record in federation.run():
        assert record.metrics["b"]["accuracy"] == 0.0
        assert record.aggregate["accuracy"] == 0.0


def test_examples_beyond_the_ceiling_are_refused_in_both_phases(tmp_path: Path) -> None:
    for phase, lie in (
        ("train", update([1.0] * 3, num_examples=2**29 - 1)),
        ("evaluate", evaluation(2**29 - 1, size=4)),
        ("evaluate", evaluation(4, size=2**29 - 1)),
    ):
        federation = Federation(
            tmp_path / f"{phase}{lie}"[:40], "run.admission.examples_at_most=50"
        )
        federation.lies(phase, lie)
        codes = [record.codes for record in federation.run()]
        assert codes == [{"b": "MDW-616"}] * 2 or codes == [{"b": "MDW-630"}] * 2


@pytest.mark.parametrize("loss", [1e300, -1e300, 1e7, -0.5])
def test_a_finite_loss_that_no_example_can_have_is_that_silo_s_refusal(
    federation: Federation, loss: float
) -> None:
    said = MetricRecord({protocol.NUM_EXAMPLES: 4, protocol.LOSS: 1.0})
    lie = RecordDict({protocol.SUMS: sums_of(4, loss), protocol.METRICS: said})
    federation.lies("evaluate", lie)
    records = federation.run()
    assert [record.codes for record in records] == [{"b": "MDW-630"}] * 2
    assert [record.aggregate["loss"] for record in records] == [1.0] * 2


@pytest.mark.parametrize("loss", [5.1, -5.1, 1e300, float("nan"), float("inf")])
def test_a_run_bounds_the_loss_in_training_too(tmp_path: Path, loss: float) -> None:
    federation = Federation(tmp_path, "run.admission.loss_at_most=5")
    federation.lies("train", update([1.0] * 3, loss=loss))
    left_out(federation.run(), "MDW-623")


def test_a_run_bounds_the_loss_of_an_evaluation_below_the_task_s_own(tmp_path: Path) -> None:
    federation = Federation(tmp_path, "run.admission.loss_at_most=5")
    said = MetricRecord({protocol.NUM_EXAMPLES: 4, protocol.LOSS: 1.0})
    lie = RecordDict({protocol.SUMS: sums_of(4, 5.1), protocol.METRICS: said})
    federation.lies("evaluate", lie)
    assert [record.codes for record in federation.run()] == [{"b": "MDW-630"}] * 2


def test_a_silo_is_held_to_the_examples_that_it_was_admitted_with(
    federation: Federation,
) -> None:
    federation.lies("train", update([1.0] * 3, num_examples=51))
    rounds = federation.rounds()
    rounds.session.ceilings = lambda: {"b": 50, "c": 10}
    rounds.run()
    records = list(read_history(federation.folder))
    left_out(records, "MDW-616")
    assert "51, not between 1 and 50" in records[0].failed["b"]


def test_one_silo_that_owns_the_model_is_named_in_record_and_log(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.lies("train", update([0.5] * 3, num_examples=2**29 - 1))
    records = federation.run()
    assert records[0].train["b"]["update-share"] > 0.99
    assert "b moved the model by 100 % of all movement" in caplog.text
    honest = Federation(federation.folder / "honest")
    caplog.clear()
    honest.run()
    assert "moved the model" not in caplog.text


# ---- findings 1 and 51 of the field reports: data of one silo that is not scaled


def test_a_norm_far_from_the_others_is_said_and_can_be_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Digits times 1,000 gave a norm of 116,000 beside .4, and nobody heard of it."""
    free = Federation(tmp_path / "free")
    free.lies("train", update([1e5] * 3))
    assert [record.codes for record in free.run()] == [{}, {}]
    assert "b moved the model by 100 % of all movement" in caplog.text
    absolute = Federation(tmp_path / "absolute", "run.admission.norm_at_most=100")
    absolute.lies("train", update([1e5] * 3))
    left_out(absolute.run(), "MDW-625")


def test_a_norm_is_held_to_the_median_of_the_last_closed_round_which_a_checkpoint_keeps(
    tmp_path: Path,
) -> None:
    bound = "run.admission.norm_times_median=3"
    federation = Federation(tmp_path, bound, "run.rounds=1")
    federation.run()
    stored = Checkpoints(FolderStore(tmp_path)).load()
    assert stored is not None and stored.norm_median == pytest.approx(2 * 3**0.5)
    again = Federation(tmp_path / "resumed", bound)
    again.lies("train", update([1e5] * 3))
    rounds = again.rounds()
    # As round 1 of a folder of its own, but for the median.
    rounds.session.state.become(replace(stored, round=0, history=Mark()))
    rounds.run()
    assert next(read_history(tmp_path / "resumed")).codes == {"b": "MDW-625"}


def test_the_median_of_the_cohort_bounds_round_1_for_a_strategy_that_holds_a_list(
    tmp_path: Path,
) -> None:
    overrides = ["run.admission.norm_times_median=10", "run.admission.norm_median=cohort"]
    federation = Federation(tmp_path, *overrides)
    federation.lies("train", update([1e5] * 3))
    left_out(federation.run(External(FlowerFedAvg(**QUIET))), "MDW-626")


@pytest.mark.parametrize("factor", [1e3, 1e6, 1e9, 1e12, 1e30])
def test_whatever_the_scale_of_one_silos_data_the_run_goes_on(
    federation: Federation, factor: float
) -> None:
    federation.lies("train", update(np.float32(0.4) * np.float32(factor) * np.ones(3)))
    assert [record.replied[0] for record in federation.run()] == ["a", "a"]


# ---- a strategy from elsewhere

QUIET = {"min_available_nodes": 1, "min_train_nodes": 1, "min_evaluate_nodes": 1}


class Picky(FlowerFedAvg):
    """Raises for an update that holds a 13, as somebody's own code may."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        for reply in replies:
            if 13.0 in reply.content["arrays"]["w"].numpy():
                raise ZeroDivisionError("a secret of the strategy")
        return super().aggregate_train(server_round, replies)


def test_an_update_for_which_a_strategy_raises_is_refused_by_name(federation: Federation) -> None:
    federation.lies("train", update([13.0, 0.0, 0.0]))
    records = federation.run(External(Picky(**QUIET)))
    left_out(records, "MDW-622")
    assert "Picky fails with this update (it raised ZeroDivisionError)" in records[0].failed["b"]
    assert "secret" not in json.dumps(records[0].failed)


def test_the_model_is_that_of_a_run_without_the_refused_update(tmp_path: Path) -> None:
    class PickyAdam(FedAdam):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            replies = list(replies)
            if any(13.0 in reply.content["arrays"]["w"].numpy() for reply in replies):
                # Half done: the state that it leaves must not be gone on with.
                super().aggregate_train(server_round, replies)
                raise ZeroDivisionError("after its moments were changed")
            return super().aggregate_train(server_round, replies)

    models = []
    for name, wrong in (("liar", update([13.0, 0.0, 0.0])), ("absent", Error(2, "gone"))):
        federation = Federation(tmp_path / name)
        federation.lies("train", wrong)
        federation.run(External(PickyAdam(**QUIET)))
        models.append(federation.state.arrays["w"].numpy().tolist())
    assert models[0] == models[1]


def test_a_strategy_that_fails_for_everybody_is_told_by_its_name(federation: Federation) -> None:
    class Broken(FlowerFedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            raise LookupError("always")

    with pytest.raises(RoundError, match="MDW-407: Round 1: the strategy Broken fails, and no sin"):
        federation.run(External(Broken(**QUIET)))


def test_a_model_that_is_not_finite_costs_the_update_that_made_it_so(
    federation: Federation,
) -> None:
    class Squares(FlowerFedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            model, metrics = super().aggregate_train(server_round, replies)
            assert model is not None
            with np.errstate(over="ignore"):
                squared = {n: Array(np.exp(a.numpy())) for n, a in model.items()}
            return ArrayRecord(squared), metrics

    federation.lies("train", update([500.0, 0.0, 0.0]))
    federation.conf.run.rounds = 1
    (record,) = federation.run(External(Squares(**QUIET)))
    assert record.codes == {"b": "MDW-622"} and "not finite" in record.failed["b"]


# ---- any answer whatever

numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.lists(st.floats(), max_size=3),
    st.lists(st.integers(-5, 5), max_size=3),
)
names = st.one_of(
    st.sampled_from(["num-examples", "loss", "seconds", "size", "server-round", "withheld"]),
    st.text(max_size=8),
)
metric_records = st.dictionaries(names, numbers, max_size=5)
arrays = hnp.arrays(
    st.sampled_from(["float32", "float64", "int64", "bool", "complex64", "float16"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    elements=None,
)
finite = hnp.arrays(
    np.float32, (3,), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)
layouts = st.one_of(
    st.text(max_size=60),
    st.builds(
        lambda rows: json.dumps(rows),
        st.lists(
            st.tuples(
                st.sampled_from(["w", "v"]),
                st.sampled_from(["float32", "int64", "x"]),
                st.lists(st.integers(-1, 2**70), max_size=4),
            ),
            max_size=3,
        ),
    ),
)
STRATEGIES: list[Callable[[], Strategy]] = [
    FedAvg,
    lambda: External(FlowerFedAvg(**QUIET)),
    lambda: External(FedAdam(**QUIET)),
    lambda: External(FedMedian(**QUIET)),
]
any_case = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def closes(folder: Path, content: RecordDict, phase: str, strategy: Strategy) -> None:
    federation = Federation.__new__(Federation)
    federation.__init__(folder, packed=PACKED in content)  # type: ignore[misc]
    federation.conf.run.rounds = 1
    federation.lies(phase, content)
    (record,) = federation.run(strategy)
    assert set(HONEST) <= set(record.replied)
    values = federation.state.arrays["w"].numpy()
    assert np.isfinite(values).all()


@any_case
@given(values=finite, said=metric_records, which=st.integers(0, len(STRATEGIES) - 1))
def test_over_any_finite_update_the_round_closes(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, said: dict[str, Any], which: int
) -> None:
    content = update(values)
    content[protocol.METRICS] = MetricRecord({protocol.NUM_EXAMPLES: 7, protocol.LOSS: 1.0, **said})
    closes(tmp_path_factory.mktemp("run"), content, "train", STRATEGIES[which]())


@any_case
@given(
    record=st.dictionaries(st.sampled_from(["w", "loss", "size", "confusion"]), arrays, max_size=3),
    name=st.sampled_from([protocol.ARRAYS, protocol.SUMS, "other"]),
    layout=st.one_of(st.none(), layouts),
    said=metric_records,
    phase=st.sampled_from(["train", "evaluate"]),
)
def test_over_any_layout_and_any_metrics_the_round_closes(
    tmp_path_factory: pytest.TempPathFactory,
    record: dict[str, np.ndarray],
    name: str,
    layout: str | None,
    said: dict[str, Any],
    phase: str,
) -> None:
    made = ArrayRecord({key: Array(value) for key, value in record.items()})
    content = RecordDict({name: made, protocol.METRICS: MetricRecord(said)})
    if layout is not None:
        content = pack_content(content)
        content[PACKED] = ConfigRecord({name: layout})
    closes(tmp_path_factory.mktemp("run"), content, phase, FedAvg())


def test_messages_of_these_phases_are_those_of_flower() -> None:
    assert (MessageType.TRAIN, MessageType.EVALUATE) == ("train", "evaluate")


def test_what_an_owner_withholds_is_missing_and_not_0_and_a_false_mark_costs_nobody(
    federation: Federation,
) -> None:
    said = MetricRecord(
        {protocol.NUM_EXAMPLES: 4, protocol.LOSS: 1.0, "withheld": 1, "withheld:accuracy": 1}
    )
    empty = sums_of(4, 1.0)
    empty["confusion"] = Array(np.zeros((10, 10), np.int64))
    federation.lies("evaluate", RecordDict({protocol.SUMS: empty, protocol.METRICS: said}))
    records = federation.run()
    assert [record.partial for record in records] == [["b"]] * 2
    assert records[0].metrics["b"]["accuracy"] is None
    assert records[0].codes == {}


def test_a_mark_of_a_metric_that_the_task_does_not_have_is_refused(federation: Federation) -> None:
    said = MetricRecord({protocol.NUM_EXAMPLES: 4, protocol.LOSS: 1.0, "withheld:x": 1})
    lie = RecordDict({protocol.SUMS: sums_of(4, 1.0), protocol.METRICS: said})
    federation.lies("evaluate", lie)
    assert [record.codes for record in federation.run()] == [{"b": "MDW-623"}] * 2
