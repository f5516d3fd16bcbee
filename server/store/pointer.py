"""A pointer: a few bytes of JSON, replaced whole, that name an immutable stored file and its digest."""

from __future__ import annotations

import hashlib
import json

from conf.errors import CheckpointError
from server.store.base import Data, Lease, Store


def digest(data: Data) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def point(
    store: Store, pointer: str, target: str, sha256: str, *, under: Lease | None = None
) -> None:
    """Make `pointer` name the stored, immutable file `target` and its digest."""
    record = {"target": target, "sha256": sha256}
    store.replace(pointer, json.dumps(record).encode(), under=under)


def follow(store: Store, pointer: str) -> tuple[str, bytes]:
    """Return the name and the bytes that a pointer names.

    Raises StoreMissing where either is absent, CheckpointError (MDW-517) where the bytes are not those
    pointed at.
    """
    target, sha256 = _read(store, pointer)
    data = store.read(target)
    if digest(data) != sha256:
        hint = "The file was damaged after it was written; use an earlier one."
        raise CheckpointError(
            "MDW-517", f"{target} does not have the digest that {pointer} records.", hint
        )
    return target, data


def _read(store: Store, pointer: str) -> tuple[str, str]:
    raw = store.read(pointer)
    try:
        record = json.loads(raw)
        return str(record["target"]), str(record["sha256"])
    except (ValueError, TypeError, LookupError):
        raise CheckpointError(
            "MDW-517", f"The pointer {pointer} is not readable.", "Restore or delete it."
        ) from None
