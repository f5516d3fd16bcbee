"""The calls by which objects travel in parts, beside Flower's Fleet service.

Flower's own calls carry one whole object each, so that a slow link begins again at each failure and
a small message costs a call for each record. Here one call carries parts of several objects, as
many bytes as its node finds fit for its link:

    message Part {                   a range of an object
        string object_id = 1;        its SHA-256
        int64 start = 2;             of its first byte
        int64 size = 3;              bytes of the whole object
        bytes content = 4; }
    PullParts (node, run_id, parts, most, left) -> (parts)
        asked: id and start of each;  answered: the bytes from there, `most` in all; a part that found
        no room has a size and no content, and one that is not there the size -1
    PushParts (node, run_id, session_id, parts, left, head) -> (parts)
        answered: of each object, in `start`, how many of its first bytes are here; without parts
        where there is no such upload (any more). With a `head` (Flower's PushMessagesRequest) and
        no session the upload begins with this call, so that a small reply is one call

A node that is sent all objects of an instruction in one call need not confirm them.
`left` is how many bytes the node has to receive or send beside the parts of the call, for those who
look on. The messages
are those of protobuf, declared here instead of generated: they are few, and no compiler is needed.
"""

from __future__ import annotations

from typing import Any, Final

from flwr.proto import fleet_pb2, node_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE: Final = "meadow.Transfers"
"""The service's name in the paths of gRPC: `/meadow.Transfers/PullParts`."""
MOST_PARTS: Final = 256
"""Parts of one call."""
ABSENT: Final = -1
"""The size of an object that is not there (any more), or is not the caller's to read."""

_Field = descriptor_pb2.FieldDescriptorProto
_NODE: Final = ".flwr.proto.Node"
_PART: Final = ".meadow.Part"
_HEAD: Final = ".flwr.proto.PushMessagesRequest"
_MESSAGES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "Part": (
        ("object_id", "string"),
        ("start", "int64"),
        ("size", "int64"),
        ("content", "bytes"),
    ),
    "PullPartsRequest": (
        ("node", _NODE),
        ("run_id", "uint64"),
        ("parts", _PART),
        ("most", "int64"),
        ("left", "int64"),
    ),
    "PullPartsResponse": (("parts", _PART),),
    "PushPartsRequest": (
        ("node", _NODE),
        ("run_id", "uint64"),
        ("session_id", "string"),
        ("parts", _PART),
        ("left", "int64"),
        ("head", _HEAD),
    ),
    "PushPartsResponse": (("parts", _PART),),
}
"""The fields of each message, numbered from 1; parts are repeated."""
_TYPES: Final = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
}


def _declare() -> dict[str, Any]:
    """Return the classes of the messages by name."""
    file = descriptor_pb2.FileDescriptorProto(
        name="meadow/transfers.proto",
        package="meadow",
        syntax="proto3",
        dependency=[node_pb2.DESCRIPTOR.name, fleet_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            repeated = kind == _PART
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type = _Field.TYPE_MESSAGE
                added.type_name = kind
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"meadow.{name}"))
        for name in _MESSAGES
    }


_CLASSES: Final = _declare()
Part: Final[Any] = _CLASSES["Part"]
PullPartsRequest: Final[Any] = _CLASSES["PullPartsRequest"]
PullPartsResponse: Final[Any] = _CLASSES["PullPartsResponse"]
PushPartsRequest: Final[Any] = _CLASSES["PushPartsRequest"]
PushPartsResponse: Final[Any] = _CLASSES["PushPartsResponse"]

TRANSFER_CALLS: Final[dict[str, tuple[Any, Any]]] = {
    "PullParts": (PullPartsRequest, PullPartsResponse),
    "PushParts": (PushPartsRequest, PushPartsResponse),
}
"""Request and response of each call."""
