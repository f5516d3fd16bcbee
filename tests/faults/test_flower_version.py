"""Another release of Flower, here or on the other side: one line that says what and what to do, and its own status."""

from __future__ import annotations

import concurrent.futures
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import grpc
import pytest
from flwr.proto.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from flwr.supercore.interceptors import (
    RpcErrorTranslationServerInterceptor,
    create_fleet_runtime_version_server_interceptor,
)
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.version import package_version

from conf import flower_version
from conf.errors import IdentityError
from server.orchestrator.packed_grid import PackedGrid
from tests.faults.federation import ROOT, Federation, ask, model, total

NEWER = "1.40.0"
PRETEND = f"""
import sys
from importlib import metadata
real = metadata.version
metadata.version = lambda name: {NEWER!r} if name == "flwr" else real(name)
from azureml_jobs.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
VERBS = {
    "the orchestrator": ["serve"],
    "a silo's node": ["join", "--help"],
    "engine ray": ["simulate", "task=digits", "simulation=ray"],
    "engine pool": ["simulate", "task=digits", "simulation=pool"],
}


@pytest.mark.parametrize("who", VERBS)
def test_with_another_release_installed_nothing_starts(who: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRETEND, *VERBS[who]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == IdentityError.exit_status, done.stderr
    assert done.stderr.splitlines() == [
        f"error MDW-752: Meadow is written for Flower {flower_version.WRITTEN_FOR}, and {NEWER} is installed.",
        f"  Install flwr=={flower_version.WRITTEN_FOR}.* here.",
    ]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing was begun"


@pytest.mark.parametrize("installed", ["1.390.0", "1.3.9", "2.39.0", "1.38.9", "none"])
def test_only_the_release_itself_will_do(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: installed)
    with pytest.raises(IdentityError, match=f"MDW-752: .* and {installed} is installed"):
        flower_version.require()


def test_the_pin_and_the_check_name_the_same_release() -> None:
    (pinned,) = re.findall(
        r'"flwr\[simulation\]==([\d.]+)\.\*"', (ROOT / "pyproject.toml").read_text()
    )
    assert pinned == flower_version.WRITTEN_FOR
    (locked,) = re.findall(
        r"^flwr==([\d.]+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    assert locked.startswith(f"{flower_version.WRITTEN_FOR}.")


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, nodes say that their Flower is newer."""
    theirs = RuntimeVersionMetadata("flwr", NEWER, "SuperNode")
    monkeypatch.setattr(RuntimeVersionMetadata, "from_local_component", lambda name: theirs)


def test_our_orchestrator_refuses_a_newer_node_both_say_so_and_the_run_goes_on(
    tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        request.getfixturevalue("newer")
        with federation.thread_node(orchestrator.address, federation.silos[1]) as node:
            node.thread.join(20)
        assert isinstance(node.ended_with, IdentityError) and node.ended_with.exit_status == 8
        versions = f"silo-2 runs Flower '{NEWER}', the orchestrator '{package_version}'."
        what = f"{versions} Install flwr=={flower_version.WRITTEN_FOR}.* on both sides."
        assert str(node.ended_with) == f"MDW-753: The server refuses this silo: {what}"
        said = [
            one.getMessage() for one in caplog.records if one.name == "server.orchestrator.identity"
        ]
        assert len(said) == 1 and f"MDW-753: {what}" in said[0]
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1", "silo-2"]))
        assert total(grid.send_and_receive(ask(grid, 1, model()), timeout=20)) == 3001


def test_a_stock_server_that_refuses_our_node_ends_it_with_what_it_says(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    federation = Federation(tmp_path, silos=1)
    with stock_server(federation) as address:
        request.getfixturevalue("newer")
        with federation.thread_node(address, federation.silos[0]) as node:
            node.thread.join(20)
    assert isinstance(node.ended_with, IdentityError) and node.ended_with.code == "MDW-753"
    assert f"received SuperNode version {NEWER}" in node.ended_with.message
    assert node.ended_with.hint == "Install the same release of Flower on both sides."


@contextmanager
def stock_server(federation: Federation) -> Iterator[str]:
    """A server that speaks Flower's Fleet service and refuses other releases, as Flower's interceptor does it."""
    refusing = create_fleet_runtime_version_server_interceptor(reject_incompatible=True)
    interceptors = [RpcErrorTranslationServerInterceptor(), refusing]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), interceptors=interceptors)
    add_FleetServicer_to_server(FleetServicer(), server)  # type: ignore[abstract]  # no call gets through to it
    made = federation.credentials()
    credentials = grpc.ssl_server_credentials(((made.key, made.certificate),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
