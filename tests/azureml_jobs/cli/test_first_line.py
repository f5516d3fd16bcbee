"""What is about to run is said at once, before the heavy modules are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from azureml_jobs.cli.first_line import described, launched, simulated
from conf.compose import compose
from server.simulation import simulate

POOL = ["task=digits", "data.examples=90", "run.rounds=1", "simulation.workers=0"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["simulation.workers=2"], "3 silos, digits, fedavg, pool with 2 workers"),
        (["federation.size=1"], "1 silo, digits, fedavg, pool with 1 worker"),
        (["simulation.workers=0"], "3 silos, digits, fedavg, in this process"),
        (["simulation=ray"], "3 silos, digits, fedavg, on Ray"),
        (
            ["simulation=ray", "simulation.ray_address=h:1"],
            "3 silos, digits, fedavg, on the Ray cluster h:1",
        ),
        (
            [
                "strategy=external",
                "strategy.target=flwr.serverapp.strategy.FedAdam",
                "simulation.workers=1",
            ],
            "3 silos, digits, FedAdam, pool with 1 worker",
        ),
    ],
)
def test_a_simulation_s_line_says_who_trains_what_and_where(
    overrides: list[str], line: str
) -> None:
    assert simulated(compose(overrides)) == line


def test_a_launch_s_line_says_where_its_jobs_are() -> None:
    conf = compose(["task=mnist", "federation.size=2"])
    assert launched(conf, "local") == "2 silos, mnist, fedavg, jobs on this machine"
    assert launched(conf, "azure") == "2 silos, mnist, fedavg, jobs on Azure ML"
    conf.run.resume = "first"
    assert described(conf) == "resuming first: 2 silos, mnist, fedavg"


def test_the_line_is_on_stderr_before_torch_is_imported(tmp_path: Path) -> None:
    # An import of torch that fails shows that the line came first.
    (tmp_path / "torch.py").write_text("raise ImportError('torch is imported')\n")
    done = subprocess.run(
        [sys.executable, "-c", "from azureml_jobs.cli.main import main; main()", "simulate"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, *rest = done.stderr.splitlines()
    assert first.startswith("3 silos, digits, fedavg, pool with ") and done.stdout == ""
    assert "ImportError: torch is imported" in rest


def test_simulate_from_python_prints_nothing_unless_it_is_asked_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    simulate([*POOL, f"run.output={tmp_path}", "run.name=silent"])
    assert capfd.readouterr() == ("", "")
    simulate([*POOL, f"run.output={tmp_path}", "run.name=told"], progress=True)
    assert "round 1/1" in capfd.readouterr().out
