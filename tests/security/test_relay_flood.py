"""A relay under a thousand strangers, garbage and a federation that floods: little memory, others are served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from azureml_jobs.identity.signatures import authorities_in
from azureml_jobs.identity.signed_admission import Admission, AdmissionAuthority
from azureml_jobs.relay.carrying import Frames
from azureml_jobs.relay.connection_proofs import Signer
from azureml_jobs.relay.meeting import Caller, RelayAddress
from azureml_jobs.relay.outward import Outward
from azureml_jobs.relay.own_relay import Place, RelayDialing, RelayListening
from tests.azureml_jobs.relay.place import server_signer, silo_signer
from tests.azureml_jobs.relay.public_ca import PublicCa
from tests.faults.federation import Federation, until

ROOT = Path(__file__).parents[2]
MIB = 2**20
STRANGERS = 1000
FLOODS = 8
"""Streams of the federation that floods, each with a reader that stands still."""


@dataclass
class Process:
    pid: int
    place: Place

    @property
    def memory(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss)

    def of(self, federation: str) -> Place:
        return Place(self.place.address, federation, self.place.outward)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    (tmp_path / "one").mkdir()
    return Federation(tmp_path / "one", 1)


@pytest.fixture
def relay(tmp_path: Path, federation: Federation) -> Iterator[Process]:
    public = PublicCa.made(tmp_path / "public")
    pem, key = public.certify("relay", ["127.0.0.1"])
    ca = tmp_path / "ca.pem"
    ca.write_bytes(federation.authority)
    told = {
        "name": "127.0.0.1",
        "listen": "127.0.0.1:0",
        "certificate": str(pem),
        "key": str(key),
        "proof_seconds": 4,
        "federations": {name: {"ca": [str(ca)]} for name in ("federation", "other")},
    }
    file = tmp_path / "relay.yaml"
    file.write_text(yaml.safe_dump(told))
    log = tmp_path / "relay.log"
    with log.open("w") as said:
        command = [sys.executable, "-m", "azureml_jobs.cli.main", "relay", f"file={file}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
    try:
        until(lambda: "listens at" in log.read_text(), 60)
        found = re.search(r"listens at 127\.0\.0\.1:(\d+)", log.read_text())
        assert found is not None
        address = RelayAddress.from_text(f"https://127.0.0.1:{found[1]}")
        yield Process(process.pid, Place(address, "federation", Outward(public.file)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait(10)


def signer_of(federation: Federation, name: str) -> Signer:
    """A silo's key, admitted to a federation of that name by the same CA."""
    mine = silo_signer(federation)
    now = time.time()
    admission = Admission(name, "silo-1", federation.public["silo-1"].decode(), now, now + 9999)
    return Signer(mine.key, AdmissionAuthority(federation.secrets, name).sign(admission))


class Listener:
    """An orchestrator's end that keeps what it has fetched."""

    def __init__(self, place: Place, federation: Federation) -> None:
        signer = server_signer(federation)
        authorities = authorities_in(federation.authority)
        self._end = RelayListening(place, lambda: signer, lambda: authorities)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listens = asyncio.Event()
        self.fetched: asyncio.Queue[Frames] = asyncio.Queue()
        self.open: list[Frames] = []

    async def __aenter__(self) -> Listener:
        task = asyncio.create_task(self._end.listen(self._take, self._listens.set))
        self._tasks.add(task)
        await asyncio.wait_for(self._listens.wait(), 20)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self.open:
            one.transport.abort()
        await asyncio.sleep(0.1)

    async def meet(self, way: RelayDialing) -> tuple[Frames, Frames]:
        dialled = await way.dial()
        fetched = await asyncio.wait_for(self.fetched.get(), 20)
        self.open += [dialled, fetched]
        return dialled, fetched

    async def _take(self, caller: Caller) -> None:
        async def fetch() -> None:
            await self.fetched.put(await caller.fetch())

        task = asyncio.create_task(fetch())
        self._tasks.add(task)


async def echo_seconds(one: Frames, other: Frames, times: int = 30) -> float:
    """The median time of a small frame there and back."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await one.send(b"ping")
        await other.send(await other.recv())
        await one.recv()
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
    relay: Process, federation: Federation
) -> None:
    port = int(relay.place.address.authority.rpartition(":")[2])
    mine = silo_signer(federation)
    theirs = signer_of(federation, "other")

    async def test() -> None:
        way = RelayDialing(relay.place, lambda: mine)
        flooding = RelayDialing(relay.of("other"), lambda: theirs)
        async with (
            Listener(relay.place, federation) as server,
            Listener(relay.of("other"), federation) as other,
        ):
            one, fetched = await server.meet(way)
            quiet = await echo_seconds(one, fetched)
            before = relay.memory
            met = [await other.meet(flooding) for _ in range(FLOODS)]
            floods = [asyncio.create_task(flood(stream)) for stream, _ in met]
            held = await strangers(port)
            loud = await echo_seconds(one, fetched)
            again, answered = await server.meet(way)
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

    async def bounded() -> None:
        await asyncio.wait_for(test(), 150)

    asyncio.run(bounded())
