"""The relay: a server at which orchestrators and silos meet, each by a WebSocket that it opened.

    orchestrator ── control ──▶ relay ◀── silo        the relay offers the silo's stream
    orchestrator ── accept ───▶ relay                 the orchestrator fetches it
    orchestrator ◀═══════ bytes of their own TLS ═══════▶ silo

What is carried is the federation's own mutual TLS, from the silo to the orchestrator: the relay has
no key to it. It keeps nothing that outlives a connection. A federation that takes its whole share
takes nothing of another's: each has its own limits, and strangers have theirs (`door`).
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from azureml_jobs.relay.allowance import Allowances, Clock
from azureml_jobs.relay.carrying import WAITING_FRAMES, WRITTEN_BYTES, carry_frames
from azureml_jobs.relay.connection_proofs import (
    ACCEPT,
    CONTROL,
    Challenge,
    Claim,
    Proof,
)
from azureml_jobs.relay.control_frames import Offer, Refusal
from azureml_jobs.relay.door import (
    CONTROLS,
    FAILED_PROOF,
    Door,
    Federation,
    Refused,
    claim_of,
)
from azureml_jobs.relay.guarded_socket import listening
from azureml_jobs.relay.outward import quiet_websockets
from azureml_jobs.relay.settings import RelaySettings, unusable
from azureml_jobs.relay.stream_connection import FRAME_BYTES, Meter, StreamConnection
from conf.errors import MeadowError

log = logging.getLogger(__name__)

IDLE: Final = 4408
BAD_FRAME: Final = 4400
NOT_PROVEN: Final = 4403
REPLACED: Final = 4409
NOT_TAKEN: Final = 4410
TOO_MANY: Final = 4429
NOBODY_THERE: Final = 4503
NOT_FETCHED: Final = 4504
"""Codes with which the relay closes a connection; those of HTTP, with 4000 added."""
HEALTH: Final = "/healthz"
OPEN: Final = '{"open": true}'
"""What each is told when it is let in: a silo when its orchestrator has fetched its stream, and bytes
follow; an orchestrator when offers follow, or the bytes of the stream that it fetches.
"""
TLS_SECONDS: Final = 5.0
WATCH_SECONDS: Final = 1.0
REASON_BYTES: Final = 120
"""Of a reason in a close frame, which may have 123."""
LINES_PER_MINUTE: Final = 6.0
"""Of the log, about one federation's or one address's refusals."""


@dataclass(eq=False)
class _Stream:
    """A silo's stream, from its offer to its end."""

    name: str
    silo: StreamConnection
    fetched: asyncio.Future[StreamConnection]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    last: float = 0.0
    """When a byte went either way; monotonic seconds."""


@dataclass
class _Server:
    """An orchestrator that listens: its control connection, and the streams offered to it."""

    control: StreamConnection
    offered: dict[str, _Stream] = field(default_factory=dict)


class Relay:
    """The server; `running` is its life."""

    def __init__(self, settings: RelaySettings, clock: Clock = time.monotonic) -> None:
        self._settings = settings
        self._file = settings.file
        self._clock = clock
        self._door = Door(settings, clock)
        self._federations = {
            name: Federation(name, limits, clock) for name, limits in settings.federations.items()
        }
        self._servers: dict[tuple[str, str], _Server] = {}
        self._streams: set[_Stream] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._lines = Allowances(LINES_PER_MINUTE, clock)
        self.address = settings.file.listen

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen in this block; `address` has the port.

        Raises ConfigError MDW-117 where the address or the certificate can't be used.
        """
        quiet_websockets()
        context = self._tls()
        try:
            listener = listening(self._file.listen, self._door)
        except (OSError, ValueError, OverflowError) as error:
            raise unusable(f"The relay can't listen at {self._file.listen}: {error}") from None
        host = self._file.listen.rpartition(":")[0]
        self.address = f"{host}:{listener.getsockname()[1]}"
        more: dict[str, Any] = {}
        if context is not None:
            more = {"ssl": context, "ssl_handshake_timeout": TLS_SECONDS}
        async with serve(
            self._handle,
            sock=listener,
            process_request=self._check_request,
            create_connection=StreamConnection,
            compression=None,
            server_header=None,
            open_timeout=self._file.proof_seconds,
            ping_interval=self._file.ping_seconds,
            ping_timeout=2 * self._file.ping_seconds,
            close_timeout=2.0,
            max_size=FRAME_BYTES,
            max_queue=WAITING_FRAMES,
            write_limit=WRITTEN_BYTES,
            **more,
        ):
            watch = asyncio.create_task(self._watch(context))
            try:
                yield
            finally:
                watch.cancel()

    # ---- at the door

    def _check_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request that opens no connection; None lets it go on."""
        if request.path == HEALTH:
            return connection.respond(http.HTTPStatus.OK, "ok\n")
        try:
            address = self._address(connection, request)
            self._door.check_rate(address)
            claim_of(request.path, self._federations)
        except Refused as refused:
            return connection.respond(http.HTTPStatus(refused.status), f"{refused.why}\n")
        return None

    def _address(self, connection: ServerConnection, request: Request) -> str:
        forwarded = request.headers.get_all("X-Forwarded-For")
        peer = connection.remote_address or ("",)
        return self._door.address_of(str(peer[0]), forwarded[-1] if forwarded else None)

    async def _handle(self, connection: ServerConnection) -> None:
        """Live one connection from its challenge to its end."""
        assert isinstance(connection, StreamConnection)  # as `serve` was told
        request = connection.request
        assert request is not None
        claim = claim_of(request.path, self._federations)
        federation = self._federations[claim.federation]
        address = self._address(connection, request)
        try:
            key, offer = await self._proven(connection, claim, federation, address)
            federation.check_begins(claim.role, key)
            if claim.role == CONTROL:
                await self._listen(connection, claim)
            elif claim.role == ACCEPT:
                await self._fetch(connection, claim)
            else:
                await self._carry(connection, claim, federation, key, offer)
        except Refused as refused:
            self._say(claim.federation, address, refused.why)
            await connection.close(refused.status, refused.why[:REASON_BYTES])
        except MeadowError as error:
            self._say(claim.federation, address, error.message)
            await connection.close(BAD_FRAME, error.message[:REASON_BYTES])
        except ConnectionClosed:
            pass
        finally:
            self._door.leaves(connection.remote_address and connection.remote_address[:2])

    async def _proven(
        self, connection: StreamConnection, claim: Claim, federation: Federation, address: str
    ) -> tuple[str, Offer]:
        """Return the fingerprint of the key by which a connection is let in, and what it has shown.

        Raises Refused.
        """
        challenge = Challenge.drawn(self._file.name, time.time())
        try:
            async with asyncio.timeout(self._file.proof_seconds):
                await connection.send(challenge.to_text())
                frame = await connection.recv()
        except TimeoutError:
            raise Refused(NOT_PROVEN, "no proof came in time") from None
        try:
            proof = Proof.from_text(frame)
            now = datetime.now(UTC)
            if time.time() > challenge.expires:
                raise Refused(NOT_PROVEN, "the challenge has expired")
            key = proof.checked(challenge, claim, federation.authorities, now)
        except MeadowError as error:
            with contextlib.suppress(Refused):
                # What costs the relay a look at signatures costs the address more.
                self._door.check_rate(address, FAILED_PROOF)
            raise Refused(NOT_PROVEN, error.message) from None
        self._door.leaves(connection.remote_address[:2])
        connection.let_in(stream=claim.role != CONTROL)
        return key, Offer(secrets.token_hex(16), challenge, proof)

    def _say(self, federation: str, address: str, why: str) -> None:
        """Log a refusal, unless there were many of them a moment ago."""
        if self._lines.take(federation) and self._lines.take(address):
            log.warning("%s: a connection from %s is refused: %s", federation, address, why)

    # ---- the three roles

    async def _listen(self, connection: StreamConnection, claim: Claim) -> None:
        """Hold an orchestrator's control connection; a newer one takes its place."""
        name = (claim.federation, claim.server)
        mine = sum(1 for federation, _ in self._servers if federation == claim.federation)
        if name not in self._servers and mine >= CONTROLS:
            raise Refused(TOO_MANY, "too many servers of this federation")
        await connection.send(OPEN)
        server = _Server(connection)
        before = self._servers.get(name)
        self._servers[name] = server
        log.info("%s/%s: an orchestrator listens", *name)
        if before is not None:
            self._close(before.control, REPLACED, "another one has taken over")
        try:
            while True:
                refusal = Refusal.from_text(await connection.recv())
                stream = server.offered.get(refusal.stream)
                if stream is not None and not stream.fetched.done():
                    stream.fetched.set_exception(Refused(NOT_TAKEN, refusal.why))
        finally:
            if self._servers.get(name) is server:
                del self._servers[name]
                log.info("%s/%s: no orchestrator listens any more", *name)
            for stream in server.offered.values():
                if not stream.fetched.done():
                    stream.fetched.set_exception(Refused(NOBODY_THERE, "the orchestrator left"))

    async def _fetch(self, connection: StreamConnection, claim: Claim) -> None:
        """Give an orchestrator's connection to the stream that it fetches."""
        server = self._servers.get((claim.federation, claim.server))
        stream = server.offered.get(claim.stream) if server is not None else None
        if stream is None or stream.fetched.done():
            raise Refused(NOT_TAKEN, "there is no such stream any more")
        # Before any byte of the silo's.
        await connection.send(OPEN)
        if not stream.fetched.done():
            stream.fetched.set_result(connection)
            await stream.ended.wait()

    async def _carry(
        self,
        connection: StreamConnection,
        claim: Claim,
        federation: Federation,
        key: str,
        offer: Offer,
    ) -> None:
        """Offer a silo's stream to its orchestrator, and carry it until one side ends."""
        federation.enter(key)
        fetched: asyncio.Future[StreamConnection] = asyncio.get_running_loop().create_future()
        stream = _Stream(offer.stream, connection, fetched, last=self._clock())
        try:
            other = await self._fetched(stream, claim, offer)
            await connection.send(OPEN)
            self._streams.add(stream)
            log.info("%s/%s: %s is connected", claim.federation, claim.server, key)
            await carry_frames(connection, other, self._meter(federation, stream))
        finally:
            federation.leave(key)
            self._streams.discard(stream)
            stream.ended.set()
            fetched.cancel()

    async def _fetched(self, stream: _Stream, claim: Claim, offer: Offer) -> StreamConnection:
        """Return the orchestrator's connection for a stream; raises Refused."""
        server = self._servers.get((claim.federation, claim.server))
        if server is None:
            raise Refused(NOBODY_THERE, "no orchestrator listens")
        server.offered[stream.name] = stream
        gone = asyncio.ensure_future(stream.silo.wait_closed())
        waited: list[asyncio.Future[Any]] = [stream.fetched, gone]
        try:
            async with asyncio.timeout(self._file.fetch_seconds):
                await server.control.send(offer.to_text())
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not stream.fetched.done():
                raise Refused(NOT_FETCHED, "the silo left")
            return stream.fetched.result()
        except TimeoutError:
            raise Refused(NOT_FETCHED, "the orchestrator did not answer in time") from None
        except ConnectionClosed:
            raise Refused(NOBODY_THERE, "the orchestrator left") from None
        finally:
            gone.cancel()
            del server.offered[stream.name]

    def _close(self, connection: StreamConnection, code: int, why: str) -> None:
        """Close a connection without waiting for its other side."""
        closing = asyncio.ensure_future(connection.close(code, why))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # ---- what is watched

    def _meter(self, federation: Federation, stream: _Stream) -> Meter:
        def meter(count: int) -> float:
            stream.last = self._clock()
            return 0.0 if federation.bytes is None else federation.bytes.owe(count)

        return meter

    async def _watch(self, context: ssl.SSLContext | None) -> None:
        """End streams over which nothing goes, and follow the relay's certificate."""
        stamp = self._stamp()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            late = self._clock() - self._file.idle_seconds
            for stream in [one for one in self._streams if one.last < late]:
                self._close(stream.silo, IDLE, "nothing was carried for long")
            if context is not None and (now := self._stamp()) != stamp:
                stamp = now
                self._load(context)

    def _stamp(self) -> tuple[int, ...]:
        found = []
        for name in (self._file.certificate, self._file.key):
            with contextlib.suppress(OSError):
                found.append(Path(name or "").stat().st_mtime_ns)
        return tuple(found)

    def _tls(self) -> ssl.SSLContext | None:
        if self._file.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._file.certificate, self._file.key)
        except (OSError, ssl.SSLError) as error:
            what = f"The relay's certificate or key can't be used: {error}"
            raise unusable(what) from None
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._file.certificate or "", self._file.key)
            log.info("another certificate is shown from now on")
        except (OSError, ssl.SSLError) as error:
            log.warning("the new certificate can't be used, the old one stays: %s", error)
