"""A silo speaks only to the server that its own CA vouches for, at the address that it dialled."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from azureml_jobs.identity.authority import ServerCredentials, server_credentials
from conf.errors import IdentityError
from server.orchestrator.service import Orchestrator
from tests.faults.federation import Federation


@contextmanager
def shown(federation: Federation, credentials: ServerCredentials) -> Iterator[str]:
    orchestrator = Orchestrator("127.0.0.1:0", credentials, federation.public)
    orchestrator.start()
    try:
        yield orchestrator.address
    finally:
        orchestrator.stop(over=False)


def distrust(federation: Federation, address: str) -> str:
    connection = federation.connection(address, "silo-1")
    try:
        with pytest.raises(IdentityError) as error:
            connection.open()
        return str(error.value)
    finally:
        connection.close()


def test_a_certificate_of_another_ca(tmp_path: Path) -> None:
    ours, theirs = Federation(_folder(tmp_path, "ours")), Federation(_folder(tmp_path, "theirs"))
    with shown(ours, theirs.credentials()) as address:
        assert "MDW-755" in distrust(ours, address)


def test_an_expired_certificate(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    federation = Federation(tmp_path, made=now - timedelta(days=60))
    expired = server_credentials(
        federation.secrets, ["127.0.0.1"], now - timedelta(days=30), days=1
    )
    with shown(federation, expired) as address:
        assert "MDW-755" in distrust(federation, address)


def test_a_certificate_for_another_address(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with shown(federation, federation.credentials("10.1.2.3")) as address:
        assert "MDW-755" in distrust(federation, address)


def test_a_server_without_tls(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert "MDW-755" in distrust(federation, f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(mode=0o700)
    return folder
