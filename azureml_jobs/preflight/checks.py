"""`meadow check`: finds now what would fail later in a launch; one table, each line with its fix.

A check looks only at what its caller's role may see (`as=orchestrator`, `as=silo:NAME`, `as=all`):
only its owner looks at a silo's vault and data. Each line is ok, a warning, or an error; `security`
marks the errors that no option ignores. All of it is seen with the caller's identity and from this
machine: whether a job's own identity has its roles, and what its network reaches, shows in the job.

    MDW-813 the federation can't be launched as it is
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from azureml_jobs.backends.workspace import Compute
from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.authority import CA_CERTIFICATE, CA_KEY, load_ca
from azureml_jobs.identity.expiry import expiry_warning
from azureml_jobs.identity.node_key import fingerprint, load_node_key, load_public_key, node_secret
from azureml_jobs.identity.secret_store import SecretStore
from azureml_jobs.jobs.specification import Code, server_job, silo_job, state_address
from azureml_jobs.preflight.data import DataView, data
from azureml_jobs.preflight.findings import ERROR, WARNING, Finding, Table, failed, tried
from azureml_jobs.preflight.network import listening, reached
from azureml_jobs.preflight.relay_reach import met
from azureml_jobs.preflight.this_machine import outside_code
from azureml_jobs.rendezvous import checked_address
from azureml_jobs.storage.rights import PLACES, container_of
from conf.errors import AzureError, MeadowError
from conf.schema import Conf, OrchestratorConf, SiloConf, WorkspaceConf

ALL: Final = "all"
ORCHESTRATOR: Final = "orchestrator"
_NO_CODE: Final = Code(Path("."), "", "")


class WorkspaceView(DataView, Protocol):
    """What a check needs of a workspace, as `backends.workspace.Workspace`; raises AzureError."""

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
    """Where a check looks: how to open a workspace and a vault, the admitted keys, the clock.

    `keys` is None for a role that may not see them.
    """

    workspace: Callable[[WorkspaceConf], WorkspaceView]
    vault: Callable[[str], SecretStore]
    keys: Callable[[], Iterable[AdmittedKey]] | None = None
    container: Callable[[str], str] | None = None
    """Looks into a blob container, by its address; raises MeadowError where it can't be used."""
    clock: Callable[[], float] = time.time


def check(conf: Conf, role: str, sources: Sources) -> Table:
    """Return the table of what `role` may see: `orchestrator`, `silo:NAME` or `all`."""
    table = Table()
    table.rows += _separation(conf)
    table.rows += outside_code(conf)
    if role in (ALL, ORCHESTRATOR):
        table.rows += _orchestrator(conf, sources)
    for name in sorted(conf.federation.silos):
        if role in (ALL, f"silo:{name}"):
            table.rows += _silo(conf, name, sources)
    return table


# ---- the parts of the table


def _orchestrator(conf: Conf, sources: Sources) -> Iterator[Finding]:
    part = ORCHESTRATOR
    orchestrator = conf.federation.orchestrator
    yield tried(part, "job", lambda: server_job(conf, _NO_CODE, "").display_name)
    if orchestrator.address:
        yield tried(part, "address", lambda: checked_address(str(orchestrator.address)))
        yield from reached(part, orchestrator.address)
    if conf.federation.relay.url:
        yield met(part, conf.federation.relay.url, conf.federation.name, orchestrator.outbound)
    yield from listening(part, orchestrator)
    if orchestrator.workspace:
        workspace = sources.workspace(orchestrator.workspace)
        yield tried(part, "workspace", workspace.tracking_uri)
        if orchestrator.compute:
            yield from _compute(part, workspace, Machines(orchestrator.compute), managed=True)
        if orchestrator.datastore:
            yield tried(part, "datastore", lambda: workspace.container(str(orchestrator.datastore)))
            yield from _containers(orchestrator, workspace, sources)
    if orchestrator.key_vault:
        yield from _ca(part, sources.vault(orchestrator.key_vault), sources)
    if sources.keys is not None:
        yield from _keys(conf, list(sources.keys()), sources.clock())


def _containers(
    orchestrator: OrchestratorConf, workspace: WorkspaceView, sources: Sources
) -> Iterator[Finding]:
    """Check the containers of the store: its own, and one for each right beside it."""
    look = sources.container
    if look is None:
        return
    try:
        own = orchestrator.store or workspace.container(str(orchestrator.datastore))
    except MeadowError:
        return  # a line says so already
    for right in ("", *PLACES):
        address = container_of(own, right) if right else own
        yield tried(ORCHESTRATOR, f"container {right}".strip(), partial(look, address))


def _silo(conf: Conf, name: str, sources: Sources) -> Iterator[Finding]:
    silo = conf.federation.silos[name]
    yield tried(name, "job", lambda: silo_job(conf, name, _NO_CODE, "").display_name)
    if conf.federation.relay.url:
        yield met(name, conf.federation.relay.url, conf.federation.name, silo.outbound)
    elif conf.federation.orchestrator.address:
        yield from reached(name, conf.federation.orchestrator.address)
    if silo.workspace:
        workspace = sources.workspace(silo.workspace)
        yield tried(name, "workspace", workspace.tracking_uri)
        if silo.compute:
            wanted = Machines(silo.compute, silo.gpus, silo.nodes, silo.instance_type)
            managed = silo.identity == "managed"
            yield from _compute(name, workspace, wanted, managed=managed)
        yield tried(name, "state", lambda: state_address(conf, name, workspace.container))
        if silo.input:
            yield from data(name, workspace, silo.workspace, silo.input)
    if silo.key_vault:
        yield tried(
            name,
            "node key",
            lambda: _node_key(conf.federation.name, name, silo, sources),
            security=True,
        )


@dataclass(frozen=True)
class Machines:
    """The machines that a job asks for: `nodes` of a compute, each with so many GPUs."""

    compute: str
    gpus: int = 0
    nodes: int = 1
    instance_type: str | None = None


def _compute(
    part: str, workspace: WorkspaceView, wanted: Machines, *, managed: bool
) -> Iterator[Finding]:
    """Check that a compute exists, with the identity, machines, GPUs and quota that a job needs."""
    try:
        compute = workspace.compute(wanted.compute)
    except MeadowError as error:
        yield failed(part, "compute", error)
        return
    yield Finding(part, "compute", seen=f"{compute.name}, {compute.size or compute.kind}")
    if managed:
        yield _identity(part, compute)
    if wanted.instance_type and wanted.instance_type not in compute.instance_types:
        types = ", ".join(compute.instance_types) or "none"
        seen = f"{wanted.instance_type} does not exist"
        yield Finding(part, "instance type", ERROR, seen, f"Those of {compute.name}: {types}.")
    yield from _one_process(part, wanted)
    if compute.size:
        yield from _size(part, workspace, compute, wanted.gpus)


def _one_process(part: str, wanted: Machines) -> Iterator[Finding]:
    """Refuse what would start a silo's process several times: each would be taken for the silo."""
    if wanted.nodes > 1:
        seen = f"{wanted.nodes} wanted, and a silo trains on one"
        yield Finding(part, "nodes", ERROR, seen, "Set nodes to 1.")
    if wanted.gpus > 1:
        seen = f"{wanted.gpus} wanted, and a silo trains on one"
        yield Finding(part, "GPUs", ERROR, seen, "Set gpus to 1.")


def _identity(part: str, compute: Compute) -> Finding:
    """Return the identity that the job will have; a caller needs no right to see its roles."""
    if not compute.identities:
        fix = (
            f"Give the compute {compute.name} a managed identity: its job reads data and key"
            " with it."
        )
        return Finding(part, "identity", ERROR, f"{compute.name} has none", fix, security=True)
    identities = "; ".join(compute.identities)
    if len(compute.identities) > 1:
        seen = f"{compute.name} has several: {identities}"
        fix = (
            f"Leave {compute.name} one: a job that names none gets whichever is the compute's"
            " default."
        )
        return Finding(part, "identity", WARNING, seen, fix)
    seen = f"{identities}; its roles were not checked: all of this was seen with your identity"
    return Finding(part, "identity", seen=seen)


def _size(
    part: str, workspace: WorkspaceView, compute: Compute, wanted_gpus: int
) -> Iterator[Finding]:
    try:
        gpus = workspace.gpus_of(compute.size, compute.location)
        free_cores = workspace.cores_left(compute.size, compute.location)
    except MeadowError as error:
        yield Finding(part, "quota", WARNING, f"can't be seen: {error.message}", error.hint)
        return
    # More than one is refused already.
    if gpus is not None and gpus < wanted_gpus == 1:
        seen = f"{compute.size} has {gpus}, {wanted_gpus} wanted"
        yield Finding(part, "GPUs", ERROR, seen, "Name a larger machine.")
    if free_cores is not None and free_cores <= 0:
        seen = f"no core of {compute.size} is free in {compute.location}"
        fix = "Ask for more quota, or free some: the job would wait in the queue."
        yield Finding(part, "quota", WARNING, seen, fix)


def _separation(conf: Conf) -> Iterator[Finding]:
    """Check that the configuration gives no silo another's vault, datastore path or key."""
    owners: dict[str, str] = {}
    if conf.federation.orchestrator.key_vault:
        owners[conf.federation.orchestrator.key_vault.lower()] = ORCHESTRATOR
    for name, silo in sorted(conf.federation.silos.items()):
        for kind, value in _private_things(silo):
            owner = owners.setdefault(value.lower(), name)
            if owner != name:
                seen = f"{value.rpartition('|')[2]} is {owner}'s too"
                fix = f"Give {name} a {kind} of its own."
                yield Finding(name, kind, ERROR, seen, fix, security=True)


def _private_things(silo: SiloConf) -> Iterator[tuple[str, str]]:
    if silo.key_vault:
        yield "key vault", silo.key_vault
    if silo.input and silo.workspace:
        yield "data", f"{silo.workspace.subscription_id}/{silo.workspace.name}|{silo.input.path}"
    if silo.public_key:
        yield "public key", silo.public_key
    if silo.state and silo.state.startswith("https://"):
        yield "place for its state", silo.state.rstrip("/")


def _keys(conf: Conf, admitted: list[AdmittedKey], now: float) -> Iterator[Finding]:
    for name in sorted(conf.federation.silos):
        keys = [key for key in admitted if key.silo == name]
        valid = [key for key in keys if key.revoked is None and key.expires > now]
        if not valid:
            fix = f"meadow keys admit {name} FILE.pub, with the key that its owner made."
            yield Finding(name, "admitted", ERROR, "no key of it may connect", fix, security=True)
            continue
        newest = max(valid, key=lambda key: key.expires)
        warning = newest.warning(now)
        fix = f"meadow keys rotate {name}"
        yield _with_warning(Finding(name, "admitted", seen=newest.fingerprint, fix=fix), warning)


def _ca(part: str, vault: SecretStore, sources: Sources) -> Iterator[Finding]:
    """Check that both halves of the CA exist, and how long it is valid."""
    now = datetime.fromtimestamp(sources.clock(), UTC)
    try:
        certificate = load_ca(vault.get(CA_CERTIFICATE), vault.where(CA_CERTIFICATE), now)
        if CA_KEY not in vault.list():
            hint = "Restore it, or make a new CA."
            raise AzureError("MDW-802", f"{vault.where(CA_KEY)} is missing.", hint)
    except MeadowError as error:
        yield failed(part, "CA", error, security=True)
        return
    ends = certificate.not_valid_after_utc
    warning = expiry_warning("The CA", certificate.not_valid_before_utc, ends, now)
    fix = "Make a new CA in time, and hand out its certificate: every silo needs it."
    yield _with_warning(Finding(part, "CA", seen=f"until {ends:%Y-%m-%d}", fix=fix), warning)


def _with_warning(finding: Finding, warning: str | None) -> Finding:
    if warning is None:
        return finding
    return replace(finding, state=WARNING, seen=warning)


def _node_key(federation: str, name: str, silo: SiloConf, sources: Sources) -> str:
    """Return the fingerprint of a silo's key; the public half that its file names must match it."""
    vault = sources.vault(str(silo.key_vault))
    secret = node_secret(federation, name)
    where = vault.where(secret)
    key = load_node_key(vault.get(secret), where)
    in_vault = fingerprint(key.public_key())
    if silo.public_key:
        public = load_public_key(Path(silo.public_key).read_text(), silo.public_key)
        if fingerprint(public) != in_vault:
            hint = "Send the public half of the key in the vault to the orchestrator's owner."
            message = f"{silo.public_key} is not the public half of {where}."
            raise AzureError("MDW-802", message, hint)
    return in_vault
