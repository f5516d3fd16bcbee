"""One federation as the caller of a verb acts on it: its jobs, its store, and what of both is the
caller's.

A verb acts on what its caller's role owns: `as=orchestrator`, `as=silo:NAME` or, by default,
`as=all`.

    MDW-111 a role that there is not          MDW-193 no such silo
    MDW-113 what this backend does not have   MDW-197 a silo with the orchestrator's name
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from azureml_jobs.backends.base import ALL, ORCHESTRATOR, Backend, known_silo
from azureml_jobs.cli.arguments import Arguments
from conf.errors import AzureError, ConfigError

if TYPE_CHECKING:
    from azureml_jobs.identity.signed_admission import AdmissionAuthority
    from azureml_jobs.storage.base import Store
    from conf.schema import Conf
    from server.store.admitted_keys import AdmittedKeys
    from server.store.run_queue import RunQueue


@dataclass(frozen=True)
class Federation:
    """A federation and as whom it is looked at; raises MeadowError."""

    backend: Backend
    role: str = ALL

    @property
    def conf(self) -> Conf:
        """Return its configuration."""
        return self.backend.conf

    @cached_property
    def store(self) -> Store:
        """Return the orchestrator's store."""
        return store_of(self.backend)

    @cached_property
    def queue(self) -> RunQueue:
        """Return the orchestrator's queue of runs."""
        from server.store.run_queue import RunQueue

        return RunQueue(self.store)

    @property
    def parts(self) -> list[str]:
        """Return the caller's parts, the orchestrator first."""
        if self.role == ALL:
            return [ORCHESTRATOR, *self.backend.silos()]
        return [self.role.removeprefix("silo:")]

    @property
    def has_orchestrator(self) -> bool:
        """Return whether the orchestrator is the caller's."""
        return self.role in (ALL, ORCHESTRATOR)

    def chosen(self, silo: str) -> list[str]:
        """Return the parts that are meant: one silo's where it is named, else all of the caller's."""
        return [known_silo(silo, self.backend.silos())] if silo else self.parts

    def is_live(self) -> bool:
        """Return whether an orchestrator is running, as far as the caller may see."""
        try:
            job = self.backend.job(ORCHESTRATOR)
        except AzureError as error:
            # whoever reads the store alone still learns how a run ended
            if error.code == "MDW-801":
                return True
            raise
        return job is not None and job.live


def federation_of(arguments: Arguments, conf: Conf | None = None) -> Federation:
    """Return the federation that a verb's arguments mean; raises ConfigError.

    Without `backend=` it is on Azure ML where the configuration names the orchestrator's workspace,
    else here.
    """
    if conf is None:
        from conf.compose import compose

        conf = compose(list(arguments.rest))
    there = "azure" if conf.federation.orchestrator.workspace is not None else "local"
    name = arguments.get("backend", there)
    for argument in arguments.verb.arguments:
        if argument.backend not in ("", name) and arguments.has(argument.name):
            what = f"meadow {arguments.verb.name}: backend={name} has no {argument.name}."
            raise ConfigError("MDW-113", what, f"It belongs to backend={argument.backend}.")
    role = arguments.get("as", ALL)
    backend = backend_of(name, conf)
    _check_role(arguments, role, sorted({*backend.members(), *backend.silos()}))
    return Federation(backend, role)


def backend_of(name: str, conf: Conf) -> Backend:
    """Return the jobs of a federation on this machine (`local`) or on Azure ML (`azure`)."""
    if name == "azure":
        from azureml_jobs.backends.azure import AzureBackend

        azure: Backend = AzureBackend(conf, lambda: keys_of(azure).all())
        return azure
    from azureml_jobs.backends.local import LocalBackend
    from azureml_jobs.backends.paths import with_absolute_paths

    def admit(silo: str, public: str) -> str:
        return keys_of(local).admit(silo, public).certificate

    local: Backend = LocalBackend(with_absolute_paths(conf), admit)
    return local


def store_of(backend: Backend) -> Store:
    """Return the orchestrator's store."""
    from server.orchestrator import backends

    return backends.store_of(backend.with_store())


def keys_of(backend: Backend) -> AdmittedKeys:
    """Return the list of keys that may connect, in the orchestrator's store."""
    from server.store.admitted_keys import AdmittedKeys

    return AdmittedKeys(store_of(backend), time.time, authority_of(backend))


def authority_of(backend: Backend) -> AdmissionAuthority:
    """Return what signs admissions: the CA's key, which is the orchestrator's owner's to use."""
    from azureml_jobs.identity.key_vault import VaultSecrets
    from azureml_jobs.identity.secret_store import FolderSecrets, SecretStore
    from azureml_jobs.identity.signed_admission import AdmissionAuthority
    from conf.federation_folder import FederationFolder

    federation = backend.conf.federation
    vault = federation.orchestrator.key_vault
    if backend.name == "azure" and vault:
        secrets: SecretStore = VaultSecrets(vault)
    else:
        secrets = FolderSecrets(FederationFolder.of(federation).keys)
    return AdmissionAuthority(secrets, federation.name)


def _check_role(arguments: Arguments, role: str, silos: Sequence[str]) -> None:
    if ORCHESTRATOR in silos:
        what = f"A silo can't be named {ORCHESTRATOR}: that is the name of another part."
        raise ConfigError("MDW-197", what, "Name it otherwise in the federation's file.")
    roles = [ALL, ORCHESTRATOR, *(f"silo:{name}" for name in silos)]
    if role not in roles:
        raise arguments.wrong(f"there is no role '{role}'", f"Roles: {', '.join(roles)}.")
