"""How updates become a model: one rule a file.

`strategy=NAME` is the one `Strategy` class defined in `strategies/NAME.py`; the fields of its
configuration, beyond `name`, are the arguments of its constructor. So a new strategy is its file,
its dataclass in `conf/schema.py` (and the line there that names it) and its
`conf/strategy/NAME.yaml`.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict

from flwr.serverapp.strategy import Strategy

from conf.errors import ConfigError
from conf.schema import VARIANTS, StrategyConf
from conf.schema_keys import nearest


def build_strategy(conf: StrategyConf) -> Strategy:
    """Return the strategy that a configuration names, with its arguments.

    Raises ConfigError: MDW-150 for an unknown name, those of `strategies.external` for a class from
    elsewhere.
    """
    names = VARIANTS["strategy"]
    if conf.name not in names:
        raise ConfigError(
            "MDW-150",
            f"strategy={conf.name}: there is no such strategy.",
            nearest(conf.name, names),
        )
    arguments = asdict(conf)
    del arguments["name"]
    return _class_in(conf.name)(**arguments)


def _class_in(name: str) -> type[Strategy]:
    module = importlib.import_module(f"strategies.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Strategy)
        and value.__module__ == module.__name__
    ]
    (strategy,) = found  # one rule a file, tests/strategies/test_build.py
    return strategy
