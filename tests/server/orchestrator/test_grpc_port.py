"""Who gets through the handshake of a gRPC port: `tests/security/test_handshake.py` has the silos'."""

from __future__ import annotations

from pathlib import Path

from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from tests.faults.federation import Federation
from tests.security.caller import FlowerCaller


def test_the_port_of_flower_s_own_nodes_asks_for_no_certificate_and_checks_each_call(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator(stock_grpc="127.0.0.1:0") as orchestrator:
        assert orchestrator.stock_grpc_address not in (None, "127.0.0.1:0")
        caller = FlowerCaller.silo(federation, str(orchestrator.stock_grpc_address), "silo-1")
        beat = SendNodeHeartbeatRequest(node=caller.node, heartbeat_interval=10)
        assert caller.call("SendNodeHeartbeat", beat).success
        assert "MDW-742" in caller.refused("SendNodeHeartbeat", beat, [])
        orchestrator.revoke_key(caller.pem)
        assert "MDW-744" in caller.refused("SendNodeHeartbeat", beat)
