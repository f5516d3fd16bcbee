"""The second port: the Fleet service over HTTPS, for Flower's own nodes of 1.40 and later; closed
unless asked for.

A call is `POST /v1/fleet/NAME` with a protobuf message as its body; who signed it, and when, stands
in three headers. The servicer and the checks are those of the gRPC port. What a stranger can take
is bounded: connections, and with them threads; the seconds and bytes of a head; and no body is read
beyond `SMALL_CALL_BYTES` for a key that is not admitted. Threads and connections are this port's
own, so that the silos of the gRPC port lose nothing to it.

    MDW-757 the port can't be used
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from azureml_jobs.identity.authority import ServerCredentials
from conf.errors import IdentityError
from server.orchestrator.fleet import Fleet
from server.orchestrator.http_call import (
    SMALL_CALL_BYTES,
    Head,
    HttpError,
    parse_head,
    reason,
    response,
)
from server.orchestrator.identity import Keys, check_node, check_version
from server.orchestrator.refusals import Refusal, SparseLog
from server.orchestrator.tls import server_context
from strategies.wire.fleet_calls import FLEET_CALLS

log = logging.getLogger(__name__)

HEAD_BYTES: Final = 16 * 1024
STATUSES: Final[Mapping[grpc.StatusCode, HTTPStatus]] = {
    # A stock node ends.
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    # It takes the run for over.
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    # It tries again.
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


@dataclass(frozen=True)
class PortLimits:
    """What the port gives at most: open connections, and seconds of a stranger's wait, a call and
    an idle silo.
    """

    connections: int = 64
    stranger_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 90.0


class _Wire:
    """One TLS connection, whose reads and writes end by a moment that is set before."""

    def __init__(self, secured: ssl.SSLSocket) -> None:
        self._socket = secured
        self._held = bytearray()
        self._deadline = 0.0

    def within(self, seconds: float) -> None:
        """Set by when what follows is done; each read and write that is later raises TimeoutError."""
        self._deadline = time.monotonic() + seconds

    def _timed(self) -> ssl.SSLSocket:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket

    def handshake(self) -> None:
        self._timed().do_handshake()

    def head(self) -> bytes | None:
        """Return the next head, None where the caller has closed the connection."""
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > HEAD_BYTES:
                raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head is too long.")
            part = self._timed().recv(HEAD_BYTES)
            if not part:
                return None
            self._held += part
        head = bytes(self._held[:end])
        del self._held[: end + 4]
        return head

    def body(self, size: int) -> bytes:
        """Return the next bytes; raises ConnectionError where there are fewer."""
        body = bytearray(size)
        here = min(size, len(self._held))
        body[:here] = self._held[:here]
        del self._held[:here]
        view = memoryview(body)
        while here < size:
            came = self._timed().recv_into(view[here:])
            if not came:
                raise ConnectionError
            here += came
        return bytes(body)

    def send(self, data: bytes) -> None:
        self._timed().sendall(data)

    def is_waiting(self) -> bool:
        """Say whether the caller waits for its answer: who sends something, or closes, does not any
        more.
        """
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not self._held and not self._socket.pending() and not poll.poll(0)


class _Aborted(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.status = STATUSES.get(code, HTTPStatus.PRECONDITION_FAILED)


class _Context:
    """As much of gRPC's context as the servicer asks of it."""

    def __init__(self, peer: str, wire: _Wire) -> None:
        self._peer = peer
        self._wire = wire

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        # Nothing that the caller sent: by this port nobody is a node of Meadow's own.
        return ()

    def set_trailing_metadata(self, metadata: object) -> None:
        """Drop it: it is for Meadow's own nodes."""

    def peer(self) -> str:
        return self._peer

    def is_active(self) -> bool:
        return self._wire.is_waiting()

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise _Aborted(code, details)


class StockPort:
    """A TLS port whose calls are the servicer's; closed by `stop`."""

    def __init__(
        self,
        address: str,
        credentials: ServerCredentials,
        fleet: Fleet,
        keys: Keys,
        limits: PortLimits,
    ) -> None:
        """Bind `address`, host:port (port 0: any free one); raises IdentityError MDW-757."""
        self._tls = server_context(credentials)
        self._fleet = fleet
        self._keys = keys
        self._limits = limits
        self._log = SparseLog()
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(limits.connections)
        self._open: set[socket.socket | None] = set()
        self._listener = _bind(address)
        self.address = f"{address.rpartition(':')[0]}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, name="stock-port", daemon=True)

    def start(self) -> None:
        """Answer calls."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and its connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        # Once so that a full port goes on to see that it is closed, once for one that came in
        # between.
        self._drop()
        self._thread.join()
        self._drop()

    def _drop(self) -> None:
        with self._lock:
            for one in filter(None, self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            # A stock node ends where its connection is closed in the handshake, so one too many
            # waits its turn.
            self._free.acquire()
            try:
                raw, peer = self._listener.accept()
            except OSError:
                self._free.release()
                if self._listener.fileno() < 0:
                    return
                # As where the process has no file descriptor left: the connection waits.
                time.sleep(0.1)
                continue
            with self._lock:
                self._open.add(raw)
            name = f"{peer[0]}:{peer[1]}"
            threading.Thread(target=self._serve, args=(raw, name), daemon=True).start()

    def _serve(self, raw: socket.socket, peer: str) -> None:
        """Answer the calls of one connection until either side ends it."""
        secured: ssl.SSLSocket | None = None
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                # It has taken the descriptor over from `raw`.
                self._open.remove(raw)
                self._open.add(secured)
            self._calls(_Wire(secured), peer)
        except (OSError, ValueError):
            log.debug("the connection of %s broke off", peer)
        finally:
            with self._lock:
                self._open -= {raw, secured}
            (secured or raw).close()
            self._free.release()

    def _calls(self, wire: _Wire, peer: str) -> None:
        wire.within(self._limits.stranger_seconds)
        wire.handshake()
        while True:
            try:
                raw = wire.head()
                if raw is None:
                    return
                body = self._answer(wire, parse_head(raw, self._fleet.limits.call_bytes), peer)
            except HttpError as error:
                wire.within(self._limits.stranger_seconds)
                wire.send(response(error.status, reason(error), last=True))
                return
            wire.within(self._limits.body_seconds)
            wire.send(body)
            wire.within(self._limits.idle_seconds)

    def _answer(self, wire: _Wire, head: Head, peer: str) -> bytes:
        """Return the answer to one call; raises HttpError where the connection ends with it."""
        held = wire.body(head.size) if head.size <= SMALL_CALL_BYTES else None
        try:
            pem = self._keys.check(head.signed())
            wire.within(self._limits.body_seconds)
            request = FLEET_CALLS[head.name].request.FromString(
                wire.body(head.size) if held is None else held
            )
            check_node(request, pem)
            check_version(tuple(head.headers.items()), self._keys.silo(pem) or "a silo")
            answer = getattr(self._fleet, head.name)(request, _Context(peer, wire))
        except Refusal as refusal:
            self._log.refused(refusal, peer, head.name)
            raise HttpError(_Aborted(*refusal.answer()).status, str(refusal)) from None
        except DecodeError:
            raise HttpError(HTTPStatus.BAD_REQUEST, "MDW-644: Not a message.") from None
        except _Aborted as aborted:
            return response(aborted.status, reason(aborted))
        return response(HTTPStatus.OK, answer.SerializeToString(), "application/protobuf")


def _bind(address: str) -> socket.socket:
    host, _, number = address.rpartition(":")
    try:
        # create_server leaves its socket open where the number is too large.
        if not host or int(number) > 65535:
            raise ValueError
        return socket.create_server((host, int(number)), backlog=64)
    except (OSError, ValueError, OverflowError):
        raise IdentityError(
            "MDW-757",
            f"Can't listen for Flower's own nodes on {address!r}: it is not host:port, it is taken,"
            " or not an address of this machine.",
            "Choose another federation.orchestrator.stock_listen, or leave it out.",
        ) from None
