"""The calls by which objects travel in parts, beside Flower's Fleet service.

Flower's own calls carry one whole object each, so that a slow link begins again at each failure and
a small message costs a call for each record. Here one call carries parts of several objects, as
many bytes as its node finds fit for its link:

    message Part {                   a range of an object
        string object_id = 1;        its SHA-256
        int64 start = 2;             of its first byte
        int64 size = 3;              bytes of the whole object
        int64 length = 4;            bytes of the range, which lie behind the head (`frames`)
        bytes digest = 5; }          their SHA-256, in a request with less than the whole object
    PullParts (node, run_id, parts, most, left) -> (parts)
        asked: id and start of each;  answered: the bytes from there, `most` in all; a part that found
        no room has a size and no content, and one that is not there the size -1
    PushParts (node, run_id, session_id, parts, left, head) -> (parts)
        answered: of each object, in `start`, how many of its first bytes are here; without parts
        where there is no such upload (any more). With a `head` (Flower's PushMessagesRequest) and
        no session the upload begins with this call, so that a small reply is one call

A node that is sent all objects of an instruction in one call need not confirm them.
`left` is how many bytes the node has to receive or send beside the parts of the call, for those who
look on.

A node signs the head of such a call, and with it all that follows: a whole object is named there by
its digest, which is compared when the object is taken, and of a range the digest stands beside it.
So the bytes are hashed once, and not once more for the signature.

The heads are messages of protobuf, declared here instead of generated: they are few, and no compiler
is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from flwr.proto import fleet_pb2, node_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from strategies.wire import frames
from strategies.wire.frames import Buffer, Content, joined

SERVICE: Final = "meadow.Parts"
"""The service's name in the paths of gRPC: `/meadow.Parts/PullParts`. Releases whose calls were
messages of protobuf as a whole called theirs by another name."""
MOST_PARTS: Final = 256
"""Parts of one call."""
MOST_HEAD: Final = 256 * 2**10
"""Bytes of the head of a call. Parsed it takes many times as much memory, so it is measured first."""
ABSENT: Final = -1
"""The size of an object that is not there (any more), or is not the caller's to read."""

_Field = descriptor_pb2.FieldDescriptorProto
_NODE: Final = ".flwr.proto.Node"
_PART: Final = ".meadow.parts.Part"
_HEAD: Final = ".flwr.proto.PushMessagesRequest"
_MESSAGES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "Part": (
        ("object_id", "string"),
        ("start", "int64"),
        ("size", "int64"),
        ("length", "int64"),
        ("digest", "bytes"),
    ),
    "PullPartsRequest": (
        ("node", _NODE),
        ("run_id", "uint64"),
        ("parts", _PART),
        ("most", "int64"),
        ("left", "int64"),
    ),
    "PushPartsRequest": (
        ("node", _NODE),
        ("run_id", "uint64"),
        ("session_id", "string"),
        ("parts", _PART),
        ("left", "int64"),
        ("head", _HEAD),
    ),
    "PartsResponse": (("parts", _PART),),
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
        name="meadow/parts.proto",
        package="meadow.parts",
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
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"meadow.parts.{name}"))
        for name in _MESSAGES
    }


_HEADS: Final = _declare()


@dataclass(frozen=True, slots=True)
class Part:
    """A range of an object; in a question for it without its bytes."""

    object_id: str
    """The SHA-256 of the whole object."""
    start: int = 0
    size: int = 0
    """Bytes of the whole object."""
    content: Content = b""

    @property
    def is_whole(self) -> bool:
        """Whether its bytes are all of the object's."""
        return self.start == 0 and len(self.content) == self.size


@dataclass(frozen=True, slots=True)
class PullPartsRequest:
    """A question for parts; see the module."""

    node: Any = None
    run_id: int = 0
    parts: Sequence[Part] = ()
    most: int = 0
    left: int = 0

    def to_bytes(self) -> bytes:
        """Return the call as it travels."""
        head = _HEADS["PullPartsRequest"](
            node=self.node, run_id=self.run_id, most=self.most, left=self.left
        )
        return _written(head, self.parts, signed=True)

    @classmethod
    def from_bytes(cls, call: bytes) -> Self:
        """Return what travelled; raises DecodeError where it can't be read."""
        head, parts = _read("PullPartsRequest", call, signed=True)
        return cls(head.node, head.run_id, parts, head.most, head.left)


@dataclass(frozen=True, slots=True)
class PushPartsRequest:
    """A call that brings parts; see the module."""

    node: Any = None
    run_id: int = 0
    session_id: str = ""
    parts: Sequence[Part] = ()
    left: int = 0
    head: Any = None
    """Flower's PushMessagesRequest, None where the upload has begun."""

    def to_bytes(self) -> bytes:
        """Return the call as it travels."""
        head = _HEADS["PushPartsRequest"](
            node=self.node,
            run_id=self.run_id,
            session_id=self.session_id,
            left=self.left,
            head=self.head,
        )
        return _written(head, self.parts, signed=True)

    @classmethod
    def from_bytes(cls, call: bytes) -> Self:
        """Return what travelled; raises DecodeError where it can't be read, or where a range is not
        what was signed.
        """
        head, parts = _read("PushPartsRequest", call, signed=True)
        begins = head.head if head.HasField("head") else None
        return cls(head.node, head.run_id, head.session_id, parts, head.left, begins)


@dataclass(frozen=True, slots=True)
class PartsResponse:
    """The parts that answer a call of either kind; see the module."""

    parts: Sequence[Part] = ()

    def to_bytes(self) -> bytes:
        """Return the answer as it travels."""
        return _written(_HEADS["PartsResponse"](), self.parts, signed=False)

    @classmethod
    def from_bytes(cls, call: bytes) -> Self:
        """Return what travelled; raises DecodeError where it can't be read."""
        return cls(_read("PartsResponse", call, signed=False)[1])


Request = PullPartsRequest | PushPartsRequest
TRANSFER_CALLS: Final[dict[str, type[Request]]] = {
    "PullParts": PullPartsRequest,
    "PushParts": PushPartsRequest,
}
"""The request of each call; `PartsResponse` answers all of them."""


def signed_bytes(method: str, call: Buffer) -> Buffer:
    """Return what a node signs of a call to a method (`/service/name`): its head, which names what
    follows, or all of it where it has none.

    Raises DecodeError where a head does not end within its call.
    """
    return frames.head_of(call) if method.startswith(f"/{SERVICE}/") else call


def _written(head: Any, parts: Sequence[Part], *, signed: bool) -> bytes:
    for part in parts:
        digest = b""
        if signed and _needs_digest(part):
            digest = hashlib.sha256(joined(part.content)).digest()
        head.parts.add(
            object_id=part.object_id,
            start=part.start,
            size=part.size,
            length=len(part.content),
            digest=digest,
        )
    return frames.write(head.SerializeToString(), [part.content for part in parts])


def _read(name: str, call: bytes, *, signed: bool) -> tuple[Any, tuple[Part, ...]]:
    """Return a call's head and its parts, whose bytes are those of the call."""
    written = frames.head_of(call)[4:]
    if len(written) > MOST_HEAD:
        raise DecodeError(f"A head of {len(written)} bytes, where {MOST_HEAD} are allowed.")
    head = _HEADS[name].FromString(bytes(written))
    if len(head.parts) > MOST_PARTS:
        raise DecodeError(f"A call with {len(head.parts)} parts, where {MOST_PARTS} are allowed.")
    contents = frames.contents_of(call, [part.length for part in head.parts])
    parts = []
    for told, content in zip(head.parts, contents, strict=True):
        part = Part(told.object_id, told.start, told.size, content)
        if signed and _needs_digest(part) and hashlib.sha256(content).digest() != told.digest:
            raise DecodeError("A range of an object is not what its head says.")
        parts.append(part)
    return head, tuple(parts)


def _needs_digest(part: Part) -> bool:
    """Say whether the name of a part does not tell its bytes."""
    return len(part.content) > 0 and not part.is_whole
