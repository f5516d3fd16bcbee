"""A caller that makes its own headers, to knock at an orchestrator in every wrong way."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from typing import Any, Self

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from azureml_jobs.identity.call_signature import body_digest
from azureml_jobs.identity.node_key import load_node_key, node_secret, public_line
from client.node.call_signer import CallSigner
from server.orchestrator.nodes import node_id_of
from strategies.wire.fleet_calls import FleetStub
from strategies.wire.transfer_calls import signed_bytes
from tests.faults.federation import Federation

Headers = list[tuple[str, Any]]


def certified(
    federation: Federation, key: ec.EllipticCurvePrivateKey, silo: str = "silo-2"
) -> tuple[bytes, bytes]:
    """Return a private key, and the certificate that the CA signed over it, in PEM."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, federation.admission(silo, public_line(key.public_key())).encode()


class Caller:
    """One key and an open channel; the key may be anybody's."""

    def __init__(
        self,
        federation: Federation,
        address: str,
        key: ec.EllipticCurvePrivateKey,
        certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        """`certificate` (private key and certificate, PEM) is shown in the handshake; without it,
        one that the CA has signed over the caller's own key.
        """
        self.key = key
        self.pem = public_key_to_bytes(key.public_key())
        self.node = Node(node_id=node_id_of(self.pem))
        private, shown = certificate or certified(federation, key)
        self.address = address
        self.signer = CallSigner(key, "federation", federation.authority)
        self.reopen(grpc.ssl_channel_credentials(federation.authority, private, shown))

    def reopen(self, credentials: grpc.ChannelCredentials) -> None:
        """Go on with another connection, of these credentials."""
        self.channel = grpc.secure_channel(
            self.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._stubs()

    def _stubs(self) -> None:
        self.stub = FleetStub(self.channel)
        self.own_stub = FleetStub(grpc.intercept_channel(self.channel, self.signer))

    @classmethod
    def silo(cls, federation: Federation, address: str, name: str) -> Self:
        return cls(
            federation,
            address,
            load_node_key(federation.secrets.get(node_secret("federation", name)), name),
        )

    def headers(
        self, *, shift: float = 0.0, timestamp: str | None = None, **changed: Any
    ) -> Headers:
        """Return good headers, signed `shift` seconds from now, with `key`, `time` or `signature` replaced."""
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=shift)
        text = timestamp if timestamp is not None else now.isoformat()
        signature = sign_message(self.key, text.encode())
        values = {"key": self.pem, "time": text, "signature": signature, **changed}
        names = {"key": PUBLIC_KEY_HEADER, "time": TIMESTAMP_HEADER, "signature": SIGNATURE_HEADER}
        return [(names[name], value) for name, value in values.items() if value is not None]

    def signed(self, method: str, body: bytes = b"") -> Headers:
        """Return the headers of a call of Meadow's own node, for a challenge that is asked for now."""
        with contextlib.suppress(grpc.RpcError):
            self.call("PullMessages", PullMessagesRequest(node=Node(node_id=1)))
        return list(self.signer._headers(method, body_digest(signed_bytes(method, body))))

    def call(
        self,
        name: str,
        request: Any,
        headers: Headers | None = None,
        extra: Sequence[tuple[str, Any]] = (),
    ) -> Any:
        """Make a call, signed as Meadow's own node does it, or with exactly these headers."""
        if headers is not None:
            return self.stub[name](request, timeout=20, metadata=headers)
        return self.own_stub[name](request, timeout=20, metadata=extra)

    def refused(self, name: str, request: Any, headers: Headers | None = None) -> str:
        """Make a call that must fail, and return its status and details."""
        try:
            self.call(name, request, headers)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
        raise AssertionError(f"{name} was let in")

    def knock(self, headers: Headers) -> str:
        return self.refused("PullMessages", PullMessagesRequest(node=self.node), headers)


class FlowerCaller(Caller):
    """A caller in the way of Flower's own nodes, at the port that is theirs: without a certificate,
    and with a signature of the time.
    """

    def __init__(
        self, federation: Federation, address: str, key: ec.EllipticCurvePrivateKey
    ) -> None:
        super().__init__(federation, address, key)
        self.reopen(grpc.ssl_channel_credentials(federation.authority))

    def call(
        self,
        name: str,
        request: Any,
        headers: Headers | None = None,
        extra: Sequence[tuple[str, Any]] = (),
    ) -> Any:
        metadata = self.headers() if headers is None else headers
        return super().call(name, request, [*metadata, *extra])
