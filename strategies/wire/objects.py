"""Messages as the content-addressed objects of Flower's wire: made with one copy, read with every
size checked.

Flower cuts a message into objects (message, records, arrays, chunks of 5 MiB), each named by the
SHA-256 of its bytes. Its own code copies an array four times on either side and believes what an
array says about itself. Here an array's bytes stay where they are until they are cut into chunks,
and a received array's header is compared with the bytes that are there before memory is taken for
it.

    MDW-640 an object that can't be read     MDW-641 an array that is not what it says     MDW-642 too large
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, Final, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_BYTES
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
    no_object_id_recompute,
)
from numpy.lib import format as npy

from conf.errors import WireError
from strategies.cores import on_all_cores
from strategies.wire.frames import Buffer, Content, Pile

NPY: Final = "numpy.ndarray"
"""Flower's name for the serialisation of an array: the bytes of a .npy file."""
BFLOAT16: Final = "bfloat16"
"""An element type that numpy lacks: its bits travel as uint16 under this name."""
DTYPES: Final = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {BFLOAT16: np.dtype("<u2")}
"""The element types that may travel, as numpy reads them; objects and strings are not among them.
"""
MAX_DEPTH: Final = 5
"""Message, record dict, array record, array, chunk."""
LEAST_CHUNK: Final = 2**20
"""Bytes for which an array may have a chunk; whoever speaks Flower's wire cuts at 5 MiB."""
_HEADER_BYTES = 10_128
_CHUNK_HEAD_BYTES: Final = 64
"""In which the head of a chunk ends: a name and a number."""


class Pieces(Array):
    """An array whose bytes lie in one or more buffers, as they came or will go, until somebody
    looks at its elements.

    To Flower it is an `Array` like any other. `numpy()` is a view of its one buffer, so whoever
    changes it in place changes the record; several buffers, or one that does not lie where its
    elements could be read, become one at the first look, and the old ones are let go. bfloat16 is
    seen as uint16.
    """

    __qualname__ = "Array"  # the type's name on the wire

    def __init__(self, dtype: str, shape: Sequence[int], pieces: Sequence[memoryview]) -> None:
        self.__dict__.update(
            dtype=dtype, shape=tuple(shape), stype=NPY, _pieces=list(pieces), _is_dirty=True
        )

    @property
    def pieces(self) -> list[memoryview]:
        """Its bytes, in the buffers in which they lie now."""
        return cast(list[memoryview], self.__dict__["_pieces"])

    @property
    def nbytes(self) -> int:
        """The bytes of its elements, without a header."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def data(self) -> bytes:  # type: ignore[override]  # computed: a second copy of each update would stay in memory
        """The bytes of the .npy file; a copy at each call."""
        return b"".join([_header(self.dtype, tuple(self.shape)), *self.pieces])

    def buffer(self) -> memoryview:
        """Return its bytes as one buffer, fit to be read as elements."""
        pieces = self.pieces
        if len(pieces) != 1 or not _aligned(pieces[0], DTYPES[self.dtype]):
            pieces = self.__dict__["_pieces"] = [memoryview(b"".join(pieces))]
        return pieces[0]

    def numpy(self) -> np.ndarray:
        """Return the elements in their shape."""
        return np.frombuffer(self.buffer(), dtype=DTYPES[self.dtype]).reshape(self.shape)

    @property
    def known_ids(self) -> tuple[str, ...] | None:
        """The SHA-256 of each chunk in which it travels, None while nobody has taken them."""
        return cast(tuple[str, ...] | None, self.__dict__.get("_ids"))

    def chunk_ids(self) -> tuple[str, ...]:
        """Return the SHA-256 of each chunk in which it travels; its bytes are hashed once, or were
        when they arrived in these chunks (`inflate`).
        """
        if "_ids" not in self.__dict__:
            runs = list(self._runs())
            self.__dict__["_ids"] = tuple(on_all_cores(_id_of, runs, self.nbytes))
        return cast(tuple[str, ...], self.__dict__["_ids"])

    def slice_array(self) -> list[tuple[str, InflatableObject]]:
        """Return the chunks with their ids, made once."""
        if "_chunks" not in self.__dict__:
            known = zip(self.chunk_ids(), self._runs(), strict=True)
            self.__dict__["_chunks"] = [(id, _Chunk(run, id)) for id, run in known]
        return cast(list[tuple[str, InflatableObject]], self.__dict__["_chunks"])

    def _runs(self) -> Iterator[list[memoryview]]:
        return _runs([_header(self.dtype, tuple(self.shape)), *self.pieces])


class _Chunk(ArrayChunk):
    """A chunk whose bytes lie where the array's do, until it is sent; its id is known."""

    __qualname__ = "ArrayChunk"

    def __init__(self, pieces: Sequence[memoryview], id: str) -> None:
        head = _chunk_head(sum(piece.nbytes for piece in pieces))
        self.__dict__.update(content=Pile([head, *pieces]), id=id)

    @property
    def content(self) -> Pile:
        """What travels."""
        return cast(Pile, self.__dict__["content"])

    @property
    def data(self) -> memoryview:  # type: ignore[override]  # computed: nobody of ours needs it in one
        """The bytes of the array in this chunk, copied."""
        return memoryview(b"".join(self.content.pieces[1:]))

    @property
    def object_id(self) -> str:
        """The SHA-256 of what travels."""
        return cast(str, self.__dict__["id"])

    def deflate(self) -> bytes:
        """Return what travels, copied."""
        return bytes(self.content)


def _chunk_head(size: int) -> bytes:
    return b"ArrayChunk  %d%s" % (size, HEAD_BODY_DIVIDER)


def _id_of(run: Sequence[memoryview]) -> str:
    """Return the digest of a chunk, which is its id, without making it."""
    digest = hashlib.sha256(_chunk_head(sum(piece.nbytes for piece in run)))
    for piece in run:
        digest.update(piece)
    return digest.hexdigest()


def view(array: Array) -> memoryview:
    """Return the elements of an array as bytes, in C order and little-endian, without a copy where
    they lie so.

    Raises WireError MDW-641 where its header does not fit its bytes or its element type may not
    travel.
    """
    if isinstance(array, Pieces):
        return array.buffer()
    data = memoryview(array.data)
    shape, fortran, dtype, start = read_header(data[:_HEADER_BYTES], array.dtype)
    body = data[start:]
    if (
        array.stype != NPY
        or body.nbytes != math.prod(shape) * dtype.itemsize
        or shape != tuple(array.shape)
    ):
        raise _untrue(f"{array.dtype}{tuple(array.shape)} with {body.nbytes} bytes")
    if fortran or dtype != DTYPES[array.dtype]:
        elements = np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran else "C")
        return _bytes(np.ascontiguousarray(elements, dtype=DTYPES[array.dtype]))
    return body


def elements(array: Array) -> np.ndarray:
    """Return the elements of an array in their shape, without a copy where they lie so; read-only.

    bfloat16 is seen as uint16. Raises WireError MDW-641 as `view` does.
    """
    return np.frombuffer(view(array), DTYPES[array.dtype]).reshape(array.shape)


def read_header(data: memoryview, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, Fortran order, dtype and length of a .npy header; reads no element and takes no
    memory for any.

    Raises WireError MDW-641 where it is malformed or says another element type than `name`.
    """
    try:
        shape, fortran, dtype, start = _parsed(_header_alone(data))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise _untrue("a header that can't be read") from None
    expected = DTYPES.get(name)
    if expected is None or dtype.newbyteorder("<") != expected:
        raise _untrue(f"{str(dtype)[:20]} where {name[:20]!r} was declared")
    # Not 1.0 or True, which are equal to 1 and are written otherwise.
    if any(type(n) is not int or n < 0 for n in shape):
        raise _untrue(f"the shape {shape}")
    return tuple(shape), bool(fortran), dtype, start


def _header_alone(data: memoryview) -> bytes:
    """Return the bytes of a .npy header, without the elements that follow."""
    # After the magic and the version stands the length of what follows: 2 bytes in version 1, 4 in
    # the later ones. A length that lies is found by whoever parses the bytes.
    wide = 2 if bytes(data[6:7]) == b"\x01" else 4
    return bytes(data[: 8 + wide + int.from_bytes(data[8 : 8 + wide], "little")])


@lru_cache(maxsize=1024)
def _parsed(header: bytes) -> tuple[tuple[Any, ...], bool, np.dtype[Any], int]:
    """Return what a .npy header says, and its length.

    The arrays of a model have the same headers in each of its messages, and numpy parses one as a
    literal of Python, which takes longer than to copy a small array.
    """
    file = BytesIO(header)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype, file.tell()


def tree_size(tree: ObjectTree, limit: int) -> int:
    """Return the number of objects in a tree.

    Raises WireError MDW-642 beyond `limit` or deeper than a message is.
    """
    count, level = 1, [tree]
    for _ in range(MAX_DEPTH):
        # Counted before there is a list of them.
        count += sum(len(node.children) for node in level)
        if count > limit:
            break
        level = [child for node in level for child in node.children]
    if level or count > limit:
        raise WireError(
            "MDW-642",
            f"A message of more than {limit} objects or {MAX_DEPTH} levels.",
            "Pack it, or raise the limit.",
        )
    return count


def check_tree(tree: ObjectTree, contents: Mapping[str, Buffer]) -> None:
    """Raise WireError MDW-640 where the tree of a message names another content than the message.

    What is counted by the id of a content is counted by what is in it.
    """
    try:
        head = bytes(contents[tree.object_id])
        _, children, _ = get_object_head_values_from_object_content(head)
    except (ValueError, LookupError):
        raise _unreadable("no message") from None
    if [child.object_id for child in tree.children] != children:
        raise _unreadable("its tree names another content")


def cut(root: Message | RecordDict) -> tuple[str, ObjectTree, dict[str, Content]]:
    """Return an object's id, its tree, and what travels of it and all below it by id, children
    first; the bytes of its arrays stay where they are.
    """
    with no_object_id_recompute():
        tree = get_object_tree(root)
        objects = get_all_nested_objects(root)
        return tree.object_id, tree, {id: as_content(one) for id, one in objects.items()}


def as_content(one: InflatableObject) -> Content:
    """Return what travels of one object, without a copy of an array's bytes."""
    return one.content if isinstance(one, _Chunk) else one.deflate()


def deflate(root: Message | RecordDict) -> tuple[str, ObjectTree, dict[str, bytes]]:
    """Return the same as `cut`, each object in bytes of its own."""
    id, tree, contents = cut(root)
    return id, tree, {id: bytes(content) for id, content in contents.items()}


def inflate(
    root: str, contents: Mapping[str, Buffer], limit: int, *, hashed: bool = False
) -> RecordDict | Error:
    """Return the content, or the error, of the message `root`; its arrays stay in the chunks of
    `contents`.

    Every array is compared with its header and with `limit` (bytes of all arrays); no memory is
    taken for it. With `hashed` the caller knows that each id is the digest of its content: an array
    then need not be hashed for its `chunk_ids`. Raises WireError MDW-640, MDW-641 or MDW-642.
    """
    message = _inflate(root, contents, limit, hashed=hashed)
    if not isinstance(message, Message):
        raise _unreadable("no message")
    return message.error if message.has_error() else message.content


def inflate_content(root: str, contents: Mapping[str, Buffer], limit: int) -> RecordDict:
    """Return the record dict `root`, as `inflate` does for a message."""
    content = _inflate(root, contents, limit)
    if not isinstance(content, RecordDict):
        raise _unreadable("no record dict")
    return content


def _inflate(
    root: str, contents: Mapping[str, Buffer], limit: int, *, hashed: bool = False
) -> InflatableObject:
    try:
        return _Inflater(contents, limit, hashed=hashed).inflate(root, 0)
    except WireError:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
        ArithmeticError,
    ) as error:
        raise _unreadable(f"{type(error).__name__}: {str(error)[:200]}") from None
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise _unreadable(type(error).__name__) from None


class _Inflater:
    def __init__(self, contents: Mapping[str, Buffer], limit: int, *, hashed: bool) -> None:
        self._contents = contents
        self._left = limit
        self._hashed = hashed
        self._done: dict[str, InflatableObject] = {}

    def inflate(self, id: str, depth: int) -> InflatableObject:
        if id not in self._done:
            if depth > MAX_DEPTH:
                raise _unreadable("too deep")
            self._done[id] = self._object(id, depth)
        return self._done[id]

    def _object(self, id: str, depth: int) -> InflatableObject:
        # Records are small; the bytes of arrays are read where they lie.
        content = bytes(self._contents[id])
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == "Array":
            return self._array(content, children)
        below = {child: self.inflate(child, depth + 1) for child in children}
        if kind == "ArrayRecord":
            return _array_record(content, below)
        for known in (Message, RecordDict, ConfigRecord, MetricRecord):
            if kind == known.__qualname__:
                return known.inflate(content, below)
        raise _unreadable(f"an object of type {kind[:20]!r}")

    def _array(self, content: bytes, children: list[str]) -> Pieces:
        raw = _json(content)
        dtype, order = str(raw["dtype"]), self._order(children, raw["arraychunk_ids"])
        pieces = [_chunk_body(self._contents[child]) for child in order]
        total = sum(piece.nbytes for piece in pieces)
        if total > self._left:
            raise WireError(
                "MDW-642", "The arrays of a message are larger than allowed.", "Raise the limit."
            )
        self._left -= total
        if raw["stype"] != NPY or not order:
            raise _untrue(f"the serialisation {str(raw['stype'])[:20]!r}")
        # Its own shape and not the one beside it, which may be equal and not whole numbers.
        shape, fortran, numpy_dtype, start = read_header(pieces[0][:_HEADER_BYTES], dtype)
        said = tuple(raw["shape"])
        if said != shape or math.prod(shape) * numpy_dtype.itemsize != total - start:
            raise _untrue(f"{dtype}{shape} with {total - start} bytes of elements")
        made = Pieces(dtype, shape, [pieces[0][start:], *pieces[1:]])
        if fortran or numpy_dtype != DTYPES[dtype]:
            elements = np.frombuffer(made.buffer(), numpy_dtype).reshape(
                shape, order="F" if fortran else "C"
            )
            return Pieces(
                dtype, shape, [_bytes(np.ascontiguousarray(elements, dtype=DTYPES[dtype]))]
            )
        if self._hashed and self._is_cut_as_we_do(made, order, pieces):
            made.__dict__["_ids"] = tuple(order)
        return made

    def _order(self, children: Sequence[str], numbers: Sequence[int]) -> list[str]:
        """Return the ids of an array's chunks; the same one may be in it many times.

        Raises WireError MDW-641 where they are so small that the list of them takes more memory than
        their bytes.
        """
        size = sum(len(self._contents[children[number]]) for number in numbers)
        if len(numbers) > 1 + size // LEAST_CHUNK:
            raise _untrue(f"{len(numbers)} chunks with {size} bytes")
        return [children[number] for number in numbers]

    def _is_cut_as_we_do(
        self, made: Pieces, order: list[str], pieces: Sequence[memoryview]
    ) -> bool:
        """Return whether the chunks are those into which we would cut the array ourselves.

        Whoever sends it may cut it elsewhere, or write another header that says the same.
        """
        header = _header(made.dtype, tuple(made.shape))
        sizes = [piece.nbytes for piece in pieces]
        full = len(sizes) - 1
        return (
            pieces[0][: header.nbytes] == header
            and sizes[:full] == [CHUNK_BYTES] * full
            and 0 < sizes[-1] <= CHUNK_BYTES
            and all(
                self._contents[id][: len(head)] == head
                for id, head in zip(order, map(_chunk_head, sizes), strict=True)
            )
        )


def _aligned(piece: memoryview, dtype: np.dtype[Any]) -> bool:
    return bool(np.frombuffer(piece, np.uint8).ctypes.data % dtype.itemsize == 0)


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy's stubs for 3.11 lack it


def _array_record(content: bytes, arrays: Mapping[str, InflatableObject]) -> ArrayRecord:
    names = _json(content)
    record = ArrayRecord()
    for name, id in names.items():
        record[name] = cast(Array, arrays[id])
    return record


def _json(content: bytes) -> dict[str, Any]:
    body = content[content.index(HEAD_BODY_DIVIDER) + 1 :]
    raw = json.loads(body)
    if not isinstance(raw, dict):
        raise _unreadable("no JSON object")
    return raw


def _chunk_body(content: Buffer) -> memoryview:
    head = bytes(content[:_CHUNK_HEAD_BYTES])
    if not head.startswith(b"ArrayChunk "):
        raise _unreadable("no chunk")
    return memoryview(content)[head.index(HEAD_BODY_DIVIDER) + 1 :]


def array_of(values: np.ndarray) -> Array:
    """Return a copy of some elements as a record's array: the very bytes that Flower's own makes.

    Flower writes a file in memory, header and all, and copies it; here the elements are copied
    once.
    """
    dtype = str(values.dtype)
    if DTYPES.get(dtype) != values.dtype or not values.flags.c_contiguous:
        return Array(values)
    data = b"".join([_header(dtype, values.shape), _bytes(values)])
    return Array(dtype, values.shape, NPY, data)


def as_declared(dtype: str, values: np.ndarray) -> Array:
    """Return a copy of some elements as an array of a type of the wire, which may be one that numpy
    has not got: bfloat16 is given as the uint16 of its bits.
    """
    if dtype != BFLOAT16:
        return array_of(values)
    data = b"".join([_header(dtype, values.shape), values.astype("<u2", copy=False).tobytes()])
    return Array(dtype, values.shape, NPY, data)


def in_place(dtype: str, shape: Sequence[int], values: np.ndarray) -> Array:
    """Return contiguous elements as an array that refers to their memory: nothing is copied."""
    return Pieces(dtype, shape, [_bytes(np.ascontiguousarray(values, DTYPES[dtype]))])


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> memoryview:
    file = BytesIO()
    descr = npy.dtype_to_descr(DTYPES[dtype])
    npy.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
    )
    return memoryview(file.getvalue())


def _runs(pieces: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """Cut a row of buffers into runs of one chunk each."""
    run: list[memoryview] = []
    room = CHUNK_BYTES
    for piece in pieces:
        while piece.nbytes:
            part, piece = piece[:room], piece[room:]
            run.append(part)
            room -= part.nbytes
            if room == 0:
                yield run
                run, room = [], CHUNK_BYTES
    if run:
        yield run


def _unreadable(what: str) -> WireError:
    return WireError(
        "MDW-640",
        f"A message can't be read: {what}.",
        "Run the same version of Meadow on both sides.",
    )


def _untrue(what: str) -> WireError:
    return WireError(
        "MDW-641",
        f"An array is not what it says it is: {what}.",
        "The silo's code or disk is damaged.",
    )
