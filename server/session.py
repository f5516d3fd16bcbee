"""One run from its folder to its report: opened new or resumed, closed well or not, in every mode."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.storage.base import Store
from azureml_jobs.storage.folder_store import FolderStore
from client.tasks import task_of
from conf.errors import (
    DataError,
    Interrupted,
    MeadowError,
    RoundError,
)
from conf.files.faults import foreseen
from conf.schema import Conf, Silo
from server.observers.base import Observer, Observers
from server.observers.guard import Guarded
from server.observers.metrics_file import MetricsFile
from server.observers.otlp import check_otlp, otlp
from server.observers.tracking import registered_name, tracking, tracking_uri
from server.observers.webhook import webhook, webhook_address
from server.report.overview import Overview, overview
from server.round.choice import choice_of
from server.round.error_text import reasons_of
from server.run.beginning import commands, first_result, new_run, resumed_run, stored_result
from server.run.checkpoint import Checkpoints, Kept, RunState
from server.run.history import FILE as HISTORY
from server.run.history import History, read_history
from server.run.ledger import AdmissionOf, Ledger
from server.run.privacy_spent import after_test
from server.run.result import FinalTest, RoundRecord, RunResult
from server.run.run_folder import RunFolder
from server.run.silo_states import SiloStates
from server.run.verdict import FILE, Facts
from server.store.account_reminders import AccountReminders
from strategies.wire.digests import arrays_digest
from strategies.wire.receipts import SignedAnchor

log = logging.getLogger(__name__)

SIMULATE: Final = "simulate"
"""The mode in which this process holds the silos' states too."""
RESULT_SECONDS: Final = 5.0
"""Between two writes of result.json while rounds close: for those who look at a run, not for what
must last.
"""
RESULT_COST: Final = 20.0
"""Writing it takes at most one part in so many of a run's time: that of many silos is long."""


@dataclass
class Session:
    """A run in progress: its configuration, silos, folder, state, result and observers."""

    conf: Conf
    members: list[Silo]
    folder: RunFolder
    state: RunState
    result: RunResult
    checkpoints: Checkpoints
    history: History
    ledger: Ledger
    observer: Observer
    silo_states: SiloStates | None = None
    """Of a simulation; a silo's node keeps its own."""
    reminders: AccountReminders = field(default_factory=AccountReminders)
    """Of the silos' accounts; at an orchestrator they outlive the run."""
    admission_of: AdmissionOf = lambda key: ""
    """For the ledger: by which certificate the CA admits a silo's key."""
    ceilings: Callable[[], Mapping[str, int]] = dict
    """The examples that each silo may say it has, by its admission and its owner's note."""
    owner_notes: Callable[[], Mapping[str, Facts]] = dict
    """By silo, the note of its owner that counts, for the ledger."""
    farewell: Callable[[int, SignedAnchor, str], None] | None = None
    """Tells the silos at the end: the last round, the ledger's anchor, the model's digest."""

    @property
    def kept(self) -> Kept:
        """The model that the run ends with: that of its best round with `run.keep=best`, otherwise
        that of its last.
        """
        if self.conf.run.keep == "best" and self.state.best is not None:
            return self.state.best
        return Kept(self.state.round, self.state.arrays)

    def finish(self, test: FinalTest, *, stopped_early: bool) -> None:
        """Note that the last round is done and its model tested; the model is written when the
        session closes, baselines and all.
        """
        self.result.status = "stopped_early" if stopped_early else "finished"
        self.result.test = test
        self.result.final = test.final
        self.result.privacy = after_test(self.result.privacy, test)
        error = self.untold
        if error is not None:
            self.result.error = {"code": error.code, "message": error.message}

    @property
    def untold(self) -> MeadowError | None:
        """What makes a run that went to its end a failure: its model is there, but nobody could say
        what it is worth.
        """
        if self.result.test is not None and self.result.test.is_failure:
            return _not_tested(self)
        if self.history.unevaluated and not self.history.evaluated:
            return _not_evaluated(self)
        return None


@contextlib.contextmanager
def session(
    conf: Conf,
    members: list[Silo],
    *,
    mode: str,
    command: str = "",
    display: Observer | None = None,
    store: Store | None = None,
    signer: HeadSigner | None = None,
) -> Iterator[Session]:
    """Open a run, and leave its folder whole however it ends, with result, model and report as far
    as the disk lets.

    Checkpoints lie in the folder, or in a `store` that outlives it: what is found there is resumed.
    The ledger's head is signed by the `signer`, where there is one.
    KeyboardInterrupt becomes Interrupted (MDW-900), which says how to resume. Raises DataError
    MDW-214 at the end where every silo that was asked to test the model failed, and RoundError
    MDW-410 where no silo could evaluate any round.
    """
    opened = _open(conf, members, mode, command, display, store, signer)
    result, observer = opened.result, opened.observer
    try:
        observer.run_started(result, conf.run.rounds)
        opened.state.mlflow_run_id = result.mlflow_run_id
        yield opened
        _close(opened)
    except (KeyboardInterrupt, Interrupted) as stop:
        result.status = "interrupted"
        what = _where_it_stopped(opened)
        result.error = {"code": "MDW-900", "message": f"stopped {what}"}
        _close(opened, failed=True)
        hint = f"Resume it with run.resume={opened.folder.known_as}"
        raise Interrupted("MDW-900", f"Stopped {what}.", hint) from stop
    except BaseException as error:
        result.status = "failed"
        known = error if isinstance(error, MeadowError) else foreseen(error)
        code, message = (
            ("MDW-000", f"{type(error).__name__}: {error}")
            if known is None
            else (known.code, known.message)
        )
        result.error = {"code": code, "message": message}
        _close(opened, failed=True)
        raise
    finally:
        observer.close()
        opened.ledger.close()
    if opened.result.test is not None and opened.untold is not None:
        # Only now: the model is there, and so is all else that a run leaves.
        raise opened.untold


def _not_tested(opened: Session) -> DataError:
    test = opened.result.test
    assert test is not None
    silo, why = next(iter(sorted(test.failed.items())))
    others = f", and {len(test.failed) - 1} more failed" if len(test.failed) > 1 else ""
    return DataError(
        "MDW-214",
        f"No silo could test the model of {opened.folder.run_id} ({silo}: {why.rstrip('.')}{others}).",
        "The model is written. Correct what the silos say, then score it with"
        f" meadow evaluate run={opened.folder.known_as}, or resume the run with more rounds.",
    )


def _not_evaluated(opened: Session) -> RoundError:
    record = opened.history.last
    assert record is not None
    why = reasons_of({silo: record.failed[silo] for silo in record.unevaluated})
    return RoundError(
        "MDW-410",
        f"No silo could evaluate any round of {opened.folder.run_id} ({why}).",
        "The model is written. Correct what the silos say, and start the run anew: it had no curve,"
        " and whatever was to stop it early or to choose its best round had nothing to go by.",
    )


def _where_it_stopped(opened: Session) -> str:
    """Return in words how far an interrupted run came."""
    done = opened.state.round
    if opened.result.test is not None:
        return "while baselines were trained"
    if done >= opened.conf.run.rounds:
        return f"after round {done}, before its model was tested"
    return f"after round {done} of {opened.conf.run.rounds}"


def _open(
    conf: Conf,
    members: list[Silo],
    mode: str,
    command: str,
    display: Observer | None,
    store: Store | None,
    signer: HeadSigner | None,
) -> Session:
    # What can be wrong with the tracking, the first weights or the checkpoint is found before there
    # is a folder.
    tracking_uri(conf.tracking)
    check_otlp(conf.tracking)
    webhook_address(conf.tracking)
    choice_of(conf.run, task_of(conf.task))
    if conf.run.resume:
        folder, state = resumed_run(conf, store)
    else:
        folder, state = new_run(conf, command, store)
    before = stored_result(folder)
    result = first_result(conf, members, mode, folder, before)
    result.command = commands(before, command)
    # MLflow may have answered after the first checkpoint, or after the last.
    result.mlflow_run_id = state.mlflow_run_id
    if not result.mlflow_run_id and before is not None:
        result.mlflow_run_id = before.mlflow_run_id
    # The ledger first: it is open in one process alone, and only that one may cut back the history.
    ledger = Ledger(folder.path / FILE, folder.run_id, store, signer=signer)
    try:
        history = History(folder.path / HISTORY, state.history, store)
        # A silo says again what it runs only where that has changed.
        result.software = dict(history.software)
        silo_states = _silo_states(folder, state) if mode == SIMULATE else None
        # After all that may refuse to continue the run: what is refused is not changed.
        folder.write_config(conf, result.command)
        begun = _noted(ledger, result, folder, conf, state.round > 0 or before is not None)
        if not state.anchor:
            # Kept in the first checkpoint, so that round 1 is asked again in the same words.
            state.anchor = begun
    except BaseException:
        ledger.close()
        raise
    return Session(
        conf,
        members,
        folder,
        state,
        result,
        checkpoints=Checkpoints(store or FolderStore(folder.path)),
        history=history,
        ledger=ledger,
        observer=_observers(conf, folder, result, state, history, display),
        silo_states=silo_states,
    )


def _noted(ledger: Ledger, result: RunResult, folder: RunFolder, conf: Conf, resumed: bool) -> str:
    """Write into the ledger that the run starts; return the anchor of that line."""
    begun = ledger.run_started(
        federation=conf.federation.name,
        code=result.environment["code"],
        tree=result.environment["tree"],
        config=result.config_digest,
        silos=result.silos,
        resumed=resumed,
        config_file=folder.config_digest(),
    )
    return str(begun)


def _observers(
    conf: Conf,
    folder: RunFolder,
    result: RunResult,
    state: RunState,
    history: History,
    display: Observer | None,
) -> Observers:
    """Return who watches the run: its own files, without which it can't go on; and the others, of
    whom none can fail it.
    """
    watching = [
        tracking(conf.tracking, folder.path, registered_name(conf)),
        otlp(conf.tracking),
        webhook(conf.tracking),
    ]
    if display:
        watching.append(display)
    return Observers(
        [
            _ResultFile(folder, result, state, history),
            MetricsFile(folder.path, history.last),
            *(Guarded(one) for one in watching),
        ]
    )


def _silo_states(folder: RunFolder, state: RunState) -> SiloStates:
    """Return the silos' states as of the last closed round."""
    states = SiloStates(folder.path / "checkpoints", folder.run_id, state.silo_states)
    states.restore()
    return states


def _close(opened: Session, *, failed: bool = False) -> None:
    """Write what a run leaves: all of it, or of one that has `failed` what can be written."""
    each: Callable[[str], AbstractContextManager[object]] = (
        _said if failed else contextlib.nullcontext
    )
    result = opened.result
    _take_state(result, opened.state, opened.history)
    kept = opened.kept
    digest = arrays_digest(kept.arrays)
    with each("the ledger's last line"):
        _close_ledger(opened, digest)
    rounds = Overview()
    with each("what pages say of the rounds"):
        rounds = overview(_closed_rounds(opened), result.silos, result.shown)
    if opened.state.round > 0:
        with each("the model"):
            opened.folder.write_model(kept, result, rounds, digest)
    with each("result.json"):
        opened.folder.write_result(result)
    # A picture that can't be drawn must hide neither the run's result nor its error.
    try:
        # Its plots take a second to import, which the first round need not wait for.
        from server.report.build import write_report
        from server.run.audit import Outside

        with _said("the report"):
            write_report(opened.folder.path, rounds, Outside(opened.ledger.authorities))
    except Exception:
        log.exception(
            "the report of %s could not be written; try `meadow report run=%s`",
            result.run_id,
            result.run_id,
        )
    written = result.mlflow_run_id
    opened.observer.run_finished(result)
    if result.registered_model or result.mlflow_run_id != written:
        opened.folder.write_result(result)


def _close_ledger(opened: Session, model: str) -> None:
    """Note how the run ended, tell the silos, and note what each of them holds."""
    result = opened.result
    ledger = opened.ledger
    anchor = ledger.run_finished(result.status, model, result.digest)
    if ledger.signs:
        if opened.farewell is not None:
            opened.farewell(opened.state.round, ledger.signed(str(anchor)), model)
        anchor = ledger.run_closed(result.silos)
    result.ledger = str(anchor)


def _closed_rounds(opened: Session) -> Iterator[RoundRecord]:
    return read_history(opened.folder.path, opened.state.history, beyond=False)


def _take_state(result: RunResult, state: RunState, history: History) -> None:
    """Bring the summary up to the last closed round."""
    result.rounds = state.round
    result.history = state.history.to_json()
    result.failed = dict(history.failed)
    result.seconds = state.seconds
    # It comes from a process of its own, and when MLflow answers.
    state.mlflow_run_id = result.mlflow_run_id
    if state.anchor:
        result.ledger = state.anchor


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Log what fails here and continue: the run itself, or its own error, is what there is to tell."""
    try:
        yield
    except MeadowError as error:
        log.error("%s could not be written: %s", what, error)


@dataclass
class _ResultFile(Observer):
    """Keeps result.json up to date to some seconds, so that a run can be looked at while it is
    running.
    """

    folder: RunFolder
    result: RunResult
    state: RunState
    history: History
    # The first round's is written at once: it holds the first anchor of the ledger.
    due: float = float("-inf")

    def run_started(self, result: RunResult, rounds: int) -> None:
        _take_state(result, self.state, self.history)
        self.folder.write_result(result)

    def round_closed(self, record: RoundRecord) -> None:
        _take_state(self.result, self.state, self.history)
        began = time.monotonic()
        if began >= self.due:
            self.folder.write_result(self.result)
            ended = time.monotonic()
            self.due = ended + max(RESULT_SECONDS, RESULT_COST * (ended - began))
