"""From a configuration to a federation at work: keys, silo files, a run in the queue, the server's job and the silos'.

    meadow launch all backend=local task=digits

What each job gets is `azureml_jobs.backends.local`'s, how a job runs
`azureml_jobs.backends.local_jobs`'s, how a run is kept `server.store.run_queue`'s.

    MDW-192 no such backend    MDW-193 no such silo
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from azureml_jobs.backends.local import SERVER, LocalFederation, job_of
from azureml_jobs.backends.local_jobs import Tail
from azureml_jobs.identity.admitted_keys import AdmittedKeys
from conf.errors import ConfigError, Interrupted
from conf.federation_folder import FederationFolder
from conf.schema import Conf, ExternalStrategyConf
from conf.silos import silos

POLL_SECONDS: Final = 0.2
UNFINISHED_STATUS: Final = 1
"""Of a run whose server ended well before it, or without a word."""
MOST_RESTARTS: Final = 3
"""Of a server that was killed while its run is followed: more often, and whatever kills it has to be looked at."""
Echo = Callable[[str], None]


class Outcome(Protocol):
    """How a run ended: `status`, why, the exit status it stands for, the folder of its files."""

    @property
    def status(self) -> str:
        """Finished, stopped_early, failed or cancelled."""

    @property
    def reason(self) -> str:
        """Why, where it failed."""

    @property
    def exit(self) -> int:
        """The exit status."""

    @property
    def folder(self) -> str:
        """Where its files are, empty where it left none."""


class Queue(Protocol):
    """What launching needs of the orchestrator's queue (`server.store.run_queue.RunQueue` has it)."""

    def submit(self, run_id: str, conf: Conf, command: str = "") -> object:
        """Add a run; raises ConfigError MDW-187."""

    def outcome(self, run_id: str) -> Outcome | None:
        """Return how a run ended, None while it has not."""

    def cancel(self, run_id: str, live: bool) -> None:
        """End a run, or ask the live orchestrator for it."""


def launch_all(
    conf: Conf, command: str, queue: Queue, keys: AdmittedKeys, *, detach: bool, echo: Echo = print
) -> int:
    """Start what is not at work yet, have the run done, end what was started; return the run's exit status.

    With `detach`, return as soon as all jobs have started.
    """
    conf = placed(conf)
    federation, members = LocalFederation(FederationFolder.of(conf.federation)), silos(conf)
    federation.make_ca(conf.federation.name)
    for silo in members:
        federation.prepare(silo, keys)
    if conf.run.resume and not federation.runs(
        SERVER
    ):  # left in the queue by a server that died: asked for anew
        queue.cancel(Path(conf.run.resume).name, live=False)
    run_id = submit(conf, command, queue)
    log, started = federation.log(SERVER), list[str]()
    try:
        started += federation.start_server(conf)
        for silo in members:
            started += federation.start_silo(silo)
        echo(f"run {run_id}; jobs: {', '.join([SERVER, *map(job_of, members)])}")
        if detach:
            echo(
                f"meadow wait run={run_id} waits for it, meadow status shows it, meadow stop ends the jobs."
            )
            return 0

        def revive() -> None:
            started.extend(federation.start_server(conf))

        status = follow(run_id, queue, federation, log, map(job_of, members), echo, revive)
    except (
        BaseException
    ) as error:  # nothing half-started stays, and the next launch does not begin with this run
        federation.stop(started)
        queue.cancel(run_id, live=federation.runs(SERVER))
        if isinstance(error, KeyboardInterrupt):
            hint = f"Go on with it: meadow launch all backend=local run.resume={run_id}."
            raise Interrupted("MDW-902", f"Stopped; the run {run_id} is cancelled.", hint) from None
        raise
    federation.stop(started)
    return status


def follow(
    run_id: str,
    queue: Queue,
    federation: LocalFederation,
    log: Tail,
    watched: Iterable[str],
    echo: Echo,
    revive: Callable[[], None],
) -> int:
    """Show the server's lines until the run has ended, or the server has; say how, and return the exit status.

    Each of the `watched` silo jobs that ends meanwhile is named with its last words. A server that was killed (out of
    memory, say) is started again, and goes on after the last closed round; one that ended by itself is not.
    """
    at_work, restarts = set(watched), 0
    while True:
        alive, outcome = (
            federation.runs(SERVER),
            queue.outcome(run_id),
        )  # asked before the last look at the log
        for line in log.lines():
            echo(line)
        if outcome is not None:
            return ended(run_id, outcome, echo)
        left = {name for name in at_work if not federation.runs(name)}
        for name in sorted(left):
            echo(federation.epitaph(name))
        at_work -= left
        if not alive:
            echo(federation.epitaph(SERVER))
            if at_work and restarts < MOST_RESTARTS and federation.killed(SERVER):
                restarts += 1
                echo("It was killed. It is started again, and goes on after the last closed round.")
                revive()
                continue
            queue.cancel(run_id, live=False)
            echo(f"run {run_id}: cancelled; if a round was closed, go on with run.resume={run_id}")
            status = federation.jobs.status(SERVER).status or UNFINISHED_STATUS
            return status if status > 0 else 128 - status
        time.sleep(POLL_SECONDS)


def ended(run_id: str, outcome: Outcome, echo: Echo) -> int:
    """Say how a run ended and where its files are; return its exit status."""
    echo(f"run {run_id}: {outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))
    if outcome.folder:
        echo(f"result: {outcome.folder}")
    return outcome.exit


def launch_server(conf: Conf, echo: Echo = print) -> int:
    """Start the server's job, with the CA made where there is none."""
    conf = placed(conf)
    federation = LocalFederation(FederationFolder.of(conf.federation))
    federation.make_ca(conf.federation.name)
    echo(
        "the server is started"
        if federation.start_server(conf)
        else "the server is at work already"
    )
    return 0


def launch_client(conf: Conf, name: str, keys: AdmittedKeys, echo: Echo = print) -> int:
    """Start one silo's job; raises ConfigError MDW-193 where the federation has no such silo."""
    conf = placed(conf)
    federation = LocalFederation(FederationFolder.of(conf.federation))
    members = {silo.name: silo for silo in silos(conf)}
    if name not in members:
        raise ConfigError(
            "MDW-193", f"The federation has no silo {name!r}.", f"Its silos: {', '.join(members)}."
        )
    federation.make_ca(conf.federation.name)
    federation.prepare(members[name], keys)
    echo(
        f"{name} is started"
        if federation.start_silo(members[name])
        else f"{name} is at work already"
    )
    return 0


def submit(conf: Conf, command: str, queue: Queue) -> str:
    """Put a run into the queue and return its id; raises ConfigError MDW-181 or MDW-187 for a name that is taken."""
    run = conf.run
    run_id = Path(run.resume).name if run.resume else run.name
    if run_id is None:
        run_id = f"{conf.task.name}-{conf.strategy.name}-{datetime.now():%Y%m%d-%H%M%S-%f}"[:-3]
    elif not run.resume and (Path(run.output) / run_id).exists():
        hint = f"Choose another, or run.resume={run_id}."
        raise ConfigError(
            "MDW-181", f"run.name={run_id}: {Path(run.output) / run_id} exists already.", hint
        )
    queue.submit(run_id, conf, command)
    return run_id


def placed(conf: Conf) -> Conf:
    """Return a configuration whose paths mean the same in every job: each works in a folder of its own."""
    conf = dataclasses.replace(conf)
    named = {
        name: dataclasses.replace(silo, data=_rooted(silo.data))
        for name, silo in conf.federation.silos.items()
    }
    folder = str(FederationFolder.of(conf.federation).path)
    conf.federation = dataclasses.replace(conf.federation, folder=folder, silos=named)
    conf.run = dataclasses.replace(conf.run, output=str(Path(conf.run.output).absolute()))
    conf.data = dataclasses.replace(conf.data, **_rooted({"root": conf.data.root}))
    init = conf.model.init
    for path in (Path(init), Path(conf.run.output) / init) if init is not None else ():
        if path.exists():
            conf.model = dataclasses.replace(conf.model, init=str(path.absolute()))
            break
    if isinstance(conf.strategy, ExternalStrategyConf) and ".py:" in conf.strategy.target:
        conf.strategy = dataclasses.replace(
            conf.strategy, target=str(Path(conf.strategy.target).absolute())
        )
    return conf


def _rooted(data: dict[str, Any]) -> dict[str, Any]:
    root = data.get("root")
    return (
        data
        if root is None or "://" in root
        else {**data, "root": str(Path(root).expanduser().absolute())}
    )
