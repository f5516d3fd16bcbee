"""`meadow rehearse`: a federation of three silos on Azure ML, without Azure: real clients, real jobs, a loopback cloud.

Each step is done by the role that does it on Azure, signed in as that role: the orchestrator's engineer, and each
silo's owner. The code that launches is the code that launches on Azure; only environment variables differ.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from azureml_jobs.backends.azure import AzureFederation, download
from azureml_jobs.backends.workspace import AzureJob, Workspace
from azureml_jobs.cli.azure_watch import JobLog
from azureml_jobs.identity.admitted_keys import AdmittedKeys, KeyEntries
from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import make_node_key
from azureml_jobs.jobs.snapshot import ROOT
from azureml_jobs.preflight.checks import Sources, check
from azureml_jobs.rehearsal.azurite import installed
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from conf.compose import compose
from conf.errors import AzureError
from conf.schema import Conf
from conf.startup_log import MARK

Echo = Callable[[str], None]
NAMES: Final = ("north", "south", "west")
ENGINEER: Final = "engineer"
SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000001"
RUN_SECONDS: Final = 300.0
STOP_SECONDS: Final = 60.0
NOT_SHOWN: Final = """A rehearsal does not show: how Azure enforces roles (the table of who may is the stand-in's own),
network isolation, quota, the building of images, mounts (inputs are copied), the sizes and prices of machines."""


class Queue(Protocol):
    """What a rehearsal needs of the orchestrator's queue (`server.store.run_queue.RunQueue` has it)."""

    def submit(self, run_id: str, conf: Conf, command: str = "") -> object:
        """Add a run."""

    def outcome(self, run_id: str) -> Any:
        """Return how it ended, None while it has not."""


@dataclass
class Rehearsal:
    """A federation in a loopback cloud, and the steps of its life; `open_store` gives the orchestrator's store."""

    cloud: LoopbackCloud
    folder: Path
    open_store: Callable[[Conf], KeyEntries]
    open_queue: Callable[[Any], Queue]
    overrides: list[str] = field(default_factory=list)
    names: tuple[str, ...] = NAMES
    root: Path = ROOT  # of the code that jobs are sent with
    echo: Echo = print

    def build(self) -> None:
        """Make workspaces, computes, accounts and vaults, one of each per silo, and declare who may touch what."""
        hub = self.cloud.workspace("hub", account="hub")
        server = self.cloud.compute(hub, "cpu")
        self.cloud.datastore(hub, "federation", "hub", "federation")
        self._grants(ENGINEER, workspace="hub", vault="kv-hub", storage="hub", owner=True)
        self._grants(server, workspace="hub", vault="kv-hub", storage="hub", owner=False)
        self.cloud.access.grant(server, "Storage Blob Data Contributor", "storage:hub")
        for name in self.names:
            workspace = self.cloud.workspace(name, account=name)
            job = self.cloud.compute(workspace, f"gpu-{name}", "Standard_NC6s_v3")
            self._grants(owner(name), workspace=name, vault=f"kv-{name}", storage=name, owner=True)
            self._grants(job, workspace=name, vault=f"kv-{name}", storage=name, owner=False)
            for identity in (owner(name), job):  # both ask the orchestrator's workspace where it is
                self.cloud.access.grant(identity, "Reader", "workspace:hub")
        self._file()

    def conf(self) -> Conf:
        """Return the configuration: the federation's file under the overrides."""
        return compose([f"federation.file={self.folder / 'hospitals.yaml'}", *self.overrides])

    def federation(self) -> AzureFederation:
        """Return the federation's jobs, for whoever is signed in."""
        return AzureFederation(self.conf(), root=self.root)

    def make_keys(self) -> None:
        """Make the CA as the engineer, a node key as each owner, and admit the public halves."""
        publics = {}
        with self.signed_in(ENGINEER):
            vault = VaultSecrets("kv-hub")
            make_ca(vault, "hospitals", datetime.now(UTC))
            (self.folder / "ca.pem").write_bytes(vault.get(CA_CERTIFICATE))
        for name in self.names:
            with self.signed_in(owner(name)):
                publics[name] = make_node_key(VaultSecrets(f"kv-{name}"), name)
        with self.signed_in(ENGINEER):
            keys = self._keys()
            for name, public in publics.items():
                keys.admit(name, public)

    def check(self) -> None:
        """Print each role's table; raises AzureError MDW-813 where something would fail."""
        for who, role in [
            (ENGINEER, "orchestrator"),
            *((owner(name), f"silo:{name}") for name in self.names),
        ]:
            with self.signed_in(who):
                keys = self._keys().all if role == "orchestrator" else None
                table = check(self.conf(), role, Sources(Workspace, VaultSecrets, keys))
                self.echo(f"meadow check as={role}")
                for line in table.lines():
                    self.echo(f"  {line}")
                table.refuse()

    def launch_server(self) -> tuple[AzureJob, bool]:
        """Start the orchestrator's job as the engineer."""
        with self.signed_in(ENGINEER):
            return self.federation().start_server()

    def launch_silo(self, name: str) -> tuple[AzureJob, bool]:
        """Start a silo's job as its owner."""
        with self.signed_in(owner(name)):
            return self.federation().start_silo(name)

    def submit(self, run_id: str) -> None:
        """Ask for a run."""
        with self.signed_in(ENGINEER):
            self._queue().submit(run_id, self.conf(), "meadow rehearse")

    def wait(self, run_id: str, seconds: float = RUN_SECONDS) -> Any:
        """Return how a run ended; raises AzureError MDW-874 where the time is over or the orchestrator has ended."""
        end = time.monotonic() + seconds
        with self.signed_in(ENGINEER):
            queue, federation = self._queue(), self.federation()
            while (outcome := queue.outcome(run_id)) is None:
                jobs = federation.jobs([], server=True)
                if time.monotonic() > end or not any(job.live for job in jobs):
                    state = jobs[0].status if jobs else "not there"
                    hint = f"Look at the jobs' logs below {self.cloud.folder / 'jobs'}."
                    raise AzureError(
                        "MDW-874",
                        f"The run {run_id} has no end; the orchestrator is {state}.",
                        hint,
                    )
                time.sleep(0.5)
        return outcome

    def jobs(self) -> list[AzureJob]:
        """Return the newest job of each part, each asked for by its owner."""
        with self.signed_in(ENGINEER):
            found = self.federation().jobs([], server=True)
        for name in self.names:
            with self.signed_in(owner(name)):
                found += self.federation().jobs([name], server=False)
        return found

    def stop(self) -> None:
        """End the silos' jobs, all at once, then the orchestrator's."""
        for seconds in (0.0, STOP_SECONDS):  # every owner asks before anybody waits
            for name in self.names:
                with self.signed_in(owner(name)):
                    self.federation().stop([name], server=False, seconds=seconds)
        with self.signed_in(ENGINEER):
            self.federation().stop([], server=True, seconds=STOP_SECONDS)

    def download(self, run_id: str, folder: Path) -> list[Path]:
        """Bring a run's files."""
        with self.signed_in(ENGINEER):
            return download(self.open_store(self.conf()), run_id, folder)

    def start_up(self) -> list[str]:
        """Return what each job says of its start: seconds since its process began, in a line of its own."""
        found = []
        for who, silo in [(ENGINEER, ""), *((owner(name), name) for name in self.names)]:
            with self.signed_in(who):
                federation = self.federation()
                for job in federation.jobs([silo] if silo else [], server=not silo):
                    lines = JobLog(federation.workspace_of(job), job.name, silo).lines()
                    said = [line.partition(MARK)[2].strip() for line in lines if MARK in line]
                    found.append(f"  {silo or 'orchestrator':14} {', '.join(said) or 'nothing'}")
        return found

    def epilogue(self) -> list[str]:
        """Return what was refused and what nobody knew: empty lists in a good rehearsal; and what it does not show."""
        request_log = self.cloud.request_log
        refused = [
            f"  {t.identity} may not {t.action} {t.resource}: needs '{t.role}'"
            for t in request_log.refused()
        ]
        outside = [f"  {host}" for host in sorted(set(request_log.outbound))]
        unknown = [f"  {request}" for request in sorted(set(request_log.unrouted))]
        return [
            f"Refused by the table of who may touch what: {len(refused)}", *refused,
            f"Hosts outside the rehearsal, refused: {len(outside)}", *outside,
            f"Requests that the stand-in does not know: {len(unknown)}", *unknown,
            NOT_SHOWN,
        ]  # fmt: skip

    @contextmanager
    def signed_in(self, name: str) -> Iterator[None]:
        """Be somebody for a while, led to the loopback cloud: nothing but environment variables."""
        wanted = {**self.cloud.environment(), **self.cloud.signed_in_as(name)}
        before = {key: os.environ.get(key) for key in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    def _grants(
        self, identity: str, *, workspace: str, vault: str, storage: str, owner: bool
    ) -> None:
        vault_role = "Key Vault Secrets Officer" if owner else "Key Vault Secrets User"
        storage_role = "Storage Blob Data Contributor" if owner else "Storage Blob Data Reader"
        self.cloud.access.grant(identity, "AzureML Data Scientist", f"workspace:{workspace}")
        self.cloud.access.grant(identity, vault_role, f"vault:{vault}")
        self.cloud.access.grant(identity, storage_role, f"storage:{storage}")

    def _keys(self) -> AdmittedKeys:
        return AdmittedKeys(self.open_store(self.conf()), time.time)

    def _queue(self) -> Queue:
        return self.open_queue(self.open_store(self.conf()))

    def _file(self) -> None:
        """Write the federation's file, as its people would."""
        lines = [
            "name: hospitals",
            "orchestrator:",
            f"  workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: meadow, name: hub}}",
            "  compute: cpu",
            "  datastore: federation",
            "  key_vault: kv-hub",
            "  store: https://hub.blob.core.windows.net/federation",
            f"  ca: {self.folder / 'ca.pem'}",
            "  listen: localhost:0",  # a rehearsal's jobs all run here, and nobody else is to reach them
            "silos:",
        ]
        for name in self.names:
            lines += [
                f"  {name}:",
                f"    workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: meadow, name: {name}}}",
                f"    compute: gpu-{name}",
                f"    key_vault: kv-{name}",
            ]
        (self.folder / "hospitals.yaml").write_text("\n".join(lines) + "\n")


def owner(name: str) -> str:
    """Return the identity of a silo's owner."""
    return f"owner of {name}"


def vaults(names: tuple[str, ...] = NAMES) -> list[str]:
    """Return the names of the vaults that a rehearsal's cloud needs."""
    return ["kv-hub", *(f"kv-{name}" for name in names)]


def rehearse(rehearsal: Rehearsal, run_id: str = "rehearsal") -> int:
    """Live through a federation's whole life; return the run's exit status, or 9 where anything was refused."""
    say, begun = rehearsal.echo, time.monotonic()
    rehearsal.build()
    rehearsal.make_keys()
    rehearsal.check()
    jobs = [rehearsal.launch_server(), *(rehearsal.launch_silo(name) for name in rehearsal.names)]
    for job, _ in jobs:
        say(f"{job.silo or 'orchestrator':14} {job.name}  {job.studio}")
    launched = time.monotonic()
    try:
        rehearsal.submit(run_id)
        outcome = rehearsal.wait(run_id)
        ran = time.monotonic() - launched
        say(f"run {run_id}: {outcome.status} {outcome.reason}".rstrip())
        if not outcome.exit:
            output = Path(rehearsal.conf().run.output)
            rehearsal.download(run_id, output)
            say(f"result: {output / run_id}")
    finally:
        rehearsal.stop()
        for one in rehearsal.jobs():
            say(f"{one.silo or 'orchestrator':14} {one.status}")
    say("Start-up, in seconds since each job's process began:")
    for line in rehearsal.start_up():
        say(line)
    for line in rehearsal.epilogue():
        say(line)
    cloud = sum(rehearsal.cloud.seconds.values())
    say(
        f"Seconds: {cloud:.1f} to start the cloud, {launched - begun:.0f} from keys to four jobs sent,"
    )
    say(
        f"{ran:.0f} for the jobs to start and the run to end, {time.monotonic() - begun:.0f} in all."
    )
    request_log = rehearsal.cloud.request_log
    refused = request_log.refused() or request_log.outbound or request_log.unrouted
    return int(outcome.exit) or (AzureError.exit_status if refused else 0)


HELP: Final = """meadow rehearse [--keep] [group=option | key=value ...]

A federation of three silos on Azure ML, without Azure: workspaces, vaults and storage are a stand-in on 127.0.0.1,
which really starts the jobs; Azure's own clients talk to it, led by environment variables alone. Any other host is
refused. Needs Node, for Azurite. The run lands in run.output; --keep leaves the cloud's folder, jobs' logs included.
Groups and keys are those of `meadow simulate --help`."""


def main(
    args: list[str], open_store: Callable[[Conf], KeyEntries], open_queue: Callable[[Any], Queue]
) -> int:
    """Rehearse with the given overrides; return the exit status."""
    if "--help" in args or "-h" in args:
        print(HELP)
        return 0
    keep, overrides = "--keep" in args, [arg for arg in args if arg != "--keep"]
    overrides = ["tracking=environment", *overrides]
    compose(overrides)  # a mistake is told before anything starts
    installed()
    signal.signal(
        signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT)
    )  # everything started here is ended
    folder = Path(tempfile.mkdtemp(prefix="meadow-rehearsal-"))
    try:
        with LoopbackCloud(folder / "cloud", ["hub", *NAMES], vaults()) as cloud:
            rehearsal = Rehearsal(cloud, folder, open_store, open_queue, overrides)
            return rehearse(rehearsal, f"rehearsal-{datetime.now():%Y%m%d-%H%M%S}")
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
