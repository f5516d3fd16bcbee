"""A federation whose silos meet their orchestrator at a relay: gRPC and its own TLS inside, cuts and a killed relay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.relay.bridge import STREAMS_PER_KEY, ServerEnd, dialled
from azureml_jobs.rendezvous import StaticRendezvous
from client.node.own_admission import SiloAdmission
from client.node.relayed_server import RelayedServer
from conf.errors import ConfigError, IdentityError
from conf.schema import OutboundConf
from server.orchestrator.relayed_silos import by_relay
from tests.azureml_jobs.relay.place import RelayThread, relay_of
from tests.azureml_jobs.relay.relayed import Relayed
from tests.faults.federation import Federation, until


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation"), 2)


@pytest.fixture
def relay(tmp_path: Path, federation: Federation) -> Iterator[RelayThread]:
    with relay_of(tmp_path, federation) as made:
        yield made


@pytest.fixture
def relayed(relay: RelayThread, federation: Federation) -> Iterator[Relayed]:
    with Relayed(federation, relay.url, relay.ca.file).running() as made:
        yield made


@dataclass
class Waiting:
    """A silo that waits, and is never fetched."""

    key: str
    refused: list[str]

    async def fetch(self) -> Any:
        await asyncio.Event().wait()

    async def refuse(self, why: str) -> None:
        self.refused.append(why)


@pytest.mark.parametrize(("key", "refused"), [("SHA256:one", 5), ("", 0)])
def test_one_silo_has_so_many_streams_and_those_of_no_known_silo_are_not_one_s(
    key: str, refused: int
) -> None:
    """By a Hybrid Connection nobody knows who comes: the ninth silo was shut out."""
    said: list[str] = []

    async def come() -> None:
        end = ServerEnd(SimpleNamespace(), lambda: "")  # type: ignore[arg-type]
        for _ in range(STREAMS_PER_KEY + 5):
            await end._take(Waiting(key, said))
        for task in end._tasks:
            task.cancel()

    asyncio.run(come())
    assert said == ["too many connections at once"] * refused


def test_silos_that_come_by_a_relay_are_there_and_the_orchestrator_says_how_they_came(
    relayed: Relayed,
) -> None:
    with relayed.silo("silo-1") as one:
        assert one.open(give_up_at=one.clock() + 20) > 0
        direct = relayed.federation.connection(relayed.orchestrator.address, "silo-2")
        direct.open()
        try:
            until(lambda: relayed.orchestrator.connected() == ["silo-1", "silo-2"])
            assert relayed.orchestrator.ways() == {"silo-1": "relay", "silo-2": "direct"}
        finally:
            direct.close()


def test_a_relay_that_is_killed_and_started_again_costs_a_silo_seconds(
    relayed: Relayed, relay: RelayThread
) -> None:
    with relayed.silo("silo-1") as one:
        node = one.open(give_up_at=one.clock() + 20)
        relay.stop()
        until(lambda: not relayed.end.listens.is_set())
        relay.start()
        assert one.open(give_up_at=one.clock() + 30) == node


def test_a_relay_with_a_certificate_of_a_strange_ca_is_told_to_the_silos_owner(
    relayed: Relayed, tmp_path: Path
) -> None:
    with relayed.silo("silo-1", ca=relayed.federation.folder / "federations-ca.pem") as one:
        with pytest.raises(TimeoutError):
            one.open(give_up_at=one.clock() + 1.5)
        state, hint = relayed.way.place.not_answering()
        assert state.startswith("MDW-766")
        assert "outbound.ca" in hint


def test_a_silo_without_an_admission_is_told_before_it_dials(relayed: Relayed) -> None:
    key = load_node_key(
        relayed.federation.secrets.get(node_secret("federation", "silo-1")), "silo-1"
    )
    place = StaticRendezvous("127.0.0.1:1")
    way = RelayedServer(relayed.url)
    try:
        with pytest.raises(IdentityError, match="MDW-715"):
            admission = SiloAdmission("silo-1", key, relayed.federation.authority, place)
            way.start(key, admission, OutboundConf(), None)
    finally:
        way.stop()


def test_a_revoked_silo_is_told_so_inside_by_its_orchestrator(relayed: Relayed) -> None:
    relayed.orchestrator.revoke_key(relayed.federation.public["silo-2"])
    with (
        relayed.silo("silo-2") as one,
        pytest.raises(IdentityError, match="MDW-744"),
    ):
        one.open(give_up_at=one.clock() + 20)


def test_a_port_that_listens_everywhere_is_dialled_on_this_machine() -> None:
    assert dialled("0.0.0.0:9092") == "127.0.0.1:9092"
    assert dialled("[::]:9092") == "[::1]:9092"
    assert dialled("10.0.0.1:9092") == "10.0.0.1:9092"


def test_an_orchestrator_is_told_of_an_address_that_is_no_relays_before_it_dials(
    relayed: Relayed,
) -> None:
    relayed.conf.federation.relay.url = "ftp://relay.example.org"
    secrets = relayed.federation.secrets
    way = by_relay(relayed.conf, relayed.orchestrator, lambda: relayed.credentials, secrets)
    with pytest.raises(ConfigError, match="MDW-119"), way:
        pass
