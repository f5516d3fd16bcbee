"""A job's network: nothing comes in, nothing goes out but what is declared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from azureml_jobs.rehearsal.networks import Networks, can_isolate

pytestmark = pytest.mark.skipif(not can_isolate(), reason="no network namespaces here")

DIALS = """
import socket, sys
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        with socket.create_connection((host, int(port)), 5) as made:
            made.sendall(b"hello")
            made.shutdown(socket.SHUT_WR)
            print(made.makefile("rb").read().decode() or "closed")
    except OSError as error:
        print(type(error).__name__)
"""
ECHOES = """
import socket
with socket.create_server(("0.0.0.0", 9092)) as listening:
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.connect(("192.0.2.1", 9))
    print(probe.getsockname()[0], flush=True)
    for _ in range(2):
        made, _ = listening.accept()
        with made:
            made.sendall(made.makefile("rb").read() * 2)
"""


@pytest.fixture
def networks() -> Iterator[Networks]:
    made = Networks()
    yield made
    made.stop()


@pytest.fixture
def outside() -> Iterator[int]:
    """A port of this machine that answers with what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    made, _ = listening.accept()
                except OSError:
                    return
                with made:
                    made.sendall(b"outside: " + made.makefile("rb").read())

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command as a node does, and end it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def dial(networks: Networks, compute: str, *where: object) -> list[str]:
    command = [*networks.around(compute), sys.executable, "-c", DIALS, *map(str, where)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")


def test_a_job_reaches_the_declared_port_of_this_machine_and_no_other(
    networks: Networks, outside: int
) -> None:
    assert dial(networks, "silo", "127.0.0.1", outside)[0] == "ConnectionRefusedError"
    networks.start(outside)
    assert dial(networks, "silo", "127.0.0.1", outside)[0] == "outside: hello"
    assert dial(networks, "silo", "192.0.2.1", 443)[0] == "OSError"


def test_a_silo_reaches_the_server_it_is_peered_with_at_the_address_that_it_gives(
    networks: Networks,
) -> None:
    networks.peer("SILO", "server", 9092)
    command = [*networks.around("server"), sys.executable, "-c", ECHOES]
    with running(command) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("10.1.0.")
        assert dial(networks, "silo", address, 9092)[0] == "hellohello"
        other = "10.1.0.200" if address != "10.1.0.200" else "10.1.0.201"
        # Another address of the server's network is nobody's.
        assert "hello" not in dial(networks, "silo", other, 9092)[0]
        assert dial(networks, "stranger", address, 9092)[0] == "ConnectionRefusedError"
        assert dial(networks, "silo", address, 9092)[0] == "hellohello"


def test_a_command_s_status_and_signals_pass(networks: Networks) -> None:
    ended = subprocess.run([*networks.around("silo"), "bash", "-c", "exit 7"])
    assert ended.returncode == 7
    line = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    command = [*networks.around("silo"), "bash", "-c", line]
    with running(command) as job:
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
        # As a node ends a job: its whole group is told.
        subprocess.run(["kill", "-TERM", "--", f"-{job.pid}"], check=True)
        assert job.stdout.readline() == "told\n"
        assert job.wait(10) == 3
