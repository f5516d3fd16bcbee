"""The commands of a federation on Azure ML as people type them, each in a process of its own, in the loopback cloud.

The tests share one federation and come in the order of its life.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from azureml_jobs.jobs.snapshot import snapshot
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.rehearse import ENGINEER, Rehearsal, owner, vaults
from conf.errors import AzureError
from server.run.history import read_history
from server.run.result import RunResult
from tests.security.listening import MARK, beyond, followed, marked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SILOS = ("north", "south")
ALL = "who holds all rights"
TASK = ["task=digits", "tracking=environment", "model.hidden=[16]", "run.rounds=2"]
SECONDS = 480


@dataclass
class Commands:
    """Runs `meadow ...` as somebody, from the code that all jobs are sent with."""

    rehearsal: Rehearsal
    tree: Path
    listened: dict[str, set[str]] = field(default_factory=dict)
    """By verb, at which addresses it listened while it ran."""

    def begin(self, *args: str, who: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "azureml_jobs.cli.main", *args, "backend=azure", self.file]
        with self.rehearsal.signed_in(who):
            return subprocess.Popen(
                command, cwd=self.rehearsal.folder, env=os.environ | {"PYTHONPATH": str(self.tree)} | more, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

    @property
    def file(self) -> str:
        return f"federation.file={self.rehearsal.folder / 'hospitals.yaml'}"

    def run(self, *args: str, who: str, status: int = 0) -> str:
        """Return what a command said; it has ended with `status`."""
        mark = marked()
        process = self.begin(*args, who=who, **mark)
        try:
            out, err, addresses = followed(process, mark[MARK], SECONDS)
        finally:
            process.kill()
        verb = " ".join(args[:2]) if args[0] == "launch" else args[0]
        self.listened.setdefault(verb, set()).update(addresses)
        assert process.returncode == status, (
            f"{args}: {process.returncode}\n{out[-4000:]}\n{err[-4000:]}\n{self.logs()}"
        )
        return out + err

    def logs(self) -> str:
        jobs = self.rehearsal.cloud.executor.jobs.values()
        return "\n".join(path.read_text()[-2000:] for job in jobs for path in job.logs().values())

    def states(self) -> list[str]:
        return [job.status for job in self.rehearsal.cloud.executor.jobs.values()]


@pytest.fixture(scope="module")
def meadow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A federation with keys, and no job yet."""
    if shutil.which("node") is None:
        pytest.skip("Azurite needs Node, and there is none on this machine")
    before = dict(os.environ)
    for name in [
        n for n in before if n.startswith(("AZURE", "MLFLOW_")) or n.lower().endswith("_proxy")
    ]:
        del os.environ[name]
    folder = tmp_path_factory.mktemp("commands")
    with LoopbackCloud(folder / "cloud", ["hub", *SILOS], vaults(SILOS)) as cloud:
        tree = folder / "tree"
        snapshot(tree, {})
        rehearsal = Rehearsal(cloud, folder, names=SILOS, root=tree)
        rehearsal.build()
        rehearsal.make_keys()
        for name in ("hub", *SILOS):
            cloud.access.grant(ALL, "AzureML Data Scientist", f"workspace:{name}")
            cloud.access.grant(ALL, "Key Vault Secrets Officer", f"vault:kv-{name}")
            cloud.access.grant(ALL, "Storage Blob Data Contributor", f"storage:{name}")
        cloud.access.grant("scientist", "Storage Blob Data Contributor", "storage:hub")
        yield Commands(rehearsal, tree)
        assert (cloud.request_log.outbound, cloud.request_log.unrouted) == ([], [])
    os.environ.clear()
    os.environ.update(before)


def rounds_in(lines: list[str]) -> list[str]:
    """Return which rounds the orchestrator told of, of how many."""
    told = [line for line in lines if line.startswith("orchestrator  round ")]
    return [line.split()[2] for line in told if "accuracy" in line]


def test_launch_all_does_one_run_brings_it_home_and_ends_its_jobs(meadow: Commands) -> None:
    said = meadow.run("launch", "all", *TASK, "run.name=first", who=ALL).splitlines()
    assert [line.partition(":")[0] for line in said[:3]] == ["orchestrator", *SILOS]
    assert all(": started, " in line for line in said[:3])
    # Asked for when the jobs run; which of them is waited for is the machine's to say.
    waited = said[3 : said.index("run first")]
    assert all(line.startswith(("waiting for ", *SILOS)) for line in waited)
    assert rounds_in(said) == ["1/2", "2/2"]
    assert "run first: finished" in said and "result: outputs/first" in said
    history = read_history(meadow.rehearsal.folder / "outputs" / "first")
    assert [sorted(record.replied) for record in history] == [list(SILOS)] * 2
    assert meadow.states() == ["Completed"] * 3
    assert meadow.rehearsal.cloud.request_log.refused() == []


def test_each_role_launches_its_own_and_of_two_servers_at_once_one_stays(meadow: Commands) -> None:
    before = len(meadow.states())
    both = [meadow.begin("launch", "server", who=ENGINEER) for _ in range(2)]
    told = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    said = sorted(out.split(",")[0] for out, _ in told)
    assert said == ["orchestrator: running already", "orchestrator: started"]
    names = {out.split(",")[1] for out, _ in told}
    assert len(names) == 1
    for _ in range(600):
        if sum(state != "Canceled" for state in meadow.states()[before:]) == 1:
            break
        time.sleep(0.2)
    assert sum(state != "Canceled" for state in meadow.states()[before:]) == 1
    jobs = len(meadow.states())
    assert "running already" in meadow.run("launch", "server", who=ENGINEER)
    assert len(meadow.states()) == jobs
    server = f"federation.orchestrator.run_id={names.pop().strip()}"  # one finds it by its run, one by its federation
    for name, more in zip(SILOS, ([server], []), strict=True):
        assert f"{name}: started" in meadow.run(
            "launch", "client", f"silo={name}", *more, who=owner(name)
        )
        assert f"{name}: running already" in meadow.run(
            "launch", "client", f"silo={name}", who=owner(name)
        )
    assert len(meadow.states()) == jobs + 2
    meadow.rehearsal.cloud.request_log.forget()
    refused = meadow.run(
        "launch", "client", "silo=north", who=owner("south"), status=AzureError.exit_status
    )
    assert "MDW-813" in refused and len(meadow.states()) == jobs + 2
    meadow.rehearsal.cloud.request_log.forget()


def test_a_run_is_submitted_followed_waited_for_and_brought_home(meadow: Commands) -> None:
    assert (
        meadow.run("submit", *TASK, "run.name=second", "as=orchestrator", who="scientist")
        == "run second\n"
    )
    table = meadow.run("status", "as=orchestrator", who=ENGINEER).splitlines()
    assert table[1].split()[:2] == ["orchestrator", "Running"] and table[2].split()[:3] == [
        "north",
        "not",
        "asked",
    ]
    assert "run second: finished" in meadow.run("wait", "run=second", who="scientist")
    meadow.rehearsal.cloud.request_log.forget()  # whether the orchestrator is at work is not the scientist's to see
    for _ in range(2):
        assert "outputs/second" in meadow.run("download", "run=second", who="scientist")
        result = RunResult.read(meadow.rehearsal.folder / "outputs" / "second")
        assert (result.status, result.rounds) == ("finished", 2)
    assert "MDW-802" in meadow.run(
        "download", "run=nothing", who="scientist", status=AzureError.exit_status
    )
    assert "north  " in meadow.run("logs", "as=silo:north", who=owner("north"))


def test_stop_ends_the_jobs_of_a_role_while_their_logs_are_followed(meadow: Commands) -> None:
    follower = meadow.begin("logs", "-f", who=ALL)
    assert follower.stdout is not None
    first = follower.stdout.readline()
    assert first.split()[0] in ("orchestrator", *SILOS)
    for name in SILOS:
        assert meadow.run("stop", f"as=silo:{name}", who=owner(name)) == f"{name}: Canceled\n"
        assert meadow.run("stop", f"as=silo:{name}", who=owner(name)) == "nothing is running\n"
    assert meadow.run("stop", "as=orchestrator", who=ENGINEER) == "orchestrator: Completed\n"
    # Not by `communicate`, which knows nothing of what came together with the first line.
    lines = [first.rstrip(), *follower.stdout.read().splitlines()]
    assert follower.stderr is not None and follower.stderr.read() == ""
    assert follower.wait(SECONDS) == 0
    follower.stdout.close()
    follower.stderr.close()
    ends = {line for line in lines if line.endswith(("  Canceled", "  Completed"))}
    # Silos' owners ended their jobs; the orchestrator was asked, and ended by itself.
    assert ends == {"orchestrator  Completed", *(f"{name:12}  Canceled" for name in SILOS)}
    assert rounds_in(lines) == ["1/2", "2/2"], "\n".join(lines)
    assert any(line.startswith("north         ended by SIGTERM") for line in lines)
    # Of two servers that were launched at once the later one was cancelled.
    assert sorted(meadow.states()[3:]) == ["Canceled"] * 3 + ["Completed"]


TYPED = (
    *("launch all", "launch server", "launch client", "submit", "status", "wait", "download"),
    *("logs", "stop"),
)


@pytest.mark.parametrize("verb", TYPED)
def test_what_was_typed_listened_on_this_machine_alone(meadow: Commands, verb: str) -> None:
    """Jobs are in networks of their own, as on clusters; each command here was looked at."""
    assert beyond(meadow.listened[verb]) == []
