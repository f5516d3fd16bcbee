"""Where `meadow keys` finds private parts, the list of keys, and the files that are handed out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.identity.authority import CA_CERTIFICATE
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.secret_store import FolderSecrets, SecretStore, checked_name
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from conf.compose import compose
from conf.federation_folder import FederationFolder
from conf.schema import Conf, SiloConf

if TYPE_CHECKING:
    from azureml_jobs.storage.base import Store


@dataclass(frozen=True)
class KeyPlaces:
    """Where one call of `meadow keys` finds things: as its arguments say, else as the federation's
    file says.
    """

    arguments: Arguments
    conf: Conf

    @property
    def name(self) -> str:
        """Return the silo's name, empty where none is meant."""
        return self.arguments.get("NAME")

    @property
    def silo(self) -> SiloConf:
        """Return the silo's entry in the federation's file."""
        return self.conf.federation.silos.get(self.name, SiloConf())

    @property
    def vault(self) -> str | None:
        """Return the Key Vault of the private parts: a silo's own for its key, else the
        orchestrator's.
        """
        if self.arguments.has("keys"):
            return None
        named = self.silo.key_vault if self.name else self.conf.federation.orchestrator.key_vault
        return self.arguments.get("key_vault") or named

    @property
    def folder(self) -> Path:
        """Return the folder of the private parts, where they are in none."""
        own = FederationFolder.of(self.conf.federation).keys
        return Path(self.arguments.get("keys") or own)

    @property
    def secrets(self) -> SecretStore:
        """Return where the private parts are."""
        return VaultSecrets(self.vault) if self.vault else FolderSecrets(self.folder)

    @property
    def authority(self) -> AdmissionAuthority:
        """Return what signs admissions: the CA's key, in the orchestrator's own vault or folder."""
        own = self.conf.federation.orchestrator.key_vault
        vault = None if self.arguments.has("keys") else self.arguments.get("key_vault") or own
        secrets = VaultSecrets(vault) if vault else FolderSecrets(self.folder)
        return AdmissionAuthority(secrets, self.conf.federation.name)

    @property
    def admission(self) -> Path:
        """Return the file of a silo's admission that is handed out."""
        if not self.vault:
            return self.folder / f"admission-{self.name}.pem"
        return Path(self.silo.admission or f"{self.name}.admission.pem")

    @property
    def certificate(self) -> Path:
        """Return the file of the CA's certificate that is handed out."""
        named = self.conf.federation.orchestrator.ca
        return Path(named or "ca.pem") if self.vault else self.folder / CA_CERTIFICATE

    @property
    def public(self) -> Path:
        """Return the file of the public half that is handed out."""
        if not self.vault:
            return self.folder / f"node-{self.name}.pub"
        return Path(self.silo.public_key or f"{self.name}.pub")

    def open_store(self) -> Store:
        """Return the store with the list: a folder, or a container where the federation names one."""
        from azureml_jobs.cli.federation import backend_of, store_of
        from azureml_jobs.storage.folder_store import FolderStore

        if self.arguments.has("store"):
            return FolderStore(Path(self.arguments.get("store")))
        own = self.conf.federation.orchestrator
        is_azure = own.store or (own.workspace and own.datastore)
        return store_of(backend_of("azure" if is_azure else "local", self.conf))


def places_of(arguments: Arguments) -> KeyPlaces:
    """Return where the arguments' things are.

    Raises ConfigError MDW-111, and what a wrong configuration raises.
    """
    if arguments.has("keys") and arguments.has("key_vault"):
        raise arguments.wrong("keys= and key_vault= exclude each other")
    conf = compose(list(arguments.rest))
    name = arguments.get("NAME")
    if name:
        checked_name(name)
    silos = conf.federation.silos
    # the keys of a silo that has left may still be revoked
    has_left = arguments.verb.name == "keys revoke"
    if name and silos and name not in silos and not has_left:
        known = ", ".join(sorted(silos))
        raise arguments.wrong(f"the federation has no silo '{name}'", f"Its silos: {known}.")
    return KeyPlaces(arguments, conf)
