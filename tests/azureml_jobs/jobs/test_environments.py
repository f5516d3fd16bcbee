"""The images' requirements are those of the lock, and their steps bring what a job imports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from importlib.metadata import distributions
from pathlib import Path

import pytest

from azureml_jobs.environments.bases import images
from azureml_jobs.jobs.snapshot import snapshot
from conf.telemetry import OFF
from supply.pins import read

ROOT = Path(__file__).parents[3]
VERSIONS = {pin.key: pin.version for pin in read(ROOT / "requirements.lock")}
ENVIRONMENTS = ROOT / "azureml_jobs" / "environments"
CUDA = re.compile(r"(torch|torchvision|nvidia-.*|cuda-.*|triton)==", re.IGNORECASE)


def versions(path: Path) -> dict[str, str]:
    return {pin.key: pin.version for pin in read(path)}


def cuda(key: str) -> bool:
    """Whether a package is torch, or comes with it."""
    return CUDA.match(f"{key}==") is not None


@pytest.mark.parametrize("name", sorted(images()))
def test_versions_are_the_lock_s(name: str) -> None:
    folder = ENVIRONMENTS / name
    locked = versions(folder / "requirements.lock")
    everything = dict(VERSIONS)
    if images()[name].torch is not None:
        everything = {key: version for key, version in VERSIONS.items() if not cuda(key)}
        everything |= {key: version for key, version in locked.items() if cuda(key)}
    assert versions(folder / "requirements.txt").items() <= everything.items()
    assert locked.items() <= everything.items()
    assert versions(folder / "constraints.txt") == everything
    root = (ROOT / "requirements-build.lock").read_text()
    assert (folder / "build.lock").read_text() == root


@pytest.mark.parametrize("name", sorted(images()))
def test_an_image_s_lock_holds_what_it_asks_for_with_the_lock_s_hashes(name: str) -> None:
    folder = ENVIRONMENTS / name
    whole = {pin.key: pin for pin in read(ROOT / "requirements.lock")}
    locked = {pin.key: pin for pin in read(folder / "requirements.lock")}
    assert versions(folder / "requirements.txt").keys() <= locked.keys()
    if images()[name].torch is not None:
        whole |= {key: pin for key, pin in locked.items() if cuda(key)}
    assert all(pin.hashes == whole[key].hashes for key, pin in locked.items())
    assert all(pin.hashes for pin in locked.values())


def test_a_silo_s_image_brings_its_cuda_and_an_orchestrator_s_none() -> None:
    for name, image in images().items():
        locked = versions(image.folder / "requirements.lock")
        brought = {key for key in locked if cuda(key)}
        if image.cuda is None:
            assert brought == set()
            continue
        (runtime,) = [key for key in brought if key.startswith("nvidia-cuda-runtime")]
        assert locked[runtime].startswith(f"{image.cuda}."), name
        assert locked["torch"] == (image.torch or VERSIONS["torch"])


def test_the_image_for_an_older_cuda_differs_in_its_torch_alone() -> None:
    one, other = (
        (ENVIRONMENTS / name / "Dockerfile").read_text().splitlines()
        for name in ("silo", "silo-cuda12")
    )
    assert one[1:] == other[1:]


def test_an_orchestrator_s_image_asks_for_torch_in_a_step_of_its_own() -> None:
    folder = ENVIRONMENTS / "orchestrator"
    cpu = versions(folder / "torch-cpu.txt")
    assert set(cpu) == {"torch", "torchvision"} and cpu.items() <= VERSIONS.items()
    (step,) = [step for step in steps(folder / "Dockerfile") if "torch-cpu.txt" in step]
    assert "--no-deps" in step and "--index-url https://download.pytorch.org/whl/cpu" in step


@pytest.mark.parametrize("name", sorted(images()))
def test_a_dockerfile_installs_what_lies_beside_it(name: str) -> None:
    text = (ENVIRONMENTS / name / "Dockerfile").read_text()
    (copied,) = re.findall(r"COPY (.+) /tmp/meadow/", text)
    beside = {file.name for file in (ENVIRONMENTS / name).iterdir()} - {"Dockerfile"}
    assert set(copied.split()) == beside
    assert "--constraint /tmp/meadow/constraints.txt" in text
    assert "--requirement /tmp/meadow/requirements.txt" in text


@pytest.mark.parametrize("name", sorted(images()))
def test_a_dockerfile_s_steps_are_read_whole(name: str) -> None:
    found = steps(ENVIRONMENTS / name / "Dockerfile")
    assert all(" -m pip install " in step for step in found)
    hashed = [step for step in found if "--require-hashes --no-deps" in step]
    assert [step.split()[-1] for step in hashed] == [
        "/tmp/meadow/build.lock",
        "/tmp/meadow/requirements.lock",
    ]
    assert found[-1].endswith("--requirement /tmp/meadow/requirements.txt")
    assert len(found) == {"orchestrator": 4}.get(name, 3)


def steps(dockerfile: Path) -> list[str]:
    """Return the commands of a Dockerfile's RUN lines."""
    whole = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    runs = [line.removeprefix("RUN ") for line in whole.splitlines() if line.startswith("RUN ")]
    return [step for run in runs for step in run.split(" && ")]


def given_torch(place: Path, python: Path) -> list[str]:
    """Give a virtual environment this machine's torch and CUDA; return their names.

    Copying them again would be some GB; whatever else is installed here stays out of sight.
    """
    place.mkdir()
    given = [one for one in distributions() if CUDA.match(f"{one.name}==")]
    for one in given:
        for top in {
            Path(str(file)).parts[0] for file in one.files or [] if not str(file).startswith("..")
        }:
            if not (place / top).exists():
                (place / top).symlink_to(str(one.locate_file(top)))
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    (site / "torch_of_the_image.pth").write_text(f"{place}\n")
    return [one.name for one in given]


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
    clean = {**kept, "PATH": f"{python.parent}:{os.environ['PATH']}"}
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
    assert [found for found in installed(python) if CUDA.match(f"{found}==")] == []
    pinned = versions(ENVIRONMENTS / name / "requirements.lock")
    there = {
        pin.replace("_", "-").replace(".", "-"): number for pin, number in installed(python).items()
    }
    wanted = {one: version for one, version in pinned.items() if not CUDA.match(f"{one}==")}
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
