"""Both ends of streams at a relay, without gRPC: what a silo and an orchestrator send is a test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from azureml_jobs.relay.carrying import Frames
from azureml_jobs.relay.connection_proofs import Claim
from azureml_jobs.relay.door import path_of
from azureml_jobs.relay.meeting import Caller
from azureml_jobs.relay.outward import dial
from azureml_jobs.relay.own_relay import Place, RelayDialing, RelayListening


class Server:
    """An orchestrator's end, which fetches every stream and hands it to whoever waits."""

    def __init__(self, end: RelayListening, refuse: str = "") -> None:
        self._end = end
        self._refuse = refuse
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listens = asyncio.Event()
        self.streams: asyncio.Queue[tuple[str, Frames]] = asyncio.Queue()
        self.opened: list[Frames] = []

    async def __aenter__(self) -> Server:
        self._task = asyncio.create_task(self._end.listen(self._take, self._listens.set))
        listens = asyncio.create_task(self._listens.wait())
        await asyncio.wait([self._task, listens], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        for task in (self._task, *self._tasks):
            task.cancel()
        await asyncio.gather(self._task, *self._tasks, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in self.opened))

    async def ended(self) -> None:
        """Wait until the control connection has ended; raises why."""
        assert self._task is not None
        await asyncio.wait_for(asyncio.shield(self._task), 10)

    async def _take(self, caller: Caller) -> None:
        if self._refuse:
            await caller.refuse(self._refuse)
            return

        async def fetch() -> None:
            fetched = await caller.fetch()
            self.opened.append(fetched)
            await self.streams.put((caller.key, fetched))

        task = asyncio.create_task(fetch())
        self._tasks.add(task)


async def meet(way: RelayDialing, server: Server) -> tuple[Frames, Frames]:
    """A silo's end and the orchestrator's of one stream."""
    dialled = await way.dial()
    server.opened.append(dialled)
    _, fetched = await asyncio.wait_for(server.streams.get(), 20)
    return dialled, fetched


def run(test: Awaitable[None], seconds: float = 60) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test, seconds)

    asyncio.run(bounded())


async def raw(place: Place, claim: Claim) -> ClientConnection:
    """A connection that has proven nothing yet."""
    return await dial(f"wss://{place.address.authority}{path_of(claim)}", place.outward)


async def closed_with(connection: Any) -> int:
    """The code with which the relay closes a connection, whatever it says before."""
    while True:
        try:
            await asyncio.wait_for(connection.recv(), 10)
        except ConnectionClosed:
            return connection.close_code or 1006
