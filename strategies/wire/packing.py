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
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from conf.errors import WireError
from strategies.wire.objects import DTYPES, Pieces, view
from strategies.wire.protocol import records

PACKED: Final = "meadow-packed"
"""The config record that holds the layouts: name of an array record -> JSON list of [name, dtype,
shape].
"""


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


def unpack_content(content: RecordDict) -> RecordDict:
    """Return a message's content as it was before `pack_content`; the arrays lie in the buffers of
    the packed ones.

    Raises WireError MDW-643.
    """
    layouts = content[PACKED]
    if not isinstance(layouts, ConfigRecord) or set(layouts) != set(records(content, ArrayRecord)):
        raise _unfit("the layouts name other records than the message has")
    return RecordDict(
        {
            name: unpack(record, layouts[name]) if isinstance(record, ArrayRecord) else record
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


def unpack(flat: ArrayRecord, layout: object) -> ArrayRecord:
    """Return the named arrays of a packed record as views of it.

    Raises WireError MDW-643 where the two do not fit.
    """
    declared = _layout(layout)
    if any(array.dtype != dtype for dtype, array in flat.items()):
        raise _unfit("a flat array has another element type than its name says")
    rows = {
        dtype: deque(array.pieces if isinstance(array, Pieces) else [view(array)])
        for dtype, array in flat.items()
    }
    record = ArrayRecord()
    for name, (dtype, shape) in declared.items():
        if dtype not in rows:
            raise _unfit(f"no flat array of {dtype[:20]!r}")
        record[name] = Pieces(
            dtype, shape, _cut(rows[dtype], math.prod(shape) * DTYPES[dtype].itemsize, dtype)
        )
    if any(piece.nbytes for row in rows.values() for piece in row):
        raise _unfit("there are more elements than declared")
    return record


def _cut(row: deque[memoryview], size: int, dtype: str) -> list[memoryview]:
    """Take the next `size` bytes off a row of buffers, as views."""
    taken = []
    while size:
        if not row:
            raise _unfit(f"{dtype} has {size} bytes fewer than declared")
        piece = row.popleft()
        taken.append(piece[:size])
        if piece.nbytes > size:
            row.appendleft(piece[size:])
        size -= taken[-1].nbytes
    return taken


def _layout(text: object) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    try:
        rows: Any = json.loads(str(text))
        declared = {str(name): (str(dtype), tuple(shape)) for name, dtype, shape in rows}
    except (ValueError, TypeError, RecursionError):
        raise _unfit("it is no list of name, element type and shape") from None
    if len(declared) != len(rows):
        raise _unfit("a name occurs twice")
    for dtype, shape in declared.values():
        if dtype not in DTYPES or any(type(n) is not int or n < 0 for n in shape):
            raise _unfit(f"{dtype[:20]!r} {shape}")
    return declared


def _unfit(why: str) -> WireError:
    hint = "Run the same version of Meadow on both sides."
    return WireError(
        "MDW-643", f"A packed record does not have the layout it declares: {why}.", hint
    )
