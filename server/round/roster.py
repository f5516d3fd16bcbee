"""Which silos are there: their names by node id, on any grid."""

from __future__ import annotations

import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from conf.errors import RoundError, SiloError
from conf.schema import Conf
from server.round.error_text import plain_reason
from server.round.exchange import NO_REPLY, Closing, exchange
from server.round.patience import needed_at_start
from server.round.silo_grid import SiloGrid
from strategies.wire import protocol


def silo_names(grid: Grid, conf: Conf, expected: int, closed: int) -> dict[int, str]:
    """Return the silos of a grid by node id, once as many are there as the run needs after `closed`
    rounds (`server.round.patience`).

    A grid of ours knows them; on any other each node is asked. Raises RoundError MDW-402 after
    `run.start_timeout`.
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
    return _ask_names(grid, nodes, run.start_timeout)


def _ask_names(grid: Grid, nodes: list[int], timeout: float) -> dict[int, str]:
    hello = [
        Message(RecordDict({protocol.CONFIG: ConfigRecord()}), node, protocol.HELLO)
        for node in nodes
    ]
    names: dict[int, str] = {}
    for node, reply, _ in exchange(grid, hello, Closing(timeout)):
        if reply.has_error() and reply.error.code == NO_REPLY:
            # A node that says nothing in time takes no part; the quorum of the start was counted
            # before.
            continue
        if reply.has_error():
            raise SiloError(
                "MDW-302",
                f"A node did not say which silo it is: {plain_reason(reply.error.reason)}.",
            )
        name = str(reply.content.config_records[protocol.CONFIG][protocol.SILO])
        if name in names.values():
            raise SiloError(
                "MDW-303",
                f"Two nodes say that they are the silo {name}.",
                "Give each its own name.",
            )
        names[node] = name
    return names
