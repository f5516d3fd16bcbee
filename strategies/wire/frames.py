"""How a call carries bytes of objects: a head that says which, and behind it the bytes as they are.

    4 bytes               the length of the head, little-endian
    the head              a message of protobuf; of each part it tells the length
    zeros                 up to `contents_at`, where there are contents
    contents              of all parts, one behind the other, up to the end

protobuf copies the bytes of a message when it is made, written, read, and at each look at a field;
so they are none of a message. Who receives a call looks at the bytes where they lie. Nothing is
taken for them: what a head says must be there to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

Buffer = bytes | memoryview
"""Bytes, where they lie."""


@dataclass(frozen=True, slots=True, eq=False)
class Pile:
    """Buffers that are one content, one behind the other; they become one where it is sent."""

    pieces: Sequence[Buffer]

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


Content = Buffer | Pile
"""An object as it travels; the buffers are of bytes and not of larger elements."""


def joined(content: Content) -> Buffer:
    """Return a content in one buffer, without a copy where it is one."""
    return bytes(content) if isinstance(content, Pile) else content


def pieces_of(content: Content) -> Sequence[Buffer]:
    """Return the buffers of a content."""
    return content.pieces if isinstance(content, Pile) else (content,)


def range_of(content: Content, start: int, most: int) -> Content:
    """Return the bytes of a content from `start` on, `most` of them, without a copy."""
    if start == 0 and len(content) <= most:
        return content
    if not isinstance(content, Pile):
        return memoryview(content)[start : start + most]
    end = start + most
    taken: list[Buffer] = []
    at = 0
    for piece in content.pieces:
        part = memoryview(piece)[max(0, start - at) : max(0, end - at)]
        if len(part):
            taken.append(part)
        at += len(piece)
    return Pile(taken)


_LENGTH: Final = 4
_ALIGNED: Final = 16
_CHUNK_HEAD: Final = 20
"""Bytes before the elements in a whole chunk (`ArrayChunk  5242880` and a zero): they are where a
processor reads them as numbers without a copy."""


def write(head: bytes, contents: Iterable[Content]) -> bytes:
    """Return a call of a head and contents; they are copied once."""
    pieces: list[Buffer] = [len(head).to_bytes(_LENGTH, "little"), head]
    behind = [piece for content in contents for piece in pieces_of(content) if len(piece)]
    if behind:
        pieces.append(bytes(contents_at(len(head)) - _LENGTH - len(head)))
    return b"".join(pieces + behind)


def contents_at(head: int) -> int:
    """Return where contents begin behind a head of so many bytes."""
    end = _LENGTH + head
    return end + -(end + _CHUNK_HEAD) % _ALIGNED


def head_of(call: Buffer) -> memoryview:
    """Return the head of a call, with its length before it: what is signed of a call.

    Raises DecodeError where the call is shorter than it says.
    """
    length = int.from_bytes(call[:_LENGTH], "little")
    if len(call) < _LENGTH or length > len(call) - _LENGTH:
        raise DecodeError("The call ends before its head does.")
    return memoryview(call)[: _LENGTH + length]


def contents_of(call: Buffer, lengths: Sequence[int]) -> list[Buffer]:
    """Return the contents of a call, whose lengths its head has told.

    A content that is most of its call is not copied, and keeps the call in memory; of a smaller one
    there is a copy, so that nobody can make a byte hold a megabyte. Raises DecodeError where the
    lengths do not fit to the byte.
    """
    whole = memoryview(call)
    head = len(head_of(call)) - _LENGTH
    at = contents_at(head) if any(lengths) else _LENGTH + head
    if any(length < 0 for length in lengths) or at + sum(lengths) != len(whole):
        raise DecodeError("The contents of the call are not as long as its head says.")
    contents: list[Buffer] = []
    for length in lengths:
        content = whole[at : at + length]
        contents.append(content if 2 * length >= len(whole) else bytes(content))
        at += length
    return contents
