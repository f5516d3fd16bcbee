"""One command line for both backends: typed here and on Azure ML, a verb shows the same and ends with the same status.

Names, times and addresses of jobs, and the words for their states, are each backend's own; all else is compared.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from azureml_jobs.backends import local
from azureml_jobs.backends.local_jobs import LocalJobs
from azureml_jobs.cli.main import main
from tests.azure.federation import SILOS, Federation, until

PARTS = ("orchestrator", *SILOS)
STAY = "print('at work', flush=True); import time; time.sleep(600)"
NOBODY = ": nobody restarts this when it ends"
OVER = r"Canceled|ended, status -?\d+"
ROW = re.compile(rf"^(\S+) +(Running|running|{OVER}) +\d\S+ \d\S+ +\S.*")
ENDED = re.compile(rf"(: |  )({OVER})$")
STARTED = re.compile(r": (started|running already), .*")


@dataclass
class Typed:
    """Types a command on one backend and returns its status, its lines and its errors."""

    capfd: pytest.CaptureFixture[str]
    type: Callable[[list[str]], int]
    jobs_said: Callable[[], bool]
    backend: str

    def __call__(self, words: str) -> tuple[int, list[str], list[str]]:
        status = self.type(words.split())
        shown = self.capfd.readouterr()
        return status, self._same(shown.out), self._same(shown.err)

    def _same(self, text: str) -> list[str]:
        """Return lines without what is a backend's own."""
        lines = []
        for line in text.splitlines():
            if line.endswith(NOBODY):
                # On this machine there is somebody: the process beside each job.
                assert self.backend == "azure", line
                continue
            line = re.sub(rf"backend={self.backend}(?![|])", "backend=HERE", line)
            line = re.sub(r"jobs on (this machine|Azure ML)$", "jobs on HERE", line)
            line = ROW.sub(r"\1  JOB", line)
            line = STARTED.sub(r": \1", line)
            line = ENDED.sub(r"\1OVER", line)
            lines.append(re.sub(r" {2,}", "  ", line))
        return lines


@pytest.fixture
def here(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Typed]:
    """The federation as processes of this machine."""
    folder = tmp_path_factory.mktemp("here")
    script = folder / "job.py"
    script.write_text(STAY)
    monkeypatch.setattr(local, "MEADOW", [sys.executable, str(script)])
    file = folder / "hospitals.yaml"
    file.write_text("name: hospitals\nsilos: {north: {}, south: {}}\n")
    jobs = LocalJobs(folder / "federation" / "jobs")

    def type_here(words: list[str]) -> int:
        there = f"federation.folder={folder / 'federation'}"
        return main([*words, "backend=local", f"federation.file={file}", there])

    def said() -> bool:
        return len(jobs.names()) == 3 and all(jobs.log(name).read_text() for name in jobs.names())

    yield Typed(capfd, type_here, said, "local")
    for name in jobs.names():
        jobs.stop([name], seconds=0)
        jobs.wait(name, 20)


@pytest.fixture
def there(cheap: Federation, capfd: pytest.CaptureFixture[str]) -> Typed:
    """The same federation on Azure ML, as the loopback cloud plays it."""

    def type_there(words: list[str]) -> int:
        return cheap.meadow(words[0], *words[1:])

    def said() -> bool:
        jobs = cheap.cloud.executor.jobs.values()
        logs = ["".join(path.read_text() for path in job.logs().values()) for job in jobs]
        return len(logs) == 3 and all("at work" in log for log in logs)

    return Typed(capfd, type_there, said, "azure")


LIFE = [
    # what is typed, its status, what its output must hold so that two empty ones do not agree
    ("check", 0, ""),
    ("launch all --detach run.name=one", 0, "run one"),
    ("launch server", 0, "orchestrator: running already"),
    ("launch client silo=north", 0, "north: running already"),
    ("launch client silo=nobody", 2, "MDW-193"),
    ("status", 0, "part  state  since  connected  job  where"),
    ("status as=orchestrator", 0, "north  not asked  not yours to see, as=orchestrator"),
    ("status as=nobody", 2, "MDW-111"),
    ("logs", 0, "orchestrator  at work"),
    ("logs silo=south", 0, "south  at work"),
    ("logs silo=nobody", 2, "MDW-193"),
    ("wait run=one timeout=0.2", 124, "The run one has not ended in 0.2 s."),
    ("wait run=two", 2, "MDW-183"),
    ("submit run.name=two", 0, "run two"),
    ("submit run.name=two", 2, "MDW-187"),
    ("stop run=two", 0, "run two: its end is requested"),
    ("download run=one", 9, "MDW-802"),
    ("stop silo=north", 0, "north: OVER"),
    ("stop", 0, "orchestrator: OVER"),
    ("stop", 0, "nothing is running"),
    ("status", 0, "one  waiting  0"),
    ("logs -f", 0, "south  OVER"),
    ("wait run=one", 125, "No orchestrator is running: meadow launch server backend=HERE"),
    ("stop run=one", 0, "run one: cancelled"),
    ("wait run=one", 130, "run one: cancelled"),
    ("submit run.name=three", 0, "No orchestrator is running"),
    ("status run=one", 2, "MDW-111"),
    ("wait", 2, "MDW-111"),
]
SORTED = ("logs -f", "stop", "check")
"""Of which the order of lines is a matter of time, or of what a backend has to look at."""


@pytest.mark.slow
def test_each_verb_shows_the_same_and_ends_with_the_same_status_on_both_backends(
    here: Typed, there: Typed
) -> None:
    for words, status, holds in LIFE:
        ours = here(words)
        theirs = there(words)
        assert (ours[0], theirs[0]) == (status, status), (words, ours, theirs)
        for typed in (ours, theirs):
            assert holds in "\n".join([*typed[1], *typed[2]]), (words, typed)
        if words == "check":
            # a cloud has more to look at; the columns are those of one table
            assert {line.split()[0] for line in theirs[1]} >= set(PARTS)
            assert {line.split()[0] for line in ours[1]} == set(PARTS)
            continue
        if words in SORTED:
            ours, theirs = ((one[0], sorted(one[1]), one[2]) for one in (ours, theirs))
        assert ours == theirs, words
        if words.startswith("launch all"):
            until(here.jobs_said)
            until(there.jobs_said)
