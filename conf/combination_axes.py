"""What decides how an update comes about: each choice is a value on an axis (`conf.combinations`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from conf.schema import Conf, RunScope
from conf.schema.training import PRECISIONS


@dataclass(frozen=True)
class Value:
    """One choice: its name, how it is written, and whether a configuration has made it."""

    name: str
    written: str
    chosen: Callable[[Conf | RunScope], bool]


@dataclass(frozen=True)
class Axis:
    """What is chosen, and the key that a message names."""

    name: str
    key: str
    values: tuple[Value, ...]

    def chosen(self, conf: Conf | RunScope) -> Value | None:
        """Return the value that a configuration has on this axis, None for one not in the table."""
        return next((value for value in self.values if value.chosen(conf)), None)


def _at(conf: Conf | RunScope, key: str) -> Any:
    """Return a configuration's value at a dotted key; None where the chosen group has none."""
    found: Any = conf
    for name in key.split("."):
        found = getattr(found, name, None)
    return found


def _named(name: str, key: str, said: Mapping[str, object], *, group: str = "") -> Axis:
    """Return an axis of which each value is one of a key, by its name.

    With a `group` that is what is written: a choice of `strategy` decides `strategy.name`.
    """
    values = [_one(one, group or key, key, value) for one, value in said.items()]
    return Axis(name, group or key, tuple(values))


def _one(name: str, written: str, key: str, value: object) -> Value:
    text = "null" if value is None else str(value)
    return Value(name, f"{written}={text}", lambda conf: bool(_at(conf, key) == value))


def _sgd(conf: Conf | RunScope, *, momentum: bool) -> bool:
    return conf.trainer.optimizer == "sgd" and (conf.trainer.momentum > 0) == momentum


COHORT_RULES: Final = (
    "median",
    "trimmed_mean",
    "krum",
    "multikrum",
    "bulyan",
    "geometric_median",
    "centered_clipping",
)
"""Rules over all updates of a round (`strategies.cohort_rule`)."""
COUNTING_ROWS: Final = tuple(name for name in COHORT_RULES if name != "geometric_median")
"""Those that know no weights."""
_ALGORITHMS: Final = _named(
    "algorithm",
    "strategy.name",
    {name: name for name in ("fedavg", "fedprox", "scaffold", *COHORT_RULES)},
    group="strategy",
)
_FROM_FLOWER: Final = Value(
    "from Flower",
    "strategy.target=flwr.serverapp.strategy.FedAdam strategy.args.eta=0.01",
    lambda conf: str(_at(conf, "strategy.target") or "").startswith("flwr."),
)

AXES: Final = (
    replace(_ALGORITHMS, values=(*_ALGORITHMS.values, _FROM_FLOWER)),
    Axis(
        "optimizer",
        "trainer.optimizer",
        (
            Value("sgd", "trainer.momentum=0", partial(_sgd, momentum=False)),
            Value("momentum", "trainer.momentum=0.9", partial(_sgd, momentum=True)),
            _one("adam", "trainer", "trainer.optimizer", "adam"),
            Value(
                "adamw",
                "trainer=adam trainer.optimizer=adamw",
                lambda conf: conf.trainer.optimizer == "adamw",
            ),
        ),
    ),
    _named("precision", "trainer.precision", {name: name for name in PRECISIONS}),
    Axis(
        "clipping",
        "trainer.clip_norm",
        (
            _one("unclipped", "trainer.clip_norm", "trainer.clip_norm", None),
            Value("clipped", "trainer.clip_norm=1", lambda c: c.trainer.clip_norm is not None),
        ),
    ),
    Axis(
        "batches a step",
        "trainer.accumulate",
        (
            _one("one", "trainer.accumulate", "trainer.accumulate", 1),
            Value("several", "trainer.accumulate=2", lambda c: c.trainer.accumulate > 1),
        ),
    ),
    _named(
        "weighting",
        "strategy.weighting",
        {"by examples": "examples", "by size": "size", "each the same": "equal"},
    ),
    Axis(
        "normalisation",
        "model",
        (
            Value("no buffers", "model=mlp", lambda c: c.model.name in ("mlp", "cnn")),
            Value("batch norm", "model=resnet18", lambda c: _at(c, "model.norm") == "batch"),
        ),
    ),
    Axis(
        "participation",
        "run.cohort",
        (
            _one("all silos", "run.cohort", "run.cohort", None),
            Value("some silos", "run.cohort=2", lambda c: c.run.cohort is not None),
        ),
    ),
    Axis(
        "personal layers",
        "strategy.keeps",
        (
            _one("all shared", "strategy.keeps", "strategy.keeps", []),
            Value("personal layers", "strategy.keeps=[fc]", lambda c: bool(c.strategy.keeps)),
        ),
    ),
    _named("model that is kept", "run.keep", {"the last": "last", "the best": "best"}),
    _named(
        "privacy",
        "privacy.name",
        {
            "no privacy": "none",
            "sample-level privacy": "sample_dp",
            "silo-level privacy": "silo_dp",
            "local privacy": "local_dp",
        },
        group="privacy",
    ),
    _named("aggregation", "aggregation.name", {"in the clear": "plain"}, group="aggregation"),
    _named(
        "compression",
        "compression.name",
        {
            "no compression": "none",
            "bf16 changes": "bf16",
            "fp16 changes": "fp16",
            "int8": "int8",
            "int4": "int4",
            "topk": "topk",
            "randk": "randk",
            "lowrank": "lowrank",
        },
        group="compression",
    ),
)
