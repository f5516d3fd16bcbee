"""Flower's LinkState in memory, with node ids that come from the keys and instructions that can be delivered again.

Flower's `InMemoryLinkState` forgets both: a restarted orchestrator would give every silo another
id, and an instruction that was handed to a process that died would wait for its time to live, twelve hours.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from flwr.app import Message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import InMemoryLinkState
from flwr.supercore.date import now


def node_id_of(public_key: bytes) -> int:
    """Return the node id of a key (PEM): the same in every orchestrator; 62 bits, since records hold signed integers.

    0 is nobody and 1 is Flower's name for the server, so ids start above them.
    """
    return (int.from_bytes(hashlib.sha256(public_key).digest()[:8], "big") >> 2) + 2


class StableLinkState(InMemoryLinkState):
    """LinkState whose node ids are `node_id_of` the keys."""

    def create_node(
        self, owner_aid: str, owner_name: str, public_key: bytes, *args: Any, **kwargs: Any
    ) -> int:
        """See Flower's `LinkState`; raises ValueError for a key that is there already."""
        with self.lock:
            drawn = super().create_node(owner_aid, owner_name, public_key, *args, **kwargs)
            id = node_id_of(public_key)
            info = self.nodes.pop(drawn)
            info.node_id = id
            self.nodes[id] = info
            self.node_public_key_to_node_id[public_key] = id
            self.owner_to_node_ids[owner_aid] = (self.owner_to_node_ids[owner_aid] - {drawn}) | {id}
            return id

    def admit(self, public_key: bytes, silo: str) -> int:
        """Register a silo's key, if it is not yet, and return its node id."""
        known = self.get_node_id_by_public_key(public_key)
        return known or self.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 0, name=silo)

    def expel(self, public_key: bytes) -> None:
        """Forget a key and its node, so that it may be admitted again one day (Flower keeps it for ever)."""
        with self.lock:
            id = self.node_public_key_to_node_id.pop(public_key, None)
            if id is not None:
                del self.nodes[id]
                self.owner_to_node_ids[NOOP_FLWR_AID].discard(id)

    def is_online(self, node_id: int) -> bool:
        """Say whether a node has been heard of within twice its heartbeat interval."""
        with self.lock:
            node = self.nodes.get(node_id)
            return node is not None and bool(node.online_until) and node.online_until > time.time()

    def reply_head(self, instruction_id: str) -> Message | None:
        """Return the reply to an instruction as far as it has arrived: its metadata, without content."""
        with self.lock:
            reply_id = self.message_ins_id_to_message_res_id.get(instruction_id)
            return None if reply_id is None else self.message_res_store.get(reply_id)

    def undeliver(self, instruction_id: str) -> None:
        """Make an instruction that was delivered deliverable again, and forget what its node answered so far."""
        with self.lock:
            self.message_ins_store[instruction_id].metadata.delivered_at = ""
            reply_id = self.message_ins_id_to_message_res_id.pop(instruction_id, None)
            if reply_id is not None:
                self.message_res_store.pop(reply_id, None)

    def withdraw(self, instruction_id: str) -> None:
        """Deliver an instruction no more; a reply to it is still taken."""
        with self.lock:
            self.message_ins_store[instruction_id].metadata.delivered_at = now().isoformat()
