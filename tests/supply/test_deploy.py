"""The compose file's commands make a federation; the manifests say the same commands for Kubernetes."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from azureml_jobs.backends.local import LocalBackend
from azureml_jobs.cli.federation import backend_of
from azureml_jobs.cli.main import main
from conf.code_digest import PACKAGES
from conf.compose import compose
from server.orchestrator.backends import store_in
from server.store.run_queue import RunQueue

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*/*.yaml"))
OVERLAYS = sorted((DEPLOY / "kubernetes" / "overlays").iterdir())
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")


def variables() -> dict[str, str]:
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text)


def of_kind(path: Path, kind: str) -> dict[str, Any]:
    (found,) = [one for one in yaml.safe_load_all(path.read_text()) if one["kind"] == kind]
    return dict(found)


def test_every_variable_is_explained_in_the_example_and_every_one_there_is_used() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{(\w+)\}", text))
    assert used | {"SILO"} == set(variables())


def test_a_container_may_write_nothing_but_its_own_folders_and_gain_no_right() -> None:
    for name in ("orchestrator", "silo"):
        service = COMPOSE["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service and "environment" in service
    data = [one for one in COMPOSE["services"]["silo"]["volumes"] if "DATA" in one]
    assert data == ["${DATA_FOLDER}:/data:ro"]
    assert "ports" not in COMPOSE["services"]["silo"]


@pytest.mark.parametrize("role", ["orchestrator", "silo"])
def test_kubernetes_is_given_the_command_that_compose_is_given(role: str) -> None:
    pod = of_kind(DEPLOY / "kubernetes" / role / f"{role}.yaml", "StatefulSet")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    one = [re.split(r"=(?=[/$\d])", word)[0] for word in COMPOSE["services"][role]["command"]]
    other = [re.split(r"=(?=[/$\d])", word)[0] for word in container["args"]]
    assert one == other
    assert container["image"] == COMPOSE["services"][role]["image"]
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_the_dockerfile_copies_what_a_job_is_sent_with() -> None:
    copied = re.findall(r"^COPY (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert set(copied) == {"meadow.py", *PACKAGES}


def overlay(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what kustomize makes of an overlay, with files in the places of the owner's own."""
    shutil.copytree(DEPLOY / "kubernetes", folder / "kubernetes")
    for own in ("ca.pem", "admission.pem"):
        (folder / "kubernetes" / "overlays" / "silo-north" / own).write_text(own)
    place = folder / "kubernetes" / "overlays" / name
    done = subprocess.run(["kubectl", "kustomize", place], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@needs_kubectl
@pytest.mark.parametrize("name", [folder.name for folder in OVERLAYS])
def test_an_overlay_is_whole(name: str, tmp_path: Path) -> None:
    made = overlay(tmp_path, name)
    assert {one["metadata"].get("namespace") for one in made} == {"clinics"}
    (pod,) = [one["spec"]["template"]["spec"] for one in made if one["kind"] == "StatefulSet"]
    maps = {one["metadata"]["name"] for one in made if one["kind"] == "ConfigMap"}
    (container,) = pod["containers"]
    assert {one["configMapRef"]["name"] for one in container["envFrom"]} <= maps
    assert all(
        one["image"].startswith("registry.example.org/")
        for one in (container, *pod["initContainers"])
    )
    gpu = container["resources"]["limits"].get("nvidia.com/gpu")
    assert (gpu == 1) == (name == "silo-gpu")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("state", "silo", "data")}
    for folder in found.values():
        folder.mkdir(mode=0o700)
    return found


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(30)


def handed_out(folders: dict[str, Path]) -> None:
    """Make keys and admission as docs/containers.md says, and put each where its owner does."""
    own = ["federation.name=clinics"]
    orchestrator = [*own, f"federation.folder={folders['state']}"]
    assert main(["keys", "init", *orchestrator]) == 0
    assert main(["keys", "silo", "north", *own, f"keys={folders['silo']}/keys"]) == 0
    public = folders["silo"] / "keys" / "node-north.pub"
    assert main(["keys", "admit", "north", str(public), *orchestrator]) == 0
    (private,) = (folders["silo"] / "keys").glob("node2-*")
    private.rename(private.with_name("node"))
    given = folders["state"] / "keys"
    shutil.copy(given / "ca-certificate", folders["silo"] / "ca.pem")
    shutil.copy(given / "admission-north.pem", folders["silo"] / "admission.pem")
    settings = {"name": "north", "index": 0, "of": 1, "data": {"partition": "own"}}
    random = np.random.default_rng(0)
    np.savez(
        folders["data"] / "digits.npz",
        x=random.integers(0, 17, (60, 8, 8)).astype(np.float32),
        y=np.arange(60) % 10,
    )
    (folders["silo"] / "silo.json").write_text(json.dumps(settings))


@pytest.mark.slow
def test_the_compose_file_s_commands_train_a_model(
    folders: dict[str, Path], started: list[subprocess.Popen[bytes]]
) -> None:
    handed_out(folders)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {
        **variables(),
        "ORCHESTRATOR_HOST": "127.0.0.1",
        "ORCHESTRATOR_PORT": str(port),
    }
    for role in ("orchestrator", "silo"):
        words = [filled(word, values) for word in COMPOSE["services"][role]["command"]]
        for name, folder in folders.items():
            words = [re.sub(rf"=/{name}(?=/|$)", f"={folder}", word) for word in words]
        words = [word.replace("0.0.0.0:9092", f"127.0.0.1:{port}") for word in words]
        command = [sys.executable, "-m", "azureml_jobs.cli.main", *words]
        with (folders["state"].parent / f"{role}.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
    backend = backend_of(
        "local", compose(["federation.name=clinics", f"federation.folder={folders['state']}"])
    )
    assert isinstance(backend, LocalBackend)
    queue = RunQueue(store_in(backend.folder), time.time)
    run = ["federation.silos={north: {}}", "federation.name=clinics", "data=iid", "run.rounds=1"]
    queue.submit("first", compose([*run, "task=digits", "run.name=first"]))
    deadline = time.monotonic() + 240
    while (outcome := queue.outcome("first")) is None and time.monotonic() < deadline:
        assert all(process.poll() is None for process in started), "a process has ended"
        time.sleep(0.5)
    assert outcome is not None and outcome.status == "finished", outcome
    assert list((folders["state"] / "outputs").glob("**/model.safetensors"))
