"""A relay under a thousand strangers, a thousand streams and a flood: little memory, others are served."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.identity.signatures import authorities_in
from azureml_jobs.identity.signed_admission import Admission, AdmissionAuthority
from azureml_jobs.relay.carrying import Frames
from azureml_jobs.relay.connection_proofs import Signer
from azureml_jobs.relay.own_relay import Place, RelayDialing, RelayListening
from tests.azureml_jobs.relay.ends import Server, meet, run
from tests.azureml_jobs.relay.place import server_signer, silo_signer
from tests.azureml_jobs.relay.process import RelayProcess
from tests.faults.federation import Federation

MIB = 2**20
STRANGERS = 1000
STREAMS = 1000
AT_ONCE = 20
FLOODS = 8
"""Streams of the federation that floods, each with a reader that stands still."""


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    (tmp_path / "one").mkdir()
    return Federation(tmp_path / "one", 1)


@contextmanager
def relay_for(
    folder: Path, federation: Federation, limits: dict[str, Any], **file: Any
) -> Iterator[RelayProcess]:
    """A relay of two federations with one CA, which ends well and says nothing of its insides."""
    ca = folder / "ca.pem"
    ca.write_bytes(federation.authority)
    relay = RelayProcess(folder, {"federation": ca, "other": ca}, limits, proof_seconds=4, **file)
    relay.start()
    try:
        yield relay
        assert relay.kill(signal.SIGTERM) == 0
        assert "Traceback" not in relay.said()
    finally:
        relay.kill()


def signer_of(federation: Federation, name: str) -> Signer:
    """A silo's key, admitted to a federation of that name by the same CA."""
    mine = silo_signer(federation)
    now = time.time()
    admission = Admission(name, "silo-1", federation.public["silo-1"].decode(), now, now + 9999)
    return Signer(mine.key, AdmissionAuthority(federation.secrets, name).sign(admission))


def listening(place: Place, federation: Federation) -> RelayListening:
    signer = server_signer(federation)
    authorities = authorities_in(federation.authority)
    return RelayListening(place, lambda: signer, lambda: authorities)


async def echo_seconds(one: Frames, other: Frames, times: int = 30) -> float:
    """The median time of a small frame there and back; each is the one that was sent."""
    taken = []
    for _ in range(times):
        frame = secrets.token_bytes(32)
        began = time.perf_counter()
        await one.send(frame)
        arrived = await other.recv()
        await other.send(arrived)
        assert await one.recv() == arrived == frame
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def strangers(port: int) -> list[socket.socket]:
    """A thousand connections: mute, half a handshake, garbage."""
    made = []
    for number in range(STRANGERS):
        one = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))
        if number % 3:
            garbage = (b"\x16\x03\x01\x02\x00", secrets.token_bytes(300))[number % 2]
            with contextlib.suppress(OSError):
                one.sendall(garbage)
        made.append(one)
    return made


async def flood(stream: Frames) -> None:
    """Send without end to a reader that stands still."""
    with contextlib.suppress(Exception):
        while True:
            await stream.send(bytes(100_000))


@pytest.mark.slow
def test_strangers_and_a_federation_that_floods_cost_the_relay_little_and_the_other_one_nothing(
    tmp_path: Path, federation: Federation
) -> None:
    mine = silo_signer(federation)
    theirs = signer_of(federation, "other")

    async def test(relay: RelayProcess) -> None:
        others = replace(relay.place(), federation="other")
        way = RelayDialing(relay.place(), lambda: mine)
        flooding = RelayDialing(others, lambda: theirs)
        async with (
            Server(listening(relay.place(), federation)) as server,
            Server(listening(others, federation)) as other,
        ):
            one, fetched = await meet(way, server)
            quiet = await echo_seconds(one, fetched)
            before = relay.memory
            met = [await meet(flooding, other) for _ in range(FLOODS)]
            # Half of them from the silo, half from its orchestrator.
            floods = [asyncio.create_task(flood(ends[n % 2])) for n, ends in enumerate(met)]
            held = await strangers(relay.port)
            loud = await echo_seconds(one, fetched)
            again, answered = await meet(way, server)
            await echo_seconds(again, answered, 3)
            taken = relay.memory - before
            print(f"{taken / MIB:.0f} MiB more, echo {quiet:.4f} s, then {loud:.4f} s")
            for task in floods:
                task.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
            for stranger in held:
                stranger.close()
            # Of each stream some frames wait in the relay; a stranger is a socket and a handshake,
            # and of those there are 500 at once.
            assert taken < 300 * MIB
            assert loud < max(0.5, 50 * quiet)

    with relay_for(tmp_path, federation, {}) as relay:
        run(test(relay), 150)


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as this user may have."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 4 * STREAMS:
        pytest.skip(f"this user may open {most} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * STREAMS, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_a_thousand_streams_at_once_are_carried_each_to_its_own_end(
    tmp_path: Path, federation: Federation
) -> None:
    mine = silo_signer(federation)

    async def test(relay: RelayProcess) -> None:
        way = RelayDialing(relay.place(), lambda: mine)
        before = relay.memory
        began = time.perf_counter()
        async with Server(listening(relay.place(), federation)) as server:
            dialled: list[Frames] = []

            async def dial() -> None:
                for _ in range(STREAMS // AT_ONCE):
                    dialled.append(await way.dial())

            await asyncio.gather(*(dial() for _ in range(AT_ONCE)))
            server.opened += dialled
            took = time.perf_counter() - began
            frames = {n: secrets.token_bytes(1000) for n in range(len(dialled))}
            for number, stream in enumerate(dialled):
                await stream.send(number.to_bytes(4) + frames[number])
            found = set()
            for _ in dialled:
                _, fetched = await asyncio.wait_for(server.streams.get(), 20)
                arrived = bytes(await fetched.recv())
                number = int.from_bytes(arrived[:4])
                assert arrived[4:] == frames[number]
                found.add(number)
                await fetched.send(arrived[::-1])
            assert len(found) == len(dialled) == STREAMS
            for number, stream in enumerate(dialled):
                assert bytes(await stream.recv())[::-1] == number.to_bytes(4) + frames[number]
            taken = relay.memory - before
            print(f"{len(dialled)} streams in {took:.0f} s, {taken / MIB:.0f} MiB")
            assert taken < len(dialled) * MIB

    limits = {
        "streams": STREAMS,
        "streams_per_key": STREAMS,
        "connections_per_minute": 1e5,
        "connections_per_minute_per_key": 1e5,
    }
    with relay_for(tmp_path, federation, limits, connections_per_minute=1e5) as relay:
        run(test(relay), 250)
