"""Evaluations whose sums have noise: judged like any other reply, and added up before they are cut off."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client.privacy.noised_sums import EXAMPLES, SPREAD, NoisedSums
from client.sums import specs_of
from client.tasks import task_named
from server.round.admission import Admission
from server.round.evaluations import Gathered
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.phase import Evaluated, evaluated
from server.run.privacy_spent import after_test, note_evaluation
from server.run.result import FinalTest, RoundRecord
from server.run.shown import NOISE, in_order, score
from strategies.wire import protocol

pytestmark = pytest.mark.usefixtures("task_identity")
DIGITS = task_named("digits")
FORM = NoisedSums(DIGITS, 4.0)
TOLD = {"num-examples": 90, "epsilon": 0.7, "epsilon-renyi": 0.8, "noise-multiplier": 5.0}


def reply(loss: Any = (40.0,), confusion: Any = (80.0, -3.0), **metrics: Any) -> RecordDict:
    arrays = {"loss": np.array(loss, np.float64), "confusion": np.array(confusion, np.float64)}
    said = {name: value for name, value in (TOLD | metrics).items() if value is not None}
    return RecordDict(
        {
            protocol.SUMS: ArrayRecord({name: Array(a) for name, a in arrays.items()}),
            protocol.METRICS: MetricRecord(said),
            protocol.ACCOUNT: ConfigRecord({protocol.REMINDER: "a" * 64 + ":" + "b" * 64}),
        }
    )


def verdict(content: RecordDict) -> Verdict:
    admission = Admission(specs_of(DIGITS), noised=FORM)
    admission.ceilings = {"north": 1000}
    admission.open(1, ArrayRecord(), ["north"])
    return admission.check(content, silo="north", round=1, phase="evaluate")


def code(content: RecordDict) -> str:
    found = verdict(content)
    assert isinstance(found, Rejected)
    return found.code


def test_an_honest_answer_is_admitted_with_counts_below_0_or_beyond_what_the_silo_has() -> None:
    assert verdict(reply()) == Admitted(90)
    assert verdict(reply(confusion=(-20.0, -20.0), **{"num-examples": 1})) == Admitted(1)
    beyond = reply(confusion=(1080.0, 3.0), **{"num-examples": 1083})
    assert verdict(beyond) == Admitted(1083), "noise, and no lie about the ceiling of 1,000"


def test_one_that_tells_nothing_is_admitted_as_nothing() -> None:
    nothing = RecordDict({protocol.METRICS: MetricRecord({"num-examples": 0, "withheld": 1})})
    assert verdict(nothing) == Admitted(0, withheld=True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (reply(confusion=(math.nan, 1.0)), "MDW-630"),
        (reply(confusion=(math.inf, 1.0)), "MDW-630"),
        (reply(confusion=(1e6, 1.0)), "MDW-630"),
        (reply(loss=(-1e6,)), "MDW-630"),
        (reply(confusion=(1.0, 2.0, 3.0)), "MDW-612"),
        (reply(**{"noise-multiplier": None}), "MDW-623"),
        (reply(**{"noise-multiplier": 0.0}), "MDW-623"),
        (reply(**{"noise-multiplier": 1e9}), "MDW-623"),
        (reply(**{"noise-multiplier": math.inf}), "MDW-623"),
        (reply(accuracy=1.0), "MDW-623"),
        (reply(**{"num-examples": 2**30}), "MDW-616"),
        (reply(**{"num-examples": -1}), "MDW-616"),
    ],
)
def test_a_liar_is_refused(content: RecordDict, expected: str) -> None:
    assert code(content) == expected


def test_sums_of_another_task_or_without_noise_are_refused() -> None:
    content = reply()
    content[protocol.SUMS] = ArrayRecord({"confusion": Array(np.zeros((10, 10), np.int64))})
    assert code(content) == "MDW-630"


def said_by(*confusion: float, noise: float = 5.0) -> Evaluated:
    rows = {"loss": torch.tensor([40.0]), "confusion": torch.tensor(confusion)}
    return Evaluated({}, {name: row.double() for name, row in rows.items()}, noise=noise)


def test_what_is_below_0_at_one_silo_cancels_what_is_above_at_another() -> None:
    gathered = Gathered(DIGITS, FORM)
    gathered.add("a", said_by(80.0, 30.0, noise=3.0))
    gathered.add("b", said_by(80.0, -10.0, noise=4.0))
    gathered.add("c", Evaluated({}, None, withheld=True))
    told = gathered.metrics()
    assert told["accuracy"] == pytest.approx(160 / 180) and told[EXAMPLES] == 180
    alone = math.sqrt(2) * 5.0 / math.sqrt(0.8)
    assert told[f"{EXAMPLES}{SPREAD}"] == pytest.approx(alone), "of 3 and 4 together"
    assert Gathered(DIGITS, FORM).metrics() == {}


def test_a_strategy_gets_the_metrics_and_the_record_what_it_cost() -> None:
    message = Message(reply(), 1, "evaluate")
    found = evaluated(DIGITS, message, Admitted(90), FORM)
    assert found.spent == {"epsilon": 0.7, "epsilon_renyi": 0.8} and found.noise == 5.0
    assert found.account.startswith("aaaa") and set(message.content) == {protocol.METRICS}
    numbers = message.content.metric_records[protocol.METRICS]
    assert numbers["num-examples"] == 90 and numbers["accuracy"] == 1.0
    assert found.metrics["accuracy"] == 1.0 and "num-examples" not in found.metrics
    record = RoundRecord(1, ["north"], train={"north": {"epsilon": 0.5}})
    note_evaluation(record, "north", found.spent)
    note_evaluation(record, "gone", found.spent)
    assert record.train == {"north": {"epsilon": 0.7, "epsilon-renyi": 0.8}}


def test_the_test_at_the_end_is_part_of_what_the_run_cost() -> None:
    facts = {"kind": "sample_dp", "silos": {"north": {"epsilon": 1.0, "noise_multiplier": 2.0}}}
    test = FinalTest(2, ["north"], privacy={"north": {"epsilon": 1.5}, "gone": {"epsilon": 9.0}})
    after = after_test(facts, test)
    assert after["silos"] == {"north": {"epsilon": 1.5, "noise_multiplier": 2.0}}
    assert after_test(facts, FinalTest(2, ["north"])) == facts


def test_a_metric_stands_with_its_noise_and_not_the_noise_as_a_metric() -> None:
    assert NOISE == SPREAD
    metrics = {"accuracy": 0.912, "accuracy_noise": 0.0213, "loss": 0.4, "loss_noise": 1e-9}
    assert in_order({"accuracy": "max"}, metrics) == ["accuracy", "loss"]
    assert score(metrics, "accuracy") == "0.912 ± 0.03" and score(metrics, "loss") == "0.400"
