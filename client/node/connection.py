"""The silo's gRPC connection, from Flower's public pieces: it finds the server, keeps asking, and
never ends a process.

Every call has a deadline and is signed; a call that fails because the server or the way to it is
gone is made again, with the address asked for anew, until it succeeds or the connection is closed.
All calls may be made twice: the orchestrator takes the second for the first. A beating thread says
that the silo is alive while it trains.

    MDW-753 another version of Flower     MDW-754 the server does not admit this silo
    MDW-755 the server can't be trusted
"""

from __future__ import annotations

import logging
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, cast

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node as NodeId
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run

from client.node.arrivals import LARGEST, checked, too_large
from client.node.channel import LONGEST_BACKOFF, signed_channel
from client.node.own_admission import SiloAdmission
from client.node.pace import CallLost
from client.node.transfers import TransferLost, Transfers, Watch, side_by_side
from conf.border import one_line
from conf.errors import IdentityError
from conf.flower_version import REQUIREMENT
from conf.running_clock import RunningClock
from strategies.wire.fleet_calls import FleetStub
from strategies.wire.frames import Buffer, Content
from strategies.wire.headers import (
    BEGUN_HEADER,
    CLOSED_HEADER,
    KEY_ENDS,
    NODE_HEADER,
    OVER_HEADER,
    PARTS_HEADER,
    TWIN_HEADER,
    WORKING_HEADER,
    begun_from_header,
)
from strategies.wire.release import release_headers, why_refused

log = logging.getLogger(__name__)

Rendezvous = Callable[[], str | None]
"""Says where the server is: host:port, or None while nobody knows."""

HEARTBEAT_SECONDS: Final = 10.0
"""The interval that the silo declares, the least that Flower takes: after twice that without a beat
it is lost.
"""
BEAT_SECONDS: Final = 3.0
"""Between two beats, so that one may be lost or late."""
BEAT_DEADLINE: Final = 5.0
WORK_DEADLINE: Final = 45.0
"""For a question for work, which the orchestrator answers after 15 s at the latest."""
OBJECT_DEADLINE: Final = 120.0
"""For a chunk of 5 MiB to or from a server that knows no parts (`client.node.transfers`)."""
CALL_DEADLINE: Final = 15.0
TRANSFER_BACKOFF: Final = 2.0
"""Seconds between two tries of a transfer, at most: it was in progress a moment ago."""
STOCK_PATIENCE: Final = 90.0
GOODBYE_DEADLINE: Final = 3.0
UPLOAD_TRIES: Final = 10
"""Each asks what is missing and sends it: the second is enough after a lost connection."""
_GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_DISTRUST = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|[Hh]ostname|[Pp]eer name|SSL_ERROR_SSL"
)
_REPLAYED = "MDW-747"
_NOT_VOUCHED_FOR = "MDW-762"
Headers = Iterable[tuple[str, str]]
"""Of gRPC, trailing an answer: names and values."""

_CODED = re.compile(r"(MDW-\d{3}): (.*)", re.S)


class FederationOver(Exception):
    """The federation has ended well; there is nothing left to do."""


class CallRefused(Exception):
    """The server does not want this call: the round it belongs to has closed, or the run is
    another.
    """


class NodeUnknown(Exception):
    """The server does not know this node's id any more: activate again."""


class ConnectionClosed(Exception):
    """The connection was closed from this side."""


class Connection:
    """One silo's connection to whichever orchestrator the rendezvous names."""

    def __init__(
        self,
        rendezvous: Rendezvous,
        authority: bytes | Callable[[], bytes],
        key: ec.EllipticCurvePrivateKey,
        *,
        admission: SiloAdmission | None = None,
        elsewhere: Callable[[str], bool] | None = None,
        options: Mapping[str, str | int] | None = None,
        target: str | None = None,
        watch: Watch | None = None,
        message_bytes: int = LARGEST,
    ) -> None:
        """`authority` is the PEM of the only CAs that are trusted, or says which they are now.

        `options` are further gRPC channel options; `target` is what gRPC dials in the place of
        the address, a socket of this machine that leads there. Without an `admission` no client certificate is
        shown: a stock server asks for none. `elsewhere` hears of an address that failed, and says
        whether to go on looking; `watch` is told of transfers that take long.
        An instruction may have `message_bytes`.
        """
        self._admission = admission
        self._certificate: bytes | None = None
        self._unadmitted_since: float | None = None
        self._rendezvous = rendezvous
        self._elsewhere = elsewhere or (lambda address: False)
        self._authority = authority if callable(authority) else lambda: authority
        self._trusted_cas: bytes | None = None
        self._key = key
        self._options = dict(options or {})
        self._target = target
        self._public = public_key_to_bytes(key.public_key())
        self._metadata = (*release_headers("SuperNode"), (NODE_HEADER, secrets.token_hex(8)))
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._channel: grpc.Channel | None = None
        self._stub: FleetStub | None = None
        self._address: str | None = None
        self._trusted = False  # a server that proved its identity has been reached
        self._node: NodeId | None = None
        self._beating: threading.Thread | None = None
        self._transfers = Transfers(self._once, watch, most=message_bytes)
        self._message_bytes = message_bytes
        self._in_parts = False  # whether the server has the calls for it, as it last said
        self._failures = 0  # of calls that were made once, one after another
        self.clock = RunningClock()
        """Of the time for which this process was running; whoever goes by it watches it."""
        self._work: tuple[str, threading.Event] | None = None
        self._has_twin = False
        self.failure: Exception | None = None  # why the heartbeat gave up
        self.key_ends: datetime | None = None  # as the server last said; it does when that is near

    def open(self, give_up_at: float | None = None) -> int:
        """Find the server, say that the silo is there, start the heartbeat, and return the node's
        id.

        Waits as long as it takes, or until `give_up_at` (seconds of `clock`) and raises
        TimeoutError. Raises IdentityError MDW-754 or MDW-755, or FederationOver.
        """
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        # A stock server lets a node that has crashed in only after a minute.
        refused_until = time.monotonic() + STOCK_PATIENCE
        while True:
            try:
                response = self._call("ActivateNode", request, CALL_DEADLINE, give_up_at)
                break
            except CallRefused as refusal:
                if time.monotonic() > refused_until:
                    hint = "Ask the orchestrator's owner to admit this silo's public key."
                    raise IdentityError(
                        "MDW-754", f"The server does not admit this silo: {refusal}.", hint
                    ) from None
                self._closed.wait(LONGEST_BACKOFF)
        self._node = NodeId(node_id=response.node_id)
        if self._beating is None:
            beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            beating.start()
            # Not before it is started: `close` in another thread may wait for it in this moment.
            self._beating = beating
        return int(response.node_id)

    def receive(self) -> tuple[Message, ObjectTree] | None:
        """Return the next instruction, without its content, and the tree of its objects; None when
        there is none yet.

        Raises FederationOver, and the heartbeat's failure where it had one.
        """
        if self.failure is not None:
            raise self.failure
        response, trailing = self._call_traced(
            "PullMessages", PullMessagesRequest(node=self._node), WORK_DEADLINE
        )
        said = dict(trailing)
        if OVER_HEADER in said:
            raise FederationOver("the orchestrator says so")
        self.key_ends = _time(said.get(KEY_ENDS))
        self._in_parts = PARTS_HEADER in said
        self._note_twin(TWIN_HEADER in said)
        if not response.messages_list:
            return None
        return message_from_proto(response.messages_list[0]), response.message_object_trees[0]

    @contextmanager
    def working_on(self, content: str) -> Iterator[threading.Event]:
        """Ask in this block with each heartbeat whether the server still waits for the answer to a
        content; what is yielded is set when it does not.
        """
        closed = threading.Event()
        self._work = (content, closed)
        try:
            yield closed
        finally:
            self._work = None

    def _note_twin(self, has_twin: bool) -> None:
        """Say once that another process uses the same key, and once that it does no more."""
        if has_twin == self._has_twin:
            return
        self._has_twin = has_twin
        if has_twin:
            log.error(
                "another process with this silo's key is connected, and is given the work;"
                " this one gets none until that one ends: end one of the two"
            )
        else:
            log.info("this process is given the silo's work again")

    def run(self, run_id: int) -> tuple[Run, Headers]:
        """Return Flower's description of a run, and the headers beside it
        (`strategies.wire.run_code`).
        """
        request = GetRunRequest(node=self._node, run_id=run_id)
        response, trailing = self._call_traced("GetRun", request, CALL_DEADLINE)
        return run_from_proto(response.run), trailing

    def pull(self, head: Message, tree: ObjectTree) -> dict[str, Buffer]:
        """Return the objects of an instruction by id, and tell the server that they are here.

        Raises CallRefused where it has one no longer; what has arrived stays for the next call.
        Raises WireError MDW-650 or 651 where one is not what its name says.
        """
        run_id = head.metadata.run_id
        ids = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
        if not self._in_parts:
            contents = self._pull_whole(run_id, ids)
            self.confirm(head)
            return contents
        try:
            pulled = self._transfers.pull(self._node, run_id, ids)
        except TransferLost as lost:
            raise CallRefused(str(lost)) from None
        if not pulled.in_one_call:
            self.confirm(head)
        return pulled.contents

    def _pull_whole(self, run_id: int, ids: Sequence[str]) -> dict[str, Buffer]:
        """Return a message's objects from a server that knows no parts."""
        contents: dict[str, Buffer] = {}
        size = 0
        for id, content in side_by_side(lambda id: (id, self._pull_object(run_id, id)), ids):
            size += len(content)
            if size > self._message_bytes:
                raise too_large(size, self._message_bytes)
            contents[id] = checked(id, content)
        return contents

    def confirm(self, head: Message) -> None:
        """Tell the server that it need not keep an instruction's objects for this silo."""
        metadata = head.metadata
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=metadata.run_id, message_object_id=metadata.message_id
        )
        self._call("ConfirmMessageReceived", request, CALL_DEADLINE)

    def answer(
        self, head: Message, tree: ObjectTree, contents: Mapping[str, Content], seconds: float
    ) -> None:
        """Send a reply: its head (a message without content), then the objects that the server does
        not have.

        Raises CallRefused where nobody waits for it any more.
        """
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(head)],
            message_object_trees=[tree],
            clientapp_runtime_list=[seconds],
        )
        run_id = head.metadata.run_id
        if self._in_parts and self._transfers.push_at_once(request, run_id, contents):
            return
        for _ in range(UPLOAD_TRIES):
            response, trailing = self._call_traced("PushMessages", request, CALL_DEADLINE)
            begun = dict(trailing).get(BEGUN_HEADER)
            if begun is not None:
                self._transfers.heard(begun_from_header(str(begun)), contents)
            if self._push(run_id, response.session_id, response.objects_to_push, contents):
                return
            # The upload was dropped in between, or an object arrived twice: ask what is missing.
            self._pause(0.2)
        raise CallRefused(f"the server did not take all objects in {UPLOAD_TRIES} tries")

    def _push(
        self, run_id: int, session: str, ids: Sequence[str], contents: Mapping[str, Content]
    ) -> bool:
        """Send some objects of a reply; False where the server has not taken all of them."""
        if self._in_parts:
            try:
                return self._transfers.push(self._node, run_id, session, contents, ids)
            except TransferLost as lost:
                raise CallRefused(str(lost)) from None

        def one(id: str) -> bool:
            return self._push_object(run_id, session, id, bytes(contents[id]))

        return all(list(side_by_side(one, ids)))

    def close(self, *, goodbye: bool = True) -> None:
        """Say goodbye, if the server can be reached, and end all calls; once is enough.

        Without a goodbye the silo keeps its place: what is asked of it waits for its successor.
        """
        stub = self._stub
        node = self._node
        if self._closed.is_set():
            return
        self._closed.set()
        if goodbye and stub is not None and node is not None:
            try:
                stub["DeactivateNode"](
                    DeactivateNodeRequest(node_id=node.node_id),
                    timeout=GOODBYE_DEADLINE,
                    metadata=self._metadata,
                )
            except grpc.RpcError as error:
                log.info("could not say goodbye: %s", error.code().name)
        if self._channel is not None:
            self._channel.close()
        if self._beating is not None and self._beating is not threading.current_thread():
            self._beating.join(BEAT_DEADLINE + 1)

    def _pull_object(self, run_id: int, object_id: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        while True:
            response = self._call("PullObject", request, OBJECT_DEADLINE)
            if response.object_available:
                return cast(bytes, response.object_content)
            if not response.object_found:
                raise CallRefused(f"object {object_id[:12]} is not there any more")
            self._pause(0.1)

    def _push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> bool:
        request = PushObjectRequest(
            node=self._node,
            run_id=run_id,
            session_id=session,
            object_id=object_id,
            object_content=content,
        )
        return bool(self._call("PushObject", request, OBJECT_DEADLINE).stored)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            request = SendNodeHeartbeatRequest(
                node=self._node, heartbeat_interval=HEARTBEAT_SECONDS
            )
            work = self._work
            doing = () if work is None else ((WORKING_HEADER, work[0]),)
            try:
                _, trailing = self._call_traced(
                    "SendNodeHeartbeat", request, BEAT_DEADLINE, headers=doing
                )
                if work is not None and CLOSED_HEADER in dict(trailing):
                    work[1].set()
            except (NodeUnknown, CallRefused) as error:
                # The next question for work fixes it.
                log.info("the server does not take the heartbeat: %s", error)
            except ConnectionClosed:
                return
            except Exception as error:  # whatever it is, the main thread must hear of it
                log.error("the heartbeat has ended: %s", error)
                self.failure = error
                return

    def _call(
        self, name: str, request: Any, deadline: float, give_up_at: float | None = None
    ) -> Any:
        return self._call_traced(name, request, deadline, give_up_at)[0]

    def _call_traced(
        self,
        name: str,
        request: Any,
        deadline: float,
        give_up_at: float | None = None,
        headers: Headers = (),
    ) -> tuple[Any, Headers]:
        """Make a call until it is answered; return the answer and its trailing headers."""
        tries = 0
        while not self._closed.is_set():
            stub = self._reach(give_up_at)
            try:
                response, call = stub[name].with_call(
                    request, timeout=deadline, metadata=(*self._metadata, *headers)
                )
            except grpc.RpcError as error:
                self._raise_unless_gone(error)
                tries += 1
                if tries == 1:
                    log.info(
                        "%s: %s, trying again: %s",
                        name,
                        error.code().name,
                        one_line(str(error.details()), 200),
                    )
            except IdentityError as error:
                # The server may have the certificate of a CA that follows: the next look says so.
                if error.code != _NOT_VOUCHED_FOR or not self._elsewhere(str(self._address)):
                    raise
                log.warning("%s", error)
                tries += 1
            except ValueError:
                # The other thread has changed the channel.
                tries += 1
            else:
                self._trusted = True
                return response, call.trailing_metadata() or ()
            self._check_time(give_up_at)
            self._pause(min(LONGEST_BACKOFF, 0.1 * 2.0 ** min(tries, 8)) * random.uniform(0.7, 1.0))
            self._move()
        raise ConnectionClosed

    def _once(self, name: str, request: Any, deadline: float) -> Any:
        """Make a call once; raises CallLost where it is not answered, after the pause before the
        next.
        """
        stub = self._reach(None)
        slow = False
        try:
            response = stub[name](request, timeout=deadline, metadata=self._metadata)
        except grpc.RpcError as error:
            self._raise_unless_gone(error)
            slow = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if self._failures == 0:
                log.info("%s: %s, continuing from what has arrived", name, error.code().name)
        except ValueError:
            # Another thread has changed the channel.
            pass
        else:
            self._failures = 0
            return response
        if self._closed.is_set():
            raise ConnectionClosed
        self._failures += 1
        if slow:
            # What still lies in the old connection's buffers would go before all that follows, and
            # after a cut its next try may be as far away as the cut was long.
            self._connect_anew(stub)
        self._pause(min(TRANSFER_BACKOFF, 0.1 * 2.0 ** min(self._failures, 8)))
        self._move()
        raise CallLost(slow)

    def _raise_unless_gone(self, error: grpc.RpcError) -> None:
        code = error.code()
        details = one_line(str(error.details()), 2000)
        if code in _GONE:
            goes_on = self._elsewhere(str(self._address))
            distrusted = _DISTRUST.search(details) and not _CODED.match(details)
            if distrusted and goes_on:
                log.warning("the server at %s can't be trusted: %s", self._address, details[:200])
            elif distrusted and not self._trusted:
                hint = "Compare the CA certificate and the address with the orchestrator's owner."
                what = f"The server at {self._address} can't be trusted: {details[:200]}."
                raise IdentityError("MDW-755", what, hint) from None
            return
        if code == grpc.StatusCode.CANCELLED:
            if self._closed.is_set():
                raise ConnectionClosed from None
            return
        if said := why_refused(details):
            raise _other_version(said) from None
        if code != grpc.StatusCode.UNAUTHENTICATED:
            raise CallRefused(f"{code.name}: {details[:300]}") from None
        if details.startswith(_REPLAYED):
            return
        if known := _CODED.match(details):
            raise IdentityError(known[1], f"The server refuses this silo: {known[2]}") from None
        raise NodeUnknown(details[:200]) from None

    def _check_time(self, give_up_at: float | None) -> None:
        if give_up_at is not None and self.clock() >= give_up_at:
            raise TimeoutError("no server was found in time")

    def _reach(self, give_up_at: float | None) -> FleetStub:
        """Return the stub, once the rendezvous has named an address."""
        while self._stub is None:
            self._move()
            if self._stub is None:
                self._check_admission()
                self._check_time(give_up_at)
                self._pause(1.0)
        return self._stub

    def _check_admission(self) -> None:
        """Raise IdentityError MDW-715 where a server is there and no admission has come for long."""
        since = self._unadmitted_since
        if self._admission is None or since is None:
            return
        if time.monotonic() - since >= self._admission.patience:
            raise self._admission.missing()

    def _move(self) -> None:
        """Ask where the server is, and go there if it is elsewhere."""
        try:
            address = self._rendezvous()
        except Exception as error:  # a rendezvous that can't be read now is asked again
            log.warning("the rendezvous can't be read: %s", error)
            return
        if address is None:
            return
        certificate = self._find_admission()
        if self._admission is not None and certificate is None:
            return
        with self._lock:
            same = address == self._address and certificate == self._certificate
            if same and self._authority() == self._trusted_cas:
                return
            log.info("the server is at %s", address)
            self._address = address
            self._certificate = certificate
            old = self._open_channel(address)
        if old is not None:
            old.close()

    def _find_admission(self) -> bytes | None:
        """Return the silo's admission, and note since when there is none."""
        if self._admission is None:
            return None
        certificate = self._admission.find()
        if certificate is not None:
            self._unadmitted_since = None
        elif self._unadmitted_since is None:
            log.info("%s", self._admission.missing())
            self._unadmitted_since = time.monotonic()
        return certificate

    def _connect_anew(self, stub: FleetStub) -> None:
        """Replace the connection that a stub uses by another to the same address."""
        with self._lock:
            if self._stub is not stub or self._address is None:
                return
            old = self._open_channel(self._address)
        if old is not None:
            old.close()

    def _open_channel(self, address: str) -> grpc.Channel | None:
        """Open a channel to an address, and return the one that it replaces."""
        old = self._channel
        trusted = self._authority()
        self._trusted_cas = trusted
        self._channel = signed_channel(
            self._target or address, trusted, self._key, self._options, self._certificate
        )
        self._stub = FleetStub(self._channel)
        return old

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ConnectionClosed


def _other_version(said: str) -> IdentityError:
    """Return what Flower's refusal of another release means, from an orchestrator of Meadow's or a
    stock server.
    """
    if known := _CODED.search(said):
        return IdentityError(known[1], f"The server refuses this silo: {known[2]}")
    what = f"The server refuses this silo's version of Flower: {' '.join(said.split())[:300]}"
    return IdentityError("MDW-753", what, f"Install '{REQUIREMENT}' on both sides.")


def _time(seconds: str | None) -> datetime | None:
    """Return the time that a header tells, None where it tells none."""
    try:
        return datetime.fromtimestamp(float(seconds), UTC) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None
