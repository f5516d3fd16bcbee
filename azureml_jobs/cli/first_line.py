"""One line at once: what is about to run, while the heavy modules are still being imported.

It goes to stderr, so that what a verb prints on stdout stays as it is for whoever reads it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conf.schema import Conf


def say(line: str) -> None:
    """Print a line for a person, at once."""
    print(line, file=sys.stderr, flush=True)


def described(conf: Conf) -> str:
    """Return who trains what in a few words: `3 silos, digits, fedavg`."""
    count = len(conf.federation.silos) or conf.federation.size
    silos = "1 silo" if count == 1 else f"{count} silos"
    strategy = conf.strategy.name
    target = getattr(conf.strategy, "target", "")
    if target:
        strategy = target.replace(":", ".").rpartition(".")[2]
    words = f"{silos}, {conf.task.title}, {strategy}"
    return f"resuming {conf.run.resume}: {words}" if conf.run.resume else words


def simulated(conf: Conf) -> str:
    """Return what a simulation is, with the engine that runs its silos."""
    from conf.silos import pool_workers

    if conf.simulation.engine == "pool":
        workers = pool_workers(conf)
        engine = f"pool with {workers} worker{'' if workers == 1 else 's'}"
        if workers == 0:
            engine = "in this process"
    else:
        engine = "on Ray"
        if conf.simulation.ray_address:
            engine = f"on the Ray cluster {conf.simulation.ray_address}"
    return f"{described(conf)}, {engine}"


def launched(conf: Conf, backend: str) -> str:
    """Return what is launched, and where its jobs will be."""
    where = {"local": "jobs on this machine", "azure": "jobs on Azure ML"}[backend]
    return f"{described(conf)}, {where}"
