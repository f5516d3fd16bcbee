"""The wire packs: all tensors of one element type travel as one flat array, with a declared layout
beside it.

A round's cost grows with the number of arrays as well as with their bytes: each array is two
objects or more, each object a signed call. `pack` and `unpack` change only the form: names, order,
shapes, element types and bits stay. `packing_mod` is the outermost mod of a silo's ClientApp and
`server.orchestrator.packed_grid.PackedGrid` its counterpart; nothing between the two sees a packed
record.

    MDW-643 a layout that does not fit its arrays
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from conf.errors import WireError
from strategies.wire.objects import DTYPES, Pieces, view
from strategies.wire.protocol import records

PACKED: Final = "meadow-packed"
"""The config record that holds the layouts: name of an array record -> JSON list of [name, dtype,
shape].
"""
MOST_DIMENSIONS: Final = 32
"""Of an array; numpy of release 1 has no more, and no model comes near."""


@dataclass(frozen=True)
class Bounds:
    """How long a layout that another party wrote may be, before it is read.

    `letters` of its JSON text and `names` of arrays: what either may cost is known before memory is
    taken for it. What it declares is bounded by the flat arrays that are there.
    """

    letters: int = 16 * 2**20
    names: int = 200_000

    def of_answers(self, layouts: Sequence[str]) -> Bounds:
        """Return the bounds of answers to messages with such layouts.

        An answer has the model's arrays and what an algorithm adds, or the sums of a task: each
        record as long as the longest that was sent, or as a small one.
        """
        longest = max((len(layout) for layout in layouts), default=0)
        letters = min(self.letters, max(longest + 1024, SMALL_LAYOUT))
        # No row is shorter than `["a", "bool", []]`.
        return Bounds(letters, min(self.names, letters // 16))


class Unpacked(ArrayRecord):
    """Named arrays as they came out of a packed record, and the ids of the chunks they came in.

    To Flower it is an `ArrayRecord` like any other.
    """

    __qualname__ = "ArrayRecord"  # the type's name on the wire

    def __init__(self, arrays: Mapping[str, Array], flat: ArrayRecord) -> None:
        super().__init__()
        for name, array in arrays.items():
            self[name] = array
        self._unpacked = tuple(arrays.values())
        self._flat_ids = {
            dtype: array.known_ids for dtype, array in flat.items() if isinstance(array, Pieces)
        }

    def chunk_ids(self) -> dict[str, tuple[str, ...]] | None:
        """Return the ids of its chunks by element type, None where they are not all known, or where
        the record has been changed since.
        """
        same = len(self) == len(self._unpacked) and all(
            mine is its for mine, its in zip(self.values(), self._unpacked, strict=True)
        )
        known = {dtype: ids for dtype, ids in self._flat_ids.items() if ids is not None}
        return known if same and known.keys() == self._flat_ids.keys() else None


def chunk_ids(record: ArrayRecord) -> dict[str, tuple[str, ...]]:
    """Return the ids of the chunks in which a record of named arrays travels, by element type.

    Its bytes are hashed where they did not arrive in these chunks. Raises WireError MDW-641 for an
    array that can't travel.
    """
    known = record.chunk_ids() if isinstance(record, Unpacked) else None
    return flat_ids(pack(record)[0]) if known is None else known


def flat_ids(flat: ArrayRecord) -> dict[str, tuple[str, ...]]:
    """Return the ids of the chunks of a packed record's arrays, by element type."""
    return {dtype: array.chunk_ids() for dtype, array in flat.items() if isinstance(array, Pieces)}


SMALL_LAYOUT: Final = 2**16
"""Letters that the layout of an answer may have whatever was sent: a task may have many sums."""
UNBOUNDED_BY_WHAT_WAS_SENT: Final = Bounds()


def packing_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Give the app named arrays, and answer in the form in which the silo was asked."""
    if not message.has_content() or PACKED not in message.content:
        return call_next(message, context)
    message.content = unpack_content(message.content)
    reply = call_next(message, context)
    if reply.has_content():
        reply.content = pack_content(reply.content)
    return reply


def pack_content(
    content: RecordDict, known: dict[int, tuple[ArrayRecord, str]] | None = None
) -> RecordDict:
    """Return a message's content with every array record packed and the layouts in `PACKED`;
    nothing is copied.

    `known` (by `id` of the record) lets messages that share a record share its packed form too.
    """
    known = {} if known is None else known
    packed: dict[str, ArrayRecord | ConfigRecord | MetricRecord] = {}
    layouts = ConfigRecord()
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            if id(record) not in known:
                known[id(record)] = pack(record)
            packed[name], layouts[name] = known[id(record)]
        else:
            packed[name] = record
    return RecordDict({**packed, PACKED: layouts})


def unpack_content(content: RecordDict, bounds: Bounds = UNBOUNDED_BY_WHAT_WAS_SENT) -> RecordDict:
    """Return a message's content as it was before `pack_content`; the arrays lie in the buffers of
    the packed ones.

    Raises WireError MDW-643.
    """
    layouts = content[PACKED]
    if not isinstance(layouts, ConfigRecord) or set(layouts) != set(records(content, ArrayRecord)):
        raise _unfit("the layouts name other records than the message has")
    return RecordDict(
        {
            name: unpack(record, layouts[name], bounds)
            if isinstance(record, ArrayRecord)
            else record
            for name, record in content.items()
            if name != PACKED
        }
    )


def pack(record: ArrayRecord) -> tuple[ArrayRecord, str]:
    """Return one flat array per element type, named by it, and the layout as JSON.

    The flat arrays refer to the bytes of the named ones. Raises WireError MDW-641 for an array that
    can't travel.
    """
    parts: dict[str, list[memoryview]] = {}
    for array in record.values():
        parts.setdefault(array.dtype, []).append(view(array))
    flat = ArrayRecord()
    for dtype, pieces in parts.items():
        elements = sum(piece.nbytes for piece in pieces) // DTYPES[dtype].itemsize
        flat[dtype] = Pieces(dtype, (elements,), pieces)
    return flat, json.dumps(
        [[name, array.dtype, list(array.shape)] for name, array in record.items()]
    )


def unpack(
    flat: ArrayRecord, layout: object, bounds: Bounds = UNBOUNDED_BY_WHAT_WAS_SENT
) -> ArrayRecord:
    """Return the named arrays of a packed record as views of it.

    Raises WireError MDW-643 where the two do not fit.
    """
    declared = _layout(layout, bounds)
    if any(array.dtype != dtype for dtype, array in flat.items()):
        raise _unfit("a flat array has another element type than its name says")
    rows = {
        dtype: deque(array.pieces if isinstance(array, Pieces) else [view(array)])
        for dtype, array in flat.items()
    }
    sizes = _sizes(declared, rows)
    arrays = {
        name: Pieces(dtype, shape, _cut(rows[dtype], sizes[name]))
        for name, (dtype, shape) in declared.items()
    }
    return Unpacked(arrays, flat)


def _sizes(
    declared: Mapping[str, tuple[str, tuple[int, ...]]], rows: Mapping[str, deque[memoryview]]
) -> dict[str, int]:
    """Return the bytes of each declared array, once all of them are known to be there, and no more.

    Before the first array is made of them: a layout that lies costs nothing.
    """
    left = {dtype: sum(piece.nbytes for piece in row) for dtype, row in rows.items()}
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in declared.items():
        if dtype not in left:
            raise _unfit(f"no flat array of {dtype}")
        itemsize = DTYPES[dtype].itemsize
        sizes[name] = itemsize * _elements(shape, left[dtype] // itemsize)
        left[dtype] -= sizes[name]
    if any(left.values()):
        raise _unfit("there are more elements than declared")
    return sizes


def _elements(shape: tuple[int, ...], most: int) -> int:
    """Return the number of elements of a shape; raises WireError MDW-643 beyond `most`.

    Compared at each step, so that no product is ever much larger than what is there.
    """
    if 0 in shape:
        return 0
    count = 1
    for side in shape:
        count *= side
        if count > most:
            raise _unfit("there are fewer elements than declared")
    return count


def _cut(row: deque[memoryview], size: int) -> list[memoryview]:
    """Take the next `size` bytes off a row of buffers, as views; they are there."""
    taken = []
    while size:
        piece = row.popleft()
        taken.append(piece[:size])
        if piece.nbytes > size:
            row.appendleft(piece[size:])
        size -= taken[-1].nbytes
    return taken


def _layout(text: object, bounds: Bounds) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    if not isinstance(text, str) or len(text) > bounds.letters:
        raise _unfit(f"it is no text of at most {bounds.letters} letters")
    try:
        rows: Any = json.loads(text)
        if len(rows) > bounds.names:
            raise _unfit(f"it names more than {bounds.names} arrays")
        declared = {str(name): (str(dtype), tuple(shape)) for name, dtype, shape in rows}
    except (ValueError, TypeError, RecursionError):
        raise _unfit("it is no list of name, element type and shape") from None
    if len(declared) != len(rows):
        raise _unfit("a name occurs twice")
    for dtype, shape in declared.values():
        if dtype not in DTYPES:
            raise _unfit(f"{dtype[:20]!r} is no element type")
        if len(shape) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
            # The shape itself is not repeated: to print a number of many digits is an error too.
            raise _unfit("it declares a shape that no array has")
    return declared


def _unfit(why: str) -> WireError:
    hint = "Run the same version of Meadow on both sides."
    return WireError(
        "MDW-643", f"A packed record does not have the layout it declares: {why}.", hint
    )
