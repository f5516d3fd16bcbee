"""`meadow rehearse`: a federation on Azure ML without Azure: real clients and jobs, loopback cloud.

Each step is done by the role that does it on Azure, signed in as that role: the orchestrator's
engineer, and each silo's owner. The same code launches on Azure; only environment variables differ.
"""

from __future__ import annotations

import copy
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
from typing import TYPE_CHECKING, Final

from azureml_jobs.backends.azure import AzureBackend
from azureml_jobs.backends.base import ORCHESTRATOR, Backend, Job
from azureml_jobs.cli.ending import end_jobs
from azureml_jobs.cli.federation import Federation, keys_of
from azureml_jobs.cli.runs import bring_home, wait_for_run
from azureml_jobs.cli.table import columns
from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import make_node_key
from azureml_jobs.jobs.snapshot import ROOT
from azureml_jobs.rehearsal.azurite import installed
from azureml_jobs.rehearsal.cloud import BLOBS, LoopbackCloud
from azureml_jobs.rehearsal.demands import Demands
from azureml_jobs.rehearsal.durations import AZURE
from azureml_jobs.rehearsal.followed import Followed
from azureml_jobs.rehearsal.owners import INSTANCE_TYPE, Owner, subscription_of, workspace_entry
from azureml_jobs.rehearsal.relayed import SECRET, URL, Relayed, outbound
from azureml_jobs.rehearsal.tokens import TENANT
from azureml_jobs.storage.rights import PLACES
from conf.compose import compose
from conf.errors import AzureError
from conf.schema import Conf
from conf.startup_log import MARK

if TYPE_CHECKING:
    from azureml_jobs.cli.runs import Outcome

Echo = Callable[[str], None]
NAMES: Final = ("north", "south", "west")
OWNERS: Final = {"south": Owner("south", kubernetes=True), "west": Owner("west", by_user=True)}
"""The silos that are not on a cluster with an identity of its own."""
ENGINEER: Final = "engineer"
FEDERATION: Final = "hospitals"
SCIENTIST: Final = "data scientist"
SERVER_RIGHTS: Final = {
    "federation": "Storage Blob Data Contributor",
    "federation-queue": "Storage Blob Data Reader",
    "federation-admissions": "Storage Blob Data Reader",
    "federation-results": "Storage Blob Data Contributor",
}
SCIENTIST_RIGHTS: Final = {
    "federation-queue": "Storage Blob Data Contributor",
    "federation-results": "Storage Blob Data Reader",
}
"""Roles at the containers of the federation's store, as docs/azure/orchestrator.md gives them."""
SERVER_PORT: Final = 9092
RUN_SECONDS: Final = 300.0
FACTOR: Final = 600.0
"""By which a rehearsal shortens Azure's own times."""
POLL_SECONDS: Final = 0.2
OVER_SECONDS: Final = 20.0
"""For silos' jobs to end by themselves once their orchestrator has said that it is over."""
NOT_SHOWN: Final = """\
A rehearsal does not show: how Azure enforces roles (the access table is the stand-in's own), Azure's
networks, images (their packages are resolved, nothing is built), mounts (inputs are copied), the
sizes and prices of machines."""


@dataclass
class Rehearsal:
    """A federation in a loopback cloud, and the steps of its life."""

    cloud: LoopbackCloud
    folder: Path
    overrides: list[str] = field(default_factory=list)
    names: tuple[str, ...] = NAMES
    root: Path = ROOT  # of the code that jobs are sent with
    echo: Echo = print
    owners: dict[str, Owner] = field(default_factory=dict)
    relayed: Relayed | None = None
    _workspaces: dict[str, str] = field(default_factory=dict)
    _composed: dict[tuple[str, ...], Conf] = field(default_factory=dict)

    def owner(self, name: str) -> Owner:
        """Return the owner of a silo."""
        return self.owners.get(name, Owner(name))

    def build(self) -> None:
        """Make workspaces, computes, accounts and vaults, and the access table.

        Each silo has one of each, in a subscription of its owner's. Returns when the roles hold.
        """
        hub = self.cloud.workspace("hub", "hub", subscription_of("hub"))
        self._workspaces["hub"] = hub
        server = self.cloud.compute(hub, "cpu")
        self.cloud.datastore(hub, "federation", "hub", "federation")
        for place in PLACES:
            self.cloud.accounts.container("hub", f"federation-{place}")
        self._grants(ENGINEER, workspace="hub", vault="kv-hub", storage="hub", owner=True)
        self._grants(server, workspace="hub", vault="kv-hub", owner=False)
        for identity, rights in ((server, SERVER_RIGHTS), (SCIENTIST, SCIENTIST_RIGHTS)):
            for container, role in rights.items():
                self.cloud.access.grant(identity, role, f"storage:hub/{container}")
        self.cloud.access.grant(SCIENTIST, "Reader", "workspace:hub")
        for name in self.names:
            self._build_silo(self.owner(name))
        self._file()
        time.sleep(self.cloud.demands.durations.roles)

    def _build_silo(self, owner: Owner) -> None:
        """Make what is an owner's, and give the roles that docs/azure.md names."""
        cloud = self.cloud
        cloud.tokens.register(owner.name, owner.tenant)
        cloud.tenants.put(f"vault:kv-{owner.silo}", owner.tenant)
        workspace = cloud.workspace(owner.silo, owner.silo, owner.subscription, tenant=owner.tenant)
        self._workspaces[owner.silo] = workspace
        job = cloud.compute(
            workspace,
            owner.compute,
            "Standard_NC6s_v3",
            [INSTANCE_TYPE] if owner.kubernetes else (),
            low_priority=owner.low_priority,
        )
        own = {"workspace": owner.silo, "vault": f"kv-{owner.silo}", "storage": owner.silo}
        self._grants(owner.name, **own, owner=True)
        self._grants(job, **own, owner=False)
        # What an algorithm remembers at the silo outlives its node.
        state = f"storage:{owner.silo}/{BLOBS}"
        cloud.access.grant(job, "Storage Blob Data Contributor", state)
        if owner.tenant == TENANT:
            for identity in (owner.name, job):  # both ask the orchestrator's workspace where it is
                cloud.access.grant(identity, "Reader", "workspace:hub")
        if self.relayed is None:
            # As peered networks do, with a rule for the port.
            compute = f"{workspace}/computes/{owner.compute}"
            cloud.networks.peer(compute, self._server, SERVER_PORT)

    @property
    def _server(self) -> str:
        return f"{self._workspaces['hub']}/computes/cpu"

    def conf(self, *own: str) -> Conf:
        """Return the configuration: the federation's file under the overrides."""
        file = self.folder / "hospitals.yaml"
        words = (f"federation.file={file}", *self.overrides, *own)
        # One process does what the commands of four people do, of the same words.
        key = (*words, file.read_text())
        if key not in self._composed:
            self._composed[key] = compose(list(words))
        return copy.deepcopy(self._composed[key])

    def federation(self, *own: str) -> Federation:
        """Return the federation, for whoever is signed in; `own` is what they alone override."""
        conf = self.conf(*own)
        backend: Backend = AzureBackend(conf, lambda: keys_of(backend).all(), root=self.root)
        return Federation(backend)

    def make_keys(self) -> None:
        """Make the CA as the engineer, a node key as each owner, and admit the public halves."""
        publics = {}
        with self.signed_in(ENGINEER):
            vault = VaultSecrets("kv-hub")
            make_ca(vault, "hospitals", datetime.now(UTC))
            (self.folder / "ca.pem").write_bytes(vault.get(CA_CERTIFICATE))
        for name in self.names:
            with self.signed_in(owner(name)):
                publics[name] = make_node_key(VaultSecrets(f"kv-{name}"), FEDERATION, name)
        with self.signed_in(ENGINEER):
            keys = keys_of(self.federation().backend)
            for name, public in publics.items():
                admitted = keys.admit(name, public)
                (self.folder / self.owner(name).admission).write_text(admitted.certificate)
        self._start_relay()

    def _start_relay(self) -> None:
        """Start the relay, and open the way of each job to it; the password goes to the vaults."""
        if self.relayed is None:
            return
        self.relayed.start(self.root, FEDERATION, self.folder / "ca.pem")
        self.relayed.open(self._server)
        for name in self.names:
            owner = self.owner(name)
            compute = f"{self._workspaces[name]}/computes/{owner.compute}"
            self.relayed.open(compute, proxied=owner.proxied)
            if owner.proxied:
                with self.signed_in(owner.name):
                    VaultSecrets(f"kv-{name}").set(SECRET, self.relayed.password.encode())

    def roles(self) -> list[tuple[str, str, str]]:
        """Return the identity, the role and the part of the engineer and of each silo's owner."""
        owners = [(owner(name), f"silo:{name}", name) for name in self.names]
        return [(ENGINEER, ORCHESTRATOR, ORCHESTRATOR), *owners]

    def check(self) -> None:
        """Print each role's table; raises AzureError MDW-813 where something would fail."""
        for identity, role, _ in self.roles():
            with self.signed_in(identity):
                table = self.federation().backend.check(role)
                self.echo(f"meadow check as={role}")
                for line in table.lines():
                    self.echo(f"  {line}")
                table.refuse()

    def launch(self, part: str) -> tuple[Job, bool]:
        """Start a part's job, signed in as its owner."""
        own = outbound(part) if part in self.names and self.owner(part).proxied else []
        with self.signed_in(ENGINEER if part == ORCHESTRATOR else owner(part)):
            return self.federation(*own).backend.start(part)

    def submit(self, run_id: str) -> None:
        """Ask for a run, as who may ask and admit nobody."""
        with self.signed_in(SCIENTIST):
            self.federation().queue.submit(run_id, self.conf(), "meadow rehearse")

    def wait(self, run_id: str, seconds: float = RUN_SECONDS) -> Outcome:
        """Return how a run ended.

        Raises AzureError MDW-874 where the time is over or the orchestrator has ended.
        """
        with self.signed_in(SCIENTIST):
            federation = self.federation()
            followed = Followed(federation.backend, self.echo)
            wait_for_run(federation, run_id, seconds, followed, self.echo)
            followed.look()
            outcome = federation.queue.outcome(run_id)
        if outcome is None:
            hint = f"Look at the jobs' logs below {self.cloud.folder / 'jobs'}."
            raise AzureError("MDW-874", f"The run {run_id} has no end.", hint)
        return outcome

    def jobs(self) -> list[Job]:
        """Return the newest job of each part, each asked for by its owner."""
        jobs = []
        for identity, _, part in self.roles():
            with self.signed_in(identity):
                job = self.federation().backend.job(part)
            if job is not None:
                jobs.append(job)
        return jobs

    def stop(self) -> None:
        """End the federation as its engineer, then each job that is left as its owner.

        An orchestrator that is asked tells its silos, whose jobs end by themselves.
        """
        with self.signed_in(ENGINEER):
            end_jobs(self.federation(), [ORCHESTRATOR])
        end = time.monotonic() + OVER_SECONDS
        for identity, _, part in reversed(self.roles()):
            with self.signed_in(identity):
                backend = self.federation().backend
                while (job := backend.job(part)) and job.live and time.monotonic() < end:
                    time.sleep(POLL_SECONDS)
                backend.stop([part])

    def download(self, run_id: str, output: Path) -> Path:
        """Bring a run's files into a folder below `output`."""
        with self.signed_in(SCIENTIST):
            folder, _ = bring_home(self.federation(), run_id, output)
        return folder

    def start_up(self) -> list[str]:
        """Return what each job logged of its start, in seconds since its process began."""
        rows = []
        for identity, _, part in self.roles():
            with self.signed_in(identity):
                backend = self.federation().backend
                job = backend.job(part)
                lines = backend.log(job).lines() if job is not None else []
            times = [line.partition(MARK)[2].strip() for _, line in lines if MARK in line]
            rows.append((f"  {part}", ", ".join(times) or "nothing"))
        return columns(rows)

    def epilogue(self) -> list[str]:
        """Return what was refused and what the stand-in did not know, and what it does not show.

        In a good rehearsal the three lists are empty.
        """
        request_log = self.cloud.request_log
        refused = []
        for access in request_log.refused():
            action = f"{access.identity} may not {access.action} {access.resource}"
            refused.append(f"  {action}: needs '{access.role}'")
        outside = [f"  {host}" for host in sorted(set(request_log.outbound))]
        unknown = [f"  {request}" for request in sorted(set(request_log.unrouted))]
        lines = [
            self._network(),
            *self._images(),
            f"Refused by the access table: {len(refused)}",
            *refused,
        ]
        lines += [f"Hosts outside the rehearsal, refused: {len(outside)}", *outside]
        lines += [f"Requests that the stand-in does not know: {len(unknown)}", *unknown]
        return [*lines, NOT_SHOWN]

    def _images(self) -> list[str]:
        unknown = self.cloud.executor.services.images.unknown
        if not unknown:
            return []
        return [f"Images not rehearsed: {len(unknown)}, no index was reached or no base declared."]

    def _network(self) -> str:
        if not self.cloud.networks.available:
            return "Network not rehearsed: this user can't make network namespaces here."
        alone = "Network: each job in one of its own, nothing in, 443 out"
        if self.relayed is not None:
            return f"{alone}; they meet at a relay."
        return f"{alone}; declared besides: the silos reach the server's port {SERVER_PORT}."

    @contextmanager
    def signed_in(self, name: str) -> Iterator[None]:
        """Sign in to the loopback cloud for a while: only environment variables change."""
        variables = {**self.cloud.environment(), **self.cloud.signed_in_as(name)}
        before = {key: os.environ.get(key) for key in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    def _grants(
        self, identity: str, *, workspace: str, vault: str, owner: bool, storage: str = ""
    ) -> None:
        vault_role = "Key Vault Secrets Officer" if owner else "Key Vault Secrets User"
        storage_role = "Storage Blob Data Contributor" if owner else "Storage Blob Data Reader"
        self.cloud.access.grant(identity, "AzureML Data Scientist", f"workspace:{workspace}")
        self.cloud.access.grant(identity, vault_role, f"vault:{vault}")
        if storage:
            self.cloud.access.grant(identity, storage_role, f"storage:{storage}")

    def _file(self) -> None:
        """Write the federation's file, as its people would."""
        lines = [
            "name: hospitals",
            # What is waited for on this machine takes seconds.
            f"poll_seconds: {POLL_SECONDS}",
            "orchestrator:",
            f"  workspace: {workspace_entry('hub')}",
            "  compute: cpu",
            "  datastore: federation",
            "  key_vault: kv-hub",
            "  store: https://hub.blob.core.windows.net/federation",
            "  ca: ca.pem",
        ]
        if self.relayed is not None:
            lines.insert(1, f"relay: {{url: {URL}}}")
        elif any(owner.tenant != TENANT for owner in self.owners.values()):
            # No identity has a role in another tenant, so nobody there asks where the server is.
            lines.append(f"  address: {self.cloud.networks.next_address}:{SERVER_PORT}")
        if not self.cloud.networks.available:
            # The jobs all run in this machine's own network, and no other may reach them.
            lines.append("  listen: localhost:0")
        lines.append("silos:")
        for name in self.names:
            lines += self.owner(name).entry
        (self.folder / "hospitals.yaml").write_text("\n".join(lines) + "\n")


def owner(name: str) -> str:
    """Return the identity of a silo's owner."""
    return f"owner of {name}"


def vaults(names: tuple[str, ...] = NAMES) -> list[str]:
    """Return the names of the vaults that a rehearsal's cloud needs."""
    return ["kv-hub", *(f"kv-{name}" for name in names)]


def live_through(rehearsal: Rehearsal, run_id: str = "rehearsal") -> int:
    """Run a federation's whole life; return the run's exit status, or 9 after a refusal."""
    say = rehearsal.echo
    started = time.monotonic()
    say(f"Azure's own times are {FACTOR:g} times shorter here.")
    rehearsal.build()
    rehearsal.make_keys()
    rehearsal.check()
    jobs = [rehearsal.launch(part)[0] for _, _, part in rehearsal.roles()]
    for line in columns([(job.part, job.name, job.where) for job in jobs]):
        say(line)
    launched = time.monotonic()
    try:
        rehearsal.submit(run_id)
        outcome = rehearsal.wait(run_id)
        ran = time.monotonic() - launched
        if not outcome.exit:
            say(f"result: {rehearsal.download(run_id, Path(rehearsal.conf().run.output))}")
    finally:
        rehearsal.stop()
        for line in columns([(job.part, job.state) for job in rehearsal.jobs()]):
            say(line)
    say("Start-up, in seconds since each job's process began:")
    for line in [*rehearsal.start_up(), *rehearsal.epilogue()]:
        say(line)
    cloud = sum(rehearsal.cloud.seconds.values())
    keys = launched - started
    whole = time.monotonic() - started
    say(f"Seconds: {cloud:.1f} to start the cloud, {keys:.0f} from keys to the jobs sent,")
    say(f"{ran:.0f} for the jobs to start and the run to end, {whole:.0f} in all.")
    request_log = rehearsal.cloud.request_log
    refused = request_log.refused() or request_log.outbound or request_log.unrouted
    return outcome.exit or (AzureError.exit_status if refused else 0)


def rehearse(overrides: list[str], *, keep: bool) -> int:
    """Rehearse with these overrides; return the exit status. `keep` leaves the cloud's folder."""
    overrides = ["tracking=environment", *overrides]
    # A mistake in them is reported before anything starts.
    compose(overrides)
    installed()
    # SIGTERM raises KeyboardInterrupt too, so that everything started here is also ended here.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    folder = Path(tempfile.mkdtemp(prefix="meadow-rehearsal-"))
    try:
        demands = Demands(durations=AZURE.shortened(FACTOR))
        outside = dict(os.environ)
        with LoopbackCloud(folder / "cloud", ["hub", *NAMES], vaults(), demands) as cloud:
            cloud.resolve_images(outside)
            rehearsal = Rehearsal(cloud, folder, overrides, owners=dict(OWNERS))
            return live_through(rehearsal, f"rehearsal-{datetime.now():%Y%m%d-%H%M%S}")
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
