"""Launching: what each job is given, what is started and ended around a run, and what is refused before."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from azureml_jobs.backends import local
from azureml_jobs.backends.base import ORCHESTRATOR, Job
from azureml_jobs.backends.local import LocalBackend, quoted
from azureml_jobs.backends.local_jobs import ENDED, RUNNING
from azureml_jobs.backends.paths import with_absolute_paths
from azureml_jobs.backends.restarts import Restarts
from azureml_jobs.cli.federation import Federation, backend_of
from azureml_jobs.cli.launch import launch_and_run, start_parts
from azureml_jobs.cli.main import main
from azureml_jobs.cli.runs import submit_run
from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.storage.folder_store import FolderStore
from conf.compose import compose
from conf.errors import ConfigError, IdentityError, Interrupted
from conf.schema import Conf
from conf.silos import silo_from_json, silos
from server.orchestrator.backends import store_in
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import Outcome, RunQueue

STAY = "import time; time.sleep(600)"
TWO = ["federation.size=2", "run.name=a"]
JOBS = ["server", "silo-silo-1", "silo-silo-2"]
PARTS = ["orchestrator", "silo-1", "silo-2"]


@dataclass
class Queue:
    """Stands in for the orchestrator's queue: a run ends when `done` says so, or the test has failed."""

    done: Callable[[], bool] = lambda: True
    runs: dict[str, Conf] = field(default_factory=dict)
    cancelled: list[tuple[str, bool]] = field(default_factory=list)
    deadline: float = field(default_factory=lambda: time.monotonic() + 60)

    def check_free(self, run_id: str, conf: Conf) -> None:
        """Any name is free."""

    def submit(self, run_id: str, conf: Conf, command: str = "") -> object:
        self.runs[run_id] = conf
        return None

    def outcome(self, run_id: str) -> Outcome | None:
        assert time.monotonic() < self.deadline, "the run did not end in time"
        return Outcome("failed", "MDW-401: why", 5, "/outputs/a") if self.done() else None

    def cancel(self, run_id: str, live: bool) -> None:
        self.cancelled.append((run_id, live))


class Place:
    """A folder to launch in, where the jobs' commands are small scripts of the test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend = backend_of("local", compose(TWO))
        assert isinstance(self.backend, LocalBackend)
        self.jobs = self.backend.jobs
        self.folder = self.backend.folder
        self.keys = AdmittedKeys(store_in(self.folder), time.time)
        self.said: list[str] = []
        self._script = folder / "job.py"
        monkeypatch.setattr(local, "MEADOW", [sys.executable, str(self._script)])
        self.scripts()

    def scripts(self, serve: str = STAY, join: str = STAY) -> None:
        self._script.write_text(
            f"import sys\nexec({{'serve': {serve!r}, 'join': {join!r}}}[sys.argv[1]])\n"
        )

    def launch(self, queue: Queue | RunQueue, *overrides: str, detach: bool = False) -> int:
        federation = Federation(backend_of("local", compose([*TWO, *overrides])))
        # the queue of the store would do; this one says when a run has ended
        vars(federation)["queue"] = queue
        return launch_and_run(federation, "", detach=detach, echo=self.said.append)

    def start(self, role: str, *overrides: str) -> None:
        backend = backend_of("local", compose([*TWO, *overrides]))
        backend.prepare(role)
        start_parts(Federation(backend, role), [], self.said.append)

    def states(self) -> dict[str, str]:
        return {name: self.jobs.status(name).state for name in self.jobs.names()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "RESTARTS", Restarts(first_pause=0.05, most=3))
    made = Place(tmp_path, monkeypatch)
    yield made
    for name in made.jobs.names():
        made.jobs.stop([name], seconds=0)
        made.jobs.wait(name, 20)


@pytest.mark.parametrize("port", [None, "127.0.0.1:0"])
def test_the_port_for_flower_s_own_nodes_is_opened_where_it_is_asked_for(
    place: Place, port: str | None
) -> None:
    key = "federation.orchestrator.stock_listen"
    place.start("orchestrator", *([] if port is None else [f"{key}={port}"]))
    job = (place.jobs.folder("server") / "job.json").read_text()
    assert (f"{key}='{port}'" in job) == (port is not None)
    assert (key in job) == (port is not None)


def test_the_server_may_read_what_the_command_that_launches_it_names(place: Place) -> None:
    allowed = "federation.orchestrator.read_from=[/shared]"
    backend = backend_of("local", compose([*TWO, allowed, "data.root=some data"]))
    assert isinstance(backend, LocalBackend)
    asked = [word for word in backend._serve() if "read_from" in word]
    own = str(Path("some data").absolute())
    assert compose([*TWO, *asked]).federation.orchestrator.read_from == ["/shared", own]


def test_the_server_may_read_first_weights_by_their_path_and_needs_no_leave_for_a_run(
    place: Place,
) -> None:
    Path("weights").mkdir()
    for init, expected in (("weights", [str(Path("weights").absolute())]), ("run-1", [])):
        backend = backend_of("local", compose([*TWO, f"model.init={init}"]))
        assert isinstance(backend, LocalBackend)
        asked = [word for word in backend._serve() if "read_from" in word]
        assert compose([*TWO, *asked]).federation.orchestrator.read_from == expected


def test_a_followed_run_gives_its_status_and_ends_what_was_started(place: Place) -> None:
    assert place.launch(Queue()) == 5
    assert place.states() == dict.fromkeys(JOBS, ENDED)
    assert place.said[-2:] == ["run a: failed: MDW-401: why", "result: /outputs/a"]


def test_the_servers_lines_are_shown(place: Place) -> None:
    place.scripts(serve="print('round 1/1', flush=True); " + STAY)
    assert place.launch(Queue(lambda: "orchestrator  round 1/1" in place.said)) == 5


def test_what_is_at_work_already_is_used_and_stays(place: Place) -> None:
    place.start(ORCHESTRATOR)
    place.start("silo:silo-1")
    before = {name: place.jobs.status(name).pid for name in JOBS[:2]}
    place.start(ORCHESTRATOR)
    assert place.launch(Queue()) == 5
    assert {name: place.jobs.status(name).pid for name in JOBS[:2]} == before
    assert place.states() == {"server": RUNNING, "silo-silo-1": RUNNING, "silo-silo-2": ENDED}
    assert [line.partition(",")[0] for line in place.said[:3]] == [
        "orchestrator: started",
        "silo-1: started",
        "orchestrator: running already",
    ]


def test_a_detached_federation_stays(place: Place) -> None:
    assert place.launch(Queue(lambda: False), detach=True) == 0
    assert place.states() == dict.fromkeys(JOBS, RUNNING)


def test_a_server_that_ends_before_the_run_ends_the_launch_with_its_status(place: Place) -> None:
    place.scripts(serve="print('MDW-750: the port is taken\\n  a hint'); sys.exit(8)")
    queue = Queue(lambda: False)
    assert place.launch(queue) == 8
    assert "orchestrator  MDW-750: the port is taken" in place.said
    assert "orchestrator  ended, status 8" in place.said
    assert queue.cancelled == [("a", False)] and place.states() == dict.fromkeys(JOBS, ENDED)


DIE = """
import os, pathlib, signal, time
lives = pathlib.Path("lives")
lives.write_text((lives.read_text() if lives.exists() else "") + "x")
print("life", len(lives.read_text()), flush=True)
if len(lives.read_text()) <= {times}:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""


def test_a_server_that_is_killed_is_started_again_and_its_run_goes_on(place: Place) -> None:
    place.scripts(serve=DIE.format(times=2))
    queue = Queue(lambda: "orchestrator  life 3" in place.said)
    assert place.launch(queue) == 5
    assert queue.cancelled == [] and place.states() == dict.fromkeys(JOBS, ENDED)
    assert [line for line in place.said if "life" in line or "ended" in line] == [
        "orchestrator  life 1",
        "orchestrator  life 2",
        "orchestrator  life 3",
    ]
    assert "orchestrator  It was killed (SIGKILL). It is started again in 0.1 s." in place.said


def test_a_server_that_is_killed_again_and_again_ends_the_launch_and_the_run_can_be_gone_on_with(
    place: Place,
) -> None:
    place.scripts(serve=DIE.format(times=99))
    queue = Queue(lambda: False)
    assert place.launch(queue) == 128 + signal.SIGKILL
    lives = place.jobs.folder("server") / "lives"
    assert len(lives.read_text()) == 1 + local.RESTARTS.most
    assert any("no further restart. Look at its memory." in line for line in place.said)
    assert queue.cancelled == [("a", False)] and place.states() == dict.fromkeys(JOBS, ENDED)
    assert place.said[-1] == "run a: cancelled; if a round was closed, resume it: run.resume=a"


def test_a_server_that_is_lost_with_the_process_beside_it_is_started_again_by_its_follower(
    place: Place,
) -> None:
    lost: list[int] = []

    def goes_on() -> bool:
        if not lost:
            what = json.loads((place.jobs.folder("server") / "job.json").read_text())
            for one in ("supervisor", "process"):
                psutil.Process(what[one][0]).kill()
            lost.append(what["pid"])
        return place.jobs.status("server").pid != lost[0]

    assert place.launch(Queue(goes_on)) == 5
    assert "It is lost. It is started again, and goes on after the last closed round." in place.said
    assert place.states() == dict.fromkeys(JOBS, ENDED)


def test_a_silo_that_is_killed_is_started_again(place: Place) -> None:
    place.scripts(join=DIE.format(times=1))
    assert (
        place.launch(Queue(lambda: all(place.jobs.status(name).restarts == 1 for name in JOBS[1:])))
        == 5
    )
    said = place.jobs.log(JOBS[1]).read_text()
    assert said.splitlines()[:3] == [
        "life 1",
        "It was killed (SIGKILL). It is started again in 0.05 s.",
        "life 2",
    ]
    assert place.states() == dict.fromkeys(JOBS, ENDED)


def test_a_silo_that_ends_early_is_named_with_its_last_words(place: Place) -> None:
    place.scripts(join="print('MDW-743: not admitted'); sys.exit(8)")
    wanted = {f"silo-{i}        ended, status 8: MDW-743: not admitted" for i in (1, 2)}
    assert place.launch(Queue(lambda: wanted <= set(place.said))) == 5


def test_ctrl_c_leaves_nothing_running_and_says_how_to_go_on(place: Place) -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    queue = Queue(interrupted)
    with pytest.raises(Interrupted, match=r"MDW-902.*run\.resume=a"):
        place.launch(queue)
    assert place.states() == dict.fromkeys(JOBS, ENDED) and queue.cancelled == [("a", False)]


def test_a_command_that_can_not_be_started_leaves_nothing_running(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = LocalBackend.start

    def silo_2_fails(self: LocalBackend, part: str) -> tuple[Job, bool]:
        if part == "silo-2":
            monkeypatch.setattr(local, "MEADOW", ["/no-such"])
        return start(self, part)

    monkeypatch.setattr(LocalBackend, "start", silo_2_fails)
    with pytest.raises(ConfigError, match="MDW-190"):
        place.launch(Queue(lambda: False))
    assert place.states() == dict.fromkeys(JOBS[:2], ENDED)


def test_a_silo_gets_its_own_key_the_cas_certificate_and_its_settings(place: Place) -> None:
    place.launch(Queue())
    for silo in silos(with_absolute_paths(compose(TWO))):
        folder = place.jobs.folder(f"silo-{silo.name}")
        assert silo_from_json((folder / "silo.json").read_text()) == silo
        assert (folder / "ca.pem").read_bytes() == FolderSecrets(place.folder.keys).get(
            "ca-certificate"
        )
        assert FolderSecrets(folder / "keys").list() == [node_secret("federation", silo.name)]
        load_node_key(FolderSecrets(folder / "keys").get(node_secret("federation", silo.name)), "")
        assert folder.stat().st_mode & 0o777 == 0o700
    admitted = place.keys.all()
    assert sorted(key.silo for key in admitted) == ["silo-1", "silo-2"]
    place.launch(Queue())
    assert place.keys.all() == admitted, "launched again, the keys are the same"


def test_a_silo_at_work_is_not_given_other_settings(place: Place) -> None:
    place.launch(Queue(), detach=True)
    with pytest.raises(
        ConfigError, match=r"MDW-194.*another data\.alpha than.*meadow stop silo=silo-1"
    ):
        place.launch(Queue(), "data.alpha=9")
    with pytest.raises(ConfigError, match=r"MDW-194.*another federation\.size than"):
        place.launch(Queue(), "federation.size=4")


SUBMITTED = {
    "data.alpha=9": "data.alpha",
    "data=iid": "data.partition",
    "data.seed=4": "data.seed",
    "data.examples=null": "data.examples",
    "federation.silos.silo-2.data.alpha=3": "data.alpha",
    "federation.silos.silo-2.threads=7": "threads",
    "federation.silos.silo-2.machine.compile=default": "machine.compile",
    "federation.silos.silo-2={data: {test: 0.5}}": "data.test",
}


@pytest.mark.parametrize("asked", SUBMITTED)
def test_a_submitted_run_that_asks_for_other_data_than_its_silos_have_is_refused_by_key(
    asked: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.start("silo:silo-2", "data.examples=60")
    assert main(["submit", "federation.size=2", asked, "run.name=b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"error MDW-194: silo-2 is running with another {SUBMITTED[asked]} than asked for,"
    ), said
    assert RunQueue(store_in(place.folder)).all() == []


@pytest.mark.parametrize(
    "asked",
    [
        "data.examples=60",
        "run.seed=7",
        "data=dirichlet",
        "experiment=quickstart",
        "task=digits",
        "run.rounds=2",
    ],
)
def test_a_submitted_run_that_asks_for_what_its_silos_have_or_for_none_of_it_is_taken(
    asked: str, place: Place
) -> None:
    place.start("silo:silo-2", "data.examples=60")
    assert main(["submit", "federation.size=2", asked, "run.name=b"]) == 0
    assert [one.run_id for one in RunQueue(store_in(place.folder)).all()] == ["b"]


def test_a_revoked_silo_is_not_let_in_again_by_launching(place: Place) -> None:
    place.launch(Queue())
    place.keys.revoke("silo-2")
    queue = Queue()
    with pytest.raises(IdentityError, match="MDW-711"):
        place.launch(queue)
    assert queue.runs == {} and place.states() == dict.fromkeys(JOBS, ENDED)


def test_a_folder_that_can_not_be_written_is_one_line(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((ConfigError, IdentityError), match=str(tmp_path / "file")):
        place.launch(Queue(), f"federation.folder={tmp_path / 'file'}")


def test_an_unknown_silo_is_refused_with_those_there_are(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"MDW-193.*silo-1, silo-2"):
        place.start("silo:silo-7")


def test_paths_mean_the_same_in_every_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/old").mkdir(parents=True)
    silo = "federation.silos.north.data={root: north, partition: own}"
    (tmp_path / "mine.py").write_text("class Mine: pass\n")
    own = ["data.root=data", "model.init=old", "strategy.target=mine.py:Mine"]
    conf = with_absolute_paths(compose([silo, *own]))
    assert conf.federation.folder == str(tmp_path / ".meadow/federation")
    assert (conf.run.output, conf.data.root) == (str(tmp_path / "outputs"), str(tmp_path / "data"))
    assert conf.model.init == str(tmp_path / "outputs/old")
    assert getattr(conf.strategy, "target", "") == f"{tmp_path}/mine.py:Mine"
    assert silos(conf)[0].data.root == str(tmp_path / "north")
    assert with_absolute_paths(conf) == conf


def test_a_run_has_the_name_that_it_was_given_or_one_of_its_own(tmp_path: Path) -> None:
    queue, output = Queue(), f"run.output={tmp_path}"

    def submit(*overrides: str) -> str:
        federation = Federation(backend_of("local", compose([output, *overrides])))
        vars(federation)["queue"] = queue
        return submit_run(federation, "")

    assert submit("run.name=a") == "a"
    first, second = submit(), submit()
    assert first != second and first.startswith("digits-fedavg-")
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="MDW-181"):
        submit("run.name=a")
    assert all(
        RunQueue(FolderStore(tmp_path / "q")).submit(name, compose([])) for name in queue.runs
    )


@pytest.mark.parametrize("path", ["/a b/c", "/it's", "/a,b=c", '/"q"', "/ü/#1", "/a\\b", "/[1]{2}"])
def test_a_job_reads_any_path_as_it_was_written(path: str) -> None:
    assert compose([f"federation.folder={quoted(path)}"]).federation.folder == path


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["launch", "all"], "MDW-192"),
        (["launch", "all", "backend=moon"], "MDW-192"),
        (["launch", "everything"], "MDW-111"),
        (["launch", "client", "backend=local"], "MDW-111"),
        (["launch", "all", "backend=local", "silo=silo-1"], "MDW-111"),
        (["launch", "all", "backend=local", "--open"], "MDW-113"),
        (["launch", "all", "backend=local", "--dry-run"], "MDW-113"),
        (["launch", "all", "backend=local", "backend=local"], "MDW-112"),
        (["launch", "all", "backend="], "MDW-192"),
        (["launch", "backend=local"], "MDW-111"),
        (["launch", "all", "backend=local", "run.roundss=1"], "MDW-101"),
        (["submit"], "MDW-196"),
        (["status"], "MDW-196"),
        (["status", "all"], "MDW-111"),
        (["wait"], "MDW-111"),
        (["wait", "run=a", "timeout=soon"], "MDW-111"),
        (["wait", "run=a", "timeout=nan"], "MDW-111"),
        (["wait", "run=a"], "MDW-196"),
        (["download", "run=a"], "MDW-196"),
        (["stop", "silo="], "MDW-111"),
        (["logs", "federation.name=other"], "MDW-196"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_anything_starts(
    argv: list[str], code: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    assert main(argv) == 2
    signal.signal(signal.SIGTERM, handler)
    assert code in capsys.readouterr().err
    assert not Path(".meadow/federation/jobs").exists()


def test_status_logs_wait_and_stop_of_a_federation(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.scripts(join="print('hello', flush=True); " + STAY)
    place.launch(RunQueue(store_in(place.folder)), detach=True)
    deadline = time.monotonic() + 30
    while not all(place.jobs.log(name).read_text() for name in JOBS[1:]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    capsys.readouterr()
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    head, *rows = shown.partition("\n\n")[0].splitlines()
    assert head.split() == ["part", "state", "since", "connected", "job", "where"]
    assert [row.split()[:2] for row in rows] == [[part, RUNNING] for part in PARTS]
    assert shown.splitlines()[-1].split() == ["a", "waiting", "0"]
    assert main(["status", "as=silo:silo-1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:3] == ["not", "asked"]
    assert main(["logs", "silo=silo-2"]) == 0
    assert capsys.readouterr().out == "silo-2        hello\n"
    assert main(["logs", "silo=nobody"]) == 2 and "MDW-193" in capsys.readouterr().err
    assert main(["wait", "run=a", "timeout=0.1"]) == 124
    assert main(["wait", "run=b"]) == 2
    assert main(["stop", "silo=silo-1"]) == 0
    assert place.states() == {"server": RUNNING, "silo-silo-1": ENDED, "silo-silo-2": RUNNING}
    assert main(["stop"]) == 0
    assert place.states() == dict.fromkeys(JOBS, ENDED)
    capsys.readouterr()
    assert main(["stop"]) == 0 and capsys.readouterr().out == "nothing is running\n"
    assert main(["wait", "run=a"]) == 125
    assert main(["stop", "run=a"]) == 0 and main(["wait", "run=a"]) == 130
    assert "run a: cancelled" in capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", ["launch", "submit", "serve", "status", "logs", "wait", "stop", "keys", "join"]
)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert len(capsys.readouterr().out) > 100


def test_launched_jobs_get_no_token_of_the_callers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "hush")
    assert "AZURE_CLIENT_SECRET" in os.environ
    place.scripts(join="import os; print(sorted(os.environ), flush=True); " + STAY)
    said = place.jobs.log("silo-silo-1")
    assert place.launch(Queue(lambda: said.exists() and said.read_text() != "")) == 5
    assert "PYTHONPATH" in said.read_text() and "AZURE" not in said.read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"argv": []}', '{"started": "x"}', '{"started": 1, "process": [1]}']
)
def test_a_damaged_file_of_one_job_costs_its_own_row_and_keeps_no_other_from_ending(
    place: Place, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    place.launch(Queue(), detach=True)
    file = place.jobs.folder("silo-silo-1") / "job.json"
    whole = file.read_text()
    file.write_text(text)
    capsys.readouterr()
    assert main(["status"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].split()[:3] == ["silo-1", "not", "seen"] and "MDW-198" in rows[2]
    assert rows[3].split()[:2] == ["silo-2", RUNNING]
    assert main(["stop"]) == 2
    told = capsys.readouterr()
    assert "MDW-198" in told.err and "orchestrator: ended" in told.out
    file.write_text(whole)
    assert place.states() == {"server": ENDED, "silo-silo-1": RUNNING, "silo-silo-2": ENDED}


def test_a_silo_is_not_named_like_the_orchestrator(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["launch", "all", "backend=local", "federation.silos.orchestrator.threads=1"]
    assert main(argv) == 2 and "MDW-197" in capsys.readouterr().err


def test_download_says_where_the_files_are_and_copies_them_elsewhere(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = RunQueue(store_in(place.folder))
    assert main(["check"]) == 0
    request = queue.submit("a", compose(TWO))
    assert main(["download", "run=a"]) == 9 and "MDW-802" in capsys.readouterr().err
    folder = Path("outputs/a").absolute()
    (folder / "model").mkdir(parents=True)
    (folder / "model/weights").write_text("w")
    queue.ended(request, Outcome("finished", folder=str(folder)))
    assert main(["download", "run=a"]) == 0
    assert "1 files: " in capsys.readouterr().out
    assert main(["download", "run=a", "run.output=elsewhere"]) == 0
    assert Path("elsewhere/a/model/weights").read_text() == "w"
    assert main(["download", "run=b"]) == 2 and "MDW-183" in capsys.readouterr().err
