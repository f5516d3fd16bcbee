"""Which silos are there: their names by node id, on any grid."""

from __future__ import annotations

import logging
import time
from typing import Final

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from azureml_jobs.identity.secret_store import checked_name
from conf.errors import IdentityError, RoundError, SiloError
from conf.schema import Conf
from server.round.error_text import plain_reason
from server.round.exchange import NO_REPLY, Closing, exchange
from server.round.patience import needed_at_start
from server.round.silo_grid import SiloGrid
from strategies.wire import protocol

log = logging.getLogger(__name__)

GRACE: Final = 30.0
"""Seconds for the other nodes to say their names, once as many have as the run needs."""


def silo_names(grid: Grid, conf: Conf, expected: int, closed: int) -> dict[int, str]:
    """Return the silos of a grid by node id, once as many are there as the run needs after `closed`
    rounds (`server.round.patience`).

    A grid of ours knows them; on any other each node is asked, and one that does not say which silo
    it is, or says what another says too, takes no part. Raises RoundError MDW-402 after
    `run.start_timeout`, SiloError MDW-302 or 303 where too few are left.
    """
    if isinstance(grid, SiloGrid):
        return grid.names()
    run = conf.run
    needed = needed_at_start(run, expected, closed)
    deadline = time.monotonic() + run.start_timeout
    while len(nodes := list(grid.get_node_ids())) < needed:
        if time.monotonic() >= deadline:
            raise RoundError(
                "MDW-402",
                f"{len(nodes)} of {needed} silos are connected after {run.start_timeout:.0f} s.",
                "Start the missing ones, or lower run.start_quorum.",
            )
        time.sleep(0.05)
    # One that never answers must not hold the others up.
    closing = Closing(run.start_timeout, quorum=needed, grace=min(GRACE, run.start_timeout))
    names, faults = _ask_names(grid, nodes, closing)
    for fault in faults:
        log.warning("%s", fault)
    if faults and len(names) < needed:
        raise faults[0]
    return names


def _ask_names(
    grid: Grid, nodes: list[int], closing: Closing
) -> tuple[dict[int, str], list[SiloError]]:
    """Return the silos by node id, and what is wrong with the nodes that are left out."""
    hello = [
        Message(RecordDict({protocol.CONFIG: ConfigRecord()}), node, protocol.HELLO)
        for node in nodes
    ]
    said: dict[str, list[int]] = {}
    faults = []
    for node, reply, _ in exchange(grid, hello, closing):
        if reply.has_error() and reply.error.code == NO_REPLY:
            # A node that says nothing in time takes no part; the quorum of the start was counted
            # before.
            continue
        try:
            said.setdefault(_name_in(reply), []).append(node)
        except SiloError as fault:
            faults.append(fault)
    names: dict[int, str] = {}
    for name, claimants in said.items():
        if len(claimants) == 1:
            names[claimants[0]] = name
            continue
        # Nothing on such a grid says which of them it is.
        faults.append(
            SiloError(
                "MDW-303",
                f"{len(claimants)} nodes say that they are the silo {name}: none takes part.",
                "Give each its own name.",
            )
        )
    return names, faults


def _name_in(reply: Message) -> str:
    """Return the silo's name in an answer; raises SiloError MDW-302."""
    hint = "Look at that node's log; it takes no part until it says so."
    if reply.has_error():
        why = plain_reason(reply.error.reason)
        raise SiloError("MDW-302", f"A node did not say which silo it is: {why}.", hint)
    config = protocol.records(reply.content, ConfigRecord).get(protocol.CONFIG, ConfigRecord())
    name = config.get(protocol.SILO)
    try:
        return checked_name(name if isinstance(name, str) else "")
    except IdentityError as error:
        why = plain_reason(error.message)
        raise SiloError("MDW-302", f"A node did not say which silo it is: {why}", hint) from None
