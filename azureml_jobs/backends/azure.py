"""A federation's jobs on Azure ML: started once, found by their tags, watched and ended.

Nothing here looks at a silo's vault or data: whoever starts a silo's job needs rights in that
silo's workspace, and whoever starts the orchestrator's in its own.

    MDW-810 the federation does not say where something is
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from azure.core.exceptions import AzureError as ClientError

from azureml_jobs.backends.azure_log import IMAGE_FAILED, AzureLog
from azureml_jobs.backends.base import ALL, ORCHESTRATOR, Backend, Job, parts_of, silos_first
from azureml_jobs.backends.pauses import Pauses
from azureml_jobs.backends.sent_jobs import Places, SentJobs
from azureml_jobs.backends.workspace import AzureJob, Workspace
from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.azure_meanings import refusal
from azureml_jobs.identity.azure_sign_in import check_signed_in
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.jobs.snapshot import ROOT
from azureml_jobs.jobs.specification import (
    SERVER,
    SILO,
    state_address,
)
from azureml_jobs.preflight.checks import Sources
from azureml_jobs.preflight.checks import check as look
from azureml_jobs.preflight.findings import Table
from conf.errors import AzureError
from conf.schema import Conf, WorkspaceConf

OpenWorkspace = Callable[[WorkspaceConf], Workspace]
STOP_SECONDS: Final = 600.0
LIST_SECONDS: Final = 120.0
"""Between two listings of a workspace's jobs in one command: what is known is asked for by name."""


@dataclass
class Workspaces:
    """Opens each workspace once, so that one sign-in to it serves a whole command."""

    opened: dict[tuple[str, str, str], Workspace] = field(default_factory=dict)

    def __call__(self, conf: WorkspaceConf) -> Workspace:
        """Return the workspace."""
        key = conf.subscription_id, conf.resource_group, conf.name
        return self.opened.setdefault(key, Workspace(conf))


@dataclass(frozen=True)
class _Known:
    """A part's job as it was at the last listing of its workspace, None where there was none, and
    when that was.
    """

    job: AzureJob | None
    listed: float
    names: frozenset[str] = frozenset()
    """Of all jobs of the part that were there then."""

    @property
    def name(self) -> str:
        """Return the job's name."""
        return self.job.name if self.job is not None else ""

    @property
    def live(self) -> bool:
        """Return whether it was running, or would."""
        return self.job is not None and self.job.live


class LogFromNow:
    """What a part says from now on, whether its job runs already or is started next."""

    def __init__(self, backend: AzureBackend, part: str) -> None:
        self._backend = backend
        self._part = part
        self._log: AzureLog | None = None
        before = backend.job(part)
        self._before = before.name if before is not None else ""
        if before is not None and before.live:
            self._log = backend.log(before)
            self._log.lines()

    @property
    def over(self) -> bool:
        """Return whether the job had ended at the last call of `lines`."""
        return self._log is not None and self._log.over

    def lines(self) -> list[tuple[str, str]]:
        """Return the new lines, as `AzureLog`."""
        if self._log is None:
            job = self._backend.job(self._part)
            if job is None or job.name == self._before:
                return []
            self._log = self._backend.log(job)
        return self._log.lines()


@dataclass(frozen=True)
class AzureBackend(Backend):
    """The jobs of a federation on Azure ML; raises AzureError.

    `admitted` gives the keys that may connect, for the check of the orchestrator's owner.
    """

    name = "azure"
    look_seconds = 30.0  # each silo's job is in another workspace
    conf: Conf
    admitted: Callable[[], Iterable[AdmittedKey]] | None = None
    workspace: OpenWorkspace = field(default_factory=Workspaces)
    root: Path = ROOT  # of the code that jobs are sent with
    _known: dict[str, _Known] = field(default_factory=dict, compare=False)
    """What was last seen of each part, by which it is asked for again without a listing."""

    def pauses(self) -> Pauses:
        """See `Backend`."""
        return Pauses(self.conf.federation.poll_seconds)

    # ---- who takes part

    def members(self) -> list[str]:
        """Return the silos that the federation's file names."""
        return sorted(self.conf.federation.silos)

    def with_store(self) -> Conf:
        """Return the configuration with the store's address, looked up where the file does not give
        it.
        """
        own = self.conf.federation.orchestrator
        if own.store is None and (own.workspace is None or own.datastore is None):
            hint = "Write workspace and datastore, or store, below orchestrator in the federation's file."
            raise AzureError("MDW-810", "The federation does not say where its store is.", hint)
        own = dataclasses.replace(own, store=self.store())
        federation = dataclasses.replace(self.conf.federation, orchestrator=own)
        return dataclasses.replace(self.conf, federation=federation)

    # ---- before a job starts

    def check(self, role: str) -> Table:
        """See `Backend`; raises AzureError MDW-803 where nobody is signed in."""
        try:
            check_signed_in()
        except ClientError as error:
            # A table would say the same in every line, and wait for it each time.
            raise refusal(error, "Azure", "Reader") from error
        keys = self.admitted if role in (ALL, ORCHESTRATOR) else None
        return look(self.conf, role, Sources(Workspace, VaultSecrets, keys, _looked_into))

    def prepare(self, role: str) -> None:
        """Raise AzureError MDW-813 where a launch would fail."""
        parts_of(self, role)
        self.check(role).refuse()

    def dry_run(self, role: str, folder: Path) -> list[Path]:
        """Write the YAML of the jobs, with all that they are sent with beside, as `az ml job
        create` takes them: all of it or nothing, and without a sign-in.
        """
        return self._jobs().dry_run(parts_of(self, role), folder)

    # ---- starting, watching and ending

    def start(self, part: str) -> tuple[Job, bool]:
        """Submit a job unless one is live.

        Of two that were submitted at the same time the first one stays.
        """
        live = self._live(part)
        self._known.pop(part, None)
        if live:
            return _seen(live[0]), False
        with self._jobs().of(part, self._seen_places(part)) as spec:
            place = self.workspace(spec.workspace)
            mine = place.submit(spec)
        first = next(iter(self._live(part)), mine)
        if first.name == mine.name:
            return _seen(mine), True
        place.cancel(mine.name)
        return _seen(first), False

    def job(self, part: str) -> Job | None:
        """Return the job of a part: the oldest that is live, else the newest.

        One that is known is asked for by its name; the workspace is listed again only where that
        one has ended, and not more often than `LIST_SECONDS` allows.
        """
        known = self._known.get(part)
        now = time.monotonic()
        if known is not None:
            job = self.workspace(self._workspace(part)).job(known.name) if known.live else known.job
            listed_lately = not known.live and now - known.listed < LIST_SECONDS
            if listed_lately or (job is not None and job.live):
                return _seen(job) if job is not None else None
        mine = self._of(part)
        found = next((job for job in reversed(mine) if job.live), None)
        if found is None:
            # Of two that were submitted at once the later one was cancelled: it is the newest, and
            # not what has become of the one that ran.
            followed = known is not None and known.names >= {job.name for job in mine}
            name = known.name if known is not None and followed else ""
            found = next((job for job in mine if job.name == name), next(iter(mine), None))
        self._known[part] = _Known(found, now, frozenset(job.name for job in mine))
        return _seen(found) if found is not None else None

    def nobody_restarts(self, part: str) -> bool:
        """Return whether the federation's file names nobody who starts a part's job again."""
        federation = self.conf.federation
        own = federation.orchestrator if part == ORCHESTRATOR else federation.silos.get(part)
        return own is None or not own.restarted_by

    def log(self, job: Job) -> AzureLog:
        """Return what a job says, from its beginning."""
        return AzureLog(self.workspace(self._workspace(job.part)), job.name, job.part)

    def log_from_now(self, part: str) -> LogFromNow:
        """Return what a part's job will say: the one that runs, or the next that is started."""
        return LogFromNow(self, part)

    def last_words(self, job: Job) -> str:
        """Return the last line that a job said, or why Azure ML ended it."""
        lines = [line for _, line in self.log(job).lines()]
        if lines and lines[-1].startswith(IMAGE_FAILED):
            return lines[-1]
        if len(lines) == 1:
            return lines[0].partition(": ")[2]
        return lines[-2] if lines else ""

    def stop(self, parts: Sequence[str], seconds: float = STOP_SECONDS) -> list[Job]:
        """End the silos' jobs, all at once, then the orchestrator's; wait for their ends, and
        return what was live.
        """
        ended = []
        for group in silos_first(parts):
            ended += self._stopped(group, seconds)
        return ended

    def _stopped(self, parts: list[str], seconds: float) -> list[Job]:
        ends = []
        for part in parts:
            place = self.workspace(self._workspace(part))
            for job in self._of(part):
                if job.over:
                    continue
                # one that is neither live nor over is on its way out already
                if job.live:
                    place.cancel(job.name)
                ends.append((place, job.name))
        return [_seen(_waited(place, name, seconds, self.pauses())) for place, name in ends]

    def _jobs(self) -> SentJobs:
        return SentJobs(self.conf, self.root)

    def _seen_places(self, part: str) -> Places:
        """Return what has to be looked up for a part's job, as its owner."""
        if part == ORCHESTRATOR:
            return Places(store=self.store())
        container = self.workspace(self._workspace(part)).container
        return Places(state=state_address(self.conf, part, container))

    def store(self) -> str:
        """Return the address of the orchestrator's container, looked up where the file does not
        give it.
        """
        own = self.conf.federation.orchestrator
        return own.store or self.workspace(self._workspace(ORCHESTRATOR)).container(
            str(own.datastore)
        )

    def _workspace(self, part: str) -> WorkspaceConf:
        silo = self.conf.federation.silos.get(part)
        own = self.conf.federation.orchestrator if part == ORCHESTRATOR else silo
        found = own.workspace if own is not None else None
        if found is None:
            hint = "Write it into the federation's file."
            raise AzureError("MDW-810", f"No workspace for {part}.", hint)
        return found

    def _of(self, part: str) -> list[AzureJob]:
        """Return the jobs of one part, the newest first."""
        mine = self.workspace(self._workspace(part)).jobs_of(self.conf.federation.name)
        tags = (SERVER, "") if part == ORCHESTRATOR else (SILO, part)
        return [job for job in mine if (job.role, job.silo) == tags]

    def _live(self, part: str) -> list[AzureJob]:
        """Return the jobs of one part that run or will, the oldest first."""
        return [job for job in reversed(self._of(part)) if job.live]


def _looked_into(container: str) -> str:
    """Return the address of a blob container, once it was looked into."""
    from azureml_jobs.identity.azure_sign_in import sign_in
    from azureml_jobs.storage.blob_store import BlobStore

    BlobStore.at(container, sign_in()).list("store.json")
    return container


def _waited(place: Workspace, name: str, seconds: float, pauses: Pauses) -> AzureJob:
    end = time.monotonic() + seconds
    while not (job := place.job(name)).over and time.monotonic() < end:
        time.sleep(min(pauses.next(), max(0.0, end - time.monotonic())))
    return job


def _seen(job: AzureJob) -> Job:
    return Job(
        job.silo or ORCHESTRATOR,
        job.name,
        job.status,
        live=job.live,
        since=job.created,
        where=job.studio,
    )
