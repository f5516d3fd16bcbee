"""What a verb of `backend=azure` was asked: the configuration, its own arguments, and as whom.

A verb acts on what its caller's role owns: `as=orchestrator`, `as=silo:NAME` or, by default, `as=all`.

    MDW-111 an argument that a verb does not take    MDW-193 no such silo
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from conf.errors import AzureError, ConfigError
from conf.schema import Conf

if TYPE_CHECKING:
    from azureml_jobs.backends.azure import AzureFederation

ALL, ORCHESTRATOR = "all", "orchestrator"
TAKES: Final[dict[str, tuple[str, ...]]] = {
    "check": (),
    "launch": ("silo", "silo.file", "--detach", "--open", "--dry-run"),
    "submit": (),
    "status": (),
    "logs": ("silo", "-f"),
    "wait": ("run", "timeout"),
    "download": ("run",),
    "stop": ("silo", "run"),
}
"""The arguments of each verb's own, beside as= and the configuration's."""


@dataclass(frozen=True)
class Asked:
    """What a verb was asked: the configuration, its own arguments and flags."""

    conf: Conf
    given: dict[str, str]
    flags: set[str]
    command: str

    @property
    def role(self) -> str:
        """Return as whom the verb acts."""
        return self.given.get("as", ALL)

    @property
    def server(self) -> bool:
        """Return whether the orchestrator is the caller's."""
        return self.role in (ALL, ORCHESTRATOR)

    @property
    def silos(self) -> list[str]:
        """Return the silos that are the caller's."""
        names = sorted(self.conf.federation.silos)
        return (
            names if self.role == ALL else [name for name in names if self.role == f"silo:{name}"]
        )

    @cached_property
    def federation(self) -> AzureFederation:
        """Return the federation's jobs; one sign-in for all that the verb asks of a workspace."""
        from azureml_jobs.backends.azure import AzureFederation

        return AzureFederation(self.conf)

    @cached_property
    def store(self) -> Any:
        """Return the orchestrator's store."""
        return store_of_federation(self.conf, self.federation)

    @cached_property
    def queue(self) -> Any:
        """Return the orchestrator's queue of runs."""
        from server.store.run_queue import RunQueue

        return RunQueue(self.store)


def asked_of(verb: str, args: list[str]) -> Asked:
    """Return what a verb's arguments ask; raises ConfigError."""
    from conf.compose import compose

    given, flags, overrides = dict[str, str](), set[str](), list[str]()
    takes = TAKES[verb.split()[0]]
    every = {name for names in TAKES.values() for name in names}
    for arg in args:
        key, equals, value = arg.partition("=")
        if arg.startswith("-") and arg in takes:
            flags.add(arg)
        elif equals and (key == "as" or key in takes):
            given[key] = value
        elif arg.startswith("-") or key in every:
            raise ConfigError(
                "MDW-111",
                f"meadow {verb}: '{arg}' is no argument of it.",
                f"See meadow {verb} --help.",
            )
        elif arg != "backend=azure":
            overrides.append(arg)
    conf = compose(overrides)
    roles = [ALL, ORCHESTRATOR, *(f"silo:{name}" for name in sorted(conf.federation.silos))]
    if given.get("as", ALL) not in roles:
        raise ConfigError(
            "MDW-111",
            f"meadow {verb}: there is no role '{given['as']}'.",
            f"Roles: {', '.join(roles)}.",
        )
    return Asked(conf, given, flags, " ".join(["meadow", verb, *args]))


def known(asked: Asked, silo: str) -> str:
    """Return a silo's name; raises ConfigError MDW-193 where the federation has none of it."""
    there = sorted(asked.conf.federation.silos)
    if silo not in there:
        raise ConfigError(
            "MDW-193", f"The federation has no silo {silo!r}.", f"Its silos: {', '.join(there)}."
        )
    return silo


def parts(asked: Asked) -> tuple[list[str], bool]:
    """Return the silos that are meant, and whether the orchestrator is: all of the caller's, or `silo=NAME`."""
    if "silo" in asked.given:
        return [known(asked, asked.given["silo"])], False
    return asked.silos, asked.server


def run_of(asked: Asked, verb: str) -> str:
    """Return the run that is meant; raises ConfigError MDW-111 where none is."""
    if "run" not in asked.given:
        raise ConfigError(
            "MDW-111", f"meadow {verb}: which run?", "Write run=RUN; meadow status lists them."
        )
    return asked.given["run"]


def store_of_federation(conf: Conf, jobs: AzureFederation) -> Any:
    """Return the orchestrator's store, its address looked up where the file does not give it.

    Raises AzureError MDW-810 where the file does not say.
    """
    from server.orchestrator.backends import store_of

    own = conf.federation.orchestrator
    if own.store is None and own.workspace is not None and own.datastore is not None:
        own = dataclasses.replace(own, store=jobs.store())
    if own.store is None:
        hint = (
            "Write workspace and datastore, or store, below orchestrator in the federation's file."
        )
        raise AzureError("MDW-810", "The federation does not say where its store is.", hint)
    federation = dataclasses.replace(conf.federation, orchestrator=own)
    return store_of(dataclasses.replace(conf, federation=federation))
