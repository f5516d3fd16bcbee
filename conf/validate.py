"""Whether a composed configuration makes sense: each field's own limits, then the rules between fields."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from conf.errors import ConfigError
from conf.schema import VARIANTS, Conf, ExternalStrategyConf, SiloConf
from conf.schema_keys import nearest

Where = Callable[[str], str]
"""Says where a key got its value: a file, or the command line."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def validate(conf: Conf, where: Where = lambda key: "configuration") -> None:
    """Raise ConfigError for the first thing that is wrong: MDW-104 a value, MDW-105 two that contradict."""
    check_limits(conf, "", where)
    for rule in (_variants, _silo_names, _silo_data, _counts, _external, _registered):
        rule(conf, where)


def check_limits(value: Any, key: str, where: Where) -> None:
    """Hold a dataclass, and all those inside it, to the limits beside its fields (`number`, `one_of`, `text`).

    Raises ConfigError (MDW-104).
    """
    if is_dataclass(value):
        for f in fields(value):
            inner, at = getattr(value, f.name), f"{key}.{f.name}" if key else f.name
            _check(inner, at, dict(f.metadata), where)
            check_limits(inner, at, where)
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_limits(inner, f"{key}.{name}", where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _refused(key, value, where, "must be a finite number.")


def _check(value: Any, key: str, limits: dict[str, Any], where: Where) -> None:
    if isinstance(value, list):
        for i, element in enumerate(value):
            _check(element, f"{key}[{i}]", limits, where)
        return
    choices = tuple(VARIANTS[limits["group"]]) if "group" in limits else limits.get("one_of")
    if choices is not None and value not in choices:
        raise _refused(key, value, where, "is not one of its values.", nearest(str(value), choices))
    pattern = limits.get("pattern")
    if pattern is not None and value is not None and not re.fullmatch(pattern, value):
        raise _refused(key, value, where, f"must be {limits['wanted']}.")
    if value is None:
        return
    above, least, most = (limits.get(name) for name in ("above", "at_least", "at_most"))
    if above is not None and not value > above:
        raise _refused(key, value, where, f"must be above {above}.")
    if least is not None and not value >= least:
        raise _refused(key, value, where, f"must be at least {least}.")
    if most is not None and not value <= most:
        raise _refused(key, value, where, f"must be at most {most}.")


def _refused(
    key: str, value: object, where: Where, why: str, hint: str = "Correct the value."
) -> ConfigError:
    return ConfigError("MDW-104", f"{key}={value} ({where(key)}): {key} {why}", hint)


def _variants(conf: Conf, where: Where) -> None:
    for group, classes in VARIANTS.items():
        chosen = getattr(conf, group)
        if chosen.name not in classes:
            raise ConfigError(
                "MDW-102",
                f"{group}.name={chosen.name} ({where(f'{group}.name')}): there is no {group} '{chosen.name}'.",
                nearest(chosen.name, classes),
            )
        if type(chosen) is not classes[chosen.name]:
            raise ConfigError(
                "MDW-105",
                f"{group}.name={chosen.name} ({where(f'{group}.name')}) does not fit the keys of the chosen group.",
                f"Write {group}={chosen.name}, which brings its own keys.",
            )


def _silo_names(conf: Conf, where: Where) -> None:
    for name in conf.federation.silos:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "MDW-104",
                f"'{name}' ({where('federation.silos')}) can't name a silo.",
                "Use up to 64 ASCII letters, digits, '-' and '_', the first a letter or digit.",
            )


def _silo_data(conf: Conf, where: Where) -> None:
    from conf.silos import data_of  # conf.silos checks limits with this module

    for name, silo in conf.federation.silos.items():
        data_of(conf.data, silo, f"federation.silos.{name}.data", where)


def _counts(conf: Conf, where: Where) -> None:
    run, silos = conf.run, len(conf.federation.silos) or conf.federation.size
    there = f"{silos} silo{'s' if silos > 1 else ''} in the federation"
    cohort = run.cohort or silos
    limits = [
        ("run.cohort", run.cohort, silos, there),
        ("run.start_quorum", run.start_quorum, silos, there),
    ]
    asked = f"the {cohort} asked in a round (run.cohort)" if run.cohort else there
    limits.append(("run.quorum", run.quorum, cohort, asked))
    for key, value, most, of in limits:
        if value is not None and value > most:
            raise _contradiction(
                key, value, where, f"is more than {of}.", f"Set {key} to {most} or less."
            )
    if conf.data.examples is not None and _parted(conf) > conf.data.examples:
        raise _contradiction(
            "data.examples",
            conf.data.examples,
            where,
            f"gives {_parted(conf)} silos less than one example each.",
            "Use more examples or fewer silos.",
        )


def _parted(conf: Conf) -> int:
    """Return how many silos share the public set: those that do not have their own."""
    silos = [
        conf.data.partition if s is None else s.data.get("partition", conf.data.partition)
        for s in _silos(conf)
    ]
    return sum(partition != "own" for partition in silos)


def _silos(conf: Conf) -> list[SiloConf | None]:
    return list(conf.federation.silos.values()) or [None] * conf.federation.size


def _external(conf: Conf, where: Where) -> None:
    strategy = conf.strategy
    if isinstance(strategy, ExternalStrategyConf) and not strategy.target:
        raise ConfigError(
            "MDW-105",
            f"strategy=external ({where('strategy.name')}) lacks strategy.target.",
            "Write for instance strategy.target=flwr.serverapp.strategy.FedAdam.",
        )


def _registered(conf: Conf, where: Where) -> None:
    if conf.tracking.register and conf.tracking.mlflow == "off":
        why = "registers the model nowhere, with tracking=off."
        raise _contradiction(
            "tracking.register", "true", where, why, "Add tracking=local or tracking=environment."
        )


def _contradiction(key: str, value: object, where: Where, why: str, hint: str) -> ConfigError:
    return ConfigError("MDW-105", f"{key}={value} ({where(key)}) {why}", hint)
