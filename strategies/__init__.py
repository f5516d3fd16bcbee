"""How updates become a model: one algorithm a file, with its half at the server and its half at a
silo.

`strategy=NAME` is the one `Strategy` class defined in `strategies/NAME.py`; the fields of its
configuration, beyond `name`, are the arguments of its constructor. The class names what the silos
do (`silo_half`, a `strategies.silo_half.SiloHalf`), which takes those of the same arguments that
its own constructor has. So a new algorithm is its file, its dataclass in `conf/schema/strategies.py` (and the
line there that names it) and its `conf/strategy/NAME.yaml`.

    MDW-670 a weight of the proximal term that can't be one
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from flwr.serverapp.strategy import Strategy

from conf.errors import ConfigError, WireError
from conf.schema import VARIANTS, ExternalStrategyConf, StrategyConf
from conf.schema_keys import nearest
from conf.targets import known
from strategies.silo_half import SiloHalf


def build_strategy(conf: StrategyConf) -> Strategy:
    """Return the server's half of the algorithm that a configuration names, with its arguments.

    Raises ConfigError: MDW-150 for an unknown name, MDW-166 where the half at the silos can't be
    made, those of `strategies.external` for a class from outside this tree; SiloError MDW-346 or
    MDW-347 for one that this process was not started with.
    """
    if isinstance(conf, ExternalStrategyConf):
        return _outside(conf)
    return _weighing(_strategy_class(conf)(**_arguments(conf)), conf)


def silo_half_of(conf: StrategyConf, told: Mapping[str, Any] | None = None) -> SiloHalf:
    """Return the silo's half of the algorithm that a configuration names, for one round.

    Of a class from outside this tree the silo needs the code where it has a half there, and only
    then is it named in a message. Any other is Flower's, and `told` is what the message says beside
    the configuration (`flower_half`). Raises ConfigError MDW-150 for an unknown name, SiloError
    MDW-346 or MDW-347 for code that this process was not started with.
    """
    if isinstance(conf, ExternalStrategyConf):
        if not conf.code:
            return flower_half(**(told or {}))
        return silo_half(known.loaded("strategy", conf.name, conf.code), conf.args)
    return silo_half(_strategy_class(conf), _arguments(conf))


def silo_half(strategy: type[Strategy], arguments: Mapping[str, Any]) -> SiloHalf:
    """Return the silo's half that a strategy's class names, given those of the strategy's arguments
    that it takes; plain local training where the class names none.

    An argument that was not said has the default of the strategy's constructor, so that both halves
    mean the same.
    """
    half: Callable[..., SiloHalf] = getattr(strategy, "silo_half", SiloHalf)
    accepted = inspect.signature(half).parameters
    parameters = inspect.signature(strategy).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    given = defaults | dict(arguments)
    return half(**{name: value for name, value in given.items() if name in accepted})


def flower_half(proximal_mu: Any = None) -> SiloHalf:
    """Return what Flower's own strategies expect of a silo: plain training, and of FedProx its
    term, whose weight the message says.

    Raises WireError MDW-670 where that is no number from 0 on.
    """
    if proximal_mu is None:
        return SiloHalf()
    number = isinstance(proximal_mu, int | float)
    if not number or not math.isfinite(proximal_mu) or proximal_mu < 0:
        raise WireError(
            "MDW-670",
            f"The server says proximal-mu={proximal_mu!r:.40}, which is not a finite number from 0"
            " on.",
            "Give FedProx another proximal_mu.",
        )
    # By its name, as a run's own strategy is: what is imported here is part of every run's digest.
    return silo_half(_class_in("fedprox"), {"mu": float(proximal_mu)})


def _outside(conf: ExternalStrategyConf) -> Strategy:
    """Return a strategy from outside this tree: one of ours as it is, any other hosted."""
    from strategies.algorithm import Algorithm
    from strategies.external import External, construct

    cls = known.loaded("strategy", conf.name, conf.code)
    made = construct(cls, conf.args, conf.name, "strategy.args")
    try:
        # Tried here, so that it does not fail at every silo.
        silo_half(type(made), conf.args)
    except Exception as error:
        what = f"The half of {conf.name} at the silos can't be made: {error}."
        hint = "Its arguments are those of the strategy's constructor of the same names."
        raise ConfigError("MDW-166", what, hint) from error
    if isinstance(made, Algorithm):
        return _weighing(made, conf)
    if conf.weighting == "size":
        raise ConfigError(
            "MDW-163",
            f"strategy.weighting=size: {cls.__name__} is no strategy of Meadow's kind, and weighs"
            " by examples or not at all.",
            "Use strategy.weighting=examples or equal, or derive it from"
            " strategies.algorithm.Algorithm.",
        )
    return External(made, conf.weighting)


def _weighing(strategy: Strategy, conf: StrategyConf) -> Strategy:
    """Return a strategy of ours that weighs as its configuration says."""
    strategy.weighting = conf.weighting  # type: ignore[attr-defined]  # an Algorithm
    return strategy


def _arguments(conf: StrategyConf) -> dict[str, Any]:
    arguments = asdict(conf)
    for of_all in ("name", "weighting"):
        del arguments[of_all]
    return arguments


def _strategy_class(conf: StrategyConf) -> type[Strategy]:
    names = VARIANTS["strategy"]
    if conf.name not in names:
        raise ConfigError(
            "MDW-150",
            f"strategy={conf.name}: there is no such strategy.",
            nearest(conf.name, names),
        )
    return _class_in(conf.name)


def _class_in(name: str) -> type[Strategy]:
    module = importlib.import_module(f"strategies.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Strategy)
        and value.__module__ == module.__name__
    ]
    (strategy,) = found  # one algorithm a file, tests/strategies/test_build.py
    return strategy
