"""Digests that both sides take of the same thing: of a model, of an update.

The ledger holds those that the server took, a silo's receipt those that the silo took, so that one
can be compared with the other (docs/ledger.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from flwr.app import ArrayRecord

from conf.canonical import canonical
from conf.errors import Interrupted
from strategies.wire import protocol
from strategies.wire.objects import view


def arrays_digest(arrays: ArrayRecord) -> str:
    """Return the SHA-256 of a model or update: of each array, by name, its name, dtype, shape and
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
    """Return the digest of an update's arrays, the array records among those of a message.

    Empty where there is none, or none that can be read. With records of the algorithm's own it is
    that of all arrays, theirs under RECORD/NAME.
    """
    try:
        records = {name: one for name, one in content.items() if isinstance(one, ArrayRecord)}
        update = records.pop(protocol.ARRAYS)
        if not records:
            return arrays_digest(update)
        beside = {f"{name}/{n}": a for name, record in records.items() for n, a in record.items()}
        return arrays_digest(ArrayRecord({**update, **beside}))
    except Interrupted:
        raise
    except Exception:
        # It may have been refused for what it is: then there is nothing to take a digest of.
        return ""
