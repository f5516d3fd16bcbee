"""Addresses and ports as this machine sees them: reached or not, free or taken, and what a job needs."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from azureml_jobs.preflight.findings import OK, WARNING, Finding
from azureml_jobs.preflight.network import listening, reached
from conf.schema import OrchestratorConf


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


def listen(address: str, workspace: str | None = None) -> Finding:
    (found,) = listening("server", OrchestratorConf(listen=address, workspace=workspace))
    return found


def test_an_address_that_answers_is_reached(taken: str) -> None:
    (found,) = reached("silo", taken)
    assert found.state == OK and f"{taken} takes connections" in found.seen


def test_one_that_does_not_is_a_warning_that_says_why(free: str) -> None:
    (found,) = reached("silo", free)
    assert found.state == WARNING and "connection refused" in found.seen and found.fix


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_a_port_that_does_not_exist_is_a_warning(port: str) -> None:
    (found,) = reached("silo", f"127.0.0.1:{port}")
    assert found.state == WARNING


def test_what_is_not_an_address_is_left_to_another_check() -> None:
    assert list(reached("silo", "no address")) == []


def test_on_this_machine_the_port_must_be_free(taken: str, free: str) -> None:
    assert listen(free).state == OK
    assert listen("127.0.0.1:0").state == OK
    found = listen(taken)
    assert found.state == WARNING and "address already in use" in found.seen


@pytest.mark.parametrize(
    ("address", "state"),
    [
        ("0.0.0.0:9092", OK),
        ("127.0.0.1:9092", WARNING),
        ("[::1]:9092", WARNING),
        ("0.0.0.0:0", WARNING),
    ],
)
def test_in_a_job_other_machines_must_reach_a_port_that_is_known(address: str, state: str) -> None:
    found = listen(address, workspace="hub")
    assert found.state == state
    assert bool(found.fix) is (state == WARNING)
