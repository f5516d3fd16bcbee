"""Whoever is not the silo that it says it is gets nothing but a reason, and the run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from flwr.common.constant import SIGNATURE_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.node import call_signer
from server.orchestrator.identity import Keys
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.refusals import Refusal
from server.orchestrator.service import Orchestrator
from tests.faults.federation import Federation, ask, model, total
from tests.security.caller import Caller, FlowerCaller, Headers

P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


class Place:
    """A federation whose first silo works, while the second's key is the attacker's."""

    def __init__(self, federation: Federation, orchestrator: Orchestrator) -> None:
        self.federation, self.orchestrator = federation, orchestrator
        self.insider = FlowerCaller.silo(federation, str(orchestrator.stock_grpc_address), "silo-2")
        self.stranger = FlowerCaller(
            federation,
            str(orchestrator.stock_grpc_address),
            ec.generate_private_key(ec.SECP384R1()),
        )
        self.victim = FlowerCaller.silo(federation, str(orchestrator.stock_grpc_address), "silo-1")
        self.grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))

    def run_goes_on(self) -> None:
        self.orchestrator.wait_for(["silo-1"], 1, 20)
        replies = self.grid.send_and_receive(ask(self.grid, 1, model()), timeout=20)
        assert total(replies) == 3 * 1000 + 1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    federation = Federation(tmp_path_factory.mktemp("identity"))
    with (
        federation.orchestrator(stock_grpc="127.0.0.1:0") as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        yield Place(federation, orchestrator)


def bad_headers(place: Place) -> dict[str, tuple[str, Headers]]:
    insider, stranger = place.insider, place.stranger
    naive = datetime.now(UTC).replace(tzinfo=None).isoformat()
    good = insider.headers()
    return {
        "no headers": ("MDW-742", []),
        "no key": ("MDW-742", insider.headers(key=None)),
        "no timestamp": ("MDW-742", insider.headers(time=None)),
        "no signature": ("MDW-742", insider.headers(signature=None)),
        "a header twice": ("MDW-742", [*good, good[2]]),
        "garbage as key": ("MDW-743", insider.headers(key=b"\xff\x00garbage")),
        "a huge key": ("MDW-742", insider.headers(key=b"k" * 2000)),
        "a stranger's key": ("MDW-743", stranger.headers()),
        "garbage as timestamp": ("MDW-742", insider.headers(timestamp="yesterday")),
        "a year that does not exist": (
            "MDW-742",
            insider.headers(timestamp="0000-13-45T99:99:99+00:00"),
        ),
        "a timestamp without zone": ("MDW-742", insider.headers(timestamp=naive)),
        "a stale timestamp": ("MDW-746", insider.headers(shift=-400)),
        "a future timestamp": ("MDW-746", insider.headers(shift=60)),
        "garbage as signature": ("MDW-745", insider.headers(signature=b"\x30\x03garbage")),
        "a huge signature": ("MDW-742", insider.headers(signature=b"s" * 2000)),
        "another's signature": ("MDW-745", insider.headers(signature=stranger.headers()[2][1])),
        "the signature of another time": (
            "MDW-745",
            insider.headers(signature=insider.headers(shift=-1)[2][1]),
        ),
    }


CASES = (
    *(
        "no headers",
        "no key",
        "no timestamp",
        "no signature",
        "a header twice",
        "garbage as key",
        "a huge key",
    ),
    *(
        "a stranger's key",
        "garbage as timestamp",
        "a year that does not exist",
        "a timestamp without zone",
    ),
    *("a stale timestamp", "a future timestamp", "garbage as signature", "a huge signature"),
    *("another's signature", "the signature of another time"),
)


@pytest.mark.parametrize("case", CASES)
def test_bad_headers_are_refused_with_a_reason_and_the_run_goes_on(place: Place, case: str) -> None:
    code, headers = bad_headers(place)[case]
    answer = place.insider.knock(headers)
    assert answer.startswith(f"UNAUTHENTICATED {code}: ")
    if case == "a stale timestamp":
        assert "clock of silo-2 is 400 s behind" in answer
    if case == "a future timestamp":
        assert "s ahead of" in answer and "clock" in answer
    place.run_goes_on()


def test_a_replayed_header_is_refused_also_with_its_signature_rewritten(place: Place) -> None:
    headers = place.insider.headers()
    beat = SendNodeHeartbeatRequest(node=place.insider.node, heartbeat_interval=10)
    assert place.insider.call("SendNodeHeartbeat", beat, headers).success
    assert "MDW-747" in place.insider.refused("SendNodeHeartbeat", beat, headers)
    r, s = decode_dss_signature(headers[2][1])
    twin = encode_dss_signature(r, P384_ORDER - s)
    rewritten = [*headers[:2], (SIGNATURE_HEADER, twin)]
    assert "MDW-747" in place.insider.refused("SendNodeHeartbeat", beat, rewritten)
    place.run_goes_on()


def test_a_header_recorded_before_a_restart_is_refused_after_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator(stock_grpc="127.0.0.1:0") as first:
        insider = FlowerCaller.silo(federation, str(first.stock_grpc_address), "silo-1")
        recorded, unused = insider.headers(), insider.headers()
        beat = SendNodeHeartbeatRequest(node=insider.node, heartbeat_interval=10)
        assert insider.call("SendNodeHeartbeat", beat, recorded).success
    with federation.orchestrator(stock_grpc="127.0.0.1:0") as second:
        attacker = FlowerCaller.silo(federation, str(second.stock_grpc_address), "silo-1")
        for headers in (recorded, unused):
            answer = attacker.refused("SendNodeHeartbeat", beat, headers)
            assert answer.startswith("UNAVAILABLE MDW-741: The call of silo-1 was signed ")
        assert attacker.call("SendNodeHeartbeat", beat).success, "signed anew it counts"


@pytest.mark.parametrize(("shift", "direction"), [(-600, "behind"), (600, "ahead of")])
def test_a_silo_whose_clock_is_ten_minutes_off_gets_in_at_once_and_both_sides_name_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shift: float,
    direction: str,
) -> None:
    monkeypatch.setattr(call_signer, "now", lambda: time.time() + shift)
    federation = Federation(tmp_path, silos=1)
    with (
        caplog.at_level(logging.INFO),
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        started = time.monotonic()
        orchestrator.wait_for(["silo-1"], 1, 30)
        assert time.monotonic() - started < 10
    said = {one.name: one.getMessage() for one in caplog.records if "MDW-763" in one.getMessage()}
    assert {"server.orchestrator.own_calls", "client.node.call_signer"} <= said.keys()
    assert all(direction in text and "60" in text for text in said.values())
    assert "silo-1" in said["server.orchestrator.own_calls"]


def test_a_node_can_not_speak_for_another(place: Place) -> None:
    victim = place.victim.node
    assert "MDW-748" in place.insider.refused("PullMessages", PullMessagesRequest(node=victim))
    beat = SendNodeHeartbeatRequest(node=victim, heartbeat_interval=10)
    assert "MDW-748" in place.insider.refused("SendNodeHeartbeat", beat)
    activate = ActivateNodeRequest(public_key=place.victim.pem, heartbeat_interval=10)
    assert "MDW-748" in place.insider.refused("ActivateNode", activate)
    assert "MDW-743" in place.stranger.refused("ActivateNode", activate)
    register = RegisterNodeFleetRequest(public_key=place.stranger.pem)
    assert "MDW-743" in place.stranger.refused("RegisterNode", register)
    assert "MDW-748" in place.insider.refused("RegisterNode", register)
    place.run_goes_on()


def test_refusals_are_logged_once_a_minute_and_peer(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.orchestrator._stock_grpc.interceptor._log._last.clear()
    with caplog.at_level(logging.WARNING, logger="server.orchestrator.refusals"):
        for _ in range(5):
            place.stranger.knock(place.stranger.headers())
    lines = [record.getMessage() for record in caplog.records if "MDW-743" in record.getMessage()]
    assert len(lines) == 1 and lines[0].startswith("refused PullMessages from ipv4:127.0.0.1:")


def test_without_tls_nobody_is_heard(place: Place) -> None:
    with grpc.insecure_channel(place.orchestrator.address) as channel:
        call = channel.unary_unary("/flwr.proto.Fleet/PullMessages")
        with pytest.raises(grpc.RpcError) as error:
            call(b"", timeout=5, metadata=place.insider.headers())
    assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    place.run_goes_on()


def test_a_key_revoked_in_the_middle_of_a_round_is_shut_out_and_the_round_goes_on(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        address = orchestrator.address
        one = federation.thread_node(address, federation.silos[0])
        two = federation.thread_node(address, federation.silos[1])
        with one, two as revoked:
            orchestrator.wait_for(["silo-1", "silo-2"], 2, 20)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1", "silo-2"]))
            ids = grid.push_messages(ask(grid, 1, model(), sleep=1.0))
            orchestrator.revoke_key(federation.public["silo-2"])
            replies = list(grid.replies(ids, timeout=20))
            outcome = sorted("gone" if m.has_error() else "trained" for m in replies)
            assert outcome == ["gone", "trained"]
            assert list(grid.names().values()) == ["silo-1"]
            revoked.thread.join(20)
            assert "MDW-744" in str(revoked.ended_with)
            orchestrator.admit_key("silo-2", federation.public["silo-2"])
            assert Caller.silo(federation, address, "silo-2").call(
                "SendNodeHeartbeat",
                SendNodeHeartbeatRequest(
                    node=Caller.silo(federation, address, "silo-2").node, heartbeat_interval=10
                ),
            )


TEXT_OR_BYTES = st.one_of(st.binary(max_size=300), st.text(max_size=100))


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["flwr-public-key-bin", "flwr-timestamp", "flwr-signature-bin"]),
        TEXT_OR_BYTES,
    )
)
def test_any_garbage_ends_in_a_refusal(headers: dict[str, bytes | str]) -> None:
    with pytest.raises(Refusal):
        KEYS.check(headers)


@settings(max_examples=300, deadline=None)
@given(TEXT_OR_BYTES, TEXT_OR_BYTES)
def test_any_garbage_beside_an_admitted_key_ends_in_a_refusal(
    timestamp: bytes | str, signature: bytes | str
) -> None:
    with pytest.raises(Refusal):
        KEYS.check(
            {
                "flwr-public-key-bin": PEM,
                "flwr-timestamp": timestamp,
                "flwr-signature-bin": signature,
            }
        )


def _keys() -> tuple[Keys, bytes]:
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    pem = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    keys = Keys()
    keys.admit(pem, "silo-1")
    return keys, pem


KEYS, PEM = _keys()
