"""One run from its folder to its report: opened new or resumed, closed well or not, in every mode."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from conf.errors import CheckpointError, ConfigError, Interrupted, MeadowError
from conf.schema import Conf, Silo
from server.observers.base import Observer, Observers
from server.observers.metrics_file import MetricsFile
from server.observers.tracking import registered_name, tracking, tracking_uri
from server.report.build import write_report
from server.run.checkpoint import Checkpoints, RunState
from server.run.environment import environment
from server.run.folder import RunFolder, find
from server.run.ledger import FILE, Ledger, arrays_digest
from server.run.result import RoundRecord, RunResult
from server.scoring.evaluation import first_weights
from server.store.folder import FolderStore, Store
from strategies.wire import run_config

log = logging.getLogger(__name__)


@dataclass
class Session:
    """A run in progress: its configuration, silos, folder, state, result and observers."""

    conf: Conf
    members: list[Silo]
    folder: RunFolder
    state: RunState
    result: RunResult
    checkpoints: Checkpoints
    ledger: Ledger
    observer: Observer

    def finish(self, *, stopped_early: bool) -> None:
        """Note that the last round is done; the model is written when the session closes, baselines and all."""
        self.result.status = "stopped_early" if stopped_early else "finished"
        self.result.final = dict(self.state.records[-1].aggregate) if self.state.records else {}


@contextlib.contextmanager
def session(
    conf: Conf,
    members: list[Silo],
    *,
    mode: str,
    command: str = "",
    display: Observer | None = None,
    store: Store | None = None,
) -> Iterator[Session]:
    """Open a run, and leave its folder whole however it ends, with result, model and report as far as the disk lets.

    Checkpoints lie in the folder, or in a `store` that outlives it: what is found there is gone on with.
    KeyboardInterrupt becomes Interrupted (MDW-900), which says how to go on.
    """
    opened = _open(conf, members, mode, command, display, store)
    result, observer = opened.result, opened.observer
    try:
        observer.run_started(result, conf.run.rounds)
        opened.state.mlflow_run_id = result.mlflow_run_id
        yield opened
        _close(opened)
    except (KeyboardInterrupt, Interrupted) as stop:
        result.status = "interrupted"
        done = opened.state.round
        what = (
            f"after round {done} of {conf.run.rounds}"
            if done < conf.run.rounds
            else "while baselines were trained"
        )
        result.error = {"code": "MDW-900", "message": f"stopped {what}"}
        _close(opened, failed=True)
        hint = f"Go on with run.resume={opened.folder.known_as}"
        raise Interrupted("MDW-900", f"Stopped {what}.", hint) from stop
    except BaseException as error:
        result.status = "failed"
        code = error.code if isinstance(error, MeadowError) else "MDW-000"
        message = (
            error.message if isinstance(error, MeadowError) else f"{type(error).__name__}: {error}"
        )
        result.error = {"code": code, "message": message}
        _close(opened, failed=True)
        raise
    finally:
        opened.ledger.close()


def _open(
    conf: Conf,
    members: list[Silo],
    mode: str,
    command: str,
    display: Observer | None,
    store: Store | None,
) -> Session:
    tracking_uri(conf.tracking)  # before the folder: what is wrong with it leaves none
    folder, state = _begun(conf, store) if conf.run.resume else _begin(conf, store)
    before = _stored(folder)
    said = before.command.splitlines() if before else []
    result = RunResult(
        run_id=folder.run_id,
        mode=mode,
        task=conf.task.name,
        strategy=conf.strategy.name,
        silos=[silo.name for silo in members],
        folder=str(folder.path),
        command="\n".join([*said, command] if command and command not in said else said),
        seed=conf.run.seed,
        engine=conf.simulation.engine if mode == "simulate" else "",
        rounds=state.records,
        environment=environment(conf.trainer),
        config_digest=run_config.digest(run_config.pack(conf)),
        mlflow_run_id=state.mlflow_run_id,
        started=before.started if before else datetime.now(UTC).isoformat(timespec="seconds"),
    )
    folder.write_config(conf, result.command)
    ledger = Ledger(folder.path / FILE, folder.run_id, store)
    ledger.run_started(
        federation=conf.federation.name,
        code=result.environment["code"],
        config=result.config_digest,
        silos=result.silos,
        resumed=state.round > 0 or before is not None,
    )
    observers: list[Observer] = [_ResultFile(folder, result, state), MetricsFile(folder.path)]
    observers += [
        tracking(conf.tracking, folder.path, registered_name(conf)),
        *([display] if display else []),
    ]
    checkpoints = Checkpoints(store or FolderStore(folder.path))
    return Session(conf, members, folder, state, result, checkpoints, ledger, Observers(observers))


def _begin(conf: Conf, store: Store | None) -> tuple[RunFolder, RunState]:
    """Begin a new run, or go on with what a store that outlives folders has of it."""
    state = Checkpoints(store).load() if store else None
    state = state or RunState(
        0, first_weights(conf)
    )  # before the folder: what is wrong with them leaves none
    return RunFolder.create(conf, anew=store is None), state


def _begun(conf: Conf, store: Store | None) -> tuple[RunFolder, RunState]:
    """Go on with the run that `run.resume` names, if there is something left of it to do."""
    folder = find(str(conf.run.resume), conf.run.output)
    state, before = Checkpoints(store or FolderStore(folder.path)).load(), _stored(folder)
    if state is None:
        hint = "Start it anew without run.resume."
        raise CheckpointError("MDW-503", f"The run {folder.run_id} has no checkpoint.", hint)
    ended = before is not None and before.status in ("finished", "stopped_early")
    stopped = before is not None and before.status == "stopped_early"
    if conf.run.rounds < state.round or (ended and (stopped or conf.run.rounds == state.round)):
        how = "stopped early, as configured" if stopped else f"has done {state.round} rounds"
        hint = f"Raise run.rounds, or start a new run from its model: model.init={folder.known_as}."
        raise ConfigError(
            "MDW-108", f"run.resume={conf.run.resume}: nothing is left to do, the run {how}.", hint
        )
    return folder, state


def _stored(folder: RunFolder) -> RunResult | None:
    try:
        return RunResult.read(folder.path)
    except CheckpointError:
        return None  # a new run, or one that was killed before its first round; the checkpoint is the truth


def _close(opened: Session, *, failed: bool = False) -> None:
    """Write what a run leaves: all of it, or of one that has `failed` what can be written."""
    each: Callable[[str], AbstractContextManager[object]] = (
        _said if failed else contextlib.nullcontext
    )
    result = opened.result
    result.seconds = opened.state.seconds
    with each("the ledger's last line"):
        result.ledger = str(
            opened.ledger.run_finished(result.status, arrays_digest(opened.state.arrays))
        )
    if opened.state.round > 0:
        with each("the model"):
            opened.folder.write_model(opened.state.arrays, result)
    with each("result.json"):
        opened.folder.write_result(result)
    try:
        with _said("the report"):
            write_report(opened.folder.path)
    except (
        Exception
    ):  # a picture that can't be drawn must hide neither the run's result nor its error
        log.exception(
            "the report of %s could not be written; try `meadow report run=%s`",
            result.run_id,
            result.run_id,
        )
    opened.observer.run_finished(result)
    if result.registered_model:
        opened.folder.write_result(result)


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Log what fails here and go on: the run itself, or its own error, is what there is to tell."""
    try:
        yield
    except MeadowError as error:
        log.error("%s could not be written: %s", what, error)


@dataclass
class _ResultFile(Observer):
    """Keeps result.json up to date, so that a run can be looked at while it goes on."""

    folder: RunFolder
    result: RunResult
    state: RunState

    def run_started(self, result: RunResult, rounds: int) -> None:
        self.folder.write_result(result)

    def round_closed(self, record: RoundRecord) -> None:
        self.result.ledger, self.result.seconds = self.state.anchor, self.state.seconds
        self.folder.write_result(self.result)
