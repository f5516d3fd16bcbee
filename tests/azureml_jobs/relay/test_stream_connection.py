"""What waits at a relay of what others send: small frames become large ones, and a stranger may say little."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from azureml_jobs.relay.connection_proofs import SILO
from azureml_jobs.relay.stream_connection import FRAME_BYTES, MOST_UNPROVEN, joined
from tests.azureml_jobs.relay.ends import Server, meet, raw, run
from tests.azureml_jobs.relay.place import RelayThread, dialing, listening, relay_of
from tests.faults.federation import Federation


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    (tmp_path / "federation").mkdir()
    return Federation(tmp_path / "federation", 1)


@pytest.fixture
def relay(tmp_path: Path, federation: Federation) -> Iterator[RelayThread]:
    with relay_of(tmp_path, federation) as made:
        yield made


@pytest.mark.parametrize(
    ("sizes", "frames"),
    [
        ([], []),
        ([3, 0, 4], [7]),
        ([FRAME_BYTES], [FRAME_BYTES]),
        ([1, FRAME_BYTES], [1, FRAME_BYTES]),
        ([FRAME_BYTES - 1, 1, 1], [FRAME_BYTES, 1]),
        ([2 * FRAME_BYTES + 5, 1], [FRAME_BYTES, FRAME_BYTES, 6]),
    ],
)
def test_small_frames_become_one_and_no_frame_is_too_large(
    sizes: list[int], frames: list[int]
) -> None:
    pieces = [secrets.token_bytes(size) for size in sizes]
    made = joined(pieces)
    assert b"".join(made) == b"".join(pieces)
    assert [len(frame) for frame in made] == frames


def test_a_flood_of_frames_of_a_byte_arrives_in_few(
    relay: RelayThread, federation: Federation
) -> None:
    """Frames of one read go on together: tens of thousands of objects never wait in the relay."""
    count = 20_000
    flood = b"".join(
        Frame(Opcode.BINARY, bytes([number % 256])).serialize(mask=True) for number in range(count)
    )

    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            silo, fetched = await meet(dialing(relay, federation), server)
            silo.transport.write(flood)
            arrived: list[Any] = []
            while sum(len(frame) for frame in arrived) < count:
                arrived.append(await asyncio.wait_for(fetched.recv(), 10))
            assert b"".join(arrived) == bytes(number % 256 for number in range(count))
            assert len(arrived) < count / 100

    run(test())


def test_a_message_in_several_frames_is_carried_too(
    relay: RelayThread, federation: Federation
) -> None:
    parts = [
        Frame(Opcode.BINARY, b"one ", fin=False),
        Frame(Opcode.CONT, b"two ", fin=False),
        Frame(Opcode.PING, b"x"),
        Frame(Opcode.CONT, b"three"),
    ]

    async def test() -> None:
        async with Server(listening(relay, federation)) as server:
            silo, fetched = await meet(dialing(relay, federation), server)
            for part in parts:
                silo.transport.write(part.serialize(mask=True))
                await asyncio.sleep(0.05)
            arrived = b""
            while len(arrived) < 13:
                arrived += bytes(await asyncio.wait_for(fetched.recv(), 10))
            assert arrived == b"one two three"

    run(test())


def test_who_says_more_than_a_proof_before_it_is_ended_at_once(
    relay: RelayThread, federation: Federation
) -> None:
    async def test() -> None:
        place = relay.place()
        stranger = await raw(place, place.claim(SILO))
        await stranger.recv()
        stranger.transport.write(
            Frame(Opcode.PING, b"x").serialize(mask=True) * (MOST_UNPROVEN // 6)
        )
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(stranger.recv(), 5)

    run(test())


def test_bytes_that_come_before_the_stream_stands_are_carried_first(
    tmp_path: Path, federation: Federation
) -> None:
    """An orchestrator's end may send as soon as it has fetched; nothing of it is lost."""

    async def test(relay: RelayThread) -> None:
        async with Server(listening(relay, federation)) as server:
            for _ in range(5):
                dialled = asyncio.create_task(dialing(relay, federation).dial())
                _, fetched = await asyncio.wait_for(server.streams.get(), 10)
                await fetched.send(b"a" * 1000)
                await fetched.send(b"b" * FRAME_BYTES)
                silo = await dialled
                server.opened.append(silo)
                arrived = b""
                while len(arrived) < 1000 + FRAME_BYTES:
                    arrived += bytes(await asyncio.wait_for(silo.recv(), 10))
                assert arrived == b"a" * 1000 + b"b" * FRAME_BYTES

    with relay_of(tmp_path, federation) as relay:
        run(test(relay))
