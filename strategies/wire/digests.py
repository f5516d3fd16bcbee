"""Digests that both sides take of the same thing: of a model, of an update.

The ledger holds those that the server took, a silo's receipt those that the silo took, so that one
can be compared with the other (docs/ledger.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from conf.canonical import canonical
from conf.errors import Interrupted
from strategies.wire import protocol
from strategies.wire.objects import view
from strategies.wire.packing import PACKED, chunk_ids, flat_ids, unpack_content

VERSION: Final = 2
"""Of an update's digest; in ledgers up to version 2 it was the one that a model has."""


def arrays_digest(arrays: ArrayRecord) -> str:
    """Return the SHA-256 of a model: of each array, by name, its name, dtype, shape and
    values.

    The same however the arrays were packed for the wire, and in whatever order. Raises ValueError
    for one that can't be read.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(canonical({"name": name, "dtype": array.dtype, "shape": list(array.shape)}))
        try:
            digest.update(view(array))
        except Exception as error:  # numpy's reader of headers raises more than it says
            raise ValueError(f"{name[:80]!r}: {error}") from None
    return digest.hexdigest()


def update_digest(content: Mapping[str, object]) -> str:
    """Return the digest of an update's arrays: of its layout, and of the digests of the chunks in
    which it travels (docs/ledger.md has it in a few lines).

    The same whether it is packed or not; the bytes of one that came over a wire were hashed as they
    arrived, and are not hashed again. Empty where there is no update, or none that can be read.
    """
    try:
        records = {name: one for name, one in content.items() if isinstance(one, ArrayRecord)}
        if protocol.ARRAYS not in records:
            return ""
        layouts = content.get(PACKED)
        if isinstance(layouts, ConfigRecord):
            # Only looked at: a layout that does not fit its arrays is an update of nobody.
            unpack_content(RecordDict({**records, PACKED: layouts}))
            tree = {name: _of_packed(one, layouts[name]) for name, one in records.items()}
        else:
            tree = {name: _of_named(one) for name, one in records.items()}
        facts = {"update": VERSION, "records": tree}
        return hashlib.sha256(canonical(facts)).hexdigest()
    except Interrupted:
        raise
    except Exception:
        # It may have been refused for what it is: then there is nothing to take a digest of.
        return ""


def _of_named(record: ArrayRecord) -> dict[str, Any]:
    layout = [[name, array.dtype, list(array.shape)] for name, array in record.items()]
    return {"arrays": layout, "chunks": chunk_ids(record)}


def _of_packed(flat: ArrayRecord, layout: object) -> dict[str, Any]:
    return {"arrays": json.loads(str(layout)), "chunks": flat_ids(flat)}
