"""The whole federation on this machine: the same apps on our pool, or on `flwr.simulation` itself
(engine ray).

from server.simulation import simulate
run = simulate(["task=mnist", "run.rounds=3"])
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Literal

from flwr.serverapp.strategy import Strategy

from client.drafted_contract import filled_in
from client.placement import check_named, shared
from client.tasks import class_counts, task_of
from conf.compose import compose
from conf.schema import Conf
from conf.silos import pool_workers, silos
from server.app import federate
from server.engines.fork_server import fork_from_here
from server.engines.pool import APP, PoolGrid
from server.engines.quiet import logs_to
from server.engines.ray_engine import run_on_ray
from server.engines.worker import load_app
from server.observers.progress import progress as progress_display
from server.round.contract_answers import check_members
from server.round.readiness import check_here
from server.run.finished import FinishedRun
from server.run.privacy_audit import audited
from server.scoring.baseline import baseline_jobs, check_baseline, compare
from server.session import SIMULATE, Session, session
from strategies import build_strategy

Shown = Literal["live", "plain", "nothing"]
"""What the terminal gets of a run."""

ACCOUNTS = "accounts"
"""The folder in a run's with the account of each of its simulated silos."""


def simulate(overrides: Sequence[str] = (), *, progress: bool = False) -> FinishedRun:
    """Run a federation on this machine and return its result, metrics and model.

    `overrides` are Hydra's, as on the command line. With `progress` it shows how it goes, without
    it prints nothing. Raises the errors of `conf.errors`.
    """
    command = " ".join(["meadow simulate", *overrides])
    shown: Shown = "live" if progress else "nothing"
    return simulate_conf(compose(list(overrides)), command=command, shown=shown)


def simulate_conf(conf: Conf, *, command: str = "", shown: Shown = "nothing") -> FinishedRun:
    """Run a federation on this machine from a composed configuration.

    `shown` is what the terminal gets: a live table, plain lines or nothing. Everything that can be
    wrong with the configuration is found before the first file is written.
    """
    conf = filled_in(conf)
    members = silos(conf)
    task = task_of(conf.task)
    strategy = build_strategy(conf.strategy)
    check_named(conf.trainer.device)
    if conf.simulation.ray_address is None:
        shared(conf.simulation.gpus)
    check_members(task, members)
    partition = class_counts(task, members)
    check_baseline(conf, members)
    check_here(conf, task, len(members), task.data(members[0]))
    display = None if shown == "nothing" else progress_display(live=shown == "live")
    with (
        sigterm_is_ctrl_c(),
        session(conf, members, mode=SIMULATE, command=command, display=display) as run,
        logs_to(run.folder.logs),
    ):
        run.result.classes = list(task.contract.classes) if task.contract else []
        run.result.partition = partition
        _train(run, strategy)
        accounts = run.folder.path / ACCOUNTS
        audited(run.result, conf.privacy, members[0].name, run.state.round, accounts)
        if conf.run.baseline != "none":
            done = run.state.round
            federated = run.kept.arrays
            jobs = baseline_jobs(conf, members, done, federated)
            run.observer.baselines_started([job.name for job in jobs])
            run.result.baseline = compare(conf, members, federated, done, conf.simulation.workers)
    return FinishedRun(run.result, run.folder.path)


def copy_for_workers(conf: Conf) -> None:
    """Make a copy of this process from which the pool's workers come, so that none imports torch.

    For a program of our own, right after its imports: what a caller's process holds (threads, a
    GPU) may not survive being copied. Without it the workers come from a new process.
    """
    simulation = conf.simulation
    # A worker that is to leave malloc alone can't come from a process that has set it.
    if simulation.engine == "pool" and simulation.malloc and pool_workers(conf) > 0:
        # What every worker would import by itself.
        load_app(APP)
        task_of(conf.task)
        fork_from_here(APP.partition(":")[0])


@contextlib.contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(run: Session, strategy: Strategy) -> None:
    conf = run.conf.simulation
    # Each silo's account of a private run, beside its state.
    accounts = str(run.folder.path.absolute() / ACCOUNTS)
    run.members = [dataclasses.replace(silo, account=accounts) for silo in run.members]
    states = run.silo_states.in_memory if run.silo_states is not None else None
    if conf.engine == "pool":
        with PoolGrid(
            run.members,
            pool_workers(run.conf),
            malloc=conf.malloc,
            log=run.folder.logs / "workers.log",
            states=states,
            gpus=conf.gpus,
        ) as grid:
            federate(run, grid, strategy, workers=grid)
    else:
        run_on_ray(
            lambda grid, _: federate(run, grid, strategy),
            run.members,
            workers=conf.workers,
            gpus=conf.gpus,
            ray_address=conf.ray_address,
            malloc=conf.malloc,
            log_dir=run.folder.logs,
            insecure=conf.ray_insecure,
            states=states,
        )
