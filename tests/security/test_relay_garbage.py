"""Garbage at a relay from those who have proven a key, on either side: their own connection ends, and no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from azureml_jobs.relay.connection_proofs import CONTROL, SILO
from azureml_jobs.relay.control_frames import Refusal
from azureml_jobs.relay.stream_connection import FRAME_BYTES, StreamConnection
from server.orchestrator.packed_grid import PackedGrid
from tests.azureml_jobs.relay.ends import Server, closed_with, meet, raw, run
from tests.azureml_jobs.relay.place import (
    RelayThread,
    dialing,
    listening,
    relay_of,
    server_signer,
)
from tests.azureml_jobs.relay.relayed import Relayed
from tests.faults.federation import Federation, ask, model

PING = b"x" * 125
MOST_PINGS = 40_000_000
"""Bytes of pings that are sent, where nobody ends it."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation"), 2)


@pytest.fixture
def relay(tmp_path: Path, federation: Federation) -> Iterator[RelayThread]:
    with relay_of(tmp_path, federation, proof_seconds=30) as made:
        yield made


@asynccontextmanager
async def others_go_on(relay: RelayThread, federation: Federation) -> Any:
    """A server and a stream of another silo, which carries bytes before and after what happens in the block."""
    async with Server(listening(relay, federation)) as server:
        one, fetched = await meet(dialing(relay, federation, "silo-2"), server)
        yield server
        frame = secrets.token_bytes(1000)
        await one.send(frame)
        assert await asyncio.wait_for(fetched.recv(), 10) == frame


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\0" * 100, 4400),
        ("{", 4400),
        ("[" * 10_000, 4400),
        (json.dumps({"open": "a" * 32}), 4400),
        (json.dumps({"refuse": "a" * 32, "why": 1}), 4400),
        (json.dumps({"refuse": "../x", "why": "y"}), 4400),
        ("x" * (FRAME_BYTES + 1), 1009),
    ],
)
def test_an_orchestrator_that_says_garbage_over_its_control_channel_loses_it(
    relay: RelayThread, federation: Federation, frame: str | bytes, code: int
) -> None:
    async def test() -> None:
        place = relay.place()
        control = await place.enter(place.claim(CONTROL), server_signer(federation))
        await control.send(frame)
        assert await closed_with(control) == code
        async with others_go_on(relay, federation):
            pass

    run(test())


def test_an_orchestrator_may_refuse_no_stream_that_it_was_not_offered(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        place = relay.place()
        control = await place.enter(place.claim(CONTROL), server_signer(federation))
        await control.send(Refusal("a" * 32, "it is not mine").to_text())
        pong = await control.ping()
        await asyncio.wait_for(pong, 10)
        await control.close()

    run(test())


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("frame", "code"), [("a text", 4400), (bytes(FRAME_BYTES + 1), 1009)])
def test_a_stream_that_carries_anything_but_frames_of_bytes_ends_on_both_sides(
    relay: RelayThread, federation: Federation, side: int, frame: Any, code: int
) -> None:
    async def test() -> None:
        async with others_go_on(relay, federation) as server:
            ends = await meet(dialing(relay, federation), server)
            await ends[side].send(frame)
            told = await closed_with(ends[side])
            # Who has sent it is told, where it is the silo: the other end is closed as ever.
            assert told in (code, 1000, 1006)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(ends[1 - side].recv(), 10)

    run(test())


def test_bytes_that_are_no_frames_end_the_stream(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        async with others_go_on(relay, federation) as server:
            for side in (0, 1):
                ends = await meet(dialing(relay, federation), server)
                ends[side].transport.write(secrets.token_bytes(5000))
                for end in ends:
                    with pytest.raises(ConnectionClosed):
                        while True:
                            await asyncio.wait_for(end.recv(), 10)

    run(test())


async def pinged(connection: Any) -> int:
    """Send pings, read no answer, and return how many bytes went before the other side ended it."""
    plain = connection.transport.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.transport.pause_reading()
    ping = Frame(Opcode.PING, PING).serialize(mask=True)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < MOST_PINGS and not connection.transport.is_closing():
            connection.transport.write(ping * 100)
            sent += 100 * len(ping)
            await asyncio.sleep(0)
            await connection.drain()
    connection.transport.abort()
    return sent


@pytest.mark.parametrize("who", ["a stranger", "a silo", "an orchestrator"])
def test_who_asks_for_answers_and_reads_none_is_ended_and_makes_the_relay_hold_little(
    relay: RelayThread, federation: Federation, who: str
) -> None:
    """A ping is answered at once, whatever waits to be sent: nothing else bounds the answers."""

    async def test() -> None:
        async with others_go_on(relay, federation) as server:
            place = relay.place()
            if who == "a stranger":
                flooding = await raw(place, place.claim(SILO))
            elif who == "a silo":
                flooding, _ = await meet(dialing(relay, federation), server)
            else:
                own = place.claim(CONTROL)
                own = type(own)(own.federation, "another", own.role, own.stream)
                flooding = await place.enter(own, server_signer(federation))
            assert await asyncio.wait_for(pinged(flooding), 50) < MOST_PINGS

    run(test())


def test_what_a_relay_carries_of_a_round_is_tls_and_holds_nothing_of_it(
    tmp_path: Path,
    relay: RelayThread,
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Recorded where the relay carries it, without the masks of WebSocket."""
    carried: list[bytes] = []
    carry = StreamConnection.carry

    def recorded(connection: StreamConnection, frame: bytes) -> None:
        carried.append(frame)
        carry(connection, frame)

    monkeypatch.setattr(StreamConnection, "carry", recorded)
    sent = model(50_000, seed=3)
    with Relayed(federation, relay.url, relay.ca.file).running() as relayed, relayed.node():
        relayed.orchestrator.wait_for(["silo-1"], 1, 30)
        grid = PackedGrid(relayed.orchestrator.open_run("run", ["silo-1"]))
        (reply,) = list(grid.send_and_receive(ask(grid, 1, sent), timeout=60))
        assert not reply.has_error()
    whole = b"".join(carried)
    assert len(whole) > 2 * 600_000
    values = sent["w0"].numpy().tobytes()
    for told in (b"silo-1", b"server-round", b"Fleet", values[:16], values[400:416]):
        assert told not in whole, told
    # A handshake of TLS is what each stream begins with.
    assert carried[0][:2] == b"\x16\x03"
