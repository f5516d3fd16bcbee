"""`meadow budget`: what a silo's releases have cost, for its owner; what a run would cost.

The account lies in the silo's own storage and is signed with a key that the silo's own key gives, so
that this is asked where that key is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.key_places import places_of
from azureml_jobs.cli.table import columns
from conf.errors import ConfigError
from conf.privacy_kinds import EXAMPLE, GROUP, RELATIONS, SILO, sensitivity_of
from conf.schema import Conf, NoisyConf, PolicyConf, SampleDpConf

if TYPE_CHECKING:
    from client.privacy.account import Account, Entry
    from client.privacy.accountant import Release

OWN_STATES: Final = "states"
"""Where a silo's job keeps its state in its own folder (`client.node.job`, which imports torch)."""
NEIGHBOURS: Final = {
    EXAMPLE: "of one example more or less",
    GROUP: "of one group of examples more or less",
    SILO: "of the silo with any other data",
}
BAR: Final = 30
"""Characters of the bar that stands for all that an owner allows."""


def show(arguments: Arguments) -> int:
    """Print what a silo's account holds, a line a run; raises MeadowError."""
    account = _account(arguments)
    if arguments.has("--begin"):
        begun = account.begin()
        print("begun" if begun else "it was begun before")
    if arguments.has("--continue"):
        went_on = account.go_on()
        print("goes on with this key" if went_on else "this key has signed all of it already")
    entries = account.entries()
    policy = places_of(arguments).silo.policy
    if entries:
        print("\n".join(columns(_runs(entries, policy.delta))))
    for unit in NEIGHBOURS:
        for line in _sum(entries, policy, unit):
            print(line)
    return 0


def _sum(entries: list[Entry], policy: PolicyConf, unit: str) -> list[str]:
    """Return what all releases have cost each of a unit; nothing, where nobody asks for it."""
    from client.privacy.owner_bounds import cost, is_counted

    mosts = {policy.unit_at_least: policy.epsilon_at_most, SILO: policy.silo_epsilon_at_most}
    most = mosts.get(unit)
    counted = [entry for entry in entries if is_counted(entry, unit)]
    # What any data of the silo may replace holds of a group too, of which then nobody speaks.
    spoken_of = [entry for entry in counted if unit != GROUP or entry.unit == GROUP]
    if not spoken_of and most is None and unit != policy.unit_at_least:
        return []
    key = {policy.unit_at_least: "epsilon_at_most", SILO: "silo_epsilon_at_most"}.get(unit, "")
    lines = [_in_all(cost(counted, unit, policy.delta), policy.delta, most, unit, key)]
    others = len(entries) - len(counted)
    if others:
        lines.append(
            f"not counted in it, since it bounds nothing there: {_times(others, 'release')}"
        )
    return lines


def _runs(entries: list[Entry], delta: float) -> list[tuple[str, ...]]:
    """Return a line for each run, kind of privacy and unit: of two kinds or units nothing is added up."""
    rows: list[tuple[str, ...]] = [
        ("run", "privacy", "unit", "rounds", "last", "epsilon", "in all")
    ]
    so_far: dict[tuple[str, str], list[Entry]] = {}
    for run, *kind in dict.fromkeys((one.run, one.mechanism, one.unit) for one in entries):
        of_run = [one for one in entries if [one.run, one.mechanism, one.unit] == [run, *kind]]
        all_of_kind = so_far.setdefault((kind[0], kind[1]), [])
        all_of_kind += of_run
        alone, together = (_epsilon(of, delta) for of in (of_run, all_of_kind))
        rounds = str(len(of_run))
        rows.append((run, *kind, rounds, of_run[-1].when, f"{alone:.3f}", f"{together:.3f}"))
    return rows


def _epsilon(entries: list[Entry], delta: float) -> float:
    from client.privacy.accountant import epsilon

    return epsilon([entry.release for entry in entries], delta)


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _in_all(spent: float, delta: float, most: float | None, unit: str, key: str) -> str:
    """Return what is spent in all, as a line with a bar where the owner has set a bound; `key` is what
    would bound it.
    """
    said = f"spent: epsilon {spent:.3f} at delta {delta:g}, {NEIGHBOURS[unit]}"
    if most is None:
        return f"{said}; no bound is set{f' (policy.{key})' if key else ''}"
    filled = min(round(BAR * spent / most), BAR)
    bar = "█" * filled + "░" * (BAR - filled)
    return f"{said}\n{bar} {spent / most:.0%} of {most:g}"


def forecast(arguments: Arguments) -> int:
    """Print what a run would cost each example of a silo, or each silo; raises MeadowError."""
    conf = _run(arguments)
    privacy = conf.privacy
    if not isinstance(privacy, NoisyConf):
        what = f"privacy={privacy.name} has no cost that can be counted."
        raise ConfigError("MDW-105", what, "Add privacy=sample_dp, silo_dp or local_dp.")
    of_units = isinstance(privacy, SampleDpConf)
    rows = _of_units(arguments, conf, privacy) if of_units else _of_silos(conf, privacy)
    print("\n".join(columns(rows)))
    return 0


def _of_units(arguments: Arguments, conf: Conf, privacy: NoisyConf) -> list[tuple[str, str]]:
    from client.privacy.metrics_plan import all_releases
    from client.privacy.sampling import plan_of

    named = f"{privacy.protects}s"
    units = int(arguments.number(named, 0.0, 2**40))
    if units < 1:
        raise arguments.wrong(f"{named}= is missing: how many the silo trains on")
    plan = plan_of(units, conf.trainer.batch_size, conf.trainer.epochs)
    assert isinstance(privacy, SampleDpConf)
    told = all_releases(privacy, conf.run.rounds, [])
    release = _release(conf, privacy, plan.rate, plan.steps, told)
    rows = [
        ("rounds", str(conf.run.rounds)),
        ("steps", f"{plan.steps} in each, of {plan.batch} {named} on average"),
        ("noise", f"{release.noise:.3f} times privacy.clip_norm={privacy.clip_norm:g}"),
    ]
    if told:
        metrics = f"told {len(told)} times, with noise of {told[0].noise:.3f} in all sums together"
        rows.append(("metrics", metrics))
    return [*rows, *_costs([*[release] * conf.run.rounds, *told], privacy)]


def _of_silos(conf: Conf, privacy: NoisyConf) -> list[tuple[str, str]]:
    from client.privacy.accountant import Release
    from server.round.noise_outlook import outlook

    silos = len(conf.federation.silos) or conf.federation.size
    asked = conf.run.cohort or silos
    found = outlook(conf, asked)
    assert found is not None
    release = Release(1.0, found.noise / sensitivity_of(privacy.name), 1)
    return [
        ("rounds", f"{conf.run.rounds}, of {asked} silos each"),
        ("noise", f"{found.noise:.3f} times privacy.clip_norm={privacy.clip_norm:g}"),
        (
            "in the mean",
            f"{found.deviation:.3g} in each weight, beside a change of norm"
            f" {found.clip_norm:g} at most",
        ),
        *_costs([release] * conf.run.rounds, privacy),
    ]


def _costs(releases: list[Release], privacy: NoisyConf) -> list[tuple[str, str]]:
    from client.privacy.accountant import epsilon, renyi_epsilon

    at = f"at delta {privacy.delta:g}"
    return [
        ("epsilon", f"{epsilon(releases, privacy.delta):.3f} {at}, of one {privacy.protects}"),
        ("by Rényi", f"{renyi_epsilon(releases, privacy.delta):.3f}"),
        ("relation", RELATIONS[privacy.name]),
    ]


def _release(
    conf: Conf, privacy: NoisyConf, rate: float, steps: int, beside: list[Release]
) -> Release:
    from client.privacy.accountant import Release, noise_for

    noise = privacy.noise_multiplier
    if noise is None:
        assert privacy.epsilon is not None
        steps_in_all = steps * conf.run.rounds
        noise = noise_for(rate, steps_in_all, privacy.epsilon, privacy.delta, tuple(beside))
    return Release(rate, noise, steps)


def _run(arguments: Arguments) -> Conf:
    from conf.compose import compose
    from conf.resume import folder_of, stored

    if arguments.has("run"):
        return stored(folder_of(arguments.get("run")))
    return compose(list(arguments.rest))


def _account(arguments: Arguments) -> Account:
    """Return the account of the silo that is named; raises MeadowError where its key is not here."""
    from azureml_jobs.identity.node_key import data_key_of, read_node_key
    from client.privacy.account import Account

    places = places_of(arguments)
    silo = places.name
    where = arguments.get("store") or str(Path(arguments.get("state")) / OWN_STATES)
    key = read_node_key(places.secrets, places.conf.federation.name, silo)
    return Account.at(where, silo, data_key_of(key))
