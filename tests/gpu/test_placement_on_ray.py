"""A real Ray that was told of GPUs: each actor is given its own, in a private Ray and in a cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.placement import MASK
from conf.errors import SiloError
from conf.schema import Silo
from server.engines.ray_engine import run_on_ray
from server.engines.ray_grid import RayGrid

HERE = Path(__file__).parent
GPUS = 2

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray_at_a_time")]


@pytest.fixture(autouse=True)
def told_of_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.delenv(MASK, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: GPUS)


def placed(folder: Path, silos: int, **more: Any) -> list[tuple[str, str]]:
    """Return what each silo's actor was given and sees, each actor with silos of its own."""
    seen: dict[int, tuple[str, str]] = {}

    def main(grid: RayGrid, context: Context) -> None:
        # Until each actor has answered: which of them gets a message is Flower's choice.
        for _ in range(20):
            content = RecordDict({"config": ConfigRecord({"x": 1})})
            asked = [Message(content, node, "train") for node in grid.get_node_ids()]
            for reply in grid.send_and_receive(asked):
                told = reply.content.config_records["placed"]
                seen[int(told["process"])] = (str(told["given"]), str(told["mask"]))  # type: ignore[arg-type]
            if len(seen) == silos:
                return

    run_on_ray(
        main,
        [Silo(f"silo-{i}", i, silos) for i in range(silos)],
        workers=silos,
        malloc=False,
        log_dir=folder / "a-run/logs",
        app="placed_app:app",
        **{"ray_address": None, **more},
    )
    return sorted(seen.values(), key=lambda one: one[1])


def test_actors_share_the_gpus_evenly_and_each_sees_its_own(tmp_path: Path) -> None:
    assert placed(tmp_path, 3) == [("0/2", "0"), ("0/2", "0"), ("0/2", "1")]


def test_the_first_gpu_alone_is_used_where_one_is_asked_for(tmp_path: Path) -> None:
    assert placed(tmp_path, 2, gpus=1) == [("0/2", "0"), ("0/2", "0")]


@pytest.mark.parametrize("value", ["0", "1"])
def test_without_gpus_no_actor_sees_one_whatever_ray_would_do(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", value)
    assert placed(tmp_path, 2, gpus=0) == [("none", ""), ("none", "")]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def cluster(gpus: int) -> Iterator[str]:
    """A Ray that somebody else has started, with GPUs as it believes."""
    port, client_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="mdw-") as folder:
        options = {
            "port": port,
            "num-cpus": 2,
            "num-gpus": gpus,
            "include-dashboard": "false",
            "temp-dir": folder,
            "node-ip-address": "127.0.0.1",
            "ray-client-server-port": client_port,
        }
        ray = Path(sys.executable).parent / "ray"
        words = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(
            [str(ray), "start", "--head", "--block", *words, "--disable-usage-stats"],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=30)
            for child in psutil.wait_procs(children, timeout=10)[1]:
                child.kill()


def test_the_actors_of_a_cluster_share_what_it_has(tmp_path: Path) -> None:
    with cluster(GPUS) as address:
        here = {"ray_address": address, "insecure": True}
        assert placed(tmp_path, 2, **here) == [("0/1", "0"), ("0/1", "1")]
        assert placed(tmp_path, 2, gpus=1, **here)[0][0] == "0/2"
        assert placed(tmp_path, 2, gpus=0, **here) == [("none", ""), ("none", "")]


def test_an_actor_whose_device_is_lost_ends_the_run_by_name(tmp_path: Path) -> None:
    """Flower would give it one silo after another, and each would fail as the first one did."""

    def main(grid: RayGrid, context: Context) -> None:
        content = RecordDict({"config": ConfigRecord({"poison": "silo-1"})})
        grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()])

    silos = [Silo(f"silo-{i}", i, 2) for i in range(2)]
    logs = tmp_path / "a-run/logs"
    here: dict[str, Any] = {"workers": 2, "ray_address": None, "malloc": False, "gpus": 0}
    with pytest.raises(SiloError, match=r"MDW-320.*silo-1.*CUDA error.*run\.resume=a-run"):
        run_on_ray(main, silos, log_dir=logs, app="poisoned_app:app", **here)
