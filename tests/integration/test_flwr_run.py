"""Flower's own command line runs the same app: `flwr build` bundles it, `flwr run .` trains with it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flwr.cli.build import build_fab_from_files

from server.run.history import read_history
from server.simulation import simulate

ROOT = Path(__file__).parents[2]
PACKAGES = ("conf", "strategies", "client", "server", "azureml_jobs")
BIN = Path(sys.executable).parent
TIMEOUT = 240.0
OVERRIDES = "task=digits run.rounds=2 run.output={}"


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    """Return what `flwr build` is given of this tree, hidden folders left out: environments and caches are large."""
    found: dict[str, Path] = {}
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if not name.startswith(".")]
        paths = [Path(folder) / name for name in names]
        found |= {path.relative_to(ROOT).as_posix(): path for path in paths}
    return found


def test_the_bundle_holds_all_code_and_configuration_and_nothing_else(
    files: dict[str, Path],
) -> None:
    packaged = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml")
        and "rehearsal" not in path.parts
        # Of the images' contexts no job needs anything.
        and not (path.suffix == ".yaml" and "environments" in path.parts)
    }
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_files(files)[0]))
    assert set(bundle.namelist()) == packaged | {"meadow.py", "pyproject.toml", ".info/CONTENT"}


def test_the_bundle_is_the_same_each_time(files: dict[str, Path]) -> None:
    again = dict(reversed(files.items()))
    assert build_fab_from_files(files)[0] == build_fab_from_files(again)[0]


def free_port() -> str:
    """Return a port that nobody listens on at 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def flower_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give Flower's command line a home and ports of its own, and end the SuperLink that it leaves behind."""
    home = tmp_path / "flwr"
    environment = (
        os.environ
        | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # `flwr` looks for `flower-superlink` there
            "FLWR_HOME": str(home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
            "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }
    )
    yield environment
    left = processes_of(home)
    for process in left:
        if "flower-superlink" in " ".join(process.cmdline()):
            process.terminate()  # its executor and its simulation watch their parent and follow
    _, stubborn = psutil.wait_procs(left, timeout=20)
    for process in stubborn:
        process.kill()


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the processes that were started with this Flower home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def flwr(*arguments: str, environment: dict[str, str], cwd: Path) -> str:
    """Run Flower's command line and return what it printed; its error output explains a failure."""
    command = [str(BIN / "flwr"), *arguments]
    done = subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def test_flwr_run_trains_the_same_app(flower_environment: dict[str, str], tmp_path: Path) -> None:
    overrides = OVERRIDES.format(tmp_path / "outputs")
    log = flwr(
        *("run", str(ROOT), "--run-config", f'overrides="{overrides}"', "--stream"),
        environment=flower_environment,
        cwd=tmp_path,
    )
    run = json.loads(flwr("ls", "--format", "json", environment=flower_environment, cwd=tmp_path))[
        "runs"
    ][0]
    assert run["status"] == "finished:completed", log[-4000:]

    (folder,) = (tmp_path / "outputs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["mode"], result["task"]) == ("finished", "flower", "digits")
    assert result["rounds"] == 2
    # Flower simulates two nodes unless told otherwise.
    assert list(read_history(folder))[-1].replied == ["silo-1", "silo-2"]
    assert (folder / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["topk compression.down=int8", "lowrank", "int4"])
def test_what_travels_encoded_under_flwr_run_gives_the_simulation_s_bits(
    flower_environment: dict[str, str], tmp_path: Path, form: str
) -> None:
    """What a silo has left out is in the state that Flower keeps for its node."""
    run = ["task=digits", "data.examples=300", "run.rounds=3", *f"compression={form}".split()]
    overrides = " ".join([*run, f"run.output={tmp_path / 'outputs'}"])
    log = flwr(
        *("run", str(ROOT), "--run-config", f'overrides="{overrides}"', "--stream"),
        environment=flower_environment,
        cwd=tmp_path,
    )
    assert (tmp_path / "outputs").is_dir(), log[-4000:]
    (folder,) = (tmp_path / "outputs").iterdir()
    here = [f"run.output={tmp_path / 'simulated'}", "federation.size=2", "simulation.workers=0"]
    alone = simulate([*run, *here])
    history = list(read_history(folder))
    assert [record.failed for record in history] == [{}] * 3
    assert [record.bytes_up for record in history] == [r.bytes_up for r in alone.rounds]
    result = json.loads((folder / "result.json").read_text())
    assert result["model"]["digest"] == alone.result.model["digest"]


@pytest.mark.slow
def test_code_from_outside_is_refused_by_name_before_the_first_round(
    flower_environment: dict[str, str], tmp_path: Path
) -> None:
    """Flower hands its silos' processes the bundle of this tree, and no file of anybody's."""
    mine = tmp_path / "mine.py"
    mine.write_text((ROOT / "client" / "tasks" / "digits.py").read_text())
    overrides = (
        f"task.target={mine}:Digits model=mlp run.rounds=2 run.output={tmp_path / 'outputs'}"
    )
    log = flwr(
        *("run", str(ROOT), "--run-config", f'overrides="{overrides}"', "--stream"),
        environment=flower_environment,
        cwd=tmp_path,
    )
    # The stream wraps its lines.
    said = "".join(log.split())
    assert "MDW-406:Beforeround1,0of2silosareready" in said, log[-4000:]
    assert "MDW-346" in said and "mine.Digits" in said and "flwrrun" in said
    (folder,) = (tmp_path / "outputs").iterdir()
    assert json.loads((folder / "result.json").read_text())["rounds"] == 0
