"""A federation on the loopback cloud whose jobs cost nothing, and the command line that acts on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from azure.ai.ml import command
from azure.ai.ml.entities import Environment

from azureml_jobs.backends.workspace import Workspace
from azureml_jobs.cli.main import main
from azureml_jobs.jobs.specification import TAG_FEDERATION, TAG_ROLE, TAG_SILO
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.rehearse import ENGINEER, Rehearsal, owner
from conf.code_digest import FRONT, PACKAGES
from server.orchestrator.backends import store_of
from server.store.run_queue import RunQueue

SILOS = ("north", "south")
STAY = "echo at work; sleep 600"


@dataclass
class Federation:
    """A federation whose jobs are shell lines, and the command line that acts on it."""

    rehearsal: Rehearsal
    folder: Path
    code: Path

    @property
    def cloud(self) -> LoopbackCloud:
        return self.rehearsal.cloud

    @property
    def where(self) -> list[str]:
        return ["backend=azure", f"federation.file={self.folder / 'hospitals.yaml'}"]

    def job(self, part: str, line: str) -> str:
        """Start a job with a federation's tags, as its owner; return its name."""
        tags = {TAG_FEDERATION: "hospitals", TAG_ROLE: "silo", TAG_SILO: part}
        conf, compute = self.rehearsal.conf().federation, f"gpu-{part}"
        workspace = conf.orchestrator.workspace
        if part == "orchestrator":
            tags, compute = {TAG_FEDERATION: "hospitals", TAG_ROLE: "server"}, "cpu"
        else:
            workspace = conf.silos[part].workspace
        environment = Environment(
            image="mcr.microsoft.com/azureml/base", name="meadow-test", version="1"
        )
        made = command(
            code=self.code, command=line, environment=environment, compute=compute, tags=tags
        )
        with self.rehearsal.signed_in(ENGINEER if part == "orchestrator" else owner(part)):
            place = Workspace(workspace)
            return str(place._client.jobs.create_or_update(made).name)

    def running(self, name: str) -> None:
        job = next(job for job in self.cloud.executor.jobs.values() if job.name == name)
        until(lambda: "at work" in "".join(path.read_text() for path in job.logs().values()))

    def meadow(self, verb: str, *args: str, who: str = "all") -> int:
        with self.rehearsal.signed_in(who):
            return main([verb, *args, *self.where])

    def queue(self, who: str = ENGINEER) -> RunQueue:
        with self.rehearsal.signed_in(who):
            return RunQueue(store_of(self.rehearsal.conf()))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def cheap_code(tree: Path, line: str = "print('at work', flush=True); time.sleep(600)") -> Path:
    """Write what jobs are sent with: packages whose command line does next to nothing."""
    for package in PACKAGES:
        (tree / package).mkdir(parents=True)
        (tree / package / "__init__.py").touch()
    (tree / FRONT).touch()
    (tree / "client" / "app.py").touch()
    (tree / "azureml_jobs" / "cli.py").write_text(f"import sys, time\n{line}")
    return tree
