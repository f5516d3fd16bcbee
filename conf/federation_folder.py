"""Where a federation on this machine keeps what lasts, and where each of its jobs has its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conf.schema import FederationConf


@dataclass(frozen=True)
class FederationFolder:
    """`.meadow/<name>/`: the orchestrator's keys and store, the rendezvous, and a folder a job."""

    path: Path

    @staticmethod
    def of(conf: FederationConf) -> FederationFolder:
        """Return the folder that the configuration names, as an absolute path."""
        return FederationFolder(Path(conf.folder or f".meadow/{conf.name}").absolute())

    @property
    def keys(self) -> Path:
        """The orchestrator's own secrets: the CA."""
        return self.path / "keys"

    @property
    def store(self) -> Path:
        """What must outlive the orchestrator's process and is its own: checkpoints, ledger segments.

        What others ask, admit and read is beside it (`place`).
        """
        return self.path / "store"

    @property
    def uploads(self) -> Path:
        """What has arrived of updates that take long, for the orchestrator's next process."""
        return self.path / "uploads"

    def place(self, name: str) -> Path:
        """A place of the store with a right of its own (`azureml_jobs.storage.rights`)."""
        return self.path / name

    @property
    def rendezvous(self) -> Path:
        """Where the orchestrator says where it is."""
        return self.path / "rendezvous"

    def job(self, name: str) -> Path:
        """The folder of one job, its own secrets included: `server` or a silo's name behind
        `silo-`.
        """
        return self.path / "jobs" / name
