"""Which values make sense: each field's own limits, and the rules between fields."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import VARIANTS, Conf, ExternalStrategyConf, FedProxConf, TrainerConf
from conf.validate import validate


def refused(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        compose(list(overrides))
    return caught.value


@pytest.mark.parametrize(
    "target", ["a.B", "flwr.serverapp.strategy.FedAdam", "half_step.py:HalfStep", "/a b/x.py:Y"]
)
def test_a_strategy_from_outside_is_a_path_of_import_or_a_file(target: str) -> None:
    conf = Conf(strategy=ExternalStrategyConf(target=target))
    validate(conf)
    assert conf.strategy == ExternalStrategyConf(target=target)


@pytest.mark.parametrize("target", ["B", "a.B()", "a b.C", "x.py:", "x.py:Y()", ":Y", "../a.B"])
def test_nothing_else_is_a_strategy_from_outside(target: str) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.target"):
        validate(Conf(strategy=ExternalStrategyConf(target=target)))


def limits() -> list[tuple[str, Any, str, Any]]:
    """Every limit of the schema as (group, what the group holds, field, a value just beyond it)."""
    found = []
    for group in (f.name for f in fields(Conf)):
        for cls in {type(getattr(Conf(), group)), *VARIANTS.get(group, {}).values()}:
            for f in fields(cls):
                m = f.metadata
                beyond = [m[name] + step for name, step in STEPS.items() if m.get(name) is not None]
                beyond += ["no such"] * ("one_of" in m) + ["../x y"] * (
                    m.get("pattern", "").startswith("[a")
                )
                found += [
                    (group, cls, f.name, [value] if f.name == "hidden" else value)
                    for value in beyond
                ]
    return sorted(found, key=str)


STEPS = {"above": 0, "at_least": -1, "at_most": 1}


@pytest.mark.parametrize(("group", "cls", "name", "beyond"), limits())
def test_every_limit_of_the_schema_is_enforced(
    group: str, cls: type[Any], name: str, beyond: Any
) -> None:
    conf = Conf()
    setattr(conf, group, dataclasses.replace(cls(), **{name: beyond}))
    with pytest.raises(ConfigError, match=f"{group}.{name}") as caught:
        validate(conf)
    assert caught.value.code == "MDW-104"


def test_every_whole_number_of_a_run_has_a_ceiling() -> None:
    for group in (f.name for f in fields(Conf)):
        for cls in {type(getattr(Conf(), group)), *VARIANTS.get(group, {}).values()}:
            for f in fields(cls):
                if str(f.type).removesuffix(" | None") in ("int", "list[int]"):
                    assert f.metadata.get("at_most") is not None, f"{group}.{f.name}"


def test_a_list_may_not_be_longer_than_its_key_says() -> None:
    assert refused("model=mlp", f"model.hidden={[1] * 65}").code == "MDW-104"


def test_the_schema_has_limits_to_enforce() -> None:
    assert len(limits()) > 40 and ("strategy", FedProxConf, "mu", -1) in limits()


@given(st.floats(max_value=0) | st.sampled_from([math.nan, math.inf]))
def test_no_learning_rate_but_a_positive_finite_one_is_valid(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.lr") as caught:
        validate(Conf(trainer=TrainerConf(lr=rate)))
    assert caught.value.code == "MDW-104"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["run.cohort=4"], ("run.cohort=4", "3 silos in the federation")),
        (["run.start_quorum=4"], ("run.start_quorum=4", "3 silos")),
        (["run.quorum=4"], ("run.quorum=4", "3 silos")),
        (["run.cohort=2", "run.quorum=3"], ("run.quorum=3", "2 asked in a round")),
        (["run.cohort=3", "federation.silos={a:{},b:{}}"], ("run.cohort=3", "2 silos")),
        (["data.examples=2"], ("data.examples=2", "3 silos")),
        (["strategy=external"], ("strategy=external", "strategy.target")),
        (["model.name=cnn"], ("model.name=cnn", "Write model=cnn")),
        (["tracking.register=true"], ("tracking.register=true", "tracking=off")),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    overrides: list[str], words: tuple[str, ...]
) -> None:
    error = refused(*overrides)
    assert error.code == "MDW-105"
    for word in words:
        assert word in str(error)


def test_silos_with_data_of_their_own_need_no_part_of_the_public_set() -> None:
    own = "federation.silos={a:{data:{partition:own}},b:{data:{partition:own}}}"
    assert compose(["data.examples=1", own]).data.examples == 1
    assert refused("data.examples=1", "federation.silos={a:{},b:{}}").code == "MDW-105"


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("run.name=../x", "MDW-104"),
        ("task.name=../x", "MDW-104"),
        ("run.name=''", "MDW-123"),
        ("run.output=''", "MDW-104"),
        ("task.name=''", "MDW-104"),
        ("model.hidden=[8,0]", "MDW-104"),
        ("model.name=transformer", "MDW-102"),
        ("federation.silos.north.data.alpha=-1", "MDW-104"),
        ("federation.silos={_north:{}}", "MDW-104"),
    ],
)
def test_names_and_nested_values_are_held_to_their_limits(override: str, code: str) -> None:
    assert refused(override).code == code


def test_splits_that_leave_too_little_to_train_on_are_refused_with_both_shares() -> None:
    error = refused("data.validation=0.5", "data.test=0.45")
    assert error.code == "MDW-160"
    assert "data.validation=0.5 and data.test=0.45" in str(error)
    own = refused("data.test=0.5", "federation.silos={a:{data:{validation:0.6}}}")
    assert own.code == "MDW-160"
    assert "federation.silos.a.data" in str(own)
    compose(["data.validation=0.45", "data.test=0.45"])


def test_the_split_of_before_is_refused_with_what_replaces_it() -> None:
    for words in ("data.held_out=0", "federation.silos={a:{data:{held_out:0.3}}}"):
        error = refused(words)
        assert error.code == "MDW-101"
        assert "renamed" in str(error)
        assert "data.validation and data.test" in str(error)


def test_a_silo_that_keeps_its_counts_needs_a_strategy_that_does_not_weigh_by_them() -> None:
    keeps = "federation.silos={a:{policy:{reveal_counts:false}},b:{}}"
    error = refused(keeps)
    assert error.code == "MDW-164"
    assert "federation.silos.a.policy.reveal_counts=false" in str(error)
    assert refused(keeps, "strategy.weighting=size").code == "MDW-164"
    compose([keeps, "strategy.weighting=equal"])
    compose([keeps, "strategy=scaffold"])


def test_the_noise_of_a_private_run_is_said_once() -> None:
    private = ["privacy=sample_dp", "strategy.weighting=equal"]
    neither = refused(*private, "privacy.epsilon=null")
    both = refused(*private, "privacy.noise_multiplier=1.5")
    assert (neither.code, both.code) == ("MDW-105", "MDW-105")
    assert "privacy.epsilon=null" in both.hint
    compose([*private, "privacy.epsilon=null", "privacy.noise_multiplier=1.5"])


def test_metrics_with_noise_leave_something_to_train_with_and_decide_nothing_in_gaps() -> None:
    private = ["privacy=sample_dp", "strategy.weighting=equal", "privacy.epsilon=2"]
    whole = refused(*private, "privacy.metrics_epsilon=2")
    assert whole.code == "MDW-105" and "to train with" in whole.message
    group = refused(*private, "privacy.metrics_epsilon=0.5", "privacy.unit=group")
    assert group.code == "MDW-105" and "what one example moves" in group.message
    told = [*private, "privacy.metrics_epsilon=0.5", "run.early_stop.patience=3"]
    assert "privacy.metrics_every=1" in refused(*told).hint
    compose([*told, "privacy.metrics_every=1"])
