"""A transfer by a relay goes on where it stopped, when the relay is killed and when an ingress cuts connections.

What crosses is counted at the sockets of a proxy between the silo and the relay.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from conf.schema import OutboundConf
from server.orchestrator.packed_grid import PackedGrid
from server.round.exchange import Closing, exchange
from tests.azureml_jobs.relay.place import relay_of
from tests.azureml_jobs.relay.process import RelayProcess
from tests.azureml_jobs.relay.proxies import PASSWORD, USER
from tests.azureml_jobs.relay.proxies import Proxy as Intercepting
from tests.azureml_jobs.relay.public_ca import PublicCa
from tests.azureml_jobs.relay.relayed import Relayed
from tests.faults.federation import Federation, ask, lines, model, until
from tests.faults.proxy import Proxy

SIZE = 250_000
BYTES = 3 * 4 * SIZE
"""Of the model there, and of the update back."""
RATE = 3_000_000.0
LATE = 0.8 * BYTES
"""That have crossed when the relay is killed: a transfer that began anew would send as much again."""


@contextmanager
def behind(url: str) -> Iterator[Proxy]:
    """A proxy before a relay."""
    proxy = Proxy(url.removeprefix("https://"))
    try:
        yield proxy
    finally:
        proxy.close()


def trained_once(relayed: Relayed, folder: Path) -> list[Message]:
    """Ask the silo for one round, whatever comes in between, and return the answers."""
    relayed.orchestrator.wait_for(["silo-1"], 1, 30)
    grid = PackedGrid(relayed.orchestrator.open_run("run", ["silo-1"]))
    trained = folder / "trained.jsonl"
    asked = ask(grid, 1, model(SIZE, seed=1), **{"trained-file": str(trained)})
    closing = Closing(timeout=120, quorum=1, patience=120)
    replies = [reply for _, reply, _ in exchange(grid, asked, closing)]
    assert len(lines(trained)) == 1
    return replies


def check_whole(replies: list[Message]) -> None:
    (reply,) = replies
    assert not reply.has_error()
    for name, array in model(SIZE, seed=1).items():
        assert np.array_equal(reply.content["arrays"][name].numpy(), array.numpy() + 1)


@pytest.mark.parametrize("way", [pytest.param("down", marks=pytest.mark.slow), "up"])
def test_a_relay_killed_in_mid_round_costs_a_transfer_a_part(tmp_path: Path, way: str) -> None:
    """It is killed while the model comes down, or while the update goes up, and started again."""
    federation = Federation(tmp_path, silos=1)
    authority = tmp_path / "relays-ca.pem"
    authority.write_bytes(federation.authority)
    relay = RelayProcess(tmp_path, {"federation": authority})
    relay.start()
    try:
        with behind(relay.url) as proxy:
            relayed = Relayed(federation, relay.url, relay.ca.file, f"https://{proxy.address}")
            with relayed.running(), relayed.node(state=tmp_path / "state"):
                relayed.orchestrator.wait_for(["silo-1"], 1, 30)
                before = {"down": proxy.returned, "up": proxy.carried}
                proxy.limit(RATE)

                def crossed() -> int:
                    now = {"down": proxy.returned, "up": proxy.carried}
                    return now[way] - before[way]

                def disturb() -> None:
                    until(lambda: crossed() > LATE, 120)
                    relay.kill()
                    relay.start()

                disturbing = threading.Thread(target=disturb)
                disturbing.start()
                replies = trained_once(relayed, tmp_path)
                disturbing.join()
                check_whole(replies)
                assert crossed() < 1.5 * BYTES
                assert relay.said().count("an orchestrator listens") == 2
    finally:
        relay.kill()


@pytest.mark.slow
def test_an_ingress_that_cuts_each_connection_is_dialled_again_by_both_sides(
    tmp_path: Path,
) -> None:
    """Azure Container Apps ends a connection after 240 s: here both directions take several lives of one."""
    federation = Federation(tmp_path, silos=1)
    with (
        relay_of(tmp_path, federation) as relay,
        behind(relay.url) as ingress,
        behind(relay.url) as silos,
    ):
        for one in (ingress, silos):
            one.lasting(2.0)
        silos.limit(RATE / 3)
        url = f"https://{ingress.address}"
        relayed = Relayed(federation, url, relay.ca.file, f"https://{silos.address}")
        with relayed.running(), relayed.node(state=tmp_path / "state"):
            check_whole(trained_once(relayed, tmp_path))
            # 3 MB at 1 MB/s are 3 s there and 3 s back.
            assert silos.connections >= 3, silos.connections
            # The control connection, and one for each of the silo's.
            assert ingress.connections >= 5, ingress.connections
            print(f"{silos.connections} connections, {silos.returned} down, {silos.carried} up")
            assert silos.returned < 2 * BYTES
            assert silos.carried < 2 * BYTES


def test_a_silo_behind_a_proxy_that_inspects_and_lets_one_name_through_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the outer TLS with a certificate of its own, and finds TLS that it has no key to."""
    federation = Federation(tmp_path, silos=1)
    inspecting = PublicCa.made(tmp_path / "inspecting", "inspecting")
    monkeypatch.setenv("PASSWORD_OF_THE_PROXY", PASSWORD)
    with (
        relay_of(tmp_path, federation) as relay,
        Intercepting(inspect=inspecting, trusted=relay.ca.file) as proxy,
        Relayed(federation, relay.url, relay.ca.file).running() as relayed,
    ):
        read = bytearray()
        proxy.tell = read.extend
        outbound = OutboundConf(
            ca=str(inspecting.file),
            proxy=proxy.url,
            proxy_user=USER,
            proxy_password="env:PASSWORD_OF_THE_PROXY",
        )
        with relayed.node(outbound=outbound):
            check_whole(trained_once(relayed, tmp_path))
        assert set(proxy.seen) == {f"127.0.0.1:{relay.port}"}
    assert len(read) > 2 * BYTES
    # What it hears from the relay has no mask.
    values = model(SIZE, seed=1)["w0"].numpy().tobytes()
    assert b"HTTP/1.1 101" in read
    assert not any(values[start : start + 16] in read for start in range(0, 4096, 16))
