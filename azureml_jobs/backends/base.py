"""What a verb needs of the place where a federation's jobs run: processes of this machine, or Azure
ML.

A *part* of a federation is its orchestrator or one of its silos, by name; each part is one job.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol

from azureml_jobs.backends.pauses import Pauses
from azureml_jobs.preflight.findings import Table
from conf.errors import ConfigError
from conf.schema import Conf

ORCHESTRATOR: Final = "orchestrator"
ALL: Final = "all"
Admit = Callable[[str, str], str]
"""Lets a silo (first) connect with a public key (second), and returns its admission (PEM)."""


@dataclass(frozen=True)
class Job:
    """The job of one part as its backend shows it.

    `since` is in seconds since 1970; `status` is the exit status where the backend tells it,
    negative where a signal ended the job; `killed` says that it did not end by itself.
    """

    part: str
    name: str
    state: str
    live: bool
    since: float = 0.0
    where: str = ""
    status: int | None = None
    killed: bool = False


class JobLog(Protocol):
    """What a job says."""

    @property
    def over(self) -> bool:
        """Whether the job had ended at the last call of `lines`."""

    def lines(self) -> list[tuple[str, str]]:
        """Return the whole lines since the last call, each behind its label; then how the job
        ended, where it has.
        """


class Backend(ABC):
    """The jobs of one federation; every method raises MeadowError."""

    name: ClassVar[str]
    """What `backend=` calls it."""
    look_seconds: ClassVar[float] = 0.0
    """Between two looks at silos' jobs while a run is followed."""
    files_here: ClassVar[bool] = False
    """Whether a run's files are on this machine."""
    conf: Conf

    @abstractmethod
    def pauses(self) -> Pauses:
        """Return the pauses between two looks at a run or a log."""

    @abstractmethod
    def members(self) -> list[str]:
        """Return the silos that a launch starts."""

    def silos(self) -> list[str]:
        """Return the silos whose jobs may be looked at."""
        return self.members()

    def check_exists(self) -> None:
        """Raise ConfigError MDW-196 where the backend knows that there is no such federation yet."""
        return

    @abstractmethod
    def with_store(self) -> Conf:
        """Return the configuration with the address of the orchestrator's store."""

    @abstractmethod
    def check(self, role: str) -> Table:
        """Return what would keep a launch from working, as far as a role may see."""

    @abstractmethod
    def prepare(self, role: str) -> None:
        """Make, or check, what must be there before the first job of a role's parts starts."""

    def check_asked(self, conf: Conf, overrides: list[str]) -> None:
        """Raise ConfigError MDW-194 where a run asks a running silo for other settings than it was
        started with.

        Where those are its owner's alone to see, nothing is checked: the silo itself refuses the
        run.
        """
        return

    @abstractmethod
    def start(self, part: str) -> tuple[Job, bool]:
        """Return a part's job, and whether it was started now: one that runs is left as it is."""

    def dry_run(self, role: str, folder: Path) -> list[Path]:
        """Write into a folder what would be sent for a role's parts.

        Raises ConfigError MDW-113 where nothing is.
        """
        raise ConfigError("MDW-113", f"backend={self.name} has no --dry-run.", "Leave it out.")

    @abstractmethod
    def job(self, part: str) -> Job | None:
        """Return a part's job: the one that is live, else the newest; None where there never was
        one.
        """

    def transfer(self, part: str) -> bytes | None:
        """Return what a silo's job last said of a transfer that takes long (JSON); None where it
        says so in its log alone.
        """
        return None

    @abstractmethod
    def nobody_restarts(self, part: str) -> bool:
        """Return whether a part's job stays ended when it is killed, as far as is known here."""

    @abstractmethod
    def log(self, job: Job) -> JobLog:
        """Return what a job says, from its beginning."""

    @abstractmethod
    def log_from_now(self, part: str) -> JobLog:
        """Return what a part's job will say: the one that runs, or the next that is started."""

    @abstractmethod
    def last_words(self, job: Job) -> str:
        """Return the last thing that a job said, on one line."""

    @abstractmethod
    def stop(self, parts: Sequence[str]) -> list[Job]:
        """End the silos' jobs, all at once, then the orchestrator's; return those that were live,
        as they ended.
        """


def parts_of(backend: Backend, role: str) -> list[str]:
    """Return the parts that a role starts, the orchestrator first; raises ConfigError MDW-193."""
    if role == ALL:
        return [ORCHESTRATOR, *backend.members()]
    if role == ORCHESTRATOR:
        return [ORCHESTRATOR]
    return [known_silo(role.removeprefix("silo:"), backend.members())]


def known_silo(silo: str, silos: Sequence[str]) -> str:
    """Return a silo's name; raises ConfigError MDW-193 where there is none of it."""
    if silo not in silos:
        there = ", ".join(silos) or "none"
        raise ConfigError(
            "MDW-193", f"The federation has no silo {silo!r}.", f"Its silos: {there}."
        )
    return silo


def silos_first(parts: Sequence[str]) -> list[list[str]]:
    """Return parts in the order in which they end: the silos, then the orchestrator that they
    report to.
    """
    silos = [part for part in parts if part != ORCHESTRATOR]
    return [silos, [ORCHESTRATOR] if ORCHESTRATOR in parts else []]
