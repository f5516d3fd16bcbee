"""The Flower ServerApp: config -> strategy -> rounds -> finish.

flwr run . --run-config 'overrides="task=digits run.rounds=3"'
"""

from __future__ import annotations

import dataclasses
import shlex
import time

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from client.model_parts import model_parts
from client.placement import visible
from client.silo_settings import hand_over
from client.tasks import task_of
from conf.compose import compose
from conf.schema import Conf, Silo
from conf.silos import silos
from server.observers.progress import progress
from server.round.readiness import check_here
from server.round.rounds import Rounds
from server.scoring.central import Workers, central_score
from server.session import SIMULATE, Session, session
from strategies import build_strategy
from strategies.external import External

SETTLED_SECONDS = 1.0
"""Without another node, after which all are taken to be there."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation of the run config's `overrides` over the nodes that Flower connected."""
    overrides = str(context.run_config.get("overrides", ""))
    conf = compose(shlex.split(overrides))
    if not conf.federation.silos:
        conf.federation.size = _settled_size(grid, conf.run.start_timeout)
    members = silos(conf)
    strategy = build_strategy(conf.strategy)
    task = task_of(conf.task)
    check_here(conf, task, len(members), task.made_up())
    left_for_workers = hand_over(_with_gpus(members, conf), context.run_id)
    command = f"flwr run . --run-config 'overrides=\"{overrides}\"'"
    try:
        with session(
            conf, members, mode="flower", command=command, display=progress(live=False)
        ) as run:
            federate(run, grid, strategy)
    finally:
        left_for_workers.unlink(missing_ok=True)


def _with_gpus(members: list[Silo], conf: Conf) -> list[Silo]:
    """Return the silos, each to be refused a round on the CPU where this machine has GPUs.

    Flower gives its clients none unless its own configuration asks for them, and hides those there
    are.
    """
    meant = visible() > 0 and conf.simulation.gpus != 0
    return [dataclasses.replace(silo, gpus=1 if meant else 0) for silo in members]


def federate(run: Session, grid: Grid, strategy: Strategy, workers: Workers | None = None) -> None:
    """Train the run's rounds over a grid, in any mode, and test the model once at the end.

    Where there are `workers`, idle ones evaluate the model on the task's test set.
    """
    if isinstance(strategy, External):
        parts = model_parts(run.conf.model, run.conf.task, task_of(run.conf.task))
        strategy.frozen = parts.frozen
    central = central_score(run.conf, workers)
    rounds = Rounds(run, grid, strategy, central.begin if central else None)
    stopped_early = rounds.run()
    test = rounds.test()
    run.finish(test, stopped_early=stopped_early)
    if run.result.mode != SIMULATE:
        # A simulation sees all data, and compares by itself.
        run.result.baseline = rounds.alone(test)
    run.farewell = rounds.farewell()


def _settled_size(grid: Grid, timeout: float) -> int:
    """Return the number of nodes once it has not changed for a second, or at the timeout."""
    # Flower registers its nodes one by one, and says nowhere how many there will be.
    deadline = time.monotonic() + timeout
    seen = 0
    since = time.monotonic()
    while time.monotonic() < deadline:
        if seen > 0 and time.monotonic() - since >= SETTLED_SECONDS:
            break
        now = len(list(grid.get_node_ids()))
        if now != seen:
            seen = now
            since = time.monotonic()
        time.sleep(0.05)
    return max(seen, 1)
