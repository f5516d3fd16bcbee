"""The way by Azure Relay, against a stand-in that speaks the documented protocol; never tried on Azure."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, unquote_plus, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from azureml_jobs.relay import hybrid_connections
from azureml_jobs.relay.carrying import Frames, carry_frames
from azureml_jobs.relay.hybrid_connections import (
    HybridDialing,
    HybridListening,
    shared_access_token,
)
from azureml_jobs.relay.meeting import Caller, RelayAddress
from azureml_jobs.relay.outward import Outward
from azureml_jobs.relay.stream_connection import StreamConnection
from conf.errors import MeadowError, WireError
from server.orchestrator.relayed_silos import KEY, KEY_NAME, azure_token
from tests.azureml_jobs.relay.public_ca import PublicCa

KEY_TEXT = "c2VjcmV0"


class StandIn:
    """Azure Relay as its protocol says: listen with a token, connect without, accept at an address, renew."""

    def __init__(self, folder: Path, foreign: str = "") -> None:
        self.ca = PublicCa.made(folder)
        self.port = 0
        self.foreign = foreign
        self.listener: ServerConnection | None = None
        self.waiting: dict[str, asyncio.Future[StreamConnection | int]] = {}
        self.renewed: list[str] = []
        self.resource = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StandIn]:
        pem, key = self.ca.certify("azure", ["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        async with serve(
            self._serve,
            "127.0.0.1",
            0,
            ssl=context,
            process_request=self._asked,
            create_connection=StreamConnection,
            compression=None,
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            self.resource = "http://127.0.0.1/hc"
            yield self

    @property
    def address(self) -> RelayAddress:
        return RelayAddress.from_text(f"sb://127.0.0.1:{self.port}/hc")

    @property
    def outward(self) -> Outward:
        return Outward(self.ca.file)

    def _asked(self, connection: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        told = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path != "/$hc/hc":
            return connection.respond(404, "Endpoint does not exist.")
        if told["sb-hc-action"] == "listen":
            token = request.headers.get("ServiceBusAuthorization", "")
            if not self._is_good(token):
                return connection.respond(401, "Unauthorized")
        if told["sb-hc-action"] == "connect" and self.listener is None:
            return connection.respond(404, "There are no listeners connected.")
        if "sb-hc-statusCode" in told:
            self.waiting[told["sb-hc-id"]].set_result(int(told["sb-hc-statusCode"]))
            return connection.respond(410, "Gone")
        return None

    def _is_good(self, token: str) -> bool:
        said = dict(
            part.partition("=")[::2]
            for part in token.removeprefix("SharedAccessSignature ").split("&")
        )
        if (
            unquote_plus(said.get("sr", "")) != self.resource
            or int(said.get("se", "0")) < time.time()
        ):
            return False
        signed = f"{said['sr']}\n{said['se']}".encode()
        wanted = base64.b64encode(hmac.new(KEY_TEXT.encode(), signed, hashlib.sha256).digest())
        return said["skn"] == "listener" and unquote_plus(said["sig"]) == wanted.decode()

    async def _serve(self, connection: ServerConnection) -> None:
        assert isinstance(connection, StreamConnection)
        assert connection.request is not None
        told = {n: v[0] for n, v in parse_qs(urlsplit(connection.request.path).query).items()}
        id = told["sb-hc-id"]
        connection.let_in(stream=told["sb-hc-action"] != "listen")
        if told["sb-hc-action"] == "listen":
            self.listener = connection
            try:
                async for frame in connection:
                    self.renewed.append(json.loads(frame)["renewToken"]["token"])
            except ConnectionClosed:
                pass
            self.listener = None
        elif told["sb-hc-action"] == "connect":
            await self._connect(connection, id)
        else:
            self.waiting[id].set_result(connection)
            await connection.wait_closed()

    async def _connect(self, sender: StreamConnection, id: str) -> None:
        assert self.listener is not None
        self.waiting[id] = asyncio.get_running_loop().create_future()
        host = self.foreign or f"127.0.0.1:{self.port}"
        address = f"wss://{host}/$hc/hc?sb-hc-action=accept&sb-hc-id={id}"
        accept = {"address": address, "id": id, "connectHeaders": {"Host": "127.0.0.1"}}
        await self.listener.send(json.dumps({"accept": accept}))
        gone = asyncio.ensure_future(sender.wait_closed())
        waited: list[asyncio.Future[Any]] = [self.waiting[id], gone]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not self.waiting[id].done():
            return
        gone.cancel()
        other = self.waiting[id].result()
        if isinstance(other, int):
            await sender.close(1008, "refused")
        else:
            await carry_frames(sender, other)


def token(resource: str) -> str:
    return shared_access_token(resource, "listener", KEY_TEXT, int(time.time()) + 60)


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test, 30)

    asyncio.run(bounded())


@asynccontextmanager
async def listens(listening: HybridListening, taken: asyncio.Queue[Caller]) -> AsyncIterator[None]:
    ready = asyncio.Event()
    task = asyncio.ensure_future(listening.listen(taken.put, ready.set))
    waiting = asyncio.ensure_future(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            waiting.cancel()
            task.result()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_sender_without_a_token_meets_a_listener_with_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with StandIn(tmp_path).running() as azure:
            taken: asyncio.Queue[Caller] = asyncio.Queue()
            async with listens(HybridListening(azure.address, azure.outward, token), taken):
                dialled: Frames = await HybridDialing(azure.address, azure.outward).dial()
                caller = await taken.get()
                assert caller.key == ""
                fetched = await caller.fetch()
                await dialled.send(b"question")
                assert await fetched.recv() == b"question"
                await fetched.send(b"answer")
                assert await dialled.recv() == b"answer"
                await fetched.close()
                with pytest.raises(ConnectionClosed):
                    await dialled.recv()

    run(test())


def test_a_sender_that_is_refused_hears_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with StandIn(tmp_path).running() as azure:
            taken: asyncio.Queue[Caller] = asyncio.Queue()
            async with listens(HybridListening(azure.address, azure.outward, token), taken):
                dialled = await HybridDialing(azure.address, azure.outward).dial()
                await (await taken.get()).refuse("too many connections at once")
                with pytest.raises(ConnectionClosed):
                    await dialled.recv()

    run(test())


def test_a_token_is_renewed_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid_connections, "TOKEN_SECONDS", 0.2)

    async def test() -> None:
        async with StandIn(tmp_path).running() as azure:
            listening = HybridListening(azure.address, azure.outward, token)
            async with listens(listening, asyncio.Queue()):
                while len(azure.renewed) < 2:
                    await asyncio.sleep(0.02)
                assert all(one.startswith("SharedAccessSignature sr=") for one in azure.renewed)

    run(test())


def test_a_wrong_token_an_unknown_connection_and_nobody_there_are_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with StandIn(tmp_path).running() as azure:
            with pytest.raises(WireError, match=r"MDW-696.*404.*no listeners"):
                await HybridDialing(azure.address, azure.outward).dial()
            wrong = HybridListening(azure.address, azure.outward, lambda resource: token("other"))
            with pytest.raises(WireError, match=r"MDW-696.*401"):
                async with listens(wrong, asyncio.Queue()):
                    pass
            elsewhere = RelayAddress.from_text(f"sb://127.0.0.1:{azure.port}/another")
            with pytest.raises(WireError, match=r"MDW-696.*404"):
                await HybridDialing(elsewhere, azure.outward).dial()

    run(test())


def test_an_address_that_is_not_azures_is_not_dialled(tmp_path: Path) -> None:
    async def test() -> None:
        async with StandIn(tmp_path, foreign="evil.example.org").running() as azure:
            taken: asyncio.Queue[Caller] = asyncio.Queue()
            listening = HybridListening(azure.address, azure.outward, token)
            with pytest.raises(MeadowError, match="MDW-690"):
                ready = asyncio.Event()
                task = asyncio.ensure_future(listening.listen(taken.put, ready.set))
                await ready.wait()
                dialled = await HybridDialing(azure.address, azure.outward).dial()
                try:
                    await task
                finally:
                    await dialled.close()

    run(test())


def test_a_token_is_of_the_documented_form() -> None:
    """Of learn.microsoft.com, Shared Access Signature token: sr, sig, se and skn, each encoded."""
    made = shared_access_token("http://ns.servicebus.windows.net/hc", "root", "key", 1_700_000_000)
    resource = quote_plus("http://ns.servicebus.windows.net/hc")
    signature = hmac.new(b"key", f"{resource}\n1700000000".encode(), hashlib.sha256).digest()
    expected = (
        f"SharedAccessSignature sr={resource}&sig={quote_plus(base64.b64encode(signature))}"
        "&se=1700000000&skn=root"
    )
    assert made == expected


def test_the_orchestrators_token_is_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, "root")
    monkeypatch.setenv(KEY, "key")
    assert azure_token("http://ns/hc").startswith("SharedAccessSignature sr=http%3A%2F%2Fns%2Fhc&")
