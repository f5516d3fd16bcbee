"""What a run trained, in the words of its configuration: for the report and for comparisons.

`config.yaml` is read as plain values, not as a configuration: a page of a run can be made where its
task, model or strategy can't be loaded, and by a release that has other keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

Config = Mapping[str, Any]

LONGEST: Final = 200
"""Characters of a value that is shown."""
MOST_BYTES: Final = 1 << 20
"""Of a `config.yaml` that is read: a second of parsing. One of 1,000 named silos has less."""
IN_SIGHT: Final = {
    "trainer": ("optimizer", "lr", "momentum", "epochs", "batch_size"),
    "data": ("partition", "alpha", "labels_per_silo", "validation", "test", "group", "examples"),
}
"""Keys of a group that are told first, in this order; others only where they are not the default."""
ONLY_FOR: Final = {
    "alpha": ("partition", ("dirichlet", "quantity")),
    "labels_per_silo": ("partition", ("labels",)),
    "momentum": ("optimizer", ("sgd",)),
}
"""Keys that mean something where another key of their group has one of these values."""
LEFT_OUT: Final = ("root", "download", "device", "threads", "eval_batch_size")
"""Keys that say where a run was made, not what was trained."""


def read_config(folder: Path) -> Config:
    """Return a run's `config.yaml` as plain values; empty where there is none that can be read."""
    path = folder / "config.yaml"
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def what_was_trained(config: Config) -> list[tuple[str, str]]:
    """Return a run's settings as (what, how) for people: empty where nothing is known."""
    if not config:
        return []
    run = _group(config, "run")
    strategy = _group(config, "strategy")
    keeps = strategy.pop("keeps", None)
    # Of the server's memory, and not of what was trained.
    strategy.pop("hold_mib", None)
    rows = [
        ("task", _named(_group(config, "task"))),
        ("model", _named(_group(config, "model"))),
        ("strategy", _named(strategy)),
        ("personal layers", _personal(keeps)),
        ("training at a silo", _chosen("trainer", _group(config, "trainer"))),
        ("data", _chosen("data", _group(config, "data"))),
        ("rounds", _rounds(run)),
        ("seed", _text(run.get("seed"))),
    ]
    for name in ("privacy", "aggregation", "compression"):
        group = _group(config, name)
        if group.get("name", "none") not in ("none", "plain"):
            rows.append((name, _named(group)))
    return [(what, how) for what, how in rows if how]


def flat(config: Config) -> dict[str, str]:
    """Return every value of a configuration by its dotted key, as text."""
    return {key: _text(value) for key, value in _leaves("", config)}


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), below)
    else:
        yield prefix, value


def _group(config: Config, name: str) -> dict[str, Any]:
    group = config.get(name)
    return dict(group) if isinstance(group, Mapping) else {}


def _personal(keeps: Any) -> str:
    if not isinstance(keeps, list) or not keeps:
        return ""
    names = ", ".join(map(_text, keeps))
    return f"{names}: they stay at the silos, and in the final model they are the first weights"


def _named(group: dict[str, Any]) -> str:
    """Return a task, a model or a strategy: its name, then its arguments."""
    name = _text(group.pop("name", ""))
    target = group.pop("target", None)
    if target:
        name = f"{name} ({_text(target)})" if name else _text(target)
    return ", ".join([name, *_pairs(group)]) if name else ""


def _chosen(name: str, group: dict[str, Any]) -> str:
    """Return the keys of a group that are told, then those that a run has changed."""
    meant = {key: value for key, value in group.items() if _means_something(key, group)}
    told = {key: meant.pop(key) for key in IN_SIGHT[name] if key in meant}
    return ", ".join([*_pairs(told), *_pairs(_changed(name, meant))])


def _means_something(key: str, group: Mapping[str, Any]) -> bool:
    if key in LEFT_OUT:
        return False
    other, values = ONLY_FOR.get(key, ("", ()))
    return not other or group.get(other) in values


def _changed(name: str, group: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a group that are not the schema's defaults."""
    from dataclasses import asdict

    from conf.schema import DataConf, TrainerConf

    kinds: dict[str, type[Any]] = {"trainer": TrainerConf, "data": DataConf}
    defaults = asdict(kinds[name]())
    return {key: value for key, value in group.items() if value != defaults.get(key)}


def _rounds(run: dict[str, Any]) -> str:
    parts = [_text(run.get("rounds"))]
    if run.get("cohort"):
        parts.append(f"{_text(run['cohort'])} silos asked in each")
    if run.get("quorum"):
        parts.append(f"a quorum of {_text(run['quorum'])}")
    stop = run.get("early_stop")
    if isinstance(stop, Mapping) and stop.get("patience"):
        metric = _text(stop.get("metric") or "the headline")
        parts.append(f"ends after {_text(stop['patience'])} without a better {metric}")
    if run.get("keep") == "best":
        parts.append("keeps the best model by validation")
    return ", ".join(part for part in parts if part)


def _pairs(group: Mapping[str, Any]) -> list[str]:
    pairs = []
    for key, value in group.items():
        if isinstance(value, Mapping):
            pairs += [f"{below} {_text(one)}" for below, one in _leaves("", value) if below]
        elif _text(value) and key != "code":
            # A digest says nothing here; the page has it among the versions.
            pairs.append(f"{str(key).replace('_', ' ')} {_text(value)}")
    return pairs


def _text(value: Any) -> str:
    """Return a plain value as a person writes it in YAML."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        # A contract's columns, say: the configuration has them.
        return str(len(value)) if value else ""
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
