"""A gRPC port of the Fleet service: the one of Meadow's own nodes, or the one of Flower's.

At the first a stranger ends in the TLS handshake: the CA has signed a client certificate for each
silo that was admitted, and gRPC lets nobody else in. The second asks for no certificate, because
Flower's own nodes have none, and is closed unless it is asked for.

    MDW-750 the port can't be used    MDW-751 the certificate can't be used
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Collection
from typing import Final

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from azureml_jobs.identity.authority import ServerCredentials
from conf.errors import IdentityError
from server.orchestrator.call_threads import CallThreads
from server.orchestrator.calls_in_flight import CALLS_PER_KEY, CallsInFlight
from server.orchestrator.fleet import Fleet
from server.orchestrator.identity import Keys
from server.orchestrator.interceptor import IdentityInterceptor
from server.orchestrator.own_calls import OwnCalls
from server.orchestrator.part_calls import PartCalls, add_part_calls
from server.orchestrator.strangers import Peer, Strangers, Watch
from strategies.wire.fleet_calls import add_fleet

KEEPALIVE_SECONDS: Final = 20.0
"""Between two pings of a silent connection, from either side: below the idle limit of any load
balancer.
"""
SPARE_THREADS: Final = 16
"""Beside those of the admitted keys, for calls that are refused."""
HANDSHAKE_SECONDS: Final = 5.0
"""For the TLS handshake and the first frame of HTTP/2 together."""
IDLE_SECONDS: Final = 120.0
"""A silo asks for work all the time; a connection without any call for so long is closed."""
STREAMS_PER_CONNECTION: Final = 32
"""More than a key may have in flight; the caller itself keeps back what is beyond."""
STRANGERS: Final = 1000
"""Connections at once over which no admitted silo has called yet; less where the process may open
few files.
"""


class GrpcPort:
    """A TLS port whose calls are the servicer's; closed by `stop`."""

    def __init__(
        self,
        address: str,
        credentials: ServerCredentials,
        fleet: Fleet,
        keys: Keys,
        *,
        federation: str | None = None,
        relays: Collection[str] = (),
    ) -> None:
        """`address` is host:port (port 0: any free one). With a `federation` only who has a
        client certificate of the CA gets through the handshake, and each call is signed for that
        federation; without, calls are signed in Flower's way. `relays` are addresses or networks that
        carry many silos, whose connections are ended last.
        """
        self._asked = address
        self._credentials = credentials
        self._shown = credentials
        self._fleet = fleet
        self._certified = federation is not None
        self._relays = relays
        self._calls = CallsInFlight()
        self._strangers: Strangers | None = None
        self._watch: Watch | None = None
        self.threads = CallThreads(self._needed_threads(), "fleet")
        self._own: OwnCalls | None = None
        if federation is not None:
            _check_pair(credentials)
            self._own = OwnCalls(federation, credentials.certificate, keys.challenges)
        self.interceptor = IdentityInterceptor(
            keys, own=self._own, calls=self._calls, called=self._called
        )
        self._server: grpc.Server | None = None
        self.by_relay: set[bytes] = set()
        """The keys (PEM) whose last call came by a relay."""
        self.address = address

    def start(self) -> None:
        """Listen; afterwards `address` has its port.

        Raises IdentityError MDW-750 or MDW-751.
        """
        # No limit of calls in all: strangers do not come so far, and each key has a limit of its own.
        server = grpc.server(
            self.threads,
            options=_options(self._fleet.limits.call_bytes),
            interceptors=[self.interceptor],
        )
        add_fleet(self._fleet, server)
        if self._certified:
            # Flower's own nodes move whole objects.
            add_part_calls(PartCalls(self._fleet), server)
        port = self._bind(server)
        server.start()
        self._server = server
        self.address = f"{self._asked.rpartition(':')[0]}:{port}"
        self._strangers = Strangers(port, strangers_at_once(), self._relays)
        self._watch = Watch((self._strangers.look, self._calls.end_late_bodies))
        self._watch.start()

    def use(self, credentials: ServerCredentials) -> None:
        """Show another certificate, and trust other CAs, from the next handshake on.

        Open connections stay. Raises IdentityError MDW-751.
        """
        _check_pair(credentials)
        self._credentials = credentials
        if self._own is not None:
            self._own.use(credentials.certificate)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what a handshake shall use where that has changed; asked before each handshake."""
        given = self._credentials
        if given is self._shown:
            return None
        self._shown = given
        return _configuration(given)

    def follow_keys(self) -> None:
        """Allow as many threads as the keys that are admitted now can need."""
        self.threads.limit = self._needed_threads()

    def _needed_threads(self) -> int:
        return SPARE_THREADS + CALLS_PER_KEY * len(self._fleet.nodes)

    def _called(self, peer: str, key: bytes) -> None:
        """Hear that an admitted silo has called."""
        if self._strangers is None:
            return
        self._strangers.called(peer)
        if self._strangers.is_by_relay(peer):
            self.by_relay.add(key)
        else:
            self.by_relay.discard(key)

    def comes_by_relay(self, peer: Peer, key: str) -> None:
        """Hear that a connection to this port is that of a silo's key (`SHA256:...`), which a relay
        carries.
        """
        if self._strangers is not None and self._certified:
            self._strangers.comes_by_relay(peer, key)

    def stop(self) -> None:
        """Close the port and its connections."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if self._server is not None:
            self._server.stop(grace=1.0).wait()
            self._server = None
            self.threads.shutdown(wait=False, cancel_futures=True)

    def _bind(self, server: grpc.Server) -> int:
        host, _, number = self._asked.rpartition(":")
        if not host or not number.isdigit():
            raise IdentityError(
                "MDW-750", f"{self._asked!r} is not host:port.", "Write it as in 0.0.0.0:9092."
            )
        given = self._credentials
        _check_pair(given)
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(given), self._changed, require_client_authentication=self._certified
        )
        with contextlib.suppress(RuntimeError):
            port = int(server.add_secure_port(self._asked, credentials))
            if port:
                return port
        hint = "End the process that listens there, or choose another port."
        raise IdentityError(
            "MDW-750",
            f"Can't listen on {self._asked}: it is taken, or not an address of this machine.",
            hint,
        )


def _configuration(given: ServerCredentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        ((given.key, given.certificate),), root_certificates=given.ca
    )


def strangers_at_once() -> int:
    """Return how many connections may be nobody's at once: a quarter of what may be open, at most.

    The rest is for silos and for files.
    """
    return min(STRANGERS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


def allow_many_files(most: int = 65_536) -> None:
    """Raise this process's own limit of open files as far as its user may, up to `most`.

    Many systems begin a process with 1,024, which a thousand connections fill.
    """
    now, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    if now == resource.RLIM_INFINITY or now >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, allowed))


def _check_pair(given: ServerCredentials) -> None:
    """Raise IdentityError MDW-751 unless the server's key belongs to its certificate."""
    try:
        shown = load_pem_x509_certificate(given.certificate).public_key()
        fits = load_pem_private_key(given.key, None).public_key() == shown
    except (ValueError, TypeError):
        fits = False
    if not fits:
        hint = "Make both anew with `meadow keys init`."
        raise IdentityError(
            "MDW-751",
            "The server's certificate or private key can't be read, or they differ.",
            hint,
        )


def _options(call_bytes: int) -> list[tuple[str, int]]:
    return [
        # Two orchestrators on one port would share the silos between them.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", call_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.absolute_max_metadata_size", 32 * 1024),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]
