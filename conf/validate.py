"""Whether a composed configuration makes sense: each field's own limits, then the rules between
fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Final

from conf import combinations, fewest
from conf.errors import ConfigError
from conf.privacy_kinds import EXAMPLE
from conf.schema import (
    EXTERNAL,
    VARIANTS,
    Conf,
    DataConf,
    NoisyConf,
    OutboundConf,
    SampleDpConf,
    SiloConf,
    TrainingProcessConf,
    is_outside,
)
from conf.schema_keys import nearest

Where = Callable[[str], str]
"""Says where a key got its value: a file, or the command line."""

MOST_HELD_OUT: Final = 0.9
"""Of a silo's examples, for validation and test together."""

_EXAMPLES = {
    "task": "task.target=wine.py:Wine",
    "model": "model.target=net.py:Net",
    "strategy": "strategy.target=flwr.serverapp.strategy.FedAdam",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def validate(conf: Conf, where: Where = lambda key: "configuration") -> None:
    """Raise ConfigError for the first wrong value (MDW-104), contradiction (MDW-105) or combination
    that is refused (MDW-165).
    """
    check_limits(conf, "", where)
    for rule in (
        _variants,
        _federation_name,
        _silo_names,
        _silo_data,
        _policies,
        _hidden_counts,
        _counts,
        _operating,
        _ordered,
        _external,
        _registered,
        _counted,
        _noise,
        _noised_metrics,
        combinations.check,
        fewest.check,
    ):
        rule(conf, where)


def check_limits(value: Any, key: str, where: Where) -> None:
    """Check a dataclass, and all those inside it, against the limits beside its fields.

    These are `number`, `one_of` and `text` of `conf.schema`. Raises ConfigError (MDW-104).
    """
    if is_dataclass(value):
        for f in fields(value):
            inner = getattr(value, f.name)
            at = f"{key}.{f.name}" if key else f.name
            for name, one in _entries(inner, at):
                _check(one, name, dict(f.metadata), where)
            check_limits(inner, at, where)
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_limits(inner, f"{key}.{name}", where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _refused(key, value, where, "must be a finite number.")


def _entries(value: Any, key: str) -> list[tuple[str, Any]]:
    """Return what the limits of a field hold for: each plain value of a mapping, else the value."""
    if not isinstance(value, dict):
        return [(key, value)]
    return [(f"{key}.{name}", one) for name, one in value.items() if not is_dataclass(one)]


def _check(value: Any, key: str, limits: dict[str, Any], where: Where) -> None:
    if isinstance(value, list):
        most = limits.get("entries_at_most")
        if most is not None and len(value) > most:
            raise _refused(key, f"[{len(value)} entries]", where, f"must have at most {most}.")
        for i, element in enumerate(value):
            _check(element, f"{key}[{i}]", limits, where)
        return
    if value is None:
        return
    choices = limits.get("one_of")
    if "group" in limits:
        choices = _allowed(limits["group"], value)
    if choices is not None and value not in choices:
        raise _refused(key, value, where, "is not one of its values.", nearest(str(value), choices))
    pattern = limits.get("pattern")
    if pattern is not None and not re.fullmatch(pattern, value):
        raise _refused(key, value, where, f"must be {limits['wanted']}.")
    _check_number(value, key, limits, where)


def _allowed(group: str, value: Any) -> tuple[str, ...]:
    """Return the names that a policy may list: this tree's, and those from outside."""
    if isinstance(value, str) and is_outside(value):
        return (value,)
    own = tuple(VARIANTS[group])
    if value in own:
        return own
    from conf.targets.known import point_names

    return (*own, *point_names(group))


def _check_number(value: Any, key: str, limits: dict[str, Any], where: Where) -> None:
    above = limits.get("above")
    if above is not None and not value > above:
        raise _refused(key, value, where, f"must be above {above}.")
    least = limits.get("at_least")
    if least is not None and not value >= least:
        raise _refused(key, value, where, f"must be at least {least}.")
    most = limits.get("at_most")
    if most is not None and not value <= most:
        raise _refused(key, value, where, f"must be at most {most}.")


def _refused(
    key: str, value: object, where: Where, why: str, hint: str = "Correct the value."
) -> ConfigError:
    return ConfigError("MDW-104", f"{key}={value} ({where(key)}): {key} {why}", hint)


def _variants(conf: Conf, where: Where) -> None:
    for group, classes in VARIANTS.items():
        chosen = getattr(conf, group)
        at = f"{group}.name={chosen.name} ({where(f'{group}.name')})"
        if type(chosen) is classes.get(EXTERNAL) and chosen.name not in classes:
            continue
        if chosen.name not in classes:
            what = f"{at}: there is no {group} '{chosen.name}'."
            raise ConfigError("MDW-102", what, nearest(chosen.name, classes))
        if type(chosen) is not classes[chosen.name]:
            what = f"{at} does not fit the keys of the chosen group."
            hint = f"Write {group}={chosen.name}, which brings its own keys."
            raise ConfigError("MDW-105", what, hint)


def _federation_name(conf: Conf, where: Where) -> None:
    name = conf.federation.name
    if not _NAME.fullmatch(name):
        # It names folders, blobs and MLflow runs: `../x` would be somebody else's.
        raise ConfigError(
            "MDW-104",
            f"federation.name={name[:80]!r} ({where('federation.name')}) can't name a federation.",
            "Use up to 64 ASCII letters, digits, '-' and '_', the first a letter or digit.",
        )


def _silo_names(conf: Conf, where: Where) -> None:
    for name in conf.federation.silos:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "MDW-104",
                f"'{name}' ({where('federation.silos')}) can't name a silo.",
                "Use up to 64 ASCII letters, digits, '-' and '_', the first a letter or digit.",
            )


def _policies(conf: Conf, where: Where) -> None:
    from conf.allowed import check_policy  # conf.allowed checks limits with this module

    for name, silo in conf.federation.silos.items():
        check_policy(silo.policy, f"federation.silos.{name}.policy", where)
        check_training(silo.training, f"federation.silos.{name}.training", where)
        check_outbound(silo.outbound, f"federation.silos.{name}.outbound", where)
    orchestrator = conf.federation.orchestrator
    check_outbound(orchestrator.outbound, "federation.orchestrator.outbound", where)


def check_outbound(outbound: OutboundConf, key: str, where: Where) -> None:
    """Raise ConfigError MDW-118 for a setting that means nothing without another."""
    alone = [name for name in ("proxy_user", "no_proxy") if getattr(outbound, name)]
    if alone and outbound.proxy is None:
        what = f"{key}.{alone[0]} ({where(key)}) is set, and {key}.proxy is not."
        raise ConfigError("MDW-118", what, f"Name the proxy, or leave {alone[0]} out.")
    if (outbound.proxy_user is None) != (outbound.proxy_password is None):
        what = f"{key} ({where(key)}) has one of proxy_user and proxy_password."
        raise ConfigError("MDW-118", what, "Give both, or neither.")


def check_training(training: TrainingProcessConf, key: str, where: Where) -> None:
    """Raise ConfigError MDW-142 for limits of a training process that there would not be."""
    limited = [
        name
        for name in ("memory", "gpu_memory", "seconds")
        if getattr(training, name) != getattr(TrainingProcessConf(), name)
    ]
    if limited and not training.separate:
        what = f"{key}.{limited[0]} ({where(key)}) limits a process of its own, and there is none."
        raise ConfigError("MDW-142", what, f"Add {key}.separate=true, or leave it out.")


def _hidden_counts(conf: Conf, where: Where) -> None:
    """Raise ConfigError MDW-164 where a silo keeps its counts and the strategy weighs by them."""
    weighting = conf.strategy.weighting
    for name, silo in conf.federation.silos.items():
        if not silo.policy.reveal_counts and weighting != "equal":
            key = f"federation.silos.{name}.policy.reveal_counts"
            raise ConfigError(
                "MDW-164",
                f"{key}=false ({where(key)}): strategy.weighting={weighting} tells how many"
                " examples a silo has.",
                "Set strategy.weighting=equal.",
            )


def _silo_data(conf: Conf, where: Where) -> None:
    from conf.silos import data_of  # conf.silos checks limits with this module

    _shares(conf.data, "data", where)
    for name, silo in conf.federation.silos.items():
        key = f"federation.silos.{name}.data"
        _shares(data_of(conf.data, silo, key, where), key, where)


def _shares(data: DataConf, key: str, where: Where) -> None:
    """Raise ConfigError MDW-160 where the splits leave less than a tenth to train on."""
    held_out = data.validation + data.test
    # The rounding of a sum such as .45 + .45 is no mistake of whoever wrote it.
    if held_out > MOST_HELD_OUT + 1e-9:
        raise ConfigError(
            "MDW-160",
            f"{key}.validation={data.validation} and {key}.test={data.test} ({where(key)})"
            f" hold out {held_out:.3g} of the examples; at most {MOST_HELD_OUT} may be.",
            "Lower one of them.",
        )


def _counts(conf: Conf, where: Where) -> None:
    run = conf.run
    silos = len(conf.federation.silos) or conf.federation.size
    federation = f"{silos} silo{'s' if silos > 1 else ''} in the federation"
    cohort = federation
    if run.cohort is not None:
        cohort = f"the {run.cohort} asked in a round (run.cohort)"
    limits = (
        ("run.cohort", run.cohort, silos, federation),
        ("run.start_quorum", run.start_quorum, silos, federation),
        ("run.quorum", run.quorum, run.cohort or silos, cohort),
    )
    for key, value, most, whole in limits:
        if value is not None and value > most:
            hint = f"Set {key} to {most} or less."
            raise _contradiction(key, value, where, f"is more than {whole}.", hint)
    examples = conf.data.examples
    sharing = _silos_that_share(conf)
    if examples is not None and sharing > examples:
        why = f"gives {sharing} silos less than one example each."
        hint = "Use more examples or fewer silos."
        raise _contradiction("data.examples", examples, where, why, hint)


def _operating(conf: Conf, where: Where) -> None:
    operating = conf.run.operating
    if operating.rule in ("specificity", "sensitivity") and operating.at > 1:
        hint = "Set a share, or run.operating.rule=alarms."
        why = f"is more than the largest {operating.rule}, which is 1."
        raise _contradiction("run.operating.at", operating.at, where, why, hint)


def _ordered(conf: Conf, where: Where) -> None:
    data = conf.data
    if data.kept_apart and data.order is None:
        hint = "Set data.order to a column, or leave it out."
        why = "is the last part of a set that data.order does not order."
        raise _contradiction("data.kept_apart", data.kept_apart, where, why, hint)
    if data.order is not None and data.group is not None:
        hint = "Leave one of them out."
        why = "and data.group divide one set in two ways."
        raise _contradiction("data.order", data.order, where, why, hint)


def _silos_that_share(conf: Conf) -> int:
    """Return how many silos share the public set: those that do not have their own."""
    named = list(conf.federation.silos.values())
    silos = named or [SiloConf()] * conf.federation.size
    partitions = [silo.data.get("partition", conf.data.partition) for silo in silos]
    return sum(partition != "own" for partition in partitions)


def _external(conf: Conf, where: Where) -> None:
    for group in VARIANTS:
        chosen = getattr(conf, group)
        if chosen.name == EXTERNAL and not chosen.target:
            raise ConfigError(
                "MDW-105",
                f"{group}={EXTERNAL} ({where(f'{group}.name')}) lacks {group}.target.",
                f"Write for instance {_EXAMPLES[group]}.",
            )


def _registered(conf: Conf, where: Where) -> None:
    if conf.tracking.register and conf.tracking.mlflow == "off":
        why = "registers the model nowhere, with tracking=off."
        hint = "Add tracking=local or tracking=environment."
        raise _contradiction("tracking.register", "true", where, why, hint)


def _counted(conf: Conf, where: Where) -> None:
    if conf.privacy.is_private and getattr(conf.task, "balanced", False):
        why = f"weighs classes by how many examples each has, which no silo tells with privacy={conf.privacy.name}."
        raise _contradiction("task.balanced", "true", where, why, "Leave task.balanced out.")


def _noise(conf: Conf, where: Where) -> None:
    privacy = conf.privacy
    if not isinstance(privacy, NoisyConf):
        return
    if privacy.epsilon is None and privacy.noise_multiplier is None:
        why = "says no noise, and neither does privacy.noise_multiplier."
        raise _contradiction("privacy.epsilon", "null", where, why, "Give one of the two.")
    if privacy.epsilon is not None and privacy.noise_multiplier is not None:
        why = f"says the noise, and so does privacy.epsilon={privacy.epsilon:g}."
        key = "privacy.noise_multiplier"
        hint = "Add privacy.epsilon=null, and look at what it costs with meadow budget forecast."
        raise _contradiction(key, privacy.noise_multiplier, where, why, hint)
    if not isinstance(privacy, SampleDpConf):
        return
    if privacy.gradients == "ghost" and privacy.clipping == "per_layer":
        why = "holds no gradient of a single example, which privacy.clipping=per_layer clips."
        hint = "Take privacy.clipping=flat, or privacy.gradients=hooks."
        raise _contradiction("privacy.gradients", "ghost", where, why, hint)


def _noised_metrics(conf: Conf, where: Where) -> None:
    privacy = conf.privacy
    if not isinstance(privacy, SampleDpConf) or not privacy.noises_metrics:
        return
    key = "privacy.metrics_epsilon"
    if privacy.unit != EXAMPLE:
        why = f"bounds what one example moves, and not what a {privacy.unit} of them does."
        hint = "Leave privacy.metrics_epsilon out, or protect each example (privacy.unit=example)."
        raise _contradiction(key, privacy.metrics_epsilon, where, why, hint)
    if privacy.epsilon is not None and privacy.metrics_epsilon >= privacy.epsilon:
        why = f"leaves nothing of privacy.epsilon={privacy.epsilon:g} to train with."
        hint = "A tenth of privacy.epsilon is a usual part."
        raise _contradiction(key, privacy.metrics_epsilon, where, why, hint)
    if conf.run.early_stop.patience is not None and privacy.metrics_every > 1:
        why = "gives rounds without metrics, by which run.early_stop counts its patience."
        hint = "Set privacy.metrics_every=1, or leave run.early_stop.patience out."
        raise _contradiction("privacy.metrics_every", privacy.metrics_every, where, why, hint)


def _contradiction(key: str, value: object, where: Where, why: str, hint: str) -> ConfigError:
    return ConfigError("MDW-105", f"{key}={value} ({where(key)}) {why}", hint)
