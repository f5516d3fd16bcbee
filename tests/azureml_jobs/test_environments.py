"""The images' requirements are those of the lock, and a silo's image keeps its own torch and CUDA."""

from __future__ import annotations

import re
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
ENVIRONMENTS = ROOT / "azureml_jobs" / "environments"
OF_THE_IMAGE = re.compile(r"(torch|torchvision|nvidia-.*|cuda-.*|triton)==", re.IGNORECASE)


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["orchestrator", "silo"])
def test_versions_are_the_lock_s(name: str) -> None:
    assert set(lines(ENVIRONMENTS / name / "requirements.txt")) <= set(LOCK)
    assert set(lines(ENVIRONMENTS / name / "constraints.txt")) <= set(LOCK)


def test_a_silo_s_image_keeps_its_torch_and_cuda() -> None:
    for file in ("requirements.txt", "constraints.txt"):
        assert [line for line in lines(ENVIRONMENTS / "silo" / file) if OF_THE_IMAGE.match(line)] == []


def test_the_orchestrator_s_constraints_are_the_whole_lock() -> None:
    assert lines(ENVIRONMENTS / "orchestrator" / "constraints.txt") == LOCK


@pytest.mark.parametrize("name", ["orchestrator", "silo"])
def test_a_dockerfile_installs_what_lies_beside_it(name: str) -> None:
    text = (ENVIRONMENTS / name / "Dockerfile").read_text()
    assert "COPY requirements.txt constraints.txt" in text
    assert "--constraint /tmp/meadow/constraints.txt" in text
    assert "--requirement /tmp/meadow/requirements.txt" in text


def in_a_fresh_environment(folder: Path, name: str, *flags: str) -> list[str]:
    """Run an image's install step in a virtual environment of its own; return what is installed there then."""
    venv.create(folder, with_pip=True)
    python, files = folder / "bin" / "python", ENVIRONMENTS / name
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    step = ["--constraint", str(files / "constraints.txt"), "--requirement", str(files / "requirements.txt")]
    for command in ([*pip, "install", "-q", "--upgrade", "pip"], [*pip, "install", "-q", *flags, *step]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    found = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True).stdout
    return [line.partition("==")[0].lower() for line in found.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_silo_s_install_step_brings_all_but_the_image_s_torch(tmp_path: Path) -> None:
    installed = in_a_fresh_environment(tmp_path / "silo", "silo")
    assert {"flwr", "azure-ai-ml", "azureml-mlflow", "hydra-core", "safetensors"} <= set(installed)
    assert [name for name in installed if OF_THE_IMAGE.match(f"{name}==")] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_orchestrator_s_install_step_can_be_resolved(tmp_path: Path) -> None:
    in_a_fresh_environment(tmp_path / "orchestrator", "orchestrator", "--dry-run")
