"""`meadow check`: everything that would fail later, looked at now, and told in one table with a way out per line.

A check sees what its caller's role may see (`as=orchestrator`, `as=silo:NAME`, `as=all`): a silo's vault and data are
its owner's to look at, and nobody else is asked to. Each line is ok, a warning, or an error; `security` marks the
errors that no switch passes over. Everything is seen as the caller and from here: whether a job's own identity holds
its roles, and what its network reaches, shows in the job.

    MDW-813 the federation can't be launched as it is
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from azureml_jobs.backends.workspace import Compute
from azureml_jobs.identity.admitted_keys import AdmittedKey
from azureml_jobs.identity.authority import CA_CERTIFICATE, CA_KEY, load_ca
from azureml_jobs.identity.expiry import expiry_warning
from azureml_jobs.identity.node_key import fingerprint, load_node_key, load_public_key, node_secret
from azureml_jobs.identity.secret_store import SecretStore
from azureml_jobs.jobs.specification import Code, server_job, silo_job
from azureml_jobs.preflight.data import DataView, data
from azureml_jobs.preflight.findings import ERROR, OK, WARNING, Finding, Table, failed, tried
from azureml_jobs.preflight.network import listening, reached
from azureml_jobs.rendezvous import checked_address
from conf.errors import AzureError, MeadowError
from conf.schema import Conf, SiloConf, WorkspaceConf

ALL, ORCHESTRATOR = "all", "orchestrator"
_NO_CODE: Final = Code(Path("."), "", "")


class WorkspaceView(DataView, Protocol):
    """What a check asks of a workspace; `azureml_jobs.backends.workspace.Workspace` has it. Raises AzureError."""

    def tracking_uri(self) -> str:
        """Return its MLflow address."""

    def compute(self, name: str) -> Compute:
        """Return a compute."""

    def container(self, datastore: str) -> str:
        """Return the address of a datastore's container."""

    def gpus_of(self, size: str, location: str) -> int | None:
        """Return the GPUs of a size of machine."""

    def cores_left(self, size: str, location: str) -> int | None:
        """Return the cores that the quota leaves."""


@dataclass(frozen=True)
class Sources:
    """Where a check looks: workspaces and vaults by what names them, the admitted keys, and the time."""

    workspace: Callable[[WorkspaceConf], WorkspaceView]
    vault: Callable[[str], SecretStore]
    keys: Callable[[], Iterable[AdmittedKey]] | None = None  # None: this role does not see them
    clock: Callable[[], float] = time.time


def check(conf: Conf, role: str, sources: Sources) -> Table:
    """Return the table of what `role` may see: `orchestrator`, `silo:NAME` or `all`."""
    table = Table()
    table.rows += _separation(conf)
    if role in (ALL, ORCHESTRATOR):
        table.rows += _orchestrator(conf, sources)
    for name in sorted(conf.federation.silos):
        if role in (ALL, f"silo:{name}"):
            table.rows += _silo(conf, name, sources)
    return table


# ---- the parts of the table


def _orchestrator(conf: Conf, sources: Sources) -> Iterator[Finding]:
    own, place = conf.federation.orchestrator, ORCHESTRATOR
    yield tried(place, "job", lambda: server_job(conf, _NO_CODE, "").display_name)
    if own.address:
        yield tried(place, "address", lambda: checked_address(str(own.address)))
        yield from reached(place, own.address)
    yield from listening(place, own)
    if own.workspace:
        workspace = sources.workspace(own.workspace)
        yield tried(place, "workspace", workspace.tracking_uri)
        if own.compute:
            yield from _compute(place, workspace, own.compute, 0, 1, None, managed=True)
        if own.datastore:
            yield tried(place, "datastore", lambda: workspace.container(str(own.datastore)))
    if own.key_vault:
        yield from _ca(place, sources.vault(str(own.key_vault)), sources)
    if sources.keys is not None:
        yield from _keys(conf, list(sources.keys()), sources.clock())


def _silo(conf: Conf, name: str, sources: Sources) -> Iterator[Finding]:
    own = conf.federation.silos[name]
    yield tried(name, "job", lambda: silo_job(conf, name, _NO_CODE, "").display_name)
    if conf.federation.orchestrator.address:
        yield from reached(name, conf.federation.orchestrator.address)
    if own.workspace:
        workspace = sources.workspace(own.workspace)
        yield tried(name, "workspace", workspace.tracking_uri)
        if own.compute:
            managed = own.identity == "managed"
            yield from _compute(
                name,
                workspace,
                own.compute,
                own.gpus,
                own.nodes,
                own.instance_type,
                managed=managed,
            )
        if own.input:
            yield from data(name, workspace, own.workspace, own.input)
    if own.key_vault:
        yield tried(
            name,
            "node key",
            lambda: _node_key(sources.vault(str(own.key_vault)), name, own),
            security=True,
        )


def _compute(
    place: str,
    workspace: WorkspaceView,
    name: str,
    gpus: int,
    nodes: int,
    kind: str | None,
    *,
    managed: bool,
) -> Iterator[Finding]:
    """Look at a compute: that it is there, has an identity, the machine, the GPUs and the quota that are wanted."""
    try:
        compute = workspace.compute(name)
    except MeadowError as error:
        yield failed(place, "compute", error)
        return
    yield Finding(place, "compute", seen=f"{name}, {compute.size or compute.kind}")
    if managed:
        yield _identity(place, compute)
    if kind and kind not in compute.instance_types:
        there = ", ".join(compute.instance_types) or "none"
        yield Finding(
            place, "instance type", ERROR, f"{kind} is not there", f"Those of {name}: {there}."
        )
    if compute.most_nodes is not None and nodes > compute.most_nodes:
        fix = f"Raise its maximum, or set nodes to {compute.most_nodes} or less."
        yield Finding(
            place, "nodes", ERROR, f"{name} has at most {compute.most_nodes}, {nodes} wanted", fix
        )
    if compute.size:
        yield from _machine(place, workspace, compute, gpus)


def _identity(place: str, compute: Compute) -> Finding:
    """Return as whom the job will act; its roles are not asked for, so that a caller needs no right to see them."""
    if not compute.identities:
        fix = f"Give the compute {compute.name} a managed identity: its job reads data and key with it."
        return Finding(place, "identity", ERROR, f"{compute.name} has none", fix, security=True)
    there = "; ".join(compute.identities)
    if len(compute.identities) > 1:
        fix = f"Leave {compute.name} one: a job that names none gets whichever is the compute's default."
        return Finding(place, "identity", WARNING, f"{compute.name} has several: {there}", fix)
    return Finding(
        place, "identity", seen=f"{there}; its roles were not looked at: all here was seen as you"
    )


def _machine(
    place: str, workspace: WorkspaceView, compute: Compute, gpus: int
) -> Iterator[Finding]:
    try:
        there = workspace.gpus_of(compute.size, compute.location)
        left = workspace.cores_left(compute.size, compute.location)
    except MeadowError as error:
        yield Finding(place, "quota", WARNING, f"not to be seen: {error.message}", error.hint)
        return
    if there is not None and gpus > there:
        yield Finding(
            place,
            "GPUs",
            ERROR,
            f"{compute.size} has {there}, {gpus} wanted",
            "Name a larger machine.",
        )
    if left is not None and left <= 0:
        fix = "Ask for more quota, or free some: the job would wait in the queue."
        yield Finding(
            place, "quota", WARNING, f"no core of {compute.size} is left in {compute.location}", fix
        )


def _separation(conf: Conf) -> Iterator[Finding]:
    """No silo is given another's vault, datastore path or key by configuration."""
    silos, own = conf.federation.silos, conf.federation.orchestrator
    seen: dict[str, str] = {own.key_vault.lower(): ORCHESTRATOR} if own.key_vault else {}
    for name in sorted(silos):
        for what, value in _private(silos[name]):
            other = seen.setdefault(value.lower(), name)
            if other != name:
                fix = f"Give {name} a {what} of its own."
                yield Finding(
                    name,
                    what,
                    ERROR,
                    f"{value.rpartition('|')[2]} is {other}'s too",
                    fix,
                    security=True,
                )


def _private(silo: SiloConf) -> Iterator[tuple[str, str]]:
    if silo.key_vault:
        yield "key vault", silo.key_vault
    if silo.input and silo.workspace:
        yield "data", f"{silo.workspace.subscription_id}/{silo.workspace.name}|{silo.input.path}"
    if silo.public_key:
        yield "public key", silo.public_key


def _keys(conf: Conf, admitted: list[AdmittedKey], now: float) -> Iterator[Finding]:
    for name in sorted(conf.federation.silos):
        mine = [
            key
            for key in admitted
            if key.silo == name and key.revoked is None and key.expires > now
        ]
        if not mine:
            fix = f"meadow keys admit {name} FILE.pub, with the key that its owner made."
            yield Finding(name, "admitted", ERROR, "no key of it may connect", fix, security=True)
            continue
        last = max(mine, key=lambda key: key.expires)
        warning = last.warning(now)
        state = WARNING if warning else OK
        yield Finding(
            name, "admitted", state, warning or last.fingerprint, f"meadow keys rotate {name}"
        )


def _ca(place: str, vault: SecretStore, sources: Sources) -> Iterator[Finding]:
    """Look at the CA: that both halves are there, and how long it lasts."""
    now = datetime.fromtimestamp(sources.clock(), UTC)
    try:
        certificate = load_ca(vault.get(CA_CERTIFICATE), vault.where(CA_CERTIFICATE), now)
        if CA_KEY not in vault.list():
            raise AzureError(
                "MDW-802", f"{vault.where(CA_KEY)} is missing.", "Restore it, or make the CA anew."
            )
    except MeadowError as error:
        yield failed(place, "CA", error, security=True)
        return
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    warning = expiry_warning("The CA", begins, ends, now)
    fix = "Make a new CA in time, and hand out its certificate: every silo needs it."
    yield Finding(place, "CA", WARNING if warning else OK, warning or f"until {ends:%Y-%m-%d}", fix)


def _node_key(vault: SecretStore, name: str, own: SiloConf) -> str:
    """Return the fingerprint of a silo's key, held against the public half that its file names."""
    where = vault.where(node_secret(name))
    mine = fingerprint(load_node_key(vault.get(node_secret(name)), where).public_key())
    if own.public_key:
        told = fingerprint(load_public_key(Path(own.public_key).read_text(), own.public_key))
        if told != mine:
            hint = "Send the public half of the key in the vault to the orchestrator's owner."
            raise AzureError(
                "MDW-802", f"{own.public_key} is not the public half of {where}.", hint
            )
    return mine
