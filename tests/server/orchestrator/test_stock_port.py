"""The port for Flower's own nodes: what it answers, what it refuses, and that its strangers cost the silos nothing."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from azureml_jobs.identity.node_key import load_node_key, node_secret
from conf.errors import IdentityError
from server.orchestrator import service
from server.orchestrator.nodes import node_id_of
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from server.orchestrator.stock_port import PortLimits
from strategies.wire.release import our_version, release_headers
from tests.faults.federation import Federation, ask, model, total, until

QUICK = PortLimits(connections=4, stranger_seconds=3.0, body_seconds=3.0, idle_seconds=30.0)
ACTIVATE = "/v1/fleet/activate-node"


class Caller:
    """A silo's key, and connections to the port."""

    def __init__(self, federation: Federation, address: str, silo: str = "silo-1") -> None:
        self.key = load_node_key(federation.secrets.get(node_secret("federation", silo)), silo)
        self.pem = public_key_to_bytes(self.key.public_key())
        self.port = int(address.rpartition(":")[2])
        self.tls = ssl.create_default_context(cadata=federation.authority.decode())
        self.activate = ActivateNodeRequest(
            public_key=self.pem, heartbeat_interval=30.0
        ).SerializeToString()

    def headers(self) -> dict[str, str]:
        now = datetime.now(UTC).isoformat()
        return {
            "flwr-public-key": b64encode(self.pem).decode(),
            "flwr-timestamp": now,
            "flwr-signature": b64encode(sign_message(self.key, now.encode())).decode(),
        }

    def call(
        self, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST"
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self.tls, timeout=30
        )
        try:
            given = self.headers() if headers is None else headers
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    @contextmanager
    def raw(self) -> Iterator[ssl.SSLSocket]:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        with plain, self.tls.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            yield secured

    def says(self, text: bytes) -> bytes:
        """Return what the port answers to bytes, until it closes the connection."""
        with self.raw() as secured:
            secured.sendall(text)
            came = b""
            while part := secured.recv(65536):
                came += part
        return came


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


@pytest.fixture
def orchestrator(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    monkeypatch.setattr(service, "PortLimits", lambda: QUICK)
    with federation.orchestrator(stock="127.0.0.1:0") as one:
        yield one


@pytest.fixture
def caller(federation: Federation, orchestrator: Orchestrator) -> Caller:
    assert orchestrator.stock_address is not None
    return Caller(federation, orchestrator.stock_address)


def test_without_an_address_no_second_port_is_open(federation: Federation) -> None:
    with federation.orchestrator() as orchestrator:
        assert orchestrator.stock_address is None
        assert orchestrator._stock is None


def test_a_signed_call_is_answered_and_its_silo_is_there(
    orchestrator: Orchestrator, caller: Caller
) -> None:
    status, _ = caller.call(ACTIVATE, caller.activate)
    assert status == HTTPStatus.OK
    assert orchestrator.connected() == ["silo-1"]


def test_several_calls_go_over_one_connection(caller: Caller) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", caller.port, context=caller.tls)
    for _ in range(3):
        connection.request("POST", ACTIVATE, caller.activate, caller.headers())
        answer = connection.getresponse()
        assert (answer.status, len(answer.read()) > 0) == (HTTPStatus.OK, True)
    connection.close()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/fleet/no-such-call", "POST", 404),
        ("/v1/control/start-run", "POST", 404),
        ("/", "GET", 404),
        (ACTIVATE, "GET", 405),
        (ACTIVATE, "PUT", 405),
    ],
)
def test_another_path_or_method_is_refused(
    caller: Caller, path: str, method: str, status: int
) -> None:
    assert caller.call(path, b"", method=method)[0] == status


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"", b"411"),
        (b"transfer-encoding: chunked\r\n", b"411"),
        (b"content-length: 5\r\ntransfer-encoding: chunked\r\n", b"411"),
        (b"content-length: -1\r\n", b"400"),
        (b"content-length: 1\r\ncontent-length: 2\r\n", b"400"),
        (b"content-length : 1\r\n", b"400"),
        (b"content-length: 65537\r\n", b"413"),
        (b"content-length: " + b"9" * 5000 + b"\r\n", b"413"),
        (b"x: " + b"y" * 40_000 + b"\r\n", b"431"),
    ],
)
def test_a_length_that_is_missing_ambiguous_or_too_large_is_refused(
    caller: Caller, lines: bytes, status: bytes
) -> None:
    answer = caller.says(b"POST /v1/fleet/activate-node HTTP/1.1\r\n" + lines + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_an_unsigned_call_is_401_and_its_large_body_is_not_read(caller: Caller) -> None:
    status, body = caller.call(ACTIVATE, caller.activate, {})
    assert (status, b"MDW-742" in body) == (HTTPStatus.UNAUTHORIZED, True)
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\ncontent-length: 5000000\r\n\r\n"
    assert caller.says(head).startswith(b"HTTP/1.1 401")


def test_a_signature_counts_once(caller: Caller) -> None:
    headers = caller.headers()
    assert caller.call(ACTIVATE, caller.activate, headers)[0] == HTTPStatus.OK
    status, body = caller.call(ACTIVATE, caller.activate, headers)
    assert (status, b"MDW-747" in body) == (HTTPStatus.UNAUTHORIZED, True)


def test_a_revoked_key_is_refused(orchestrator: Orchestrator, caller: Caller) -> None:
    assert caller.call(ACTIVATE, caller.activate)[0] == HTTPStatus.OK
    orchestrator.revoke_key(caller.pem)
    status, body = caller.call(ACTIVATE, caller.activate)
    assert (status, b"MDW-744" in body) == (HTTPStatus.UNAUTHORIZED, True)


def test_a_silo_speaks_for_itself_alone_and_only_of_the_open_run(
    federation: Federation, caller: Caller
) -> None:
    other = Caller(federation, f":{caller.port}", "silo-2")
    status, body = caller.call(ACTIVATE, other.activate)
    assert (status, b"MDW-748" in body) == (HTTPStatus.UNAUTHORIZED, True)
    node = Node(node_id=node_id_of(caller.pem))
    ask_for = GetRunRequest(node=node, run_id=7).SerializeToString()
    status, body = caller.call("/v1/fleet/get-run", ask_for)
    assert (status, b"MDW-645" in body) == (HTTPStatus.FORBIDDEN, True)


def test_a_body_that_is_not_a_message_is_refused(caller: Caller) -> None:
    assert caller.call(ACTIVATE, b"\xff" * 100)[0] == HTTPStatus.BAD_REQUEST


def test_another_release_of_flower_is_refused(caller: Caller) -> None:
    said = {
        name: "9.9.9" if value == our_version() else value
        for name, value in release_headers("supernode")
    }
    status, body = caller.call(ACTIVATE, caller.activate, caller.headers() | said)
    assert (status, b"MDW-753" in body) == (HTTPStatus.PRECONDITION_FAILED, True)


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/fl", b"POST /v1/fleet/get-run HTTP/1.1\r\ncontent-length: 9\r\n\r\nab"],
)
def test_who_sends_slowly_is_let_go_in_time(caller: Caller, sent: bytes) -> None:
    started = time.monotonic()
    with caller.raw() as secured:
        secured.sendall(sent)
        with contextlib.suppress(OSError):
            assert secured.recv(100) == b""
    assert time.monotonic() - started < 15.0


def test_a_slow_large_body_of_an_admitted_silo_is_let_go_in_time(caller: Caller) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in caller.headers().items())
    head = f"POST /v1/fleet/push-object HTTP/1.1\r\ncontent-length: 5000000\r\n{lines}\r\n"
    test_who_sends_slowly_is_let_go_in_time(caller, head.encode() + b"x" * 1000)


def test_the_gate_to_tls_is_no_plain_text(orchestrator: Orchestrator, caller: Caller) -> None:
    with socket.create_connection(("127.0.0.1", caller.port), timeout=30) as plain:
        plain.sendall(b"POST / HTTP/1.1\r\n\r\n" * 100)
        with contextlib.suppress(OSError):
            while plain.recv(1000):
                continue
    assert caller.call(ACTIVATE, caller.activate)[0] == HTTPStatus.OK


def test_strangers_beyond_the_bound_cost_the_other_port_s_silos_nothing(
    federation: Federation, orchestrator: Orchestrator, caller: Caller
) -> None:
    strangers = [
        socket.create_connection(("127.0.0.1", caller.port), timeout=30) for _ in range(12)
    ]
    try:
        with federation.thread_node(orchestrator.address, federation.silos[1]):
            orchestrator.wait_for(["silo-2"], 1, 20)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-2"]))
            assert orchestrator._stock is not None
            assert len(orchestrator._stock._open) <= QUICK.connections
            replies = grid.send_and_receive(ask(grid, 1, model()), timeout=30)
            assert [reply.has_error() for reply in replies] == [False]
            assert total(replies) > 0
        # Whoever sends nothing is let go, and then a silo has its turn.
        assert caller.call(ACTIVATE, caller.activate)[0] == HTTPStatus.OK
    finally:
        for one in strangers:
            one.close()


def test_a_caller_that_has_gone_is_given_no_instruction(
    orchestrator: Orchestrator, caller: Caller
) -> None:
    assert caller.call(ACTIVATE, caller.activate)[0] == HTTPStatus.OK
    node = Node(node_id=node_id_of(caller.pem))
    body = PullMessagesRequest(node=node).SerializeToString()
    lines = "".join(f"{name}: {value}\r\n" for name, value in caller.headers().items())
    head = f"POST /v1/fleet/pull-messages HTTP/1.1\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
    entry = orchestrator._fleet.nodes.get(node.node_id)
    assert entry is not None
    with caller.raw() as secured:
        secured.sendall(head.encode() + body)
        until(lambda: entry.question == 1, 10)
    assert orchestrator._stock is not None
    until(lambda: not orchestrator._stock._open, 5.0)  # type: ignore[union-attr]  # as above


def test_the_port_closes_with_the_orchestrator(orchestrator: Orchestrator, caller: Caller) -> None:
    with caller.raw() as secured:
        orchestrator.stop(over=False)
        assert secured.recv(10) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", caller.port), timeout=5)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:port", "127.0.0.1:99999", "taken"])
def test_an_address_that_can_not_be_used_is_one_line(
    federation: Federation, orchestrator: Orchestrator, address: str
) -> None:
    where = str(orchestrator.stock_address) if address == "taken" else address
    second = Orchestrator(
        "127.0.0.1:0", federation.credentials(), federation.public, stock_address=where
    )
    with pytest.raises(IdentityError, match="MDW-757"):
        second.start()
    second.stop()
