"""What each job of a federation on this machine gets: a silo its own key and the CA's certificate, the server the CA.

MDW-194 a silo at work has other settings
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from azureml_jobs.backends.local_jobs import LOST, RUNNING, LocalJobs, Tail, environment
from azureml_jobs.backends.running_settings import asked_for, differing
from azureml_jobs.identity.admitted_keys import AdmittedKeys
from azureml_jobs.identity.authority import CA_CERTIFICATE, load_ca, make_ca
from azureml_jobs.identity.node_key import load_node_key, make_node_key, node_secret, public_line
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.rendezvous import OVER, FolderRendezvous
from conf.errors import ConfigError
from conf.federation_folder import FederationFolder
from conf.schema import Conf, Silo, SiloConf
from conf.silos import silo_from_json, silo_to_json, silos

SERVER: Final = "server"
MEADOW: Final = [sys.executable, "-m", "azureml_jobs.cli.main"]
"""The command line, by the interpreter and the tree that are in use here."""


def job_of(silo: Silo) -> str:
    """Return the name of a silo's job."""
    return f"silo-{silo.name}"


@dataclass(frozen=True)
class LocalFederation:
    """The jobs of a federation on this machine and what each of them may see."""

    folder: FederationFolder

    @property
    def jobs(self) -> LocalJobs:
        """The jobs."""
        return LocalJobs(self.folder.path / "jobs")

    def make_ca(self, name: str) -> None:
        """Make the federation's CA where there is none."""
        secrets = FolderSecrets(self.folder.keys)
        if CA_CERTIFICATE not in secrets.list():
            make_ca(secrets, name, datetime.now(UTC))

    def prepare(self, silo: Silo, keys: AdmittedKeys) -> None:
        """Give a silo's job its key, made where absent and admitted, the CA's certificate, and its settings.

        Raises ConfigError MDW-194 where the job runs with other settings, IdentityError for a revoked key.
        """
        folder, secrets = self.jobs.folder(job_of(silo)), FolderSecrets(self._keys(silo))
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if node_secret(silo.name) not in secrets.list():
            make_node_key(secrets, silo.name)
        where = secrets.where(node_secret(silo.name))
        keys.admit(
            silo.name,
            public_line(load_node_key(secrets.get(node_secret(silo.name)), where).public_key()),
        )
        authority = FolderSecrets(self.folder.keys).get(CA_CERTIFICATE)
        load_ca(authority, str(self.folder.keys / CA_CERTIFICATE), datetime.now(UTC))
        has = self.settings(silo.name)
        if has is not None and has != silo:
            raise _other_settings(silo.name, differing(silo, has) or ["federation.size"])
        with disk(folder):
            (folder / "ca.pem").write_bytes(authority)
            (folder / "silo.json").write_text(silo_to_json(silo))

    def settings(self, silo: str) -> Silo | None:
        """Return the settings with which a silo is at work; None where it is not."""
        job = f"silo-{silo}"
        return (
            silo_from_json((self.jobs.folder(job) / "silo.json").read_text())
            if self.runs(job)
            else None
        )

    def check_asked(self, conf: Conf, overrides: list[str]) -> None:
        """Raise ConfigError MDW-194 where a run asks a silo at work for other settings than it was started with."""
        for silo in silos(conf):
            has = self.settings(silo.name)
            own = conf.federation.silos.get(silo.name, SiloConf())
            keys = [] if has is None else asked_for(differing(silo, has), silo, own, overrides)
            if keys:
                raise _other_settings(silo.name, keys)

    def start_server(self, conf: Conf) -> list[str]:
        """Start the server's job; return its name, or nothing where it is at work already."""
        if self.runs(SERVER):
            return []
        self._forget_the_end()
        own = conf.federation.orchestrator
        given = {
            "federation.name": conf.federation.name,
            "federation.folder": str(self.folder.path),
            "federation.orchestrator.listen": own.listen,
            "federation.orchestrator.host": own.host,
            "run.output": conf.run.output,
        }
        overrides = [f"{key}={quoted(value)}" for key, value in given.items()]
        overrides.append(f"federation.orchestrator.idle_timeout={own.idle_timeout}")
        also = ["MLFLOW_"] if conf.tracking.mlflow == "environment" else []
        return self._started(SERVER, [*MEADOW, "serve", *overrides], also)

    def start_silo(self, silo: Silo) -> list[str]:
        """Start a prepared silo's job; return its name, or nothing where it is at work already."""
        folder = self.jobs.folder(job_of(silo))
        places = {
            "--silo-file": folder / "silo.json",
            "--rendezvous": self.folder.rendezvous,
            "--ca": folder / "ca.pem",
            "--key": self._keys(silo) / node_secret(silo.name),
            "--state": folder / "state",
        }
        arguments = [text for flag, path in places.items() for text in (flag, str(path))]
        return self._started(job_of(silo), [*MEADOW, "join", *arguments], [])

    def stop(self, names: Sequence[str]) -> None:
        """End jobs, the silos before the server."""
        self.jobs.stop([name for name in names if name != SERVER])
        self.jobs.stop([name for name in names if name == SERVER])

    def log(self, name: str) -> Tail:
        """Return what a job will say from now on."""
        path = self.jobs.log(name)
        return Tail(path, path.stat().st_size if path.exists() else 0)

    def runs(self, name: str) -> bool:
        """Return whether a job is at work."""
        return name in self.jobs.names() and self.jobs.status(name).state == RUNNING

    def killed(self, name: str) -> bool:
        """Return whether a job was ended by a signal that it could not answer, or vanished without a word."""
        job = self.jobs.status(name)
        return job.state == LOST or (job.status is not None and job.status < 0)

    def epitaph(self, name: str) -> str:
        """Return in one line how a job ended, with the last thing that it said; hints are indented, and left out."""
        lines = Tail(self.jobs.log(name)).lines()
        last = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
        job = self.jobs.status(name)
        how = "is gone" if job.status is None else f"has ended, status {job.status}"
        return f"{name} {how}: {last}"

    def _started(self, name: str, argv: list[str], also: Sequence[str]) -> list[str]:
        return [name] if self.jobs.start(name, argv, environment(os.environ, also)) else []

    def _keys(self, silo: Silo) -> Path:
        return self.jobs.folder(job_of(silo)) / "keys"

    def _forget_the_end(self) -> None:
        """Remove the last server's word that the federation is over, or new silos would believe it."""
        if any(record.state == OVER for record in FolderRendezvous(self.folder.rendezvous).seen()):
            for path in self.folder.rendezvous.glob("server-*.json"):
                path.unlink(missing_ok=True)


def _other_settings(silo: str, keys: list[str]) -> ConfigError:
    what = f"{silo} is at work with another {', '.join(keys)} than asked for, and no run changes a silo's own settings."
    return ConfigError(
        "MDW-194", what, f"Leave it out, or end the silo first: meadow stop silo={silo}."
    )


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Raise ConfigError MDW-195 for what the disk refuses in this block."""
    try:
        yield
    except OSError as error:
        hint = "Choose another federation.folder, or make it writable for this user."
        raise ConfigError(
            "MDW-195", f"Can't write {error.filename or folder}: {error.strerror}.", hint
        ) from error


def quoted(value: str) -> str:
    """Return a value as Hydra reads it back, whatever characters it has."""
    return "'" + value.replace("'", r"\'") + "'"
