"""A gRPC port of the Fleet service: the one of Meadow's own nodes, or the one of Flower's.

At the first a stranger ends in the TLS handshake: the CA has signed a client certificate for each
silo that was admitted, and gRPC lets nobody else in. The second asks for no certificate, because
Flower's own nodes have none, and is closed unless it is asked for.

    MDW-750 the port can't be used    MDW-751 the certificate can't be used
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from typing import Final

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from azureml_jobs.identity.authority import ServerCredentials
from conf.errors import IdentityError
from server.orchestrator.fleet import Fleet
from server.orchestrator.identity import IdentityInterceptor, Keys
from server.orchestrator.part_calls import PartCalls, add_part_calls
from strategies.wire.fleet_calls import add_fleet

KEEPALIVE_SECONDS: Final = 20.0
"""Between two pings of a silent connection, from either side: below the idle limit of any load
balancer.
"""
SPARE_THREADS: Final = 16
"""Beside those of the registered keys, for calls that are refused."""
THREADS_PER_KEY: Final = 6
"""One waits for work, one beats, the others carry objects."""


class GrpcPort:
    """A TLS port whose calls are the servicer's; closed by `stop`."""

    def __init__(
        self,
        address: str,
        credentials: ServerCredentials,
        fleet: Fleet,
        keys: Keys,
        *,
        certified: bool = True,
    ) -> None:
        """`address` is host:port (port 0: any free one). `certified`: only who has a client
        certificate of the CA gets through the handshake.
        """
        self._asked = address
        self._credentials = credentials
        self._fleet = fleet
        self._certified = certified
        self.interceptor = IdentityInterceptor(keys, certified=certified)
        self._server: grpc.Server | None = None
        self.address = address

    def start(self) -> None:
        """Listen; afterwards `address` has its port.

        Raises IdentityError MDW-750 or MDW-751.
        """
        threads = SPARE_THREADS + THREADS_PER_KEY * max(8, 2 * len(self._fleet.nodes))
        server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fleet"),
            maximum_concurrent_rpcs=threads,
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

    def stop(self) -> None:
        """Close the port and its connections."""
        if self._server is not None:
            self._server.stop(grace=1.0).wait()
            self._server = None

    def _bind(self, server: grpc.Server) -> int:
        host, _, number = self._asked.rpartition(":")
        if not host or not number.isdigit():
            raise IdentityError(
                "MDW-750", f"{self._asked!r} is not host:port.", "Write it as in 0.0.0.0:9092."
            )
        given = self._credentials
        _check_pair(given)
        credentials = grpc.ssl_server_credentials(
            ((given.key, given.certificate),),
            root_certificates=given.ca,
            require_client_auth=self._certified,
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
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]
