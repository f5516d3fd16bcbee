"""Which version of names and records an orchestrator's store holds: a marker that its first user
leaves there.

Records have versions of their own; this one is for how they are named and what belongs together.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Final

from azureml_jobs.storage.base import Store, StoreMissing
from conf.versions import Format

MARKER: Final = "store.json"
FORMAT: Final = Format("store", 1, damaged="MDW-517")


def claim(store: Store) -> None:
    """Mark a new store.

    Raises CheckpointError MDW-505 for one that another version of Meadow uses.
    """
    if not store.put_if_absent(MARKER, json.dumps(FORMAT.stamp).encode()):
        check(store)


def check(store: Store) -> None:
    """Raise CheckpointError MDW-505 for a store that another version of Meadow uses; a new one is
    any version's.
    """
    with suppress(StoreMissing):
        FORMAT.loads(store.read(MARKER), f"{store!r}")
