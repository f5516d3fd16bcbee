"""Real commands as any user, from any folder, with any terminal and environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.federation import ROOT
from tests.faults.warm_commands import CLOSED, SMALL, Warm, warm_commands

pytestmark = pytest.mark.slow

NOBODY = 12345
"""A user number that has no name and no home."""
NO_HOME = dict.fromkeys(("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"))
DEAD = "http://127.0.0.1:9"
PROXIES = dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy", "ALL_PROXY"), DEAD
)
AROUND: dict[str, dict[str, Any]] = {
    "a user without a home": {"uid": NOBODY, "env": NO_HOME},
    "a home that is not there": {"uid": NOBODY, "env": {"HOME": "/nonexistent"}},
    "a home of another user": {"uid": NOBODY, "env": {"HOME": "/root"}},
    "stdin closed": {"stdin": "closed"},
    "no stdout": {"stdout": "none"},
    "a reader that has gone": {"stdout": CLOSED},
    "a dumb, narrow terminal": {"env": {"TERM": "dumb", "COLUMNS": "20"}},
    "umask 000": {"umask": 0o000},
    "umask 077": {"umask": 0o077},
    "a TMPDIR that is not there": {"env": {"TMPDIR": "/nonexistent/tmp"}},
    "the Turkish locale": {"env": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}},
    "dead proxies": {"env": PROXIES},
}
NAMES = [b"a b", b'it\'s "so"', b"a\nb", "größer".encode(), b"lat\xe4", b"x" * 250]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """The process that has imported everything."""
    folder = tmp_path_factory.mktemp("warm")
    opened_up(folder)
    with warm_commands(folder) as warm:
        yield warm


def opened_up(folder: Path) -> None:
    """Let any user work in a folder of a test."""
    folder.chmod(0o777)
    for parent in folder.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)


def finished(folder: bytes) -> dict[str, Any]:
    with open(folder + b"/outputs/a/result.json", encoding="utf-8") as file:
        result: dict[str, Any] = json.load(file)
    return result


@pytest.mark.parametrize("name", AROUND)
def test_a_run_ends_well_with(name: str, warm: Warm, tmp_path: Path) -> None:
    if "uid" in AROUND[name] and os.geteuid() != 0:
        pytest.skip("only root may become another user")
    opened_up(tmp_path)
    done = warm.run("simulate", *SMALL, "run.name=a", cwd=tmp_path, **AROUND[name])
    assert done.status == 0, done.err
    assert "Traceback" not in done.err and "fault in Meadow" not in done.err
    assert finished(os.fsencode(tmp_path))["status"] == "finished"
    # Whatever the umask: what a run leaves is its user's alone.
    run = tmp_path / "outputs/a"
    assert run.stat().st_mode & 0o077 == 0
    assert (run / "result.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:9]))
def test_a_run_ends_well_in_a_folder_of_any_name(name: bytes, warm: Warm, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(folder)
    done = warm.run("simulate", *SMALL, "run.name=a", cwd=os.fsdecode(folder))
    assert done.status == 0, done.err
    assert finished(folder)["status"] == "finished"


def test_a_run_with_a_worker_ends_well_under_a_path_too_long_for_a_socket(
    warm: Warm, tmp_path: Path
) -> None:
    folder = tmp_path.joinpath(*["x" * 100] * 5)
    folder.mkdir(parents=True)
    words = [word for word in SMALL if not word.startswith("simulation.workers")]
    env = {"TMPDIR": str(folder)}
    done = warm.run("simulate", *words, "simulation.workers=1", "run.name=a", cwd=folder, env=env)
    assert done.status == 0, done.err
    assert finished(os.fsencode(folder))["status"] == "finished"


def test_who_has_no_home_is_told_where_something_of_it_is_needed(
    warm: Warm, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    opened_up(tmp_path)
    words = ["simulate", *SMALL, "task=mnist", "data.download=false"]
    done = warm.run(*words, cwd=tmp_path, uid=NOBODY, env=NO_HOME)
    assert done.status == 6 and "error MDW-537" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_an_interpreter_that_knows_ascii_alone_composes_and_makes_keys(
    locale: str, tmp_path: Path
) -> None:
    """Not from the warm process: an interpreter takes its encoding when it starts."""
    env = {**os.environ, "LC_ALL": locale, "LANG": locale, "PYTHONPATH": str(ROOT)}
    env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = tmp_path / "größer"
    folder.mkdir()
    for words in (["simulate", "--cfg", "job"], ["keys", "silo", "north"], ["status"]):
        command = [sys.executable, "-m", "azureml_jobs.cli.main", *words]
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, errors="replace"
        )
        assert "Traceback" not in done.stderr and "fault in Meadow" not in done.stderr, done.stderr
        assert done.returncode == 0 or "error MDW-" in done.stderr, done.stderr


FEDERATION = [
    *("launch", "all", "backend=local", "task=digits", "data.examples=60", "federation.size=2"),
    *("run.rounds=1", "run.name=a", "tracking=off"),
]
APART = ["unshare", "--user", "--map-root-user", "--net", "--mount", "bash", "-ec"]
"""A network and mounts of its own, which an ordinary user may make on most machines."""
AS_A_NUMBER = f"unshare --user --map-user={NOBODY} --map-group={NOBODY}"
"""With the rights of who runs the test, and without a name: `getpwuid` knows nobody of that number."""
PLACES = {
    "a user who is a number, dead proxies, ASCII and a TMPDIR without programs": (
        "ip link set lo up; mount -t tmpfs -o noexec,mode=1777 none elsewhere;"
        f' exec {AS_A_NUMBER} "$@"',
        {**NO_HOME, **PROXIES, "TMPDIR": "elsewhere", "LC_ALL": "C", "PYTHONUTF8": "0"},
    ),
    "a loopback of IPv6 alone": (
        'ip link set lo up; ip addr del 127.0.0.1/8 dev lo; exec "$@"',
        {},
    ),
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", PLACES)
def test_a_federation_of_processes_ends_well_with(name: str, tmp_path: Path) -> None:
    can = subprocess.run([*APART, "ip link set lo up"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("no namespaces here")
    prepare, changed = PLACES[name]
    (tmp_path / "elsewhere").mkdir()
    env: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT), **changed}
    if "TMPDIR" in changed:
        env["TMPDIR"] = str(tmp_path / "elsewhere")
    done = subprocess.run(
        [*APART, prepare, "bash", sys.executable, "-m", "azureml_jobs.cli.main", *FEDERATION],
        cwd=tmp_path,
        env={key: value for key, value in env.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said and "fault in Meadow" not in said
    assert finished(os.fsencode(tmp_path))["status"] == "finished"
