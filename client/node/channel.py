"""The gRPC channel of a silo's node: TLS to one CA with the silo's own certificate, kept alive, and
every call signed with the node's key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from azureml_jobs.identity.signed_admission import read_admission
from client.node.call_signer import CallSigner
from conf.host_port import is_loopback

MOST_RECEIVED: Final = 64 * 2**20
"""Bytes of one answer: a chunk has 5 MiB, every other object of a message far less."""
LONGEST_BACKOFF: Final = 5.0
"""Seconds between two tries to reach the server, at most."""


def now() -> datetime:
    """Return the time that a call is signed with, by this machine's clock."""
    return datetime.now(UTC)


class Signer(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Adds to each call to a stock server who makes it: the key, the time, and the key's signature
    of the time.

    The three headers are those of Flower's own nodes: `flwr-public-key-bin` (PEM), `flwr-timestamp`
    (ISO 8601), `flwr-signature-bin` (ECDSA with SHA-256 over the timestamp).
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = public_key_to_bytes(key.public_key())

    def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> grpc.Call:
        """Sign one call and make it."""
        timestamp = now().isoformat()
        signed = [
            *(client_call_details.metadata or ()),
            (PUBLIC_KEY_HEADER, self._public),
            (TIMESTAMP_HEADER, timestamp),
            (SIGNATURE_HEADER, sign_message(self._key, timestamp.encode("ascii"))),
        ]
        return continuation(client_call_details._replace(metadata=signed), request)


def signed_channel(
    address: str,
    authority: bytes,
    key: ec.EllipticCurvePrivateKey,
    extra: Mapping[str, str | int],
    certificate: bytes | None = None,
) -> grpc.Channel:
    """Return a channel to `address` (host:port) whose calls are signed; nothing is sent before the
    first.

    `authority` is the PEM of the only CA that is trusted; `extra` are further gRPC channel options.
    `certificate` is the silo's admission in PEM (`azureml_jobs.identity.signed_admission`), by which the
    handshake lets it in; a stock server asks for none.
    """
    options: dict[str, str | int] = {
        "grpc.max_send_message_length": -1,
        "grpc.max_receive_message_length": MOST_RECEIVED,
        "grpc.keepalive_time_ms": 20_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.http2.max_pings_without_data": 0,
        # A new channel is a new connection, not the broken one again.
        "grpc.use_local_subchannel_pool": 1,
        # A call is signed once; `Connection` makes calls again, and each is signed anew.
        "grpc.enable_retries": 0,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1_000,
        "grpc.max_reconnect_backoff_ms": int(LONGEST_BACKOFF * 1000),
        **extra,
    }
    if is_loopback(address):
        # A proxy that the environment names is for other machines, whatever NO_PROXY says.
        options["grpc.enable_http_proxy"] = 0
    private = _pkcs8(key) if certificate is not None else None
    credentials = grpc.ssl_channel_credentials(authority, private, certificate)
    signer: grpc.UnaryUnaryClientInterceptor = Signer(key)
    if certificate is not None:
        # By what the CA has signed, and not by what a server says, a silo knows its federation.
        federation = read_admission(certificate, "the silo's admission").federation
        signer = CallSigner(key, federation, authority)
    channel = grpc.secure_channel(address, credentials, options=list(options.items()))
    return grpc.intercept_channel(channel, signer)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as TLS takes it; it goes into this process's memory, and nowhere else."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
