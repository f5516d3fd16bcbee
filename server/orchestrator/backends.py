"""Where an orchestrator keeps what lasts, finds its CA and says where it is: folders here, Azure in
its job there.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from azureml_jobs.identity.azure_sign_in import sign_in
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.secret_store import FolderSecrets, SecretStore
from azureml_jobs.rendezvous import MAX_BYTES, FolderRendezvous, MlflowRendezvous, Rendezvous
from azureml_jobs.storage.base import NAME, Store
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.opened import open_store
from azureml_jobs.storage.rights import LARGEST, StoreOfRights, container_of
from azureml_jobs.storage.store_rendezvous import StoreRendezvous
from conf.federation_folder import FederationFolder
from conf.host_port import LOCAL_NAME, LOOPBACK, listening_here, own_loopback
from conf.schema import Conf, OrchestratorConf

AUTO: Final = "auto"
RESULTS: Final = "results/"
PUBLISH_SECONDS: Final = 15.0
"""Between two heartbeats at a rendezvous that is a service: silos watch for 90 s."""
EVERYWHERE: Final = ("0.0.0.0", "::", "")
"""Hosts of a port that listens at all addresses of a machine."""
ROUTES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses for documentation (RFC 5737, RFC 3849): only a route to them is looked up."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OrchestratorBackends:
    """The store, the secrets, the rendezvous, and the host for which the certificate is made."""

    store: Store
    secrets: SecretStore
    rendezvous: Rendezvous
    host: str
    publish_seconds: float = 0.0
    """Between two heartbeats at the rendezvous."""
    keeps_results: bool = False
    """Whether a run's files go into the store too: this disk ends with the job."""

    @classmethod
    def from_conf(cls, conf: Conf) -> OrchestratorBackends:
        """Return a container and a vault where the configuration names them, else folders."""
        own = conf.federation.orchestrator
        folder = FederationFolder.of(conf.federation)
        place = _rendezvous(conf, folder)
        here = isinstance(place, FolderRendezvous)
        secrets = VaultSecrets(own.key_vault) if own.key_vault else FolderSecrets(folder.keys)
        return cls(
            store_of(conf, server=True),
            secrets,
            place,
            dialled_host(own),
            publish_seconds=0.0 if here else PUBLISH_SECONDS,
            keeps_results=own.store is not None,
        )

    def upload_results(self, folder: Path, run_id: str) -> None:
        """Copy a run's files into the store, as `results/<run_id>/...`, for `meadow download`."""
        if self.keeps_results:
            for path in sorted(folder.rglob("*")):
                name = f"{RESULTS}{run_id}/{path.relative_to(folder).as_posix()}"
                if path.is_file() and NAME.fullmatch(name):
                    self.store.replace(name, path.read_bytes())


def _rendezvous(conf: Conf, folder: FederationFolder) -> Rendezvous:
    """Return the container that the configuration names; else the MLflow of an Azure ML job's own
    workspace, where this is one with a store; else a folder.
    """
    place = conf.federation.orchestrator.rendezvous
    if place:
        return StoreRendezvous(open_store(f"{place}/{conf.federation.name}", MAX_BYTES))
    if not conf.federation.orchestrator.store or "AZUREML_RUN_ID" not in os.environ:
        return FolderRendezvous(folder.rendezvous)
    for name in ("azure", "azureml"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowRendezvous(
        os.environ["MLFLOW_TRACKING_URI"],
        os.environ["MLFLOW_EXPERIMENT_NAME"],
        conf.federation.name,
        os.environ["AZUREML_RUN_ID"],
    )


def store_of(conf: Conf, *, server: bool = False) -> Store:
    """Return the orchestrator's store alone, which its owner's commands use too; a `server` is
    patient with it.
    """
    own = conf.federation.orchestrator
    if not own.store:
        return store_in(FederationFolder.of(conf.federation))
    from azureml_jobs.storage.blob_store import A_COMMANDS_RETRIES, A_SERVERS_RETRIES, BlobStore

    retries = A_SERVERS_RETRIES if server else A_COMMANDS_RETRIES
    credential = sign_in()

    def place(name: str) -> Store:
        address = f"{container_of(str(own.store), name)}/{conf.federation.name}"
        return BlobStore.at(address, credential, retries, LARGEST.get(name))

    state = BlobStore.at(f"{own.store}/{conf.federation.name}/store", credential, retries)
    return StoreOfRights.opened(state, place)


def store_in(folder: FederationFolder) -> Store:
    """Return the store of a federation on this machine: a folder for each right."""

    def place(name: str) -> Store:
        return FolderStore(folder.place(name), largest=LARGEST.get(name))

    return StoreOfRights.opened(FolderStore(folder.store), place)


def dialled_host(own: OrchestratorConf) -> str:
    """Return the host that silos dial: the one of the configuration; where that is loopback, the one
    address at which the orchestrator listens.
    """
    if own.host == AUTO:
        return own_host()
    if own.host != LOOPBACK:
        return own.host
    listens = listening_here(own.listen).rpartition(":")[0].strip("[]")
    return own_loopback() if listens in (*EVERYWHERE, LOCAL_NAME) else listens


def own_host() -> str:
    """Return this machine's address in the network that leads out of it, without sending anything.

    IPv4 where there is such a route, else IPv6; loopback, with MDW-729 in the log, where there is no
    route at all. The machine's own name is not looked up: many have no address.
    """
    for family, elsewhere in ROUTES:
        # Also where this machine has no such family.
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            return str(probe.getsockname()[0])
    here = own_loopback()
    log.warning(
        "MDW-729: this machine has no route to any other: its address is taken to be %s. Silos on"
        " other machines need a relay, or federation.orchestrator.host.",
        here,
    )
    return here
