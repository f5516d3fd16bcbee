"""No dependency phones home, whichever way a process of Meadow starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.telemetry import OFF

ROOT = Path(__file__).parents[2]


def printed(code: str, **chosen: str) -> str:
    """Return what a new process prints whose environment says of telemetry only what is `chosen`."""
    environment = {name: value for name, value in os.environ.items() if name not in OFF} | chosen
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "start",
    [
        "import client.node.job",
        "import server.serve",
        "from azureml_jobs.cli import main; main.main(['help'])",
    ],
)
def test_every_way_to_start_turns_it_off_before_flower_reads_it(start: str) -> None:
    code = (
        f"{start}; import os, flwr.supercore.telemetry as t; found = map(os.getenv, {list(OFF)}); "
    )
    code += "print(t.FLWR_TELEMETRY_ENABLED, *found)"
    assert printed(code) == " ".join(["0", *OFF.values()])


def test_mlflow_understands_it() -> None:
    code = "import server; from mlflow.environment_variables import *; print(MLFLOW_DISABLE_TELEMETRY.get())"
    assert printed(code) == "True"


def test_what_the_user_has_chosen_stays() -> None:
    code = "import server; import flwr.supercore.telemetry as t; print(t.FLWR_TELEMETRY_ENABLED)"
    assert printed(code, FLWR_TELEMETRY_ENABLED="1") == "1"


def test_the_variables_stand_in_one_place() -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in (
            "azureml_jobs",
            "benchmarks",
            "client",
            "conf",
            "server",
            "strategies",
            "tests",
        )
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "conf/telemetry.py" and path != Path(__file__)
        for name in OFF
        if name in path.read_text()
    ]
    assert elsewhere == []
