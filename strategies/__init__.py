"""How updates become a model: one algorithm a file, with its half at the server and its half at a
silo.

`strategy=NAME` is the one `Strategy` class defined in `strategies/NAME.py`; the fields that its
dataclass adds to those of every strategy are the arguments of its constructor, as `strategy.args`
are for a class from outside. The class names what the silos
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
from functools import lru_cache
from typing import Any

from flwr.serverapp.strategy import Strategy

from conf.errors import ConfigError, WireError
from conf.schema import VARIANTS, ExternalStrategyConf, StrategyConf
from conf.schema_keys import nearest
from conf.targets import known
from conf.targets.signature import arguments_of
from strategies.silo_half import SiloHalf


def build_strategy(conf: StrategyConf) -> Strategy:
    """Return the server's half of the algorithm that a configuration names, with its arguments.

    One derived from `strategies.algorithm.Algorithm`, of this tree or not, is returned as it is; any
    other of Flower's is hosted (`strategies.external.External`). Raises ConfigError: MDW-150 for an
    unknown name, MDW-163 where it can't weigh as it is asked to, MDW-147 where silos can't keep
    what they are asked to, MDW-166 where the half at the
    silos can't be made, those of `strategies.external.construct`; SiloError MDW-346 or MDW-347 for
    a class that this process was not started with.
    """
    from strategies.algorithm import Algorithm
    from strategies.external import External, construct

    cls = _strategy_class(conf)
    args = arguments_of(conf, StrategyConf)
    made = construct(cls, args, conf.name, "strategy.args")
    try:
        # Tried here, so that it does not fail at every silo.
        silo_half(cls, args)
    except Exception as error:
        what = f"The half of {conf.name} at the silos can't be made: {error}."
        hint = "Its arguments are those of the strategy's constructor of the same names."
        raise ConfigError("MDW-166", what, hint) from error
    if isinstance(made, Algorithm):
        made.weighting = conf.weighting
        made.keeps = (*made.keeps, *conf.keeps)
        made.hold_bytes = conf.hold_mib * 2**20
        return made
    if conf.keeps:
        raise ConfigError(
            "MDW-147",
            f"strategy.keeps={conf.keeps}: {cls.__name__} is no strategy of Meadow's kind, and gets"
            " all of the model's arrays.",
            "Leave strategy.keeps out, or derive it from strategies.algorithm.Algorithm.",
        )
    if conf.weighting == "size":
        raise ConfigError(
            "MDW-163",
            f"strategy.weighting=size: {cls.__name__} is no strategy of Meadow's kind, and weighs"
            " by examples or not at all.",
            "Use strategy.weighting=examples or equal, or derive it from"
            " strategies.algorithm.Algorithm.",
        )
    return External(made, conf.weighting)


def silo_half_of(conf: StrategyConf, told: Mapping[str, Any] | None = None) -> SiloHalf:
    """Return the silo's half of the algorithm that a configuration names, for one round.

    Of a class from outside this tree the silo needs the code where it has a half there, and only
    then is it named in a message. Any other is Flower's, and `told` is what the message says beside
    the configuration (`flower_half`). Raises ConfigError MDW-150 for an unknown name, SiloError
    MDW-346 or MDW-347 for code that this process was not started with.
    """
    if isinstance(conf, ExternalStrategyConf) and not conf.code:
        return flower_half(**(told or {}))
    half = silo_half(_strategy_class(conf), arguments_of(conf, StrategyConf))
    half.keeps = (*half.keeps, *conf.keeps)
    return half


def silo_half(strategy: type[Strategy], arguments: Mapping[str, Any]) -> SiloHalf:
    """Return the silo's half that a strategy's class names, given those of the strategy's arguments
    that it takes; plain local training where the class names none.

    An argument that was not said has the default of the strategy's constructor, so that both halves
    mean the same.
    """
    half: Callable[..., SiloHalf] = getattr(strategy, "silo_half", SiloHalf)
    given = _defaults(strategy) | dict(arguments)
    return half(**{name: value for name, value in given.items() if name in _accepted(half)})


# A half is made for each message, and to read a signature takes longer than to make one.
@lru_cache(maxsize=32)
def _accepted(half: Callable[..., SiloHalf]) -> frozenset[str]:
    """Return the names of the arguments that a half takes."""
    return frozenset(inspect.signature(half).parameters)


@lru_cache(maxsize=32)
def _defaults(strategy: type[Strategy]) -> dict[str, Any]:
    """Return the arguments of a strategy that have a default; nobody changes it."""
    parameters = inspect.signature(strategy).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


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


def _strategy_class(conf: StrategyConf) -> type[Strategy]:
    """Return the class that a configuration names: of this tree by its name, or from outside."""
    if isinstance(conf, ExternalStrategyConf):
        outside: type[Strategy] = known.loaded("strategy", conf.name, conf.code)
        return outside
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
