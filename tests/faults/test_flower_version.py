"""A release of Flower out of range, here or on the other side: one line that says what to do, and its own status."""

from __future__ import annotations

import concurrent.futures
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import grpc
import pytest
from flwr.supercore.interceptors import (
    RpcErrorTranslationServerInterceptor,
    create_fleet_runtime_version_server_interceptor,
)
from flwr.supercore.version import package_version

from client.node import connection
from conf import flower_version
from conf.errors import IdentityError
from server.orchestrator.packed_grid import PackedGrid
from strategies.wire.fleet_calls import add_fleet
from tests.faults.federation import ROOT, Federation, ask, model, total

UNTESTED = "1.43.0"
OTHER_MAJOR = "2.0.0"
PRETEND = f"""
import sys
from importlib import metadata
real = metadata.version
metadata.version = lambda name: {UNTESTED!r} if name == "flwr" else real(name)
from azureml_jobs.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
VERBS = {
    "the orchestrator": ["serve"],
    "a silo's node": ["join", "--silo={}", "--server=127.0.0.1:1", "--ca=none", "--key=none"],
    "engine ray": ["simulate", "task=digits", "simulation=ray"],
    "engine pool": ["simulate", "task=digits", "simulation=pool"],
}
BELOW_THE_RANGE = ["1.38.9", "1.3.9", "0.42.0"]
ABOVE_THE_RANGE = ["1.43.0", "1.43.0.dev20261101", "1.390.0", "2.39.0", "2.41.0"]
NO_VERSION = ["none", "", "1", "1.", "1.42rc1", "1.42-x\n", "v1.42.0", "1.٤٢.0", "1." + "9" * 9999]


@pytest.mark.parametrize("who", VERBS)
def test_with_a_release_out_of_range_installed_nothing_starts(who: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRETEND, *VERBS[who]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == IdentityError.exit_status, done.stderr
    assert done.stderr.splitlines() == [
        f"error MDW-752: Meadow supports Flower 1.39 to 1.42, and {UNTESTED} is installed.",
        "  Install 'flwr>=1.39,<1.43' here.",
    ]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing was begun"


@pytest.mark.parametrize("installed", [*BELOW_THE_RANGE, *ABOVE_THE_RANGE, "none"])
def test_a_release_out_of_range_will_not_do(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: installed)
    with pytest.raises(IdentityError, match=f"MDW-752: .* and {installed} is installed"):
        flower_version.require()


@pytest.mark.parametrize("version", [*BELOW_THE_RANGE, *ABOVE_THE_RANGE, *NO_VERSION])
def test_what_another_says_its_version_is_counts_only_as_a_version_in_the_range(
    version: str,
) -> None:
    assert not flower_version.supports(version)


@pytest.mark.parametrize("version", ["1.39.0", "1.40.3", "1.41.0.dev20261020", "1.42.0", "1.42"])
def test_every_release_of_the_range_will_do(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    flower_version.require()


def test_the_range_the_check_and_the_lock_agree() -> None:
    (asked,) = re.findall(r'"flwr\[simulation\](.+?)"', (ROOT / "pyproject.toml").read_text())
    assert f"flwr{asked}" == flower_version.REQUIREMENT
    locked_lines = (ROOT / "requirements.lock").read_text()
    (locked,) = re.findall(r"^flwr==([\d.]+) ", locked_lines, re.MULTILINE)
    newest = (flower_version.BELOW[0], flower_version.BELOW[1] - 1)
    assert tuple(map(int, locked.split(".")[:2])) == newest, "the lock holds the newest"


def pretend_to_be(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, nodes of this process say that their Flower is another."""
    headers = (("flwr-package-name", "flwr"), ("flwr-package-version", version))
    said = (*headers, ("flwr-component-name", "SuperNode"))
    monkeypatch.setattr(connection, "release_headers", lambda component: said)


def test_our_orchestrator_refuses_a_node_out_of_range_both_say_so_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        pretend_to_be(UNTESTED, monkeypatch)
        with federation.thread_node(orchestrator.address, federation.silos[1]) as node:
            node.thread.join(20)
        assert isinstance(node.ended_with, IdentityError) and node.ended_with.exit_status == 8
        versions = f"silo-2 runs Flower '{UNTESTED}', the orchestrator '{package_version}'."
        what = f"{versions} Install 'flwr>=1.39,<1.43' on both sides."
        assert str(node.ended_with) == f"MDW-753: The server refuses this silo: {what}"
        said = [
            one.getMessage() for one in caplog.records if one.name == "server.orchestrator.refusals"
        ]
        assert len(said) == 1 and f"MDW-753: {what}" in said[0]
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1", "silo-2"]))
        assert total(grid.send_and_receive(ask(grid, 1, model()), timeout=20)) == 3001


@pytest.mark.parametrize("version", ["1.39.0", "1.42.0"])
def test_our_orchestrator_lets_in_a_node_of_any_release_of_the_range(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_to_be(version, monkeypatch)
    federation = Federation(tmp_path, silos=1)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        assert orchestrator.wait_for(["silo-1"], 1, 20) == ["silo-1"]


def test_a_stock_server_that_refuses_our_node_ends_it_with_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, silos=1)
    with stock_server(federation) as address:
        pretend_to_be(OTHER_MAJOR, monkeypatch)
        with federation.thread_node(address, federation.silos[0]) as node:
            node.thread.join(20)
    assert isinstance(node.ended_with, IdentityError) and node.ended_with.code == "MDW-753"
    assert f"received SuperNode version {OTHER_MAJOR}" in node.ended_with.message
    assert node.ended_with.hint == "Install 'flwr>=1.39,<1.43' on both sides."


class _Unreached:
    """A servicer that no call may reach."""

    def __getattr__(self, name: str) -> Callable[[object, object], NoReturn]:
        def reached(request: object, context: object) -> NoReturn:
            raise AssertionError(f"{name} was let through")

        return reached


@contextmanager
def stock_server(federation: Federation) -> Iterator[str]:
    """A server that speaks Flower's Fleet service and refuses other releases, as Flower's interceptor does it."""
    refusing = create_fleet_runtime_version_server_interceptor(reject_incompatible=True)
    interceptors = [RpcErrorTranslationServerInterceptor(), refusing]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), interceptors=interceptors)
    add_fleet(_Unreached(), server)
    made = federation.credentials()
    credentials = grpc.ssl_server_credentials(((made.key, made.certificate),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
