"""A pointer: a few bytes of JSON, replaced whole, that name a stored file and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from azureml_jobs.storage.base import Data, Lease, Store
from conf.errors import CheckpointError
from conf.versions import Format

FORMAT: Final = Format("pointer", 1, damaged="MDW-517", fix="Restore it from a copy, or delete it.")


def digest(data: Data) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def point(
    store: Store, pointer: str, target: str, sha256: str, *, under: Lease | None = None
) -> None:
    """Make `pointer` name the stored, immutable file `target` and its digest."""
    record = FORMAT.stamp | {"target": target, "sha256": sha256}
    store.replace(pointer, json.dumps(record).encode(), under=under)


def follow(store: Store, pointer: str) -> tuple[str, bytes]:
    """Return the name and the bytes that a pointer names.

    Raises StoreMissing where either is absent, CheckpointError (MDW-517) where the bytes are not
    those pointed at, MDW-505 for a pointer of another version.
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
    where = f"The pointer {pointer}"
    record = FORMAT.loads(store.read(pointer), where)
    with FORMAT.reading(where):
        return str(record["target"]), str(record["sha256"])
