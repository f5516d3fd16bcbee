"""What a silo of the pool is to Flower: its node id, and the context that its app is given."""

from __future__ import annotations

import hashlib

from flwr.app import Context, RecordDict, UserConfig

from conf.schema import Silo
from conf.silos import silo_to_json


def node_id(silo: str) -> int:
    """Return a silo's node id: a positive 63-bit number made from its name, so that it never
    changes.
    """
    return int.from_bytes(hashlib.sha256(silo.encode()).digest()[:8], "big") >> 1


def context_of(run_id: int, node: int, silo: Silo, state: RecordDict) -> Context:
    """Return the context of a silo's app, with the silo's settings and its state."""
    config: UserConfig = {
        "partition-id": silo.index,
        "num-partitions": silo.of,
        "silo": silo_to_json(silo),
    }
    return Context(run_id=run_id, node_id=node, node_config=config, state=state, run_config={})
