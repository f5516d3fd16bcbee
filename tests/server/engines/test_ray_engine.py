"""Flower's simulation on Ray, and what must not reach the user of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flwr.simulation
import grpc
import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from conf.errors import SiloError
from conf.schema import Silo
from conf.silos import silo_to_json
from server.engines.ray_engine import run_on_ray
from server.engines.ray_grid import RayGrid

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

pytestmark = pytest.mark.usefixtures("one_ray_at_a_time")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def silos(count: int) -> list[Silo]:
    return [Silo(f"silo-{i}", i, count) for i in range(count)]


def on_ray(
    main: Any,
    count: int,
    folder: Path,
    address: str | None = None,
    workers: int | None = 2,
    insecure: bool = False,
) -> None:
    log_dir = folder / "a-run/logs"
    run_on_ray(
        main,
        silos(count),
        workers=workers,
        ray_address=address,
        malloc=False,
        log_dir=log_dir,
        app="echo_app:app",
        insecure=insecure,
    )


def asked(grid: Grid, **config: str | int | float) -> list[Message]:
    model = ArrayRecord({"w": Array(np.arange(20_000.0))})
    content = RecordDict({"config": ConfigRecord(dict(config)), "arrays": model})
    return [Message(content, node, "train") for node in grid.get_node_ids()]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def metric(reply: Message, name: str) -> int:
    return int(reply.content.metric_records["metrics"][name])  # type: ignore[arg-type]


def test_two_rounds_with_names_bits_warm_actors_and_no_noise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def main(grid: RayGrid, context: Context) -> None:
        seen["names"] = grid.names()
        for _ in range(2):
            messages = asked(grid)
            replies = list(grid.replies(grid.push_messages(messages), None))
            assert all(
                r.content.array_records["arrays"] == messages[0].content.array_records["arrays"]
                for r in replies
            )
        seen["partition"] = {r.metadata.src_node_id: metric(r, "partition") for r in replies}
        seen["rounds"] = {metric(r, "rounds") for r in replies}
        seen["calls"] = sum({metric(r, "pid"): metric(r, "calls") for r in replies}.values())
        (failed,) = [
            r for r in grid.send_and_receive(asked(grid, do="raise", partition=1)) if r.has_error()
        ]
        seen["error"] = (
            grid.names()[failed.metadata.src_node_id],
            failed.error.code,
            failed.error.reason,
        )

    children = psutil.Process().children(recursive=True)
    on_ray(main, 3, tmp_path)
    assert {node: int(name[-1]) for node, name in seen["names"].items()} == seen["partition"]
    assert (
        seen["rounds"] == {2} and seen["calls"] >= 5
    )  # each process counts on: its module stays loaded
    assert seen["error"] == ("silo-1", 2, "ValueError: no such label")
    out, err = capfd.readouterr()
    assert out == "" and err == ""
    assert "train call" in (tmp_path / "a-run/logs/workers.log").read_text()
    assert (tmp_path / "a-run/logs/server.log").is_file()
    assert set(psutil.Process().children(recursive=True)) <= set(children)


def test_what_the_server_app_raises_is_raised_here(tmp_path: Path) -> None:
    class Mine(Exception):
        pass

    def main(grid: RayGrid, context: Context) -> None:
        grid.push_messages(
            asked(grid, do="sleep", seconds=600)
        )  # a client at work does not hold it up
        raise Mine("said the server")

    started = time.monotonic()
    with pytest.raises(Mine, match="said the server"):
        on_ray(main, 1, tmp_path)
    assert time.monotonic() - started < 60


def test_a_dead_actor_ends_the_run_and_names_its_silo(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def main(grid: RayGrid, context: Context) -> None:
        grid.send_and_receive(asked(grid))
        grid.send_and_receive(asked(grid, do="exit", partition=2))

    with pytest.raises(
        SiloError, match=r"MDW-320.*silo-2.*run\.resume=a-run simulation\.engine=pool"
    ):
        on_ray(main, 3, tmp_path)
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_no_cluster_at_the_address_is_said_at_once(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    started = time.monotonic()
    with pytest.raises(SiloError, match=f"MDW-322.*{address}"):
        on_ray(lambda grid, context: None, 2, tmp_path, address)
    assert time.monotonic() - started < 10


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from flwr.app import ConfigRecord, Message, RecordDict
from conf.schema import Silo
from server.engines.ray_engine import run_on_ray

def main(grid, context):
    def ask(**config):
        content = RecordDict({"config": ConfigRecord(config)})
        return grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()])
    ask()
    print("ready", flush=True)
    ask(do="sleep", seconds=600)

silos = [Silo(f"silo-{i}", i, 3) for i in range(3)]
log_dir = Path(sys.argv[3]) / "a-run/logs"
run_on_ray(main, silos, workers=2, ray_address=None, malloc=False, log_dir=log_dir, app="echo_app:app")
"""


def test_ctrl_c_ends_the_run_within_seconds_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(ROOT), str(HERE), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    at = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - at < 10
    assert (
        err.count("Traceback") == 1 and "conf.errors.Interrupted: MDW-900" in err.splitlines()[-1]
    )
    assert psutil.wait_procs(children, timeout=10)[1] == []


@contextlib.contextmanager
def ray_cluster(environment: dict[str, str], *words: str) -> Iterator[str]:
    """A Ray cluster of one node on free ports, as another user would have started it."""
    port, client_port = free_ports(2)
    folder = tempfile.mkdtemp(prefix="mdw-")  # a short path: Ray puts sockets below it
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    head += [f"--ray-client-server-port={client_port}", *words]
    try:
        with ray_node(environment, head):
            yield f"127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def ray_node(environment: dict[str, str], words: list[str]) -> Iterator[None]:
    """A node of a cluster: a raylet of its own, of two cores."""
    ray = Path(sys.executable).parent / "ray"
    always = ["--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    process = subprocess.Popen(
        [str(ray), "start", *always, *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Ray runtime started" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    try:
        yield
        assert process.poll() is None  # it outlives the runs
    finally:
        process.terminate()
        process.communicate(timeout=30)
        for child in psutil.wait_procs(children, timeout=10)[1]:
            child.kill()


@pytest.mark.slow
def test_an_existing_cluster_is_used_with_the_user_s_token_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def main(grid: RayGrid, context: Context) -> None:
        replies = grid.send_and_receive(asked(grid, do="environment"))
        seen["silos"] = {str(r.content.config_records["environment"]["silo"]) for r in replies}
        seen["malloc"] = {
            str(r.content.config_records["environment"]["MEADOW_MALLOC"]) for r in replies
        }

    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    with ray_cluster(token) as address:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token["RAY_AUTH_TOKEN"])
        for _ in range(2):
            on_ray(main, 3, tmp_path, address)
            assert seen["silos"] == {silo_to_json(silo) for silo in silos(3)}
            assert seen["malloc"] == {"0"}


@pytest.mark.slow
def test_a_cluster_that_takes_calls_without_a_token_is_refused_unless_that_is_accepted(
    tmp_path: Path,
) -> None:
    seen: list[Message] = []

    def main(grid: RayGrid, context: Context) -> None:
        seen.extend(grid.send_and_receive(asked(grid)))

    with ray_cluster({"RAY_AUTH_MODE": "disabled"}) as address:
        with pytest.raises(SiloError, match=r"MDW-313.*simulation\.ray_insecure=true"):
            on_ray(main, 2, tmp_path, address)
        assert not seen
        on_ray(main, 2, tmp_path, address, insecure=True)
    assert len(seen) == 2 and not any(reply.has_error() for reply in seen)


@pytest.mark.slow
def test_silos_stay_with_their_actors_on_two_nodes_of_a_cluster_and_share_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two raylets on this machine, which say that they have a GPU each; nothing computes on one."""
    seen: dict[str, list[tuple[int, str, str]]] = {}

    def main(grid: RayGrid, context: Context) -> None:
        for _ in range(3):
            for reply in grid.send_and_receive(asked(grid, do="environment")):
                assert not reply.has_error(), reply.error
                told = reply.content.config_records["environment"]
                silo = grid.names()[reply.metadata.src_node_id]
                gpu = (str(told["MEADOW_GPU"]), str(told["visible"]))
                seen.setdefault(silo, []).append((metric(reply, "pid"), *gpu))

    # A busy machine is no reason to move here.
    monkeypatch.setattr("server.engines.silo_actors.STEAL_SECONDS", 600.0)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    monkeypatch.setenv("RAY_AUTH_TOKEN", token["RAY_AUTH_TOKEN"])
    with ray_cluster(token, "--num-gpus=1") as address:
        (agent,) = free_ports(1)
        second = [f"--address={address}", "--num-gpus=1", f"--dashboard-agent-listen-port={agent}"]
        with ray_node(token, second):
            on_ray(main, 7, tmp_path, address, workers=4)
    assert len(seen) == 7
    # In each round the same process for a silo, of four that two GPUs are shared by.
    assert all(len(set(told)) == 1 and len(told) == 3 for told in seen.values())
    actors = {told[0] for told in seen.values()}
    assert len({pid for pid, _, _ in actors}) == 4
    assert {gpu for _, gpu, _ in actors} == {"0/2"}
    # Each sees the one GPU of its own node.
    assert {visible for _, _, visible in actors} == {"0"}


CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVPut",  # the head node: where functions and classes are kept
    "/ray.rpc.NodeManagerService/RequestWorkerLease",  # the raylet
    "/ray.rpc.ObjectManagerService/Pull",  # the raylet's object manager
    "/ray.rpc.CoreWorkerService/PushTask",  # workers and the driver
    "/ray.rpc.RuntimeEnvService/GetOrCreateRuntimeEnv",
    "/ray.rpc.ReporterService/GetTraceback",
)


def listeners() -> list[tuple[str, int, str]]:
    """Return host, port and process of each port that this process and its children listen on."""
    mine = psutil.Process()
    found = set()
    for process in [mine, *mine.children(recursive=True)]:
        for one in process.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                host = "127.0.0.1" if one.laddr.ip in ("::", "0.0.0.0") else one.laddr.ip
                found.add((host, one.laddr.port, process.name()))
    return sorted(found)


def answer_to_a_stranger(host: str, port: int) -> set[str]:
    """Return the statuses with which a port answers calls and requests that bring no token."""
    answers = set()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for call in CALLS:
            try:
                channel.unary_unary(call)(b"", timeout=10)
                answers.add(f"taken: {call}")
            except grpc.RpcError as error:
                answers.add(error.code().name)
    for path in ("/", "/get_or_create_runtime_env", "/api/jobs/"):
        request = urllib.request.Request(f"http://{host}:{port}{path}", data=b"", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10):
                answers.add(f"taken: {path}")
        except urllib.error.HTTPError as error:
            answers.add(f"http {error.code}")
            error.close()
        except (OSError, http.client.HTTPException):
            answers.add("no http")
    return answers


def test_each_port_of_ray_refuses_a_call_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the user has set for a cluster of their own is neither used nor told to anybody.
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray/auth_token").write_text("a" * 64)
    monkeypatch.setenv("HOME", str(home))
    theirs = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "b" * 64, "RAY_ADDRESS": "127.0.0.1:1"}
    theirs["RAY_AUTH_TOKEN_PATH"] = str(home / ".ray/auth_token")
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    before = {port for _, port, _ in listeners()}
    seen: dict[str, Any] = {}

    def main(grid: RayGrid, context: Context) -> None:
        assert not any(reply.has_error() for reply in grid.send_and_receive(asked(grid)))
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        seen["token"] = token.read_text()
        seen["modes"] = [stat.S_IMODE(path.stat().st_mode) for path in (token, token.parent)]
        seen["folder"] = token.parent
        for host, port, process in listeners():
            if port not in before:
                seen[f"{process} {port}"] = answer_to_a_stranger(host, port)

    on_ray(main, 2, tmp_path)
    assert seen.pop("token") not in ("a" * 64, "b" * 64)
    assert seen.pop("modes") == [0o600, 0o700]
    assert not seen.pop("folder").exists()
    assert {name: os.environ.get(name) for name in theirs} == theirs
    # The head node, the raylet with its object manager, the agent, a worker and the driver.
    assert len(seen) >= 6, seen
    for port, answers in seen.items():
        assert not [one for one in answers if one.startswith("taken")], (port, answers)
        assert answers & {"UNAUTHENTICATED", "http 401"}, (port, answers)


def test_simulation_ray_is_flower_s_own_run_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    from server.engines import ray_simulation

    assert vars(ray_simulation)["run_simulation"] is flwr.simulation.run_simulation
    seen: list[Any] = []

    def run_simulation(*given: Any, **more: Any) -> None:
        seen.append(given)
        flwr.simulation.run_simulation(*given, **more)

    monkeypatch.setattr(ray_simulation, "run_simulation", run_simulation)

    def main(grid: RayGrid, context: Context) -> None:
        # The Grid below ours is the one that Flower made.
        seen.append(type(grid._grid).__module__)
        seen.append(grid.send_and_receive(asked(grid)))

    on_ray(main, 1, tmp_path)
    (_, client, count), module, replies = seen
    assert isinstance(client, ClientApp) and count == 1
    assert module.startswith("flwr.")
    assert not replies[0].has_error()


def test_a_stray_file_in_the_current_folder_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = tmp_path / "somewhere"
    stray.mkdir()
    for name in ("client.py", "server.py", "conf.py", "strategies.py", "echo_app.py"):
        (stray / name).write_text(f"raise RuntimeError('a stray {name}')")
    monkeypatch.chdir(stray)

    def main(grid: RayGrid, context: Context) -> None:
        replies = grid.send_and_receive(asked(grid))
        assert [reply.error.reason for reply in replies if reply.has_error()] == []

    on_ray(main, 2, tmp_path)


@pytest.mark.parametrize(
    ("code", "seen"),
    [(signal.SIGTERM, KeyboardInterrupt), (1, SystemExit)],
    ids=["SIGTERM", "other"],
)
def test_sigterm_while_ray_starts_interrupts_the_run(
    code: int, seen: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*given: Any, **more: Any) -> None:
        # What Ray's handler of SIGTERM does, which stands until the run's own is there.
        sys.exit(code)

    monkeypatch.setattr("server.engines.ray_simulation.ray.init", ended)
    with pytest.raises(seen):
        on_ray(lambda grid, context: None, 2, tmp_path)


class SlowStart:
    """Ray on a machine so busy that its first `times` starts end with `error`."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times = times
        self.error = error
        self.starts = 0

    def __call__(self, *given: Any, **more: Any) -> None:
        self.starts += 1
        if self.starts <= self.times:
            raise self.error
        # Far enough: what follows would need a Ray.
        raise Far


class Far(BaseException):
    """Ray has started."""


RAYLET = Exception("The current node timed out during startup. This could happen ...")
CONTROL_STORE = RuntimeError("Timed out waiting for file /tmp/ray/gcs_server_port_13bb")


@pytest.mark.parametrize("error", [RAYLET, CONTROL_STORE], ids=["raylet", "control store"])
def test_ray_that_starts_too_slowly_is_started_again(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowStart(2, error)
    monkeypatch.setattr("server.engines.ray_simulation.ray.init", slow)
    with pytest.raises(Far):
        on_ray(lambda grid, context: None, 2, tmp_path)
    assert slow.starts == 3


def test_ray_that_is_too_slow_each_time_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engines.ray_simulation.ray.init", SlowStart(3, CONTROL_STORE))
    with pytest.raises(SiloError, match=r"MDW-318.*in 3 attempts: RuntimeError: Timed out"):
        on_ray(lambda grid, context: None, 2, tmp_path)
