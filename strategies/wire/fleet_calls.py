"""The calls of Flower's Fleet service, by which a silo's node speaks to a server: names, messages
and paths.

Flower keeps these messages and lets go of the gRPC service that carried them (its own nodes speak
HTTP from 1.40 on), so the service is bound here: `FleetStub` is the node's half, `add_fleet` the
server's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import grpc
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from google.protobuf.message import Message

from strategies.wire import transfer_calls

SERVICE: Final = "flwr.proto.Fleet"
"""The service's name in the paths of gRPC: `/flwr.proto.Fleet/PullMessages`."""


@dataclass(frozen=True)
class FleetCall:
    """What one call takes and returns, and its name in the paths of HTTP:
    `/v1/fleet/pull-messages`.
    """

    request: type[Message]
    response: type[Message]
    path: str


FLEET_CALLS: Final[Mapping[str, FleetCall]] = {
    "RegisterNode": FleetCall(
        fleet_pb2.RegisterNodeFleetRequest, fleet_pb2.RegisterNodeFleetResponse, "register-node"
    ),
    "UnregisterNode": FleetCall(
        fleet_pb2.UnregisterNodeFleetRequest,
        fleet_pb2.UnregisterNodeFleetResponse,
        "unregister-node",
    ),
    "ActivateNode": FleetCall(
        fleet_pb2.ActivateNodeRequest, fleet_pb2.ActivateNodeResponse, "activate-node"
    ),
    "DeactivateNode": FleetCall(
        fleet_pb2.DeactivateNodeRequest, fleet_pb2.DeactivateNodeResponse, "deactivate-node"
    ),
    "SendNodeHeartbeat": FleetCall(
        heartbeat_pb2.SendNodeHeartbeatRequest,
        heartbeat_pb2.SendNodeHeartbeatResponse,
        "send-node-heartbeat",
    ),
    "PullMessages": FleetCall(
        fleet_pb2.PullMessagesRequest, fleet_pb2.PullMessagesResponse, "pull-messages"
    ),
    "PushMessages": FleetCall(
        fleet_pb2.PushMessagesRequest, fleet_pb2.PushMessagesResponse, "push-messages"
    ),
    "GetRun": FleetCall(run_pb2.GetRunRequest, run_pb2.GetRunResponse, "get-run"),
    "GetFab": FleetCall(fab_pb2.GetFabRequest, fab_pb2.GetFabResponse, "get-fab"),
    "PullObject": FleetCall(
        message_pb2.PullObjectRequest, message_pb2.PullObjectResponse, "pull-object"
    ),
    "PushObject": FleetCall(
        message_pb2.PushObjectRequest, message_pb2.PushObjectResponse, "push-object"
    ),
    "ConfirmMessageReceived": FleetCall(
        message_pb2.ConfirmMessageReceivedRequest,
        message_pb2.ConfirmMessageReceivedResponse,
        "confirm-message-received",
    ),
}


def as_bytes(message: Message | transfer_calls.Request | bytes) -> bytes:
    """Return a message as it travels; it is that already where its bytes were signed."""
    if isinstance(message, bytes):
        return message
    if isinstance(message, transfer_calls.Request):
        return message.to_bytes()
    return cast(bytes, message.SerializeToString())


class FleetStub:
    """The calls on one channel, by name; those of `transfer_calls` too, which only Meadow's own
    servers have.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._calls = {
            name: channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=as_bytes,
                response_deserializer=call.response.FromString,
            )
            for name, call in FLEET_CALLS.items()
        } | {
            name: channel.unary_unary(
                f"/{transfer_calls.SERVICE}/{name}",
                request_serializer=as_bytes,
                response_deserializer=transfer_calls.PartsResponse.from_bytes,
            )
            for name in transfer_calls.TRANSFER_CALLS
        }

    def __getitem__(self, name: str) -> grpc.UnaryUnaryMultiCallable:
        """Return one call; raises KeyError for a name that is not a call of the service."""
        return self._calls[name]


def add_fleet(servicer: object, server: grpc.Server) -> None:
    """Let a server answer the calls by a servicer's methods of the same names, each of (request,
    context).
    """
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=call.request.FromString,
            response_serializer=call.response.SerializeToString,
        )
        for name, call in FLEET_CALLS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
