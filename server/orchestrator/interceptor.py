"""The check of each call of the Fleet service, in the call's own thread, as its headers arrive."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grpc
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from google.protobuf.message import DecodeError

from azureml_jobs.identity.signed_admission import certified_key
from server.orchestrator.calls_in_flight import (
    BODY_SECONDS,
    OBJECT_BODY_SECONDS,
    CallsInFlight,
)
from server.orchestrator.identity import (
    HEADERS,
    Keys,
    check_node,
    check_version,
)
from server.orchestrator.own_calls import OwnCalls, SignedHeaders
from server.orchestrator.refusals import (
    LateBody,
    NeedsChallenge,
    NotAMessage,
    Refusal,
    SparseLog,
    TooManyCalls,
)
from strategies.wire.frames import Buffer
from strategies.wire.transfer_calls import signed_bytes

REMEMBERED_CERTIFICATES: Final = 4096


class IdentityInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Checks each call of the Fleet service by `Keys`, in the call's own thread."""

    def __init__(
        self,
        keys: Keys,
        *,
        own: OwnCalls | None = None,
        calls: CallsInFlight | None = None,
        called: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """With `own` the port is that of Meadow's own nodes: each connection has a client
        certificate, whose key signs each call for this server. Without, calls are signed in
        Flower's way.

        `calls` counts what each key has in flight; `called` is told the peer (gRPC's name of it)
        and the key (PEM) of each call that is let in.
        """
        self._keys = keys
        self._calls = calls or CallsInFlight()
        self._called = called
        self._own = own
        self._certificates = CertifiedKeys()
        self._log = SparseLog()

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Wrap the handler.

        The wrapped one takes a stream of requests, though each call has one: so gRPC begins it when
        the headers are here, and a call that is refused costs neither the reading of its body nor
        the memory for it.
        """
        inner = continuation(details)
        if inner is None or inner.unary_unary is None:
            return inner
        metadata = details.invocation_metadata
        is_object = details.method.endswith(("/PushObject", "/PushParts"))
        seconds = OBJECT_BODY_SECONDS if is_object else BODY_SECONDS

        def checked(bodies: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            entered = b""
            # Now: gRPC does not name the peer of a call that has ended.
            peer = context.peer()
            try:
                pem, signed = self._caller(metadata, context)
                silo = self._keys.silo(pem) or "a silo"
                if not self._calls.enter(pem):
                    raise TooManyCalls(silo)
                entered = pem
                if self._called is not None:
                    self._called(peer, pem)
                with self._calls.body(context, seconds):
                    body = _body(bodies, silo, seconds)
                if self._own is not None and signed is not None:
                    public = self._keys.public(pem)
                    told = _signed(details.method, body)
                    self._own.check(signed, details.method, told, pem, public, silo)
                request = _parsed(body, inner.request_deserializer)
                check_node(request, pem)
                check_version(metadata, silo)
                return inner.unary_unary(request, context)
            except Refusal as refusal:
                # A challenge is how each connection begins, and no news.
                if not isinstance(refusal, NeedsChallenge):
                    self._log.refused(refusal, peer, details.method)
                if refusal.trailing:
                    context.set_trailing_metadata(refusal.trailing)
                context.abort(*refusal.answer())
            finally:
                if entered:
                    self._calls.leave(entered)

        return grpc.stream_unary_rpc_method_handler(
            checked,
            request_deserializer=None,
            response_serializer=inner.response_serializer,
        )

    def _caller(
        self, metadata: Sequence[tuple[str, Any]], context: grpc.ServicerContext
    ) -> tuple[bytes, SignedHeaders | None]:
        """Return the key of a call, and for one of our own nodes what is to be compared with its
        body.

        Raises Refusal. First of all who is not admitted any more is told that, whatever the headers
        hold.
        """
        if self._own is None:
            _single(metadata)
            return self._keys.check(dict(metadata)), None
        certified = self._certificates.key_of(context)
        self._keys.check_admitted(certified)
        return certified, self._own.begin(metadata, certified)


class CertifiedKeys:
    """The key of each client certificate, in the form in which Flower sends it.

    gRPC hands out the certificate with every call; one is parsed once and remembered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def key_of(self, context: grpc.ServicerContext) -> bytes:
        """Return the key (PEM) of the certificate that the call's connection was opened with.

        Raises Refusal MDW-742 where there is none, which the handshake should have refused.
        """
        certificate = b"".join(context.auth_context().get("x509_pem_cert", ()))
        with self._lock:
            known = self._known.get(certificate)
            if known is not None:
                self._known.move_to_end(certificate)
                return known
        key = certified_key(certificate)
        if key is None:
            raise Refusal("MDW-742", "The connection has no client certificate over a node key.")
        pem = public_key_to_bytes(key)
        with self._lock:
            self._known[certificate] = pem
            while len(self._known) > REMEMBERED_CERTIFICATES:
                self._known.popitem(last=False)
        return pem


def _body(bodies: Iterator[bytes], silo: str, seconds: float) -> bytes:
    """Return the one body of a call; raises Refusal MDW-719 where it did not come in time."""
    try:
        return next(bodies)
    except (grpc.RpcError, StopIteration):
        # The call was ended, by the caller or because its body was late; or it has no body.
        raise LateBody(silo, seconds) from None


def _signed(method: str, body: bytes) -> Buffer:
    """Return what is signed of a body; raises Refusal MDW-644 where its head does not end."""
    try:
        return signed_bytes(method, body)
    except DecodeError:
        raise NotAMessage("The head of the call is longer than the call.") from None


def _parsed(body: bytes, deserializer: Callable[[bytes], Any]) -> Any:
    """Return the message in a body; raises Refusal MDW-644 where there is none."""
    try:
        return deserializer(body)
    except DecodeError:
        raise NotAMessage("The body of the call is not a message.") from None


def _single(metadata: Sequence[tuple[str, Any]]) -> None:
    names = [name for name, _ in metadata if name in HEADERS]
    if len(names) != len(set(names)):
        raise Refusal("MDW-742", "An authentication header occurs twice.")
