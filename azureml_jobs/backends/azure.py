"""A federation's jobs on Azure ML: started once, found by their tags, watched, brought home and ended.

Nothing here looks at a silo's vault or data: whoever starts a silo's job needs rights in that silo's workspace, and
whoever starts the orchestrator's in its own.

    MDW-814 the CA's certificate for the silos is missing
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from azureml_jobs.backends.workspace import AzureJob, Workspace
from azureml_jobs.identity.admitted_keys import KeyEntries
from azureml_jobs.identity.authority import load_ca
from azureml_jobs.jobs.snapshot import ROOT, snapshot
from azureml_jobs.jobs.specification import (
    CA_FILE,
    FEDERATION_FILE,
    SERVER,
    SILO,
    SILO_FILE,
    Code,
    JobSpec,
    as_yaml,
    server_job,
    silo_job,
)
from conf.errors import AzureError
from conf.schema import Conf, WorkspaceConf
from conf.silos import silo_to_json, silos

OpenWorkspace = Callable[[WorkspaceConf], Workspace]
POLL_SECONDS: Final = 1.0


@dataclass
class Workspaces:
    """Opens each workspace once, so that one sign-in to it serves a whole command."""

    opened: dict[tuple[str, str, str], Workspace] = field(default_factory=dict)

    def __call__(self, conf: WorkspaceConf) -> Workspace:
        """Return the workspace."""
        key = conf.subscription_id, conf.resource_group, conf.name
        return self.opened.setdefault(key, Workspace(conf))


@dataclass(frozen=True)
class AzureFederation:
    """What may be done with the jobs of one federation; raises AzureError, as `azureml_jobs.backends.workspace`."""

    conf: Conf
    workspace: OpenWorkspace = field(default_factory=Workspaces)
    root: Path = ROOT  # of the code that jobs are sent with

    # ---- starting

    def start_server(self) -> tuple[AzureJob, bool]:
        """Return the orchestrator's job, and whether it was started now: where one is live, that one is it."""
        return self._started(SERVER, "", self._server)

    def start_silo(self, name: str) -> tuple[AzureJob, bool]:
        """Return a silo's job, and whether it was started now."""
        return self._started(SILO, name, lambda: self._silo(name))

    def _started(
        self, role: str, name: str, made: Callable[[], AbstractContextManager[JobSpec]]
    ) -> tuple[AzureJob, bool]:
        """Submit a job unless one is live. Of two that were submitted at the same time the first one stays."""
        if live := self._live(role, name):
            return live[0], False
        with made() as spec:
            place = self.workspace(spec.workspace)
            mine = place.submit(spec)
        first = next(iter(self._live(role, name)), mine)
        if first.name == mine.name:
            return mine, True
        place.cancel(mine.name)
        return first, False

    def dry_run(self, folder: Path, *, server: bool, names: list[str]) -> list[Path]:
        """Write the YAML of the jobs, with their snapshots beside, as `az ml job create` takes them."""
        written = []
        for name, wanted in [
            *(((SERVER, self._server),) if server else ()),
            *((n, None) for n in names),
        ]:
            place = folder / name
            place.mkdir(parents=True)
            with wanted(place) if wanted else self._silo(name, place) as spec:
                file = folder / f"{name}.yaml"
                file.write_text(as_yaml(spec))
            written.append(file)
        return written

    # ---- watching and ending

    def jobs(self, names: list[str], *, server: bool) -> list[AzureJob]:
        """Return the job of each role that the caller may see: the one that is live, else the newest."""
        found = [self._current(SERVER)] if server else []
        return [
            job
            for job in [*found, *(self._current(SILO, name) for name in names)]
            if job is not None
        ]

    def stop(self, names: list[str], *, server: bool, seconds: float = 600.0) -> list[AzureJob]:
        """End the silos' jobs, all at once, then the orchestrator's; wait for their ends, and return what was live."""
        ended = self._stopped([(SILO, name) for name in names], seconds)
        return ended + (self._stopped([(SERVER, "")], seconds) if server else [])

    def _stopped(self, parts: list[tuple[str, str]], seconds: float) -> list[AzureJob]:
        ends = []
        for part in parts:
            place = self.workspace(self._workspace(*part))
            for job in self._of(*part):
                if not job.over:
                    if job.live:  # and not on its way out already
                        place.cancel(job.name)
                    ends.append((place, job.name))
        return [_waited(place, name, seconds) for place, name in ends]

    def workspace_of(self, job: AzureJob) -> Workspace:
        """Return the workspace of one of the federation's jobs."""
        return self.workspace(self._workspace(job.role, job.silo))

    # ---- what a job is made of

    @contextmanager
    def _server(self, folder: Path | None = None) -> Iterator[JobSpec]:
        text = self._public()
        with _folder(folder) as place:
            digest = snapshot(place, {FEDERATION_FILE: text}, self.root)
            yield server_job(self.conf, Code(place, digest, _digest(text)), self.store())

    @contextmanager
    def _silo(self, name: str, folder: Path | None = None) -> Iterator[JobSpec]:
        settings = next((silo for silo in silos(self.conf) if silo.name == name), None)
        own = self.conf.federation.silos.get(name)
        if settings is not None and own is not None and own.input is not None:
            settings = dataclasses.replace(
                settings, data=dataclasses.replace(settings.data, partition="own")
            )
        text = silo_to_json(settings).encode() if settings else b""
        with _folder(folder) as place:
            digest = snapshot(place, {SILO_FILE: text, CA_FILE: self._ca()}, self.root)
            yield silo_job(self.conf, name, Code(place, digest, _digest(text)), self._tracking())

    def _public(self) -> bytes:
        """Return the federation's file as the orchestrator's job gets it: public, and without anybody's paths."""
        plain: dict[str, Any] = dataclasses.asdict(self.conf.federation)
        plain["file"] = plain["folder"] = None
        for silo in plain["silos"].values():
            silo["data"], silo["public_key"] = {}, None
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

    def store(self) -> str:
        """Return the address of the orchestrator's container, looked up where the file does not give it."""
        own = self.conf.federation.orchestrator
        return own.store or self.workspace(self._workspace(SERVER)).container(str(own.datastore))

    def _tracking(self) -> str:
        own = self.conf.federation.orchestrator
        if own.address:
            return ""
        return own.tracking or self.workspace(self._workspace(SERVER)).tracking_uri()

    def _workspace(self, role: str, name: str = "") -> WorkspaceConf:
        silo = self.conf.federation.silos.get(name)
        own = self.conf.federation.orchestrator if role == SERVER else silo
        found = own.workspace if own is not None else None
        if found is None:
            raise AzureError(
                "MDW-810",
                f"No workspace for {name or role}.",
                "Write it into the federation's file.",
            )
        return found

    def _of(self, role: str, name: str = "") -> list[AzureJob]:
        """Return the jobs of one part, the newest first."""
        mine = self.workspace(self._workspace(role, name)).jobs_of(self.conf.federation.name)
        return [job for job in mine if (job.role, job.silo) == (role, name)]

    def _live(self, role: str, name: str = "") -> list[AzureJob]:
        """Return the jobs of one part that run or will, the oldest first."""
        return [job for job in reversed(self._of(role, name)) if job.live]

    def _current(self, role: str, name: str = "") -> AzureJob | None:
        mine = self._of(role, name)
        return next((job for job in reversed(mine) if job.live), next(iter(mine), None))


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="meadow-job-") as made:
        yield Path(made)


def _waited(place: Workspace, name: str, seconds: float) -> AzureJob:
    end = time.monotonic() + seconds
    while not (job := place.job(name)).over and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return job


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def download(store: KeyEntries, run_id: str, folder: Path) -> list[Path]:
    """Bring a run's files from the orchestrator's store into `folder/<run_id>`; raises AzureError MDW-802."""
    prefix = f"results/{run_id}/"
    names = [name for name in store.list(prefix) if ".." not in name]
    if not names:
        hint = "A run's files are there when it has ended: meadow wait."
        raise AzureError("MDW-802", f"The store has no files of the run {run_id}.", hint)
    written = []
    for name in names:
        path = folder / run_id / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(name))
        written.append(path)
    return written
