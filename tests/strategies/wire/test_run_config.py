"""What travels to a silo, and what a silo refuses to read from a message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.compose import compose
from conf.errors import ConfigError, MeadowError
from conf.schema import RUN_SCOPE, Conf, ExternalStrategyConf, FedProxConf, RunConf, RunScope
from strategies.wire.run_config import MAX_BYTES, digest, pack, unpack, unpacked

HALF_STEP = """
from flwr.serverapp.strategy import FedAvg

class HalfStep(FedAvg):
    def __init__(self, step: float = 0.5):
        super().__init__()
        self.step = step
"""
ADAM = "flwr.serverapp.strategy.FedAdam"
Change = Callable[[dict[str, Any]], object]


def message(change: Change) -> str:
    raw = json.loads(pack(compose([f"strategy.target={ADAM}", "strategy.args.eta=0.1"])))
    change(raw)
    return json.dumps(raw)


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        unpack(text)
    return caught.value


def test_the_run_scope_arrives_as_it_was_composed() -> None:
    conf = compose(
        [
            "strategy=fedprox",
            "strategy.mu=0.3",
            "model.hidden=[8,4]",
            "run.rounds=3",
            "trainer=adam",
        ]
    )
    scope = unpack(pack(conf))
    assert isinstance(scope, RunScope) and scope.strategy == FedProxConf(mu=0.3)
    for name in RUN_SCOPE:
        assert getattr(scope, name) == getattr(conf, name)


def test_nothing_else_travels() -> None:
    conf = compose(["federation.silos.north.data.root=/secret/place", "data.root=/other/place"])
    assert set(json.loads(pack(conf))) == set(RUN_SCOPE)
    assert "place" not in pack(conf)


def test_paths_of_the_server_stay_there_and_do_not_change_the_digest() -> None:
    conf = compose([])
    there = compose(["run.output=/home/me/runs", "model.init=/home/me/model.safetensors"])
    there.run.resume = "/home/me/runs/one"
    assert pack(there) == pack(conf) and digest(pack(there)) == digest(pack(conf))
    assert there.run.output == "/home/me/runs" and there.model.init == "/home/me/model.safetensors"
    assert digest(pack(compose(["run.seed=1"]))) != digest(pack(conf))


def test_where_outside_code_lies_stays_on_the_server_and_name_digest_and_arguments_travel(
    tmp_path: Path,
) -> None:
    (tmp_path / "half_step.py").write_text(HALF_STEP)
    target = f"{tmp_path / 'half_step.py'}:HalfStep"
    conf = compose([f"strategy.target={target}", "strategy.args.step=0.7", "task.args={}"])
    assert str(tmp_path) not in pack(conf)
    silo = unpack(pack(conf)).strategy
    # The silo executes nothing of a strategy that has no half there.
    assert silo == ExternalStrategyConf(name="half_step.HalfStep", args={"step": 0.7})
    assert isinstance(conf.strategy, ExternalStrategyConf)
    assert conf.strategy.target == target and len(conf.strategy.code) == 64


def test_a_message_that_says_where_code_lies_is_refused() -> None:
    for group in ("task", "strategy"):
        place = {"target": "/tmp/evil.py:Evil"}
        assert refused(message(lambda raw, g=group, p=place: raw[g].update(p))).code == "MDW-122"  # type: ignore[misc]


def test_the_text_is_canonical() -> None:
    text = pack(Conf())
    assert (
        text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
        and text.isascii()
    )
    assert len(text) < MAX_BYTES / 16 and len(digest(text)) == 64


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (lambda raw: raw["task"].update(name="${oc.env:HOME}"), "MDW-122", "task.name"),
        (
            lambda raw: raw["strategy"]["args"].update(eta="${oc.env:HOME}"),
            "MDW-122",
            "strategy.args.eta",
        ),
        (
            lambda raw: raw["strategy"]["args"].update(deep=[{"x": "a${run.seed}"}]),
            "MDW-122",
            "strategy.args.deep",
        ),
        (lambda raw: raw["strategy"]["args"].update({"${x}": 1}), "MDW-122", "interpolation"),
        (lambda raw: raw["model"].update(_target_="os.system"), "MDW-122", "model._target_"),
        (
            lambda raw: raw["strategy"]["args"].update(f={"_target_": "os.system"}),
            "MDW-122",
            "_target_",
        ),
        (lambda raw: raw.update(_target_="os.system"), "MDW-122", "_target_"),
        (
            lambda raw: raw.update({"hydra.searchpath": ["file:///tmp"]}),
            "MDW-122",
            "hydra.searchpath",
        ),
        (lambda raw: raw.update(hydra={"searchpath": ["file:///tmp"]}), "MDW-122", "hydra"),
        (lambda raw: raw["strategy"]["args"].update({"a.b": 1}), "MDW-122", "a.b"),
        (lambda raw: raw["trainer"].update(lrr=1), "MDW-101", "trainer.lrr"),
        (lambda raw: raw.update(extra={}), "MDW-101", "extra"),
        (lambda raw: raw["trainer"].pop("lr"), "MDW-101", "trainer.lr"),
        (lambda raw: raw.pop("privacy"), "MDW-101", "privacy"),
        (lambda raw: raw.update(data={"root": "/etc"}), "MDW-121", "data"),
        (lambda raw: raw.update(federation={}), "MDW-121", "federation"),
        (lambda raw: raw.update(simulation={}), "MDW-121", "simulation"),
        (lambda raw: raw.update(tracking={}), "MDW-121", "tracking"),
        (lambda raw: raw["model"].update(name="os"), "MDW-102", "model.name"),
        (lambda raw: raw["strategy"].update(name=["fedavg"]), "MDW-102", "strategy.name"),
        (lambda raw: raw["trainer"].update(epochs="3"), "MDW-103", "trainer.epochs"),
        (lambda raw: raw["trainer"].update(epochs=3.0), "MDW-103", "trainer.epochs"),
        (lambda raw: raw["trainer"].update(epochs=True), "MDW-103", "trainer.epochs"),
        (lambda raw: raw["trainer"].update(epochs=None), "MDW-103", "trainer.epochs"),
        (lambda raw: raw["trainer"].update(lr=1e999), "MDW-120", "Infinity"),
        (lambda raw: raw["trainer"].update(lr=10**400), "MDW-103", "trainer.lr"),
        (lambda raw: raw.update(trainer=[]), "MDW-103", "trainer"),
        (lambda raw: raw["trainer"].update(lr=-1), "MDW-104", "trainer.lr"),
        (lambda raw: raw["run"].update(rounds=0), "MDW-104", "run.rounds"),
        (lambda raw: raw["run"].update(name="../../x"), "MDW-104", "run.name"),
        (lambda raw: raw["task"].update(name="../x"), "MDW-102", "task.name"),
        (lambda raw: raw["trainer"].update(optimizer="lbfgs"), "MDW-104", "trainer.optimizer"),
    ],
)
def test_a_silo_refuses_what_is_no_plain_run_scoped_value(
    change: Change, code: str, word: str
) -> None:
    error = refused(message(change))
    assert error.code == code and word in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        "{",
        '{"a": 1, "a": 2}',
        '{"run": NaN}',
        '{"trainer": {"lr": 1e999}}',
        "[" * 50_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"a":' * 500 + "1" + "}" * 500,
        '{"run": ' + "9" * 10_000 + "}",
    ],
)
def test_a_silo_refuses_text_that_is_no_configuration(text: str) -> None:
    assert refused(text).code.startswith("MDW-1")


def test_the_length_is_checked_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *args, **kwargs: pytest.fail("parsed"))
    assert refused("9" * (MAX_BYTES + 1)).code == "MDW-120"
    assert refused("é" * (MAX_BYTES // 2 + 1)).code == "MDW-120"


def test_what_a_silo_would_refuse_never_leaves() -> None:
    conf = Conf(strategy=ExternalStrategyConf(target="a.B", args={"eta": "${oc.env:HOME}"}))
    with pytest.raises(ConfigError, match="interpolation"):
        pack(conf)
    with pytest.raises(ConfigError, match="longer"):
        pack(Conf(strategy=ExternalStrategyConf(target="a.B", args={"eta": "x" * MAX_BYTES})))


def test_an_interpolation_is_resolved_before_it_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEADOW_ROUNDS", "4")
    assert unpack(pack(compose(["run.rounds=${oc.env:MEADOW_ROUNDS}"]))).run == RunConf(rounds=4)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(RUN_SCOPE),
    st.sampled_from(["name", "lr", "rounds", "early_stop", "args", "hidden"]),
    JSON,
)
def test_any_value_anywhere_is_read_or_refused_and_never_breaks_a_silo(
    group: str, key: str, value: object
) -> None:
    raw = json.loads(pack(Conf()))
    raw[group][key] = value
    try:
        scope = unpack(json.dumps(raw))
    except MeadowError:
        return
    assert key in raw[group] and isinstance(scope, RunScope)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_refused_in_our_words(text: str) -> None:
    assert refused(text).code.startswith("MDW-1")


def test_the_text_of_a_run_is_parsed_once_and_another_anew() -> None:
    text = pack(compose([]))
    assert unpacked(text) is unpacked(text)
    other = pack(compose(["run.seed=7"]))
    assert unpacked(other) == unpack(other) != unpacked(text)


def test_a_text_that_was_refused_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(ConfigError):
            unpacked("{")
