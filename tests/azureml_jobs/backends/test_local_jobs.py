"""Jobs on this machine: started apart from the caller, watched, ended, their end found by anybody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from azureml_jobs.backends.local_jobs import (
    ENDED,
    LOST,
    ROOT,
    RUNNING,
    WEBHOOK,
    LocalJobs,
    Tail,
    environment,
)
from azureml_jobs.backends.restarts import Restarts
from conf.errors import ConfigError

ENV = environment(os.environ)
FOREVER = "import time\nprint('up', flush=True)\ntime.sleep(600)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[LocalJobs]:
    made = LocalJobs(tmp_path / "jobs")
    yield made
    for name in made.names():
        made.signal(name, signal.SIGKILL)
        made.wait(name, 20)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def said(jobs: LocalJobs, name: str) -> str:
    return jobs.log(name).read_text() if jobs.log(name).exists() else ""


def test_a_job_runs_in_its_own_folder_and_its_status_and_words_are_kept(jobs: LocalJobs) -> None:
    code = "import os, sys; print(os.getcwd()); print('to stderr', file=sys.stderr); sys.exit(5)"
    assert jobs.start("server", python(code), ENV)
    job = jobs.wait("server", 30)
    assert (job.state, job.status) == (ENDED, 5)
    assert said(jobs, "server").splitlines() == [str(jobs.folder("server")), "to stderr"]
    assert job.ended is not None and job.ended >= job.started
    assert jobs.folder("server").stat().st_mode & 0o777 == 0o700


def test_a_job_sees_nothing_else_of_the_callers_environment(
    jobs: LocalJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_TOKEN", "hush")
    monkeypatch.setenv("MEADOW_SETTING", "1")
    jobs.start("a", python("import os; print(sorted(os.environ))"), environment(os.environ))
    jobs.wait("a", 30)
    assert "CLOUD_TOKEN" not in said(jobs, "a") and "MEADOW_SETTING" in said(jobs, "a")
    assert environment({"MLFLOW_X": "1"}, ["MLFLOW_"])[
        "MLFLOW_X"
    ] == "1" and "MLFLOW_X" not in environment({"MLFLOW_X": "1"})


def test_the_address_of_a_webhook_is_for_who_asks_for_it() -> None:
    caller = {WEBHOOK: "https://token@hooks.example", "MEADOW_LOGS": "json"}
    assert WEBHOOK not in environment(caller)
    assert environment(caller)["MEADOW_LOGS"] == "json"
    assert environment(caller, [WEBHOOK])[WEBHOOK] == caller[WEBHOOK]


def test_a_running_job_is_not_started_twice(jobs: LocalJobs) -> None:
    assert jobs.start("a", python(FOREVER), ENV)
    pid = jobs.status("a").pid
    assert not jobs.start("a", python(FOREVER), ENV)
    assert jobs.status("a").pid == pid and jobs.status("a").state == RUNNING


def test_sigterm_ends_a_job_and_a_deaf_one_is_killed(jobs: LocalJobs) -> None:
    jobs.start("mild", python(FOREVER), ENV)
    jobs.start("deaf", python(DEAF), ENV)
    until(lambda: "up" in said(jobs, "mild") and "up" in said(jobs, "deaf"))
    mild, deaf = jobs.stop(["mild", "deaf"], seconds=2)
    assert (mild.state, mild.status) == (ENDED, -signal.SIGTERM)
    assert (deaf.state, deaf.status) == (ENDED, -signal.SIGKILL)


def test_the_status_is_found_when_whoever_started_the_job_has_gone(
    jobs: LocalJobs, tmp_path: Path
) -> None:
    code = (
        "import os, sys; from pathlib import Path;"
        "from azureml_jobs.backends.local_jobs import LocalJobs, environment;"
        f"LocalJobs(Path({str(tmp_path / 'jobs')!r})).start('a', [sys.executable, '-c',"
        " 'import time, sys; time.sleep(1); sys.exit(7)'], environment(os.environ))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    assert jobs.wait("a", 30).status == 7


def test_a_killed_job_is_told_from_one_whose_machine_went_down(jobs: LocalJobs) -> None:
    jobs.start("a", python(FOREVER), ENV)
    jobs.signal("a", signal.SIGKILL)
    assert jobs.wait("a", 30).status == -signal.SIGKILL
    jobs.start("b", python(FOREVER), ENV)
    what = json.loads((jobs.folder("b") / "job.json").read_text())
    for one in ("supervisor", "process"):
        psutil.Process(int(what[one][0])).kill()
    until(lambda: jobs.status("b").state == LOST)
    assert jobs.start("b", python("pass"), ENV), "a lost job can be started again"


def test_a_killed_job_is_started_again_until_it_is_stopped(jobs: LocalJobs) -> None:
    rule = Restarts(first_pause=0.05, most=2)
    jobs.start("a", python(FOREVER), ENV, restarts=rule)
    first = jobs.status("a")
    jobs.signal("a", signal.SIGKILL)
    until(lambda: jobs.status("a").restarts == 1)
    again = jobs.status("a")
    assert (again.state, again.started) == (RUNNING, first.started) and again.pid != first.pid
    [ended] = jobs.stop(["a"])
    assert (ended.state, ended.status, ended.restarts) == (ENDED, -signal.SIGTERM, 1)


def test_a_job_is_stopped_in_the_pause_before_its_next_start(jobs: LocalJobs) -> None:
    jobs.start("a", python(FOREVER), ENV, restarts=Restarts(600.0, 600.0))
    jobs.signal("a", signal.SIGKILL)
    until(lambda: "It is started again in 600 s." in said(jobs, "a"))
    assert jobs.status("a").state == RUNNING, "it is looked after"
    [ended] = jobs.stop(["a"])
    assert (ended.state, ended.status) == (ENDED, -signal.SIGKILL)
    assert jobs.start("a", python("pass"), ENV), "and may be started anew"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_is_asked_to_end_is_not_started_again(jobs: LocalJobs, number: int) -> None:
    jobs.start("a", python(FOREVER), ENV, restarts=Restarts(first_pause=0.0))
    until(lambda: "up" in said(jobs, "a"))
    jobs.signal("a", number)
    ended = jobs.wait("a", 20)
    assert (ended.state, ended.restarts) == (ENDED, 0)


def test_a_job_whose_supervisor_has_gone_runs_and_nobody_restarts_it(jobs: LocalJobs) -> None:
    jobs.start("a", python(FOREVER), ENV, restarts=Restarts())
    assert jobs.status("a").supervised
    what = json.loads((jobs.folder("a") / "job.json").read_text())
    psutil.Process(int(what["supervisor"][0])).kill()
    until(lambda: not jobs.status("a").supervised)
    assert jobs.status("a").state == RUNNING


def test_what_ends_by_itself_is_not_started_again(jobs: LocalJobs) -> None:
    jobs.start("a", python("import sys; sys.exit(3)"), ENV, restarts=Restarts(first_pause=0.0))
    ended = jobs.wait("a", 20)
    assert (ended.state, ended.status, ended.restarts) == (ENDED, 3, 0)


def test_a_reused_pid_is_not_the_job(jobs: LocalJobs) -> None:
    folder = jobs.folder("a")
    folder.mkdir(parents=True)
    other = [os.getpid(), "another boot:100"]
    (folder / "job.json").write_text(
        json.dumps({"started": 1.0, "pid": os.getpid(), "process": other})
    )
    assert jobs.status("a").state == LOST
    jobs.signal("a", signal.SIGKILL)  # would end this very process


def test_a_step_of_the_system_clock_leaves_a_job_what_it_is(
    jobs: LocalJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.start("a", python(FOREVER), ENV)
    # What NTP does to /proc/stat when it steps the clock by a second.
    booted = psutil.boot_time()
    for step in (1.0, -1.0, 3600.0):
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda step=step: booted + step)
        assert jobs.status("a").state == RUNNING
        assert not jobs.start("a", python(FOREVER), ENV), "it would run twice"
    [ended] = jobs.stop(["a"])
    assert (ended.state, ended.status) == (ENDED, -signal.SIGTERM)


def test_logs_are_merged_and_followed_to_the_end(jobs: LocalJobs) -> None:
    for name in ("server", "silo-a"):
        jobs.start(
            name, python("import time; print('one', flush=True); time.sleep(.5); print('two')"), ENV
        )
    lines = list(jobs.logs(["server", "silo-a"], follow=True))
    assert sorted(lines) == ["[server] one", "[server] two", "[silo-a] one", "[silo-a] two"]


def test_only_whole_lines_are_shown(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.lines() == []
    (tmp_path / "log").write_text("one\ntw")
    assert tail.lines() == ["one"]
    with (tmp_path / "log").open("a") as file:
        file.write("o\n")
    assert tail.lines() == ["two"]


def test_a_command_that_is_not_there_is_refused_and_leaves_nothing(jobs: LocalJobs) -> None:
    with pytest.raises(ConfigError, match=r"MDW-190.*no-such-command"):
        jobs.start("a", ["/no-such-command"], ENV)
    assert jobs.names() == []
    with pytest.raises(ConfigError, match="MDW-191"):
        jobs.status("a")


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="MDW-190"):
        LocalJobs(tmp_path / "file").start("a", python("pass"), ENV)
