"""A silo's own model: the one that a simulation would train of its examples, and only sums of it leave."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Context, RecordDict

from client.app import app
from client.border_mod import OWN_NODE
from client.silo_settings import NODE_KEY
from conf.compose import compose
from conf.errors import SiloError, WireError
from conf.schema import Conf, PolicyConf
from conf.silos import silo_to_json, silos
from server.simulation import simulate
from strategies.wire import protocol
from tests.client.test_app import message, metrics

pytestmark = pytest.mark.usefixtures("task_identity")

RUN = ["task=digits", "data.examples=200", "federation.size=2", "run.baseline=silos"]


@pytest.fixture(scope="module")
def conf() -> Conf:
    return compose([*RUN, "run.rounds=2"])


def of(conf: Conf, policy: PolicyConf) -> Context:
    silo = dataclasses.replace(silos(conf)[0], policy=policy)
    node = {NODE_KEY: silo_to_json(silo), OWN_NODE: True}
    return Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config={})


def asked(conf: Conf, policy: PolicyConf, rounds: int = 2) -> RecordDict:
    return app(message(conf, protocol.ALONE, **{protocol.ROUND: rounds}), of(conf, policy)).content


def test_it_is_the_model_that_a_simulation_trains_of_the_silo_alone(
    conf: Conf, tmp_path: Path
) -> None:
    run = simulate([*RUN, "run.rounds=2", "simulation.workers=0", f"run.output={tmp_path}"])
    assert run.result.baseline is not None
    wanted = run.result.baseline.silo_alone["silo-1"].by_silo["silo-1"]

    found = metrics(
        app(message(conf, protocol.ALONE, **{protocol.ROUND: 2}), of(conf, PolicyConf()))
    )

    assert {name: found[name] for name in wanted} == wanted


def test_no_weight_of_it_leaves(conf: Conf) -> None:
    content = asked(conf, PolicyConf())
    assert list(protocol.records(content, ArrayRecord)) == [protocol.SUMS]
    assert content.array_records[protocol.SUMS].keys() == {"loss", "size", "confusion"}


def test_an_owner_who_tells_no_counts_tells_nothing_of_it(conf: Conf) -> None:
    equal = dataclasses.replace(
        conf, strategy=dataclasses.replace(conf.strategy, weighting="equal")
    )
    content = asked(equal, PolicyConf(reveal_counts=False))
    assert protocol.SUMS not in content
    assert content.metric_records[protocol.METRICS][protocol.NUM_EXAMPLES] == 0


@pytest.mark.parametrize("rounds", [0, 3, 10**9])
def test_no_more_rounds_than_the_run_s_own_are_trained(conf: Conf, rounds: int) -> None:
    with pytest.raises(WireError, match="MDW-601"):
        asked(conf, PolicyConf(), rounds)


def test_a_run_that_did_not_say_so_can_t_ask_for_it(conf: Conf) -> None:
    plain = dataclasses.replace(conf, run=dataclasses.replace(conf.run, baseline="none"))
    with pytest.raises(WireError, match="MDW-601"):
        asked(plain, PolicyConf())


def test_the_owner_decides(conf: Conf) -> None:
    with pytest.raises(SiloError, match="MDW-341"):
        asked(conf, PolicyConf(train_alone=False))
    # An allow-list that does not name it does not allow it, whatever else it allows.
    with pytest.raises(SiloError, match=r"MDW-341.*run\.baseline"):
        asked(conf, PolicyConf(version=2))
    with pytest.raises(SiloError, match=r"MDW-341.*does not allow \d+ things"):
        asked(conf, PolicyConf(version=2, train_alone=True))
