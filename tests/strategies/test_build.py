"""A strategy by its name is found in its file, with its configuration as its arguments."""

from __future__ import annotations

import pytest
from flwr.serverapp.strategy import FedAdam

from conf.errors import ConfigError
from conf.schema import VARIANTS, ExternalStrategyConf, FedProxConf, StrategyConf
from strategies import _class_in, build_strategy
from strategies.external import External
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx


@pytest.mark.parametrize("name", VARIANTS["strategy"])
def test_every_strategy_of_the_schema_is_one_class_in_its_own_file(name: str) -> None:
    assert _class_in(name).__module__ == f"strategies.{name}"


def test_a_configuration_gives_its_strategy() -> None:
    assert type(build_strategy(StrategyConf())) is FedAvg
    prox = build_strategy(FedProxConf(mu=0.3))
    assert isinstance(prox, FedProx) and prox.mu == 0.3
    args = {"eta": 0.2}
    external = build_strategy(
        ExternalStrategyConf(target="flwr.serverapp.strategy.FedAdam", args=args)
    )
    assert (
        isinstance(external, External)
        and isinstance(external.inner, FedAdam)
        and external.inner.eta == 0.2
    )


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"MDW-150.*Did you mean 'fedprox'\?"):
        build_strategy(StrategyConf(name="fedprx"))
