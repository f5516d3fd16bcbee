"""The images' requirements are those of the lock, and a silo's image keeps its own torch and CUDA."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest

from azureml_jobs.jobs.snapshot import snapshot
from conf.telemetry import OFF

ROOT = Path(__file__).parents[3]
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
        assert [
            line for line in lines(ENVIRONMENTS / "silo" / file) if OF_THE_IMAGE.match(line)
        ] == []


def test_the_orchestrator_s_constraints_are_the_whole_lock() -> None:
    assert lines(ENVIRONMENTS / "orchestrator" / "constraints.txt") == LOCK


@pytest.mark.parametrize("name", ["orchestrator", "silo"])
def test_a_dockerfile_installs_what_lies_beside_it(name: str) -> None:
    text = (ENVIRONMENTS / name / "Dockerfile").read_text()
    assert "COPY requirements.txt constraints.txt" in text
    assert "--constraint /tmp/meadow/constraints.txt" in text
    assert "--requirement /tmp/meadow/requirements.txt" in text


@pytest.mark.parametrize("name", ["orchestrator", "silo"])
def test_a_dockerfile_s_steps_are_read_whole(name: str) -> None:
    found = steps(ENVIRONMENTS / name / "Dockerfile")
    installs = [step for step in found if " -m pip install " in step]
    assert "pip>=24.1" in installs[0] and installs[1].endswith(
        "--requirement /tmp/meadow/requirements.txt"
    )
    assert len(found) == {"orchestrator": 2, "silo": 4}[name]


def steps(dockerfile: Path) -> list[str]:
    """Return the commands of a Dockerfile's RUN lines."""
    whole = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    return [line.removeprefix("RUN ") for line in whole.splitlines() if line.startswith("RUN ")]


def given_torch(place: Path, python: Path) -> list[str]:
    """Give a virtual environment this machine's torch and CUDA, as a silo's image has its own; return their names.

    Copying them again would be some GB; whatever else is installed here stays out of sight.
    """
    place.mkdir()
    given = [one for one in distributions() if OF_THE_IMAGE.match(f"{one.name}==")]
    for one in given:
        for top in {
            Path(str(file)).parts[0] for file in one.files or [] if not str(file).startswith("..")
        }:
            if not (place / top).exists():
                (place / top).symlink_to(str(one.locate_file(top)))
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    (site / "torch_of_the_image.pth").write_text(f"{place}\n")
    return [one.name for one in given]


def what_torch_needs() -> list[str]:
    """Return torch's pure dependencies, which an image that has torch has too."""
    asked = [line.partition(";")[0] for line in requires("torch") or [] if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line.strip())[0] for line in asked]
    return ["numpy", *(name for name in names if not OF_THE_IMAGE.match(f"{name}=="))]


def built(folder: Path, name: str) -> Path:
    """Run an image's steps in a virtual environment of its own, and return its Python."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    assert "torch" in given_torch(folder / "image", python)
    context = folder / "meadow"
    shutil.copytree(ENVIRONMENTS / name, context)
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "AZURE", "MLFLOW_"))
    }
    clean = {**kept, "PATH": f"{python.parent}:{os.environ['PATH']}", "TORCH_INDEX": ""}
    if name == "silo":
        image = [str(python), "-m", "pip", "install", "-q", *what_torch_needs()]
        subprocess.run(image, check=True, capture_output=True)
    for step in steps(context / "Dockerfile"):
        line = step.replace("/tmp/", f"{folder}/")
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, env=clean, cwd=folder
        )
        assert done.returncode == 0, f"{step}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
    return python


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Run an environment's Python as a job does: in a snapshot of the code, with nothing of this session's."""
    clean = {"PATH": f"{python.parent}:{os.defpath}", "HOME": str(folder), **OFF}
    done = subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, env=clean, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def installed(python: Path) -> dict[str, str]:
    """Return the versions of what an environment holds itself."""
    done = subprocess.run(
        [str(python), "-m", "pip", "list", "--local", "--format=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {one["name"].lower(): one["version"] for one in json.loads(done.stdout)}


JOBS = {
    "orchestrator": (
        "server.serve",
        "azureml_jobs.storage.blob_store",
        "server.observers.tracking",
        "server.report.build",
    ),
    "silo": (
        "client.node.job",
        "client.app",
        "client.loop",
        "client.tasks.digits",
        "client.tasks.mnist",
    ),
}
BOTH = (
    *(
        "azureml_jobs.identity.key_vault",
        "azureml_jobs.rendezvous",
        "azure.identity",
        "azure.keyvault.secrets",
    ),
    *("mlflow", "azureml.mlflow.entry_point_loaders", "azureml.mlflow._store.tracking.store"),
)
"""What a job imports, and what it imports when it runs."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["orchestrator", "silo"])
def test_an_image_s_steps_bring_what_its_job_imports(name: str, tmp_path: Path) -> None:
    python = built(tmp_path, name)
    assert [found for found in installed(python) if OF_THE_IMAGE.match(f"{found}==")] == []
    pinned = dict(
        line.lower().split("==") for line in lines(ENVIRONMENTS / name / "requirements.txt")
    )
    there = installed(python)
    wanted = {one: version for one, version in pinned.items() if not OF_THE_IMAGE.match(f"{one}==")}
    assert {one: there.get(one) for one in wanted} == wanted
    code = tmp_path / "code"
    code.mkdir()
    snapshot(code, {})
    assert "meadow" in run(python, code, "-m", "azureml_jobs.cli.main", "--help")
    modules = [*JOBS[name], *BOTH]
    where = run(
        python,
        code,
        "-c",
        f"import torch, {', '.join(modules)}; print({modules[0]}.__file__, torch.__file__)",
    )
    assert where.split() == [
        str(code / f"{modules[0].replace('.', '/')}.py"),
        str(tmp_path / "image/torch/__init__.py"),
    ]
