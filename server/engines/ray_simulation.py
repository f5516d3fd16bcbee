"""Flower's own simulation on Ray, with its known faults kept from the user.

Ctrl-C ends the run, a dead actor ends it too and is named, and a client's exception is one line.
Imported by `server.engines.ray_engine` once what Ray reads at import is set.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import psutil
import ray
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.simulation.ray_transport.ray_actor import ClientAppActor
from ray.exceptions import RayError, RayTaskError
from ray.job_config import JobConfig

from client import placement
from client.malloc import VARIABLE as MALLOC_VARIABLE
from client.silo_settings import NODE_KEY
from conf.errors import SiloError
from conf.silos import silo_to_json
from conf.targets import known
from server.engines.quiet import logs_to, private
from server.engines.ray_engine import RayRun, ServerMain
from server.engines.ray_gpus import CPU, GPU, gpus_of, share, sharers_on, shares, told
from server.engines.ray_grid import RayGrid, Watch
from server.engines.silo_actors import MOST_WAITING, SiloActors
from server.engines.worker import load_app
from server.round.error_text import plain_reason

log = logging.getLogger(__name__)

STARTS = 3
"""How often a private Ray is started: it gives each of its processes 30 seconds, which no setting
changes and a busy machine may need.
"""
DEVICE_LOST = "MDW-226"
"""In what an actor raises that can't use its device any more."""
END_SECONDS = 5.0
"""For Ray's processes to end before they are killed."""


def simulate_on_ray(server_main: ServerMain, run: RayRun) -> None:
    """Run `server_main(grid, context)` on `flwr.simulation`; see
    `server.engines.ray_engine.run_on_ray`.
    """
    client = load_app(run.app)
    watch = Watch()
    errors: list[BaseException] = []
    backends: list[WatchedBackend] = []

    def backend(config: dict[str, Any]) -> WatchedBackend:
        backends.append(WatchedBackend(config, run, watch))
        return backends[-1]

    def main(grid: Grid, context: Context) -> None:
        try:
            server_main(RayGrid(grid, run.silos, watch), context)
        except BaseException as error:
            errors.append(error)
        finally:
            watch.ending = True
            for one in backends:
                one.kill()

    with (
        warnings.catch_warnings(action="ignore", category=ResourceWarning),  # see _shut_down
        logs_to(run.log_dir),
        _raylet_to_log(),
        _exit_is_ctrl_c(),
        _ray(run),
        _signals(watch, backends),
    ):
        server = ServerApp()
        server.main()(main)
        # Of Flower's own size its pool of threads would be of the machine's cores.
        threads = functools.partial(
            ThreadPoolExecutor, max_workers=max(MOST_WAITING, os.cpu_count() or 1)
        )
        with (
            mock.patch.object(raybackend, "RayBackend", backend),
            mock.patch.object(vce_api, "ThreadPoolExecutor", threads),
        ):
            run_simulation(
                server, client, len(run.silos), backend_config={"client_resources": {"num_cpus": 1}}
            )
    if errors:
        raise errors[0]


class WatchedBackend(raybackend.RayBackend):
    """Flower's Ray backend, which notices dead actors, skips messages of closed rounds and can be
    ended at once.
    """

    def __init__(self, config: dict[str, Any], run: RayRun, watch: Watch) -> None:
        super().__init__(config)
        self._run = run
        self._watch = watch
        self._actors: list[Any] = []

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        """Start the actors, each the home of some silos."""
        silos = len(self._run.silos)
        wanted = min(self._run.workers or silos, silos)
        if self._run.address is None:
            self.pool = self._here(wanted)
        else:
            self.pool = self._in_cluster(wanted)
        self._actors = list(self.pool.pool)
        self.pool.open()
        self.app_fn = app_fn
        if self._watch.ending:
            self.kill()

    @property
    def num_workers(self) -> int:
        """See `RayBackend`: messages that are taken from Flower's queue at once."""
        return max(super().num_workers, min(len(self._run.silos), MOST_WAITING))

    def _here(self, wanted: int) -> SiloActors:
        """Start actors of a private Ray, each with its part of a GPU, where there are GPUs."""
        pool = self._actor_pool(self.client_resources)
        actors = max(1, min(pool.actors_capacity, wanted))
        parts = shares(actors, placement.shared(self._run.gpus))
        kind: Any = ClientAppActor
        for number in range(actors):
            gpu = {"num_gpus": parts[number]} if parts else {}
            actor = kind.options(**self.client_resources, **gpu)
            pool.pool.append(actor.remote(**self.actor_kwargs))
        pool.num_actors += actors
        return pool

    def _in_cluster(self, wanted: int) -> SiloActors:
        """Start actors in a cluster, of which only now it is known what it has."""
        listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["Resources"] for node in listed]
        gpus = gpus_of(nodes, self._run.gpus)
        resources: dict[str, Any] = dict(self.client_resources)
        sharers = 1
        if gpus:
            sharers = sharers_on(nodes, wanted, gpus)
            resources["num_gpus"] = share(sharers)
            wanted = min(wanted, gpus * sharers)
        pool = self._actor_pool(resources)
        variables = told(gpus, sharers, self._run.gpus)
        if variables:
            # The actors are made with these, and the pool has counted them by now.
            resources["runtime_env"] = {"env_vars": variables}
        pool.add_actors_to_pool(max(1, min(pool.actors_capacity, wanted)))
        return pool

    def _actor_pool(self, resources: dict[str, Any]) -> SiloActors:
        names = [silo.name for silo in self._run.silos]
        return SiloActors(resources, self.actor_kwargs, names, self._run.app)

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """See `Backend`; a dead actor ends the run, since Flower would give it to client after
        client.
        """
        if self._watch.ending or message.metadata.message_id in self._watch.forgotten:
            raise RuntimeError("not run: its round is closed")
        settings = self._run.silos[int(context.node_config["partition-id"])]
        silo = settings.name
        context.node_config[NODE_KEY] = silo_to_json(settings)
        # Flower's own copy is empty at first, also in a run that is resumed.
        context.state = self._run.states.get(silo, RecordDict())
        try:
            reply, after = super().process_message(message, context)
        except RayError as error:
            # An actor whose device is lost to it answers every message with that.
            gone = not isinstance(error, RayTaskError) or DEVICE_LOST in str(error)
            if gone and not self._watch.ending and self._watch.lost is None:
                self._watch.lost = self._dead(silo, error)
            raise
        if after.state:
            self._run.states[silo] = after.state
        return reply, after

    def kill(self) -> None:
        """End the actors, whatever they do."""
        for actor in self._actors:
            with contextlib.suppress(RayError, ValueError):
                ray.kill(actor)

    def terminate(self) -> None:
        """End the actors; Ray itself is shut down by the one who started it."""
        self.kill()

    def _dead(self, silo: str, error: RayError) -> SiloError:
        return SiloError(
            "MDW-320",
            f"The Ray actor that trained silo {silo} died: {plain_reason(str(error))}",
            f"The rounds before are kept: go on with run.resume={self._run.run_id} simulation.engine=pool, which "
            "restarts a dead worker; with too little memory, also with fewer simulation.workers.",
        )


class OwnPath(JobConfig):
    """A job whose actors import from the driver's own path alone.

    Ray puts the driver's current folder before everything else, where a stray `client.py` or
    `server.py` would be taken for ours; what they need is in PYTHONPATH, in the driver's order.
    """

    def _serialize(self) -> str:
        self._py_driver_sys_path.clear()
        return super()._serialize()


@contextlib.contextmanager
def _ray(run: RayRun) -> Iterator[None]:
    """Start a private Ray on this machine, or connect to the cluster at an address; end it or leave
    it.
    """
    if ray.is_initialized():
        raise SiloError(
            "MDW-323", "Ray already runs in this process.", "Call ray.shutdown() first."
        )
    extra = {known.VARIABLE: known.exported()}
    if not run.malloc:
        extra[MALLOC_VARIABLE] = "0"
    if run.address is not None:
        ray.init(
            run.address,
            runtime_env={"env_vars": {"PYTHONPATH": _python_path(), **extra}},
            job_config=OwnPath(),
            log_to_driver=False,
            configure_logging=False,
        )
        try:
            yield
        finally:
            ray.shutdown()
        return
    assert run.folder is not None
    gpus = placement.shared(run.gpus)
    sharers = sharers_on([{CPU: _processes(run), GPU: gpus}], len(run.silos), gpus) if gpus else 1
    extra |= told(gpus, sharers, run.gpus)
    try:
        with mock.patch.dict(os.environ, PYTHONPATH=_python_path(), **extra):
            _start_private(run, str(run.folder))
        yield
    finally:
        _shut_down()
        _keep_client_logs(run.folder, run.log_dir)


def _start_private(run: RayRun, folder: str) -> None:
    """Start Ray on this machine, again where one of its processes failed or was not there in time.

    Raises SiloError MDW-318 where it did not start at the last attempt either.
    """
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                "local",
                num_cpus=_processes(run),
                num_gpus=placement.shared(run.gpus),
                _temp_dir=folder,
                include_dashboard=False,
                job_config=OwnPath(),
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
            return
        # Ray has no type for it: its raylet, its control store and its ports each raise another one.
        except Exception as error:
            reason = plain_reason(f"{type(error).__name__}: {error}")
            if attempt == STARTS:
                what = f"Ray did not start in {STARTS} attempts: {reason}"
                hint = "Try again when the machine is less busy, or use simulation=pool."
                raise SiloError("MDW-318", what, hint) from error
            log.warning("Ray did not start, and is started again: %s", reason)
            _shut_down()


def _processes(run: RayRun) -> int:
    """Return how many actors a private Ray has room for."""
    return max(1, min(run.workers or _cores(), len(run.silos)))


def _cores() -> int:
    """Return the cores that this process may use, which a container may have limited; macOS does
    not say.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shut_down() -> None:
    """End a private Ray to its last process; Ray itself leaves it, and open files, to the garbage
    collector.
    """
    ours = [child for child in psutil.Process().children(recursive=True) if _is_ray(child)]
    ray.shutdown()
    gc.collect()
    for child in psutil.wait_procs(ours, END_SECONDS)[1]:
        child.kill()


def _is_ray(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "ray" in " ".join(process.cmdline())
    return False


def _raylet_to_log() -> contextlib.AbstractContextManager[Any]:
    """Send what the raylet tells the driver to the log: Ray prints it even with
    `log_to_driver=False`.
    """

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        logging.getLogger("ray").warning("%s: %s", data.get("pid"), " ".join(data["lines"]))

    return mock.patch.object(ray._private.worker, "print_to_stdstream", to_log)


def _python_path() -> str:
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _keep_client_logs(folder: Path, log_dir: Path) -> None:
    """Keep what the clients wrote; the rest of Ray's own logs goes with its folder."""
    for file in sorted(folder.glob("session_2*/logs/worker-*")):
        if file.suffix in (".out", ".err") and (text := file.read_bytes()):
            with open(log_dir / "workers.log", "ab", opener=private) as kept:
                kept.write(text)


@contextlib.contextmanager
def _exit_is_ctrl_c() -> Iterator[None]:
    """Let SIGTERM interrupt a run also while Ray starts, when Ray's own handler is there, which
    exits.
    """
    try:
        yield
    except SystemExit as ended:
        if ended.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from ended


@contextlib.contextmanager
def _signals(watch: Watch, backends: list[WatchedBackend]) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run by its own way; the second one kills Ray's processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        if not watch.stop.is_set():
            watch.stop.set()
            return
        watch.ending = True
        for child in psutil.Process().children(recursive=True):
            if _is_ray(child):
                child.kill()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
