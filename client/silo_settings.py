"""Who this process is: the settings of the silo that a message has reached."""

from __future__ import annotations

import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from conf.errors import SiloError
from conf.schema import Silo
from conf.silos import silo_from_json, silo_to_json

SILOS_VARIABLE = "MEADOW_SILOS"
"""Environment of a simulation's workers: a JSON list of silos, in the order of Flower's partition
ids.
"""

NODE_KEY = "silo"
"""Key of the node configuration that holds the silo as JSON, set by our own node and pool."""


def silo_of(context: Context) -> Silo:
    """Return the silo that this context belongs to.

    Looked for in the node's own configuration, then in what a simulation on this machine left for
    its workers; a bare Flower simulation gets generated silos with the defaults of this tree.
    Raises SiloError MDW-301 for a node that has neither a name nor a partition.
    """
    node = context.node_config
    if NODE_KEY in node:
        return _parsed(str(node[NODE_KEY]))
    if "partition-id" not in node:
        raise SiloError(
            "MDW-301",
            "This node does not know which silo it is.",
            "Start it with --node-config \"silo='{...}'\" or as a partition of a simulation.",
        )
    index, of = int(node["partition-id"]), int(node.get("num-partitions", 1))
    handed_over = _handed_over(context.run_id)
    return handed_over[index] if handed_over else Silo(name=f"silo-{index + 1}", index=index, of=of)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Silo:
    """Return the silo that a text says, parsed once for all its messages; nobody changes it."""
    return silo_from_json(text)


def hand_over(silos: list[Silo], run_id: int) -> Path:
    """Leave the silos' settings where this machine's client processes of Flower's run `run_id` find
    them.

    Used where Flower itself starts those processes and gives them nothing but a partition number.
    Readable by this user only; returns the file, to be removed when the run ends.
    """
    path = _hand_over_path(run_id)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(silos_to_json(silos))
    return path


def silos_to_json(silos: list[Silo]) -> str:
    """Return several silos as one JSON list, the form of `SILOS_VARIABLE`."""
    return json.dumps([silo_to_json(silo) for silo in silos])


def _handed_over(run_id: int) -> list[Silo]:
    text = os.environ.get(SILOS_VARIABLE)
    if text is None:
        path = _hand_over_path(run_id)
        if not path.is_file() or path.stat().st_uid != os.getuid():
            return []
        text = path.read_text()
    return [silo_from_json(one) for one in json.loads(text)]


def _hand_over_path(run_id: int) -> Path:
    return Path(tempfile.gettempdir()) / f"meadow-{os.getuid()}" / f"silos-{run_id}.json"
