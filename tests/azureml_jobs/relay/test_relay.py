"""The relay: who meets whom, what is carried, and what strangers and liars get."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from azureml_jobs.relay.connection_proofs import ACCEPT, CONTROL, SILO, Challenge, Claim, Signer
from azureml_jobs.relay.control_frames import Refusal
from azureml_jobs.relay.own_relay import RelayDialing
from conf.errors import IdentityError, MeadowError, WireError
from tests.azureml_jobs.relay.ends import Server, closed_with, meet, raw, run
from tests.azureml_jobs.relay.place import (
    RelayThread,
    dialing,
    listening,
    relay_of,
    server_signer,
    silo_signer,
)
from tests.faults.federation import Federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation"), 2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("other"), 1)


@pytest.fixture
def relay(tmp_path: Path, federation: Federation, other: Federation) -> Iterator[RelayThread]:
    with relay_of(tmp_path, federation, other, proof_seconds=2, fetch_seconds=2) as made:
        yield made


def test_a_silo_and_its_orchestrator_meet_and_bytes_pass_both_ways(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            silo, fetched = await meet(dialing(relay, federation), server)
            sent = secrets.token_bytes(100_000)
            await silo.send(sent)
            assert await fetched.recv() == sent
            await fetched.send(b"answer")
            assert await silo.recv() == b"answer"
            await fetched.close()
            with pytest.raises(ConnectionClosed):
                await silo.recv()

    run(test())


def test_two_federations_of_the_same_names_never_meet(
    relay: RelayThread, federation: Federation, other: Federation
) -> None:
    """Each has a server `server` and a silo `silo-1`; a silo of one is admitted to `federation` alone."""

    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            place = replace(relay.place(), federation="other")
            stranger = silo_signer(other)
            with pytest.raises(IdentityError, match="MDW-767"):
                await RelayDialing(place, lambda: silo_signer(federation)).dial()
            with pytest.raises(IdentityError, match="MDW-767"):
                await RelayDialing(relay.place(), lambda: stranger).dial()
            assert server.streams.empty()

    run(test())


def test_a_silo_that_comes_before_its_orchestrator_is_told_that_nobody_is_there(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        with pytest.raises(WireError, match="MDW-695"):
            await dialing(relay, federation).dial()

    run(test())


def test_an_unknown_federation_is_refused_before_anything_is_signed(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        place = replace(relay.place(), federation="nobodys")
        with pytest.raises(WireError, match=r"MDW-694.*no such federation"):
            await RelayDialing(place, lambda: silo_signer(federation)).dial()

    run(test())


def test_nothing_is_signed_for_a_relay_of_another_name(
    relay: RelayThread, federation: Federation
) -> None:
    """It is reached by another name than its own: what it were given it could show there."""
    signed = []

    class Watched(Signer):
        def proof(self, challenge: Challenge, claim: Claim) -> Any:
            signed.append(claim)
            return super().proof(challenge, claim)

    async def test() -> None:
        mine = silo_signer(federation)
        place = relay.place()
        place = replace(place, address=replace(place.address, host="relay.test"))
        with pytest.raises(IdentityError, match=r"MDW-767.*calls itself '127\.0\.0\.1'"):
            await RelayDialing(place, lambda: Watched(mine.key, mine.certificate)).dial()

    run(test())
    assert signed == []


def test_a_recorded_proof_is_good_for_nothing_and_neither_is_a_forged_one(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        claim = Claim("federation", "server", SILO)
        first = await raw(relay.place(), claim)
        challenge = Challenge.from_text(await first.recv())
        proof = silo_signer(federation).proof(challenge, claim).to_text()
        await first.send(proof)
        assert await closed_with(first) == 4503  # let in; nobody is there
        for frame in (proof, "{}", "garbage", b"\0" * 1000, json.dumps({"open": True})):
            second = await raw(relay.place(), claim)
            await second.recv()
            await second.send(frame)
            assert await closed_with(second) == 4403

    run(test())


def test_a_silo_can_neither_listen_nor_fetch_nor_say_anything_over_a_control_channel(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            mine = silo_signer(federation)
            for role, stream in ((CONTROL, ""), (ACCEPT, "a" * 32)):
                with pytest.raises(IdentityError, match="MDW-767"):
                    await relay.place().enter(Claim("federation", "server", role, stream), mine)
            silo, fetched = await meet(dialing(relay, federation), server)
            # A frame of the control channel is a text, and a stream has none.
            await silo.send(Refusal("a" * 32, "end it").to_text())  # type: ignore[arg-type]
            assert await closed_with(silo) == 4400
            with pytest.raises(ConnectionClosed):
                await fetched.recv()
            # The others go on.
            again, _ = await meet(dialing(relay, federation), server)
            await again.send(b"x")

    run(test())


def test_an_orchestrator_of_another_federation_can_not_take_a_stream(
    relay: RelayThread, federation: Federation, other: Federation
) -> None:
    async def test() -> None:
        thief = server_signer(other)
        with pytest.raises(IdentityError, match="MDW-767"):
            async with Server(replace(listening(relay, federation), signer=lambda: thief)):
                pass
        # Its own federation has no such stream.
        place = replace(relay.place(), federation="other")
        with pytest.raises(WireError, match=r"MDW-694.*no such stream"):
            await place.enter(Claim("other", "server", ACCEPT, "a" * 32), thief)

    run(test())


def test_an_orchestrator_believes_no_relay_about_a_silo(
    tmp_path: Path, relay: RelayThread, federation: Federation
) -> None:
    """A relay that holds another CA for this federation lets its silos through; they are refused."""
    (tmp_path / "third").mkdir()
    third = Federation(tmp_path / "third", 1)
    path = federation.folder / "federations-ca.pem"
    honest = path.read_bytes()
    path.write_bytes(honest + third.authority)

    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            with pytest.raises(WireError, match="MDW-694"):
                await RelayDialing(relay.place(), lambda: silo_signer(third)).dial()
            assert server.streams.empty()
            await meet(dialing(relay, federation), server)

    try:
        run(test())
    finally:
        path.write_bytes(honest)


def test_what_an_orchestrator_refuses_is_told_to_the_silo(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        async with Server(listening(relay, federation), refuse="not today\x1b[0m"):
            with pytest.raises(WireError, match=r"MDW-694.*not today") as told:
                await dialing(relay, federation).dial()
            assert "\x1b" not in str(told.value)

    run(test())


def test_an_orchestrator_that_does_not_fetch_costs_the_silo_seconds(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        place = relay.place()
        control = await place.enter(place.claim(CONTROL), server_signer(federation))
        with pytest.raises(WireError, match="MDW-695"):
            await dialing(relay, federation).dial()
        await control.close()

    run(test())


def test_a_newer_orchestrator_takes_the_place_of_one_that_is_still_connected(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        async with (
            Server(listening(relay, federation)) as old,
            Server(listening(relay, federation)) as new,
        ):
            with pytest.raises(MeadowError, match="another one has taken over"):
                await old.ended()
            await meet(dialing(relay, federation), new)
            assert old.streams.empty()

    run(test())


def test_a_reader_that_stands_still_makes_the_sender_wait_and_the_relay_hold_little(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            silo, fetched = await meet(dialing(relay, federation), server)
            frame = bytes(100_000)
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await silo.send(frame)
                    sent += len(frame)

            task = asyncio.create_task(flood())
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.5)
            # All that lies anywhere: in both programs, the relay, and four sockets of the system.
            assert sent < 40e6
            # What waited is whole, and more goes through.
            received = 0
            while received < before + 1_000_000:
                received += len(await fetched.recv())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(test())


def test_each_key_and_each_federation_may_have_so_many_streams(
    tmp_path: Path, federation: Federation
) -> None:
    limits = {"federation": {"streams": 3, "streams_per_key": 2}}

    async def test(relay: RelayThread) -> None:
        async with Server(listening(relay, federation)) as server:
            held = [await meet(dialing(relay, federation), server) for _ in range(2)]
            with pytest.raises(WireError, match="of this key at once"):
                await dialing(relay, federation).dial()
            held.append(await meet(dialing(relay, federation, "silo-2"), server))
            with pytest.raises(WireError, match="of this federation at once"):
                await dialing(relay, federation, "silo-2").dial()
            await held[0][0].close()
            with pytest.raises(ConnectionClosed):
                await held[0][1].recv()
            await meet(dialing(relay, federation), server)

    with relay_of(tmp_path, federation, limits=limits) as relay:
        run(test(relay))


def test_a_key_that_connects_too_often_is_told_so(tmp_path: Path, federation: Federation) -> None:
    limits = {"federation": {"connections_per_minute_per_key": 3}}

    async def test(relay: RelayThread) -> None:
        for _ in range(3):
            with pytest.raises(WireError, match="MDW-695"):
                await dialing(relay, federation).dial()
        with pytest.raises(WireError, match=r"MDW-694.*too many connections of this key"):
            await dialing(relay, federation).dial()
        with pytest.raises(WireError, match="MDW-695"):
            await dialing(relay, federation, "silo-2").dial()

    with relay_of(tmp_path, federation, limits=limits) as relay:
        run(test(relay))


def test_a_stream_over_which_nothing_goes_is_ended(tmp_path: Path, federation: Federation) -> None:
    async def test(relay: RelayThread) -> None:
        async with Server(listening(relay, federation)) as server:
            silo, fetched = await meet(dialing(relay, federation), server)
            assert await closed_with(silo) == 4408
            with pytest.raises(ConnectionClosed):
                await fetched.recv()

    with relay_of(tmp_path, federation, idle_seconds=1) as relay:
        run(test(relay))


def test_strangers_end_within_seconds_and_a_flood_of_them_ends_itself(
    tmp_path: Path, federation: Federation
) -> None:
    """Mute ones, half a TLS handshake, garbage: more than the relay holds, and silos still meet."""

    async def test(relay: RelayThread) -> None:
        async with Server(listening(relay, federation)) as server:
            held = []
            for number in range(120):
                made = socket.create_connection(("127.0.0.1", relay.port))
                if number % 3:
                    made.sendall((b"\x16\x03\x01\x02\x00", secrets.token_bytes(300))[number % 2])
                held.append(made)
            assert relay.relay is not None
            deadline = time.monotonic() + 10
            while len(relay.relay._door) > 40:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            await meet(dialing(relay, federation), server)
            ended = 0
            for made in held:
                made.settimeout(10)
                try:
                    while made.recv(4096):
                        pass
                except ConnectionError:
                    pass
                ended += 1
                made.close()
            assert ended == 120

    with relay_of(tmp_path, federation, strangers=40, proof_seconds=2) as relay:
        run(test(relay))


def test_what_is_no_websocket_gets_an_answer_of_http(relay: RelayThread) -> None:
    context = ssl.create_default_context(cafile=str(relay.ca.file))

    def asked(path: str) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", relay.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            told = b""
            while part := tls.recv(4096):
                told += part
            return told

    assert asked("/healthz").startswith(b"HTTP/1.1 200 ")
    assert asked("/v1/nobodys/server/silo").startswith(b"HTTP/1.1 404 ")
    assert asked("/v1/federation/../control").startswith(b"HTTP/1.1 404 ")
    assert asked("/v1/federation/server/silo").startswith(b"HTTP/1.1 426 ")


def test_a_relay_that_was_started_again_serves_as_before(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            silo, _ = await meet(dialing(relay, federation), server)
            await asyncio.to_thread(relay.stop)
            with pytest.raises(ConnectionClosed):
                await silo.recv()
            with pytest.raises(MeadowError):
                await server.ended()
        with pytest.raises(WireError, match="MDW-692"):
            await dialing(relay, federation).dial()
        await asyncio.to_thread(relay.start)
        async with Server(listening(relay, federation)) as server:
            await meet(dialing(relay, federation), server)

    run(test())
