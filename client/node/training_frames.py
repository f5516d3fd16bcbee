"""What passes between a silo's node and its training process: a line of JSON, then the arrays.

Nothing is pickled: a process that trains may run out of anything, and what it sends is read with
every size checked. An array's bytes travel as they lie, without a digest, between two processes of
one machine.

    length of the head (8 bytes) · head (JSON) · the bytes of each array, in the head's order
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from conf.errors import WireError
from strategies.wire.objects import Pieces, view

LARGEST_HEAD: Final = 256 * 2**20
"""Bytes of a head: names, shapes, and everything that is no array."""
LARGEST: Final = 16 * 2**30
"""Bytes of arrays in one frame: more than any update that may travel."""
PIECE: Final = 1 << 20
"""Bytes that are asked of the socket at once."""


@dataclass
class Frame:
    """A head of plain values, and the arrays behind it."""

    head: dict[str, Any]
    arrays: list[memoryview] = field(default_factory=list)


def send(end: socket.socket, frame: Frame) -> None:
    """Send a frame; raises OSError where the other end is gone, TimeoutError as the socket does."""
    sizes = [array.nbytes for array in frame.arrays]
    head = json.dumps({"head": frame.head, "sizes": sizes}).encode()
    end.sendall(len(head).to_bytes(8, "big") + head)
    for array in frame.arrays:
        end.sendall(array)


def receive(end: socket.socket) -> Frame:
    """Return the next frame.

    Raises EOFError where the other end has closed, OSError where it is gone, TimeoutError as the
    socket does, WireError MDW-642 for sizes that no frame has.
    """
    length = int.from_bytes(_exactly(end, 8), "big")
    if length > LARGEST_HEAD:
        raise _too_large(length)
    whole = json.loads(bytes(_exactly(end, length)))
    sizes = [int(size) for size in whole["sizes"]]
    if min(sizes, default=0) < 0 or sum(sizes) > LARGEST:
        raise _too_large(sum(sizes))
    return Frame(whole["head"], [_exactly(end, size) for size in sizes])


def _exactly(end: socket.socket, size: int) -> memoryview:
    # Not a bytearray, which would be written twice: first with zeros.
    data: memoryview = np.empty(size, np.uint8).data
    at = 0
    while at < size:
        count = end.recv_into(data[at : at + PIECE])
        if count == 0:
            raise EOFError
        at += count
    return data


def _too_large(size: int) -> WireError:
    return WireError("MDW-642", f"A frame says that it has {size} bytes.", "Start the job again.")


def with_message(frame: Frame, message: Message) -> Frame:
    """Put a message into a frame."""
    content = message.content if message.has_content() else None
    bare = remove_content_from_message(message) if content is not None else message
    frame.head["message"] = _as_text(message_to_proto(bare).SerializeToString())
    if content is not None:
        frame.head["content"] = _packed(content, frame.arrays)
    return frame


def message_of(frame: Frame) -> Message:
    """Return the message in a frame."""
    proto = ProtoMessage()
    proto.ParseFromString(_as_bytes(frame.head["message"]))
    bare = message_from_proto(proto)
    packed = frame.head.get("content")
    if packed is None:
        return bare
    return make_message(metadata=bare.metadata, content=_unpacked(packed, frame.arrays))


def with_state(frame: Frame, state: RecordDict) -> Frame:
    """Put a silo's state into a frame."""
    frame.head["state"] = _packed(state, frame.arrays)
    return frame


def state_of(frame: Frame) -> RecordDict | None:
    """Return the state in a frame, None where it has none."""
    packed = frame.head.get("state")
    return None if packed is None else _unpacked(packed, frame.arrays)


def _packed(records: RecordDict, arrays: list[memoryview]) -> dict[str, Any]:
    """Return records as plain values; their arrays are appended to `arrays`."""
    small = RecordDict()
    large: dict[str, list[list[Any]]] = {}
    for name, record in records.items():
        if not isinstance(record, ArrayRecord):
            small[name] = record
            continue
        large[name] = []
        for key, array in record.items():
            large[name].append([key, array.dtype, list(array.shape), len(arrays)])
            arrays.append(view(array))
    text = _as_text(recorddict_to_proto(small).SerializeToString())
    return {"order": list(records), "small": text, "arrays": large}


def _unpacked(packed: dict[str, Any], arrays: list[memoryview]) -> RecordDict:
    proto = ProtoRecordDict()
    proto.ParseFromString(_as_bytes(packed["small"]))
    small = recorddict_from_proto(proto)
    records = RecordDict()
    for name in packed["order"]:
        if name in packed["arrays"]:
            records[name] = ArrayRecord(dict(_arrays(packed["arrays"][name], arrays)))
        else:
            records[name] = small[name]
    return records


def _arrays(rows: list[list[Any]], arrays: list[memoryview]) -> Iterator[tuple[str, Pieces]]:
    for key, dtype, shape, place in rows:
        yield key, Pieces(dtype, shape, [arrays[place]])


def _as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _as_bytes(text: str) -> bytes:
    return base64.b64decode(text)
