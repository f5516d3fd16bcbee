"""What a stranger, or a silo that lies, can take from the others: nothing that they notice."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from azureml_jobs.identity.node_key import fresh_node_key
from server.orchestrator import grpc_port, interceptor, strangers
from server.orchestrator.calls_in_flight import CALLS_PER_KEY
from tests.faults.federation import Federation, until
from tests.security.caller import Caller

PULL = "/flwr.proto.Fleet/PullMessages"


def beat(caller: Caller) -> float:
    """Make a heartbeat, and return how many seconds it took."""
    started = time.monotonic()
    request = SendNodeHeartbeatRequest(node=caller.node, heartbeat_interval=10)
    assert caller.call("SendNodeHeartbeat", request).success
    return time.monotonic() - started


def never() -> Iterator[bytes]:
    """A body that does not come."""
    time.sleep(30)
    yield b""


def test_a_silo_whose_bodies_never_come_costs_another_silo_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "BODY_SECONDS", 2.0)
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        liar = Caller.silo(federation, orchestrator.address, "silo-2")
        honest = Caller.silo(federation, orchestrator.address, "silo-1")
        beat(honest)
        call = liar.channel.stream_unary(PULL)
        hung = [call.future(never(), metadata=liar.signed(PULL)) for _ in range(70)]
        until(lambda: sum(one.done() for one in hung) >= 70 - 2 * CALLS_PER_KEY - 32, 20)
        assert max(beat(honest) for _ in range(20)) < 5.0
        # Each of them ends: beyond its share at once, within it when its body is late.
        until(lambda: all(one.done() for one in hung), 30)
        assert {one.code() for one in hung} <= {
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.CANCELLED,
            # A stream beyond those of a connection that had not been told the limit yet.
            grpc.StatusCode.UNAVAILABLE,
        }
        assert beat(liar) < 5.0, "its share is free again"


def test_seventy_silos_that_are_admitted_late_are_all_served(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator() as orchestrator:
        for number in range(70):
            line = fresh_node_key()[1]
            orchestrator.admit_key(f"late-{number}", line.encode())
        threads = orchestrator._port.threads
        assert threads.limit >= 70 * CALLS_PER_KEY
        # As many questions for work as there are silos, each of which waits.
        waits = [threads.submit(time.sleep, 3.0) for _ in range(71)]
        assert beat(Caller.silo(federation, orchestrator.address, "silo-1")) < 2.5
        for one in waits:
            one.result(20)


@pytest.mark.parametrize("kind", ["mute", "half a handshake", "garbage"])
def test_a_stranger_s_connection_is_ended_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(grpc_port, "HANDSHAKE_SECONDS", 1.0)
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator() as orchestrator:
        host, _, port = orchestrator.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            sent = {
                "mute": b"",
                # The head of a TLS record of 512 bytes, and half of it.
                "half a handshake": b"\x16\x03\x01\x02\x00" + bytes(256),
                "garbage": os.urandom(300),
            }
            stranger.sendall(sent[kind])
            started = time.monotonic()
            while stranger.recv(4096):
                pass
            assert time.monotonic() - started < 5.0


def test_a_connection_with_a_certificate_over_which_nobody_calls_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "CALL_SECONDS", 1.0)
    monkeypatch.setattr(strangers, "LOOK_SECONDS", 0.1)
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        silent = Caller.silo(federation, orchestrator.address, "silo-2")
        honest = Caller.silo(federation, orchestrator.address, "silo-1")
        states: list[grpc.ChannelConnectivity] = []
        silent.channel.subscribe(states.append, try_to_connect=True)
        until(lambda: grpc.ChannelConnectivity.READY in states, 10)
        beat(honest)
        until(lambda: states[-1] != grpc.ChannelConnectivity.READY, 10)
        assert beat(honest) < 5.0
        assert beat(silent) < 5.0, "who calls is let in again"


def test_a_revoked_silo_that_calls_without_end_does_not_starve_the_others(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        revoked = Caller.silo(federation, orchestrator.address, "silo-2")
        honest = Caller.silo(federation, orchestrator.address, "silo-1")
        orchestrator.revoke_key(revoked.pem)
        call = revoked.channel.stream_unary(PULL)

        def knock(_: int) -> str:
            try:
                call(never(), timeout=10, metadata=revoked.headers())
            except grpc.RpcError as error:
                return str(error.details())[:7]
            return ""

        with ThreadPoolExecutor(16) as pool:
            answers = pool.map(knock, range(200))
            assert max(beat(honest) for _ in range(20)) < 5.0
            assert set(answers) == {"MDW-744"}
