"""A federation's jobs on Azure ML: started once, found by their tags, watched and ended.

Nothing here looks at a silo's vault or data: whoever starts a silo's job needs rights in that
silo's workspace, and whoever starts the orchestrator's in its own.

    MDW-810 the federation does not say where something is    MDW-814 the CA's certificate for the silos is missing
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from azureml_jobs.backends.azure_log import AzureLog
from azureml_jobs.backends.base import ALL, ORCHESTRATOR, Backend, Job, parts_of, silos_first
from azureml_jobs.backends.workspace import AzureJob, Workspace
from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.authority import load_ca
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.signed_admission import check_admission
from azureml_jobs.jobs.snapshot import ROOT, image_with, snapshot
from azureml_jobs.jobs.specification import (
    ADMISSION_FILE,
    CA_FILE,
    FEDERATION_FILE,
    OUTBOUND_CA_FILE,
    SERVER,
    SILO,
    SILO_FILE,
    Code,
    JobSpec,
    as_yaml,
    image_of,
    server_job,
    silo_job,
    state_address,
)
from azureml_jobs.preflight.checks import Sources
from azureml_jobs.preflight.checks import check as look
from azureml_jobs.preflight.findings import Table
from conf.errors import AzureError
from conf.files.whole import write_atomic
from conf.schema import Conf, OutboundConf, WorkspaceConf
from conf.silos import silo_to_json, silos
from conf.targets.bundle import bundled, entries_of
from conf.targets.known import to_text
from conf.targets.requirements import needed_in_an_image

OpenWorkspace = Callable[[WorkspaceConf], Workspace]
POLL_SECONDS: Final = 2.0
STOP_POLL_SECONDS: Final = 1.0
STOP_SECONDS: Final = 600.0


@dataclass
class Workspaces:
    """Opens each workspace once, so that one sign-in to it serves a whole command."""

    opened: dict[tuple[str, str, str], Workspace] = field(default_factory=dict)

    def __call__(self, conf: WorkspaceConf) -> Workspace:
        """Return the workspace."""
        key = conf.subscription_id, conf.resource_group, conf.name
        return self.opened.setdefault(key, Workspace(conf))


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

    @property
    def poll_seconds(self) -> float:
        """Return the seconds between two looks at a job."""
        return POLL_SECONDS

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
        """Return what would keep a launch from working, as far as a role may see."""
        keys = self.admitted if role in (ALL, ORCHESTRATOR) else None
        return look(self.conf, role, Sources(Workspace, VaultSecrets, keys, _looked_into))

    def prepare(self, role: str) -> None:
        """Raise AzureError MDW-813 where a launch would fail."""
        parts_of(self, role)
        self.check(role).refuse()

    def dry_run(self, role: str, folder: Path) -> list[Path]:
        """Write the YAML of the jobs, with their snapshots beside, as `az ml job create` takes
        them.
        """
        written = []
        for part in parts_of(self, role):
            name = SERVER if part == ORCHESTRATOR else part
            place = folder / name
            place.mkdir(parents=True)
            with self._made(part, place) as spec:
                file = folder / f"{name}.yaml"
                write_atomic(file, as_yaml(spec))
            written.append(file)
        return written

    # ---- starting, watching and ending

    def start(self, part: str) -> tuple[Job, bool]:
        """Submit a job unless one is live.

        Of two that were submitted at the same time the first one stays.
        """
        live = self._live(part)
        if live:
            return _seen(live[0]), False
        with self._made(part) as spec:
            place = self.workspace(spec.workspace)
            mine = place.submit(spec)
        first = next(iter(self._live(part)), mine)
        if first.name == mine.name:
            return _seen(mine), True
        place.cancel(mine.name)
        return _seen(first), False

    def job(self, part: str) -> Job | None:
        """Return the job of a part: the oldest that is live, else the newest."""
        mine = self._of(part)
        oldest_live = next((job for job in reversed(mine) if job.live), None)
        found = oldest_live or next(iter(mine), None)
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
        lines = self.log(job).lines()
        return lines[-2][1] if len(lines) > 1 else ""

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
        return [_seen(_waited(place, name, seconds)) for place, name in ends]

    # ---- what a job is made of

    def _made(self, part: str, folder: Path | None = None) -> AbstractContextManager[JobSpec]:
        return self._server(folder) if part == ORCHESTRATOR else self._silo(part, folder)

    @contextmanager
    def _server(self, folder: Path | None = None) -> Iterator[JobSpec]:
        text = self._public()
        with _folder(folder) as place:
            bundle = self._bundle(self.conf.federation.orchestrator.outbound)
            digest = snapshot(place, {FEDERATION_FILE: text, **bundle}, self.root)
            named = self.conf.federation.orchestrator.environment
            image = image_of(named, "orchestrator")
            code = self._with_outside(Code(place, digest, _digest(text)), image)
            yield server_job(self.conf, code, self.store())

    @contextmanager
    def _silo(self, name: str, folder: Path | None = None) -> Iterator[JobSpec]:
        settings = next((silo for silo in silos(self.conf) if silo.name == name), None)
        own = self.conf.federation.silos.get(name)
        if settings is not None and own is not None and own.input is not None:
            settings = dataclasses.replace(
                settings, data=dataclasses.replace(settings.data, partition="own")
            )
        bundle = self._bundle(own.outbound) if own is not None else {}
        if settings is not None and bundle:
            outbound = dataclasses.replace(settings.outbound, ca=OUTBOUND_CA_FILE)
            settings = dataclasses.replace(settings, outbound=outbound)
        text = silo_to_json(settings).encode() if settings else b""
        with _folder(folder) as place:
            files = {SILO_FILE: text, CA_FILE: self._ca(), **self._admission(name), **bundle}
            digest = snapshot(place, files, self.root)
            image = image_of(own.environment if own else None, "silo")
            code = self._with_outside(Code(place, digest, _digest(text)), image)
            state = self._state(name, dry=folder is not None)
            yield silo_job(self.conf, name, code, self._tracking(), state)

    def _state(self, name: str, *, dry: bool) -> str:
        """Return where a silo's state lasts; in a dry run empty where the caller may not look."""
        workspace = self.workspace(self._workspace(name))
        try:
            return state_address(self.conf, name, workspace.container)
        except AzureError as error:
            # The orchestrator's engineer may write the jobs of all parts, and sees no silo's
            # workspace. Who starts the job does.
            if dry and error.code == "MDW-801":
                return ""
            raise

    def _with_outside(self, code: Code, image: Path | str) -> Code:
        """Copy the code from outside the tree into a snapshot, and what its image needs for it.

        An environment that is there already is taken as it is: the job says at its start what it
        lacks.
        """
        entries = bundled(self.conf, code.folder, code.folder)
        if not entries:
            return code
        more = needed_in_an_image(entries_of(self.conf))
        environment = None
        if more and isinstance(image, Path):
            environment = image_with(image, more, code.folder)
        return dataclasses.replace(code, outside=to_text(entries), environment=environment)

    def _public(self) -> bytes:
        """Return the federation's file as the orchestrator's job gets it: public, and without
        anybody's paths.
        """
        plain: dict[str, Any] = dataclasses.asdict(self.conf.federation)
        plain["file"] = None
        plain["folder"] = None
        plain["orchestrator"]["ca"] = None
        for silo in plain["silos"].values():
            silo["data"] = {}
            silo["public_key"] = None
            silo["admission"] = None
            silo["state"] = None
            # How its connections leave is nobody else's to know.
            silo["outbound"] = {}
        plain["orchestrator"]["outbound"] = {}
        return yaml.safe_dump(plain, sort_keys=True).encode()

    def _ca(self) -> bytes:
        path = self.conf.federation.orchestrator.ca
        hint = "Name the file that the orchestrator's owner handed out: federation.orchestrator.ca=ca.pem."
        if path is None:
            raise AzureError("MDW-814", "A silo must know the CA that it trusts.", hint)
        try:
            certificate = Path(path).read_bytes()
        except OSError as error:
            raise AzureError("MDW-814", f"Can't read {path}: {error.strerror}.", hint) from None
        load_ca(certificate, path, datetime.now(UTC))
        return certificate

    def _bundle(self, outbound: OutboundConf) -> dict[str, bytes]:
        """Return the file of CAs that a job's way to the relay trusts, where one is named.

        Raises AzureError MDW-814 where it can't be read.
        """
        if outbound.ca is None:
            return {}
        try:
            return {OUTBOUND_CA_FILE: Path(outbound.ca).read_bytes()}
        except OSError as error:
            what = f"Can't read {outbound.ca}: {error.strerror}."
            raise AzureError("MDW-814", what, "Correct outbound.ca.") from None

    def _admission(self, silo: str) -> dict[str, bytes]:
        """Return the file of a silo's admission, where its owner names one.

        Raises IdentityError MDW-716, or AzureError MDW-814 where it can't be read.
        """
        own = self.conf.federation.silos.get(silo)
        if own is None or not own.admission:
            return {}
        try:
            content = Path(own.admission).read_bytes()
        except OSError as error:
            hint = "Name the file that `meadow keys admit` wrote."
            what = f"Can't read {own.admission}: {error.strerror}."
            raise AzureError("MDW-814", what, hint) from None
        check_admission(content, self._ca(), own.admission)
        return {ADMISSION_FILE: content}

    def store(self) -> str:
        """Return the address of the orchestrator's container, looked up where the file does not
        give it.
        """
        own = self.conf.federation.orchestrator
        return own.store or self.workspace(self._workspace(ORCHESTRATOR)).container(
            str(own.datastore)
        )

    def _tracking(self) -> str:
        own = self.conf.federation.orchestrator
        if own.address or self.conf.federation.relay.url:
            return ""
        return own.tracking or self.workspace(self._workspace(ORCHESTRATOR)).tracking_uri()

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


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="meadow-job-") as made:
        yield Path(made)


def _looked_into(container: str) -> str:
    """Return the address of a blob container, once it was looked into."""
    from azureml_jobs.identity.azure_sign_in import sign_in
    from azureml_jobs.storage.blob_store import BlobStore

    BlobStore.at(container, sign_in()).list("store.json")
    return container


def _waited(place: Workspace, name: str, seconds: float) -> AzureJob:
    end = time.monotonic() + seconds
    while not (job := place.job(name)).over and time.monotonic() < end:
        time.sleep(STOP_POLL_SECONDS)
    return job


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _seen(job: AzureJob) -> Job:
    return Job(
        job.silo or ORCHESTRATOR,
        job.name,
        job.status,
        live=job.live,
        since=job.created,
        where=job.studio,
    )
