"""What the pool leaves behind when its process is interrupted or killed: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

# No `if __name__ == "__main__"`: a pool that imported this again in its workers would never end.
SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from flwr.app import ConfigRecord, Message, RecordDict
from conf.schema import Silo
from server.engines.pool import PoolGrid

def ask(grid, **config):
    content = RecordDict({"config": ConfigRecord(config)})
    return grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()])

silos = [Silo(f"silo-{i}", i, 3) for i in range(3)]
grid = PoolGrid(silos, 2, app="echo_app:app", malloc=False, log=Path(__file__).with_suffix(".log"))
try:
    if sys.argv[3] == "trains":
        assert not any(reply.has_error() for reply in ask(grid))
        print("ready", flush=True)
        ask(grid, do="sleep", seconds=600)
    elif sys.argv[3] == "starts":
        print("ready", flush=True)
        ask(grid)
    else:
        assert not any(reply.has_error() for reply in ask(grid))
        print("ready", flush=True)
        grid = None  # never closed
        raise SystemExit(0)
finally:
    if grid is not None:
        grid.close()
"""


def started(tmp_path: Path, what: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(ROOT), str(HERE), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tree(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize("what", ["trains", "starts"])
def test_ctrl_c_ends_the_pool_within_seconds_and_leaves_no_process(
    tmp_path: Path, what: str
) -> None:
    process = started(tmp_path, what)
    children = tree(process.pid)
    assert children or what == "starts"
    at = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - at < 10
    assert err.rstrip().endswith("KeyboardInterrupt") and process.returncode != 0
    assert err.count("Traceback") == 1, err
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_workers_end_when_their_parent_is_killed_in_the_middle_of_a_training(
    tmp_path: Path,
) -> None:
    process = started(tmp_path, "trains")
    children = tree(process.pid)
    assert len(children) >= 4  # two workers, the fork server and the resource tracker
    process.kill()
    process.communicate(timeout=10)
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_pool_that_nobody_closed_does_not_keep_its_script_from_ending(tmp_path: Path) -> None:
    process = started(tmp_path, "forgets")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""


def test_a_long_tmpdir_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A socket's path holds 107 bytes; the fork server puts its own below the temporary folder.
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    process = started(tmp_path, "forgets")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""


IMPORTS = """
import sys
from server.simulation import simulate
assert "ray" not in sys.modules, "importing the module is enough"

from server.observers.base import Observer
import server.simulation

class Look(Observer):
    def round_started(self, round, cohort):
        tops = {name.partition(".")[0] for name in sys.modules}
        print("loaded:", sorted(tops & set(sys.argv[2].split(","))))
        print("vce:", [name for name in sys.modules if "fleet.vce" in name])

server.simulation.progress_display = lambda live: Look()
if __name__ == "__main__":
    simulate(["task=digits", "data.examples=200", "run.rounds=1", "simulation.workers=1",
              f"run.output={sys.argv[1]}"], progress=True)
"""


def test_the_pool_s_first_round_begins_without_what_only_others_need(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(IMPORTS)
    others = "ray,sklearn,scipy,matplotlib,mlflow,sqlalchemy,fastapi,uvicorn,pandas"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "outputs"), others],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["loaded: []", "vce: []"]
