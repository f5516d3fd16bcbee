"""`policy.allow`: which values of which keys a silo's owner permits, closed by default.

    allow:
      trainer.optimizer: [sgd]                        any of these values
      trainer.lr: {at_least: 0.001, at_most: 0.1}     a range
      model.hidden: {at_most: 64, entries_at_most: 2} each entry of a list, and how many there are

Every key that a silo acts upon needs a rule, also one that has its default: what a later release
adds is then refused until the owner has read about it. The rules are checked where they are read, so
that a typing error shows itself there and not as a refusal in the first round.

    MDW-140 rules and a version that do not go together    MDW-141 rules that can't be meant
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

from conf.errors import ConfigError
from conf.fields import as_now
from conf.parse import from_plain
from conf.schema import RUN_SCOPE, VARIANTS, Conf, PolicyConf, RunScope
from conf.schema_keys import bare, hints, nearest
from conf.validate import Where, check_limits

ALLOW_LIST: Final = 2
"""The version of a policy that has rules for every key."""
ROUNDS: Final = "run.rounds"
LOSS: Final = "loss"
"""The metric that every evaluation has (`client.sums.LOSS`, which imports torch)."""
GROUPS: Final = tuple(group for group in RUN_SCOPE if group != "run")
"""The groups of which a silo acts upon every key; of `run` it is the rounds alone."""
BLANKED: Final = frozenset({"target", "init"})
"""Keys that are empty in every message (`strategies.wire.run_config.pack`)."""
RANGE: Final = ("at_least", "at_most", "entries_at_most")
OLD: Final = {
    "tasks": "task.name",
    "models": "model.name",
    "strategies": "strategy.name",
    "epochs_at_most": "trainer.epochs",
    "rounds_at_most": ROUNDS,
}
"""Keys of the first version, with the key of a run that each is about."""
_NAMES: Final = {key: old for old, key in OLD.items() if key.endswith(".name")}


def asked(scope: Conf | RunScope, rounds: int) -> dict[str, Any]:
    """Return what a run asks of a silo: every value that the silo acts upon, by its key.

    `rounds` is how far the run has gone or means to go. Arguments are keys of their own:
    `task.args.depth`.
    """
    found: dict[str, Any] = {ROUNDS: rounds}
    for group in GROUPS:
        own = getattr(scope, group)
        for field in dataclasses.fields(own):
            value = getattr(own, field.name)
            if field.name in BLANKED or (field.name == "code" and not value):
                continue
            found.update(_flat(f"{group}.{field.name}", value))
    return found


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    inside = value.items() if isinstance(value, Mapping) else ()
    # An argument that is an empty mapping is one all the same; no arguments are nothing.
    if not inside and not (isinstance(value, Mapping) and key.endswith(".args")):
        yield key, value
    for name, inner in inside:
        yield from _flat(f"{key}.{name}", inner)


def draft(scope: Conf | RunScope) -> dict[str, Any]:
    """Return the rules that allow exactly such a run, and fewer rounds."""
    rules: dict[str, Any] = {}
    for key, value in asked(scope, scope.run.rounds).items():
        rules[key] = [value]
    rules[ROUNDS] = {"at_most": scope.run.rounds}
    return rules


@dataclasses.dataclass(frozen=True)
class Broken:
    """One thing that a run asks for and an owner does not allow, with what is allowed."""

    asked: str
    allowed: str


def broken(rules: Mapping[str, Any], values: Mapping[str, Any]) -> list[Broken]:
    """Return all of the values that the rules do not allow, in the order of the values."""
    found = []
    for key, value in values.items():
        if key not in rules:
            found.append(Broken(f"{_short(key)}={_short(value)}", "no value"))
        elif not _follows(_as_now(key, rules[key]), value):
            found.append(Broken(f"{key}={_short(value)}", said(rules[key])))
    return found


def said(rule: Any) -> str:
    """Return in words what a rule allows."""
    if isinstance(rule, list):
        return ", ".join(_short(value) for value in rule) or "no value"
    parts = []
    if "at_least" in rule:
        parts.append(f"at least {rule['at_least']}")
    if "at_most" in rule:
        parts.append(f"at most {rule['at_most']}")
    if "entries_at_most" in rule:
        parts.append(f"{rule['entries_at_most']} entries at most")
    return " and ".join(parts)


def _as_now(key: str, rule: Any) -> Any:
    """Return a rule in the words of this release: an owner wrote it when a key was a switch."""
    if not isinstance(rule, list):
        return rule
    for owner in _owners(key):
        metadata = owner.__dataclass_fields__[key.partition(".")[2]].metadata
        rule = [as_now(value, metadata) for value in rule]
    return rule


def _follows(rule: Any, value: Any) -> bool:
    if isinstance(rule, list):
        return any(_same(one, value) for one in rule)
    if isinstance(value, list):
        most = rule.get("entries_at_most")
        if most is not None and len(value) > most:
            return False
        return all(_within(rule, entry) for entry in value)
    return _within(rule, value)


def _within(rule: Mapping[str, Any], value: Any) -> bool:
    if not _is_number(value):
        return False
    least = rule.get("at_least")
    most = rule.get("at_most")
    return (least is None or value >= least) and (most is None or value <= most)


def _same(one: Any, other: Any) -> bool:
    """Compare two values; True is not 1, and 1 is 1.0."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _written(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


# ---- whether the rules themselves can be meant


def check_policy(policy: PolicyConf, key: str, where: Where) -> None:
    """Check a policy's version and its rules; all that is wrong is named at once.

    Raises ConfigError MDW-140 where version and rules do not go together, MDW-141 for rules that
    name no key of a run or hold values that the key can't have.
    """
    at = f"{key} ({where(key)})"
    if policy.version != ALLOW_LIST:
        if policy.allow:
            what = f"{at}: `allow` is read by version 2 of a policy, and this one is version 1."
            raise ConfigError("MDW-140", what, "Add version: 2 beside it, and read what it closes.")
        return
    old = [name for name in OLD if getattr(policy, name)]
    if old:
        rules = ", ".join(f"{OLD[name]} instead of {name}" for name in old)
        what = f"{at}: version 2 of a policy has no {', '.join(old)}."
        raise ConfigError("MDW-140", what, f"Put it into `allow`: {rules}.")
    if policy.metrics_at_least and LOSS not in policy.metrics_at_least:
        what = f"{at}: metrics_at_least names no {LOSS}, and every answer has one."
        raise ConfigError("MDW-140", what, f"Add {LOSS}: N, of how many examples it may be told.")
    faults = [fault for name, rule in policy.allow.items() if (fault := _fault(name, rule))]
    if faults:
        raise ConfigError("MDW-141", f"{at}: {'; '.join(faults)}.", "Correct the rules.")


def _fault(key: str, rule: Any) -> str:
    """Return what is wrong with one rule, empty where nothing is."""
    owners = _owners(key)
    if not owners and not _is_argument(key):
        return f"'{_short(key)}' is not a key that a silo acts upon. {nearest(key, _keys())}"
    if isinstance(rule, list):
        return _fault_of_list(key, rule, owners)
    if isinstance(rule, dict):
        return _fault_of_range(key, rule, owners)
    return f"{key}: {_short(rule)} is neither a list of values, [{_short(rule)}], nor a range"


def _fault_of_list(key: str, rule: list[Any], owners: list[type[Any]]) -> str:
    if key in _NAMES:
        # The first version's lists of names know which there are.
        return _fault_of_value(PolicyConf, f"policy.{_NAMES[key]}", rule)
    for value in rule:
        faults = [_fault_of_value(cls, key, value) for cls in owners]
        if faults and all(faults):
            return faults[0]
    return ""


def _fault_of_value(cls: type[Any], key: str, value: Any) -> str:
    """Say why a field of a class can't have a value, empty where it can."""
    group, _, name = key.partition(".")
    try:
        made = from_plain(cls, {name: value}, key=group, where="allow")
        check_limits(made, group, lambda _: "allow")
    except ConfigError as error:
        hint = f" ({error.hint})" if error.hint != "Correct the value." else ""
        return f"{error.message.rstrip('.')}{hint}"
    return ""


def _fault_of_range(key: str, rule: dict[str, Any], owners: list[type[Any]]) -> str:
    unknown = [name for name in rule if name not in RANGE]
    if unknown:
        return f"{key}: a range has no '{_short(unknown[0])}'. {nearest(str(unknown[0]), RANGE)}"
    if not rule:
        return f"{key}: the range is empty; write at_least or at_most"
    for name, bound in rule.items():
        if not _is_number(bound):
            return f"{key}: {name} is {_short(bound)}, which is not a number"
    if rule.get("at_least", 0) > rule.get("at_most", rule.get("at_least", 0)):
        return f"{key}: at_least is more than at_most, so that nothing is allowed"
    if owners and not any(_holds_numbers(cls, key) for cls in owners):
        return f"{key} does not hold numbers: list its values"
    return ""


def _holds_numbers(cls: type[Any], key: str) -> bool:
    hint = bare(hints(cls)[key.partition(".")[2]])
    if typing.get_origin(hint) is list:
        (hint,) = typing.get_args(hint)
    return hint in (int, float)


def _is_argument(key: str) -> bool:
    """Say whether a key is an argument of a task, a model or a strategy: `task.args.depth`."""
    group, _, rest = key.partition(".")
    return rest.startswith("args.") and len(rest) > len("args.") and bool(_with(group, "args"))


def _owners(key: str) -> list[type[Any]]:
    """Return the classes of the schema that have a key as a field of its own."""
    if key == ROUNDS:
        return [hints(Conf)["run"]]
    group, _, name = key.partition(".")
    return _with(group, name) if name not in (*BLANKED, "args") else []


def _with(group: str, name: str) -> list[type[Any]]:
    return [cls for cls in _classes(group) if name in hints(cls)]


def _classes(group: str) -> list[type[Any]]:
    if group not in GROUPS:
        return []
    return list(VARIANTS.get(group, {}).values()) or [hints(Conf)[group]]


def _keys() -> list[str]:
    names = {
        f"{group}.{name}" for group in GROUPS for cls in _classes(group) for name in hints(cls)
    }
    hidden = {f"{group}.{name}" for group in GROUPS for name in (*BLANKED, "args")}
    return sorted(names - hidden | {ROUNDS})
