"""The ClientApp: what it accepts from a server, what it answers, and that it refuses everything else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from client.app import app
from client.batches import length
from client.border_mod import OWN_NODE
from client.models import build_model
from client.silo_settings import DATA_KEY, NODE_KEY
from client.tasks import task_named
from conf.compose import compose
from conf.errors import ConfigError, DataError, SiloError, WireError
from conf.schema import Conf, FedProxConf, PolicyConf
from conf.silos import silo_to_json, silos
from strategies.wire import protocol, run_config

pytestmark = pytest.mark.usefixtures("task_identity")


@pytest.fixture(scope="module")
def conf() -> Conf:
    return compose(["task=digits", "data.examples=200", "federation.size=2"])


def context(conf: Conf) -> Context:
    node = {NODE_KEY: silo_to_json(silos(conf)[0])}
    return Context(
        run_id=1, node_id=2, node_config={**node, OWN_NODE: True}, state=RecordDict(), run_config={}
    )


def message(conf: Conf, kind: str = "train", **config: str | float) -> Message:
    text = run_config.pack(conf)
    keys: dict[str, str | float] = {
        protocol.PROTOCOL_KEY: protocol.PROTOCOL,
        protocol.RUN_ID: "run",
        protocol.ROUND: 1,
        protocol.SPLIT: protocol.VALIDATION,
    }
    keys |= {protocol.RUN_CONFIG: text, protocol.RUN_DIGEST: run_config.digest(text), **config}
    model = build_model(conf.model, task_named("digits"), 0)
    content = RecordDict(
        {
            protocol.ARRAYS: protocol.to_record(model.state_dict()),
            protocol.CONFIG: ConfigRecord({**keys}),
        }
    )
    return Message(content, 2, kind)


def metrics(reply: Message) -> MetricRecord:
    return protocol.records(reply.content, MetricRecord)[protocol.METRICS]


def test_it_trains_and_answers_with_its_model_and_what_it_took(conf: Conf) -> None:
    asked = message(conf)
    reply = app(asked, context(conf))
    before = protocol.records(asked.content, ArrayRecord)[protocol.ARRAYS]
    after = protocol.records(reply.content, ArrayRecord)[protocol.ARRAYS]
    assert list(after) == list(before)
    assert any(after[name].data != before[name].data for name in after)
    assert {
        protocol.NUM_EXAMPLES,
        protocol.LOSS,
        protocol.SECONDS,
        protocol.SAMPLES_PER_SECOND,
    } <= set(metrics(reply))


def test_flower_s_own_fedprox_trains_here_as_ours_does(conf: Conf) -> None:
    def model(asked: Message) -> dict[str, bytes]:
        reply = app(asked, context(conf))
        arrays = protocol.records(reply.content, ArrayRecord)[protocol.ARRAYS]
        return {name: array.data for name, array in arrays.items()}

    ours = dataclasses.replace(conf, strategy=FedProxConf(mu=0.5))
    target = "flwr.serverapp.strategy.FedProx"
    hosted = dataclasses.replace(conf, strategy=compose([f"strategy.target={target}"]).strategy)
    proximal = model(message(ours))
    assert model(message(hosted, **{"proximal-mu": 0.5})) == proximal
    assert model(message(hosted)) == model(message(conf)) != proximal


def test_it_evaluates_on_its_validation_examples(conf: Conf) -> None:
    reply = app(message(conf, "evaluate"), context(conf))
    assert protocol.ARRAYS not in reply.content
    assert 0 <= float(metrics(reply)["accuracy"]) <= 1  # type: ignore[arg-type]
    trained = metrics(app(message(conf), context(conf)))[protocol.NUM_EXAMPLES]
    assert 0 < metrics(reply)[protocol.NUM_EXAMPLES] < trained  # type: ignore[operator]


def test_without_validation_examples_it_says_so(conf: Conf) -> None:
    all_in = dataclasses.replace(conf, data=dataclasses.replace(conf.data, validation=0.0))
    assert dict(metrics(app(message(all_in, "evaluate"), context(all_in)))) == {
        protocol.NUM_EXAMPLES: 0
    }


def test_an_evaluation_is_of_the_split_that_the_message_names(conf: Conf) -> None:
    uneven = dataclasses.replace(
        conf, data=dataclasses.replace(conf.data, validation=0.05, test=0.25)
    )

    def examples(split: str) -> object:
        asked = message(uneven, "evaluate", **{protocol.SPLIT: split})
        return metrics(app(asked, context(uneven)))[protocol.NUM_EXAMPLES]

    data = task_named("digits").data(silos(uneven)[0])
    assert examples(protocol.VALIDATION) == length(data.validation)
    assert examples(protocol.TEST) == length(data.test)
    assert length(data.test) > 3 * length(data.validation)


@pytest.mark.parametrize("asked", ["train", "", 1])
def test_no_other_split_is_evaluated(conf: Conf, asked: str | int) -> None:
    with pytest.raises(WireError, match="MDW-601"):
        app(message(conf, "evaluate", **{protocol.SPLIT: asked}), context(conf))


def test_it_says_who_it_is(conf: Conf) -> None:
    reply = app(Message(RecordDict(), 2, protocol.HELLO), context(conf))
    assert protocol.records(reply.content, ConfigRecord)[protocol.CONFIG][protocol.SILO] == "silo-1"


@pytest.mark.parametrize(
    ("config", "error", "code"),
    [
        ({protocol.PROTOCOL_KEY: 99}, WireError, "MDW-601"),
        ({protocol.ROUND: "one"}, WireError, "MDW-601"),
        ({protocol.RUN_DIGEST: "0" * 64}, WireError, "MDW-602"),
        (
            {protocol.RUN_CONFIG: "{}", protocol.RUN_DIGEST: run_config.digest("{}")},
            ConfigError,
            "MDW-101",
        ),
    ],
)
def test_it_refuses_what_is_not_its_contract(
    conf: Conf, config: dict[str, str | int], error: type[Exception], code: str
) -> None:
    with pytest.raises(error, match=code):
        app(message(conf, **config), context(conf))


def test_a_message_without_a_config_is_refused(conf: Conf) -> None:
    with pytest.raises(WireError, match="MDW-601"):
        app(Message(RecordDict(), 2, "train"), context(conf))


@pytest.mark.parametrize("key", ["data", "federation", "_target_", "hydra.searchpath"])
def test_the_server_cannot_reach_what_is_the_silos_own(conf: Conf, key: str) -> None:
    text = run_config.pack(conf)[:-1] + f', "{key}": {{"root": "${{oc.env:HOME}}"}}}}'
    with pytest.raises(ConfigError):
        app(
            message(
                conf, **{protocol.RUN_CONFIG: text, protocol.RUN_DIGEST: run_config.digest(text)}
            ),
            context(conf),
        )


def test_asked_whether_it_is_ready_it_says_who_it_is(conf: Conf) -> None:
    reply = app(message(conf, protocol.READINESS), context(conf))
    assert reply.content.config_records[protocol.CONFIG][protocol.SILO] == "silo-1"


def test_asked_whether_it_is_ready_it_says_what_is_wrong_and_nothing_of_an_example(
    conf: Conf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*given: object) -> None:
        raise KeyError("patient 4711")

    monkeypatch.setattr(task_named("digits"), "sums", wrong)
    with pytest.raises(DataError, match=r"MDW-236: .*`sums` raised KeyError") as caught:
        app(message(conf, protocol.READINESS), context(conf))
    assert "4711" not in str(caught.value)


def test_asked_whether_it_is_ready_it_refuses_what_its_owner_does_not_allow(conf: Conf) -> None:
    strict = dataclasses.replace(conf.trainer, epochs=9)
    asked = dataclasses.replace(conf, trainer=strict)
    silo = dataclasses.replace(silos(conf)[0], policy=PolicyConf(epochs_at_most=2))
    node = {NODE_KEY: silo_to_json(silo)}
    here = Context(
        run_id=1, node_id=2, node_config={**node, OWN_NODE: True}, state=RecordDict(), run_config={}
    )
    with pytest.raises(SiloError, match="MDW-341"):
        app(message(asked, protocol.READINESS), here)


def test_a_silo_with_a_key_of_its_own_says_when_its_data_has_changed(
    conf: Conf, tmp_path: Path
) -> None:
    """In what it says that it runs, which the server keeps in result and ledger where it is new."""

    def put(count: int) -> None:
        examples = np.arange(count * 64, dtype=np.float64).reshape(count, 8, 8) % 17
        np.savez(tmp_path / "digits.npz", x=examples, y=np.arange(count) % 10)

    def said(node: dict[str, str | bool]) -> object:
        one = context(conf)
        one.node_config.update({NODE_KEY: silo_to_json(silo), **node})
        reply = app(message(conf), one)
        return protocol.records(reply.content, ConfigRecord)[protocol.SOFTWARE]["data"]

    silo = dataclasses.replace(
        silos(conf)[0], data=dataclasses.replace(conf.data, root=str(tmp_path), partition="own")
    )
    key = {DATA_KEY: "ab" * 32}
    put(20)
    first = said(key)
    assert said(key) == first and isinstance(first, str) and len(first) == 41
    put(30)
    assert said(key) not in (first, "")
    assert said({}) == "", "a simulation has no key of a silo's own"
