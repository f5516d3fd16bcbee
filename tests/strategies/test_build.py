"""A strategy by its name is found in its file, with its configuration as its arguments."""

from __future__ import annotations

import pytest
from flwr.serverapp.strategy import FedAdam

from conf.compose import compose
from conf.errors import ConfigError, WireError
from conf.schema import EXTERNAL, VARIANTS, FedProxConf, StrategyConf
from strategies import _class_in, build_strategy, flower_half, silo_half, silo_half_of
from strategies.external import External
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx, FedProxSilo
from strategies.silo_half import SiloHalf


@pytest.mark.parametrize("name", sorted(set(VARIANTS["strategy"]) - {EXTERNAL}))
def test_every_strategy_of_the_schema_is_one_class_in_its_own_file(name: str) -> None:
    assert _class_in(name).__module__ == f"strategies.{name}"


def test_a_configuration_gives_its_strategy() -> None:
    assert type(build_strategy(StrategyConf())) is FedAvg
    prox = build_strategy(FedProxConf(mu=0.3))
    assert isinstance(prox, FedProx) and prox.mu == 0.3
    target = "flwr.serverapp.strategy.FedAdam"
    external = build_strategy(
        compose([f"strategy.target={target}", "strategy.args.eta=0.2"]).strategy
    )
    assert (
        isinstance(external, External)
        and isinstance(external.inner, FedAdam)
        and external.inner.eta == 0.2
    )


def test_a_configuration_gives_the_silo_s_half_with_the_arguments_that_it_takes() -> None:
    assert type(silo_half_of(StrategyConf())) is SiloHalf
    half = silo_half_of(FedProxConf(mu=0.3))
    assert isinstance(half, FedProxSilo) and half.mu == 0.3
    assert type(silo_half(FedAdam, {"eta": 1.0})) is SiloHalf


@pytest.mark.parametrize("mu", ["much", float("nan"), -0.1, [0.1]])
def test_a_weight_of_flower_s_proximal_term_that_is_none_is_refused(mu: object) -> None:
    with pytest.raises(WireError, match="MDW-670"):
        flower_half(mu)


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"MDW-150.*Did you mean 'fedprox'\?"):
        build_strategy(StrategyConf(name="fedprx"))
