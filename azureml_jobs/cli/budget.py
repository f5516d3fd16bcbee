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
from conf.schema import Conf, SampleDpConf

if TYPE_CHECKING:
    from client.privacy.account import Account, Entry
    from client.privacy.accountant import Release

OWN_STATES: Final = "states"
"""Where a silo's job keeps its state in its own folder (`client.node.job`, which imports torch)."""
BAR: Final = 30
"""Characters of the bar that stands for all that an owner allows."""


def show(arguments: Arguments) -> int:
    """Print what a silo's account holds, a line a run; raises MeadowError."""
    from client.privacy.accountant import epsilon

    account = _account(arguments)
    if arguments.has("--begin"):
        begun = account.begin()
        print("begun" if begun else "it was begun before")
    if arguments.has("--continue"):
        went_on = account.go_on()
        print("goes on with this key" if went_on else "this key has signed all of it already")
    entries = account.entries()
    policy = places_of(arguments).silo.policy
    runs = list(dict.fromkeys(entry.run for entry in entries))
    rows = [("run", "rounds", "last", "epsilon", "in all")]
    so_far: list[Entry] = []
    for run in runs:
        of_run = [entry for entry in entries if entry.run == run]
        so_far += of_run
        alone = epsilon([one.release for one in of_run], policy.delta)
        together = epsilon([one.release for one in so_far], policy.delta)
        rows.append((run, str(len(of_run)), of_run[-1].when, f"{alone:.3f}", f"{together:.3f}"))
    if entries:
        print("\n".join(columns(rows)))
    spent = epsilon([one.release for one in entries], policy.delta)
    print(_in_all(spent, policy.delta, policy.epsilon_at_most))
    return 0


def _in_all(spent: float, delta: float, most: float | None) -> str:
    """Return what is spent in all, as a line with a bar where the owner has set a bound."""
    said = f"spent: epsilon {spent:.3f} at delta {delta:g}, of one example more or less"
    if most is None:
        return f"{said}; no bound is set (policy.epsilon_at_most)"
    filled = min(round(BAR * spent / most), BAR)
    bar = "█" * filled + "░" * (BAR - filled)
    return f"{said}\n{bar} {spent / most:.0%} of {most:g}"


def forecast(arguments: Arguments) -> int:
    """Print what a run would cost each example of a silo; raises MeadowError."""
    from client.privacy.accountant import epsilon, renyi_epsilon
    from client.privacy.sampling import plan_of

    conf = _run(arguments)
    privacy = conf.privacy
    if not isinstance(privacy, SampleDpConf):
        what = f"privacy={privacy.name} has no cost that can be counted."
        raise ConfigError("MDW-105", what, "Add privacy=sample_dp.")
    examples = int(arguments.number("examples", 0.0, 2**40))
    if examples < 1:
        raise arguments.wrong("examples= is missing: how many the silo trains on")
    plan = plan_of(examples, conf.trainer.batch_size, conf.trainer.epochs)
    release = _release(conf, privacy, plan.rate, plan.steps)
    rounds = [release] * conf.run.rounds
    rows = [
        ("rounds", str(conf.run.rounds)),
        ("steps", f"{plan.steps} in each, of {plan.batch} examples on average"),
        ("noise", f"{release.noise:.3f} times privacy.clip_norm={privacy.clip_norm:g}"),
        ("epsilon", f"{epsilon(rounds, privacy.delta):.3f} at delta {privacy.delta:g}"),
        ("by Rényi", f"{renyi_epsilon(rounds, privacy.delta):.3f}"),
    ]
    print("\n".join(columns(rows)))
    return 0


def _release(conf: Conf, privacy: SampleDpConf, rate: float, steps: int) -> Release:
    from client.privacy.accountant import Release, noise_for

    noise = privacy.noise_multiplier
    if noise is None:
        assert privacy.epsilon is not None
        noise = noise_for(rate, steps * conf.run.rounds, privacy.epsilon, privacy.delta)
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
