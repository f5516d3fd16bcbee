"""The orchestrator job: one process, one open port, the runs of its queue one after another, for
days.

    meadow serve federation.folder=/store federation.orchestrator.listen=0.0.0.0:9092

It ends with status 0 when there was nothing to do for `idle_timeout` or its owner asked for the end
through the store, with 143 on SIGTERM, and with the status of its error otherwise. Started again on
the same store it goes on with the run that was in progress, from the last round that closed; the
nodes reconnect by themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from azureml_jobs.identity.authority import (
    SERVER_DAYS,
    ServerCredentials,
    relayed_name,
    server_credentials,
)
from azureml_jobs.identity.secret_store import SecretStore
from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.storage.base import Lease, LeaseLost, Store
from azureml_jobs.storage.lease_wait import waited_for
from azureml_jobs.storage.prefix import PrefixStore
from client.tasks import task_of
from conf.code_digest import run_files
from conf.errors import CheckpointError, Interrupted, MeadowError
from conf.federation_folder import FederationFolder
from conf.files.faults import foreseen
from conf.host_port import listening_here
from conf.schema import Conf
from conf.silos import silos
from conf.startup_log import note
from conf.targets.requirements import check_job
from server.app import federate
from server.observers.progress import PlainProgress
from server.observers.secret_addresses import take_addresses
from server.orchestrator.app_bundle import app_bundle
from server.orchestrator.backends import OrchestratorBackends
from server.orchestrator.caretaker import (
    CARE_SECONDS,
    LEASE,
    LEASE_SECONDS,
    Caretaker,
    was_ended,
)
from server.orchestrator.kept_uploads import KeptUploads
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.presence import Presence
from server.orchestrator.service import Orchestrator, quiet_flower
from server.round.lateness import Lateness
from server.round.patience import needed_at_start, quorum_of, settling_at_start
from server.round.readiness import check_here
from server.round.start_patience import StartPatience
from server.run.result import RoundRecord
from server.session import session
from server.store.account_reminders import AccountReminders
from server.store.admitted_keys import AdmittedKeys
from server.store.asked_folders import check_folders
from server.store.ceilings import Ceilings
from server.store.expired_runs import expire
from server.store.layout import claim
from server.store.owner_notes import OwnerNotes
from server.store.run_queue import CANCELLED_OUTCOME, Outcome, Request, RunQueue
from strategies import build_strategy

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5
"""Between two looks at an empty queue."""
EXPIRE_SECONDS: Final = 3600.0
"""Between two looks at what has outlived its lifetime, while no run is in progress."""
TERMINATED_STATUS: Final = 143


def serve(conf: Conf) -> int:
    """Be the live orchestrator of a federation until it is idle or told to stop; return the
    process's exit status.

    Raises CheckpointError MDW-516/518 where another orchestrator is live, MDW-505 for a store of
    another version, IdentityError for keys and addresses.
    """
    note("import")
    check_job("The orchestrator")
    quiet_flower()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        here = OrchestratorBackends.from_conf(conf)
        claim(here.store)
        if conf.federation.orchestrator.standby and not is_wanted(here.store):
            log.info("nothing to do: an orchestrator is live, or the federation was ended")
            return 0
        with _lease(here.store) as lease:
            here = replace(
                here, store=PrefixStore(here.store, lease=lease)
            )  # who loses the lease writes nothing more
            _serve(conf, here, lease)
    except Interrupted as stop:
        log.warning("%s", stop.message)
        return TERMINATED_STATUS
    return 0


def is_wanted(store: Store) -> bool:
    """Return whether a federation lacks an orchestrator: none is live, and nobody ended it."""
    if was_ended(store):
        return False
    owner = f"standby-{secrets.token_hex(4)}"
    lease = store.acquire(LEASE, owner, LEASE_SECONDS)
    if lease is None:
        return False
    store.release(lease)
    return True


def _serve(conf: Conf, here: OrchestratorBackends, lease: Lease) -> None:
    queue = RunQueue(here.store)
    days = max(
        SERVER_DAYS, conf.federation.orchestrator.timeout // 86400 + 1
    )  # it outlives its job

    hosts = [here.host]
    if conf.federation.relay.url is not None:
        hosts.append(relayed_name(conf.federation.name))

    def certified() -> ServerCredentials:
        return server_credentials(here.secrets, hosts, datetime.now(UTC), days)

    credentials = certified()
    keys = AdmittedKeys(here.store, time.time, ca=credentials.ca)
    with _orchestrator(conf, credentials, keys.current()) as orchestrator:
        care = Caretaker(
            orchestrator,
            credentials,
            here.host,
            here.store,
            lease,
            here.rendezvous,
            keys,
            queue,
            conf.federation.name,
            certified,
            AdmissionAuthority(here.secrets, conf.federation.name),
            publish_seconds=here.publish_seconds,
        )
        with care, _by_relay(conf, orchestrator, care, here.secrets):
            note("listening")
            where = conf.federation.orchestrator
            for_stock_nodes = where.stock_listen or where.stock_grpc_listen
            bundle = app_bundle() if for_stock_nodes else None
            signer = HeadSigner.of(credentials)
            work = _Work(conf, orchestrator, queue, here, care, bundle, signer, keys)
            try:
                work.until_idle()
            except Interrupted:
                if not care.asked_to_end:
                    raise
                log.info("ended, as its owner asked; a run in progress is kept")
            care.announce_end()
            orchestrator.stop(over=True)


@contextlib.contextmanager
def _lease(store: Store) -> Iterator[Lease]:
    """Hold the lease, waited for as long as one that died may have held it.

    Raises CheckpointError MDW-518 where another orchestrator holds it and lives.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    lease = waited_for(store, LEASE, owner, LEASE_SECONDS, LEASE_SECONDS + CARE_SECONDS)
    if lease is None:
        holder = store.holder(LEASE)
        named = f" ({holder.owner})" if holder is not None else ""
        hint = "Use it, or stop it first: meadow stop."
        raise CheckpointError(
            "MDW-518", f"Another orchestrator of this federation is live{named}.", hint
        )
    try:
        yield lease
    finally:
        try:
            store.release(lease)
        except (
            CheckpointError
        ) as error:  # as on a full disk; what ended this block is the error to be told
            log.warning("the lease could not be given up and runs out by itself: %s", error)


@contextlib.contextmanager
def _orchestrator(
    conf: Conf, credentials: ServerCredentials, keys: Mapping[bytes, str]
) -> Iterator[Orchestrator]:
    """Listen; `keys` are the silos by admitted key."""
    where = conf.federation.orchestrator
    orchestrator = Orchestrator(
        listening_here(where.listen),
        credentials,
        {},
        stock_address=where.stock_listen,
        stock_grpc_address=where.stock_grpc_listen,
        relays=where.relays,
        federation=conf.federation.name,
        uploads=KeptUploads(FederationFolder.of(conf.federation).uploads),
    )
    for pem, silo in keys.items():  # a silo may have two while its key is changed
        orchestrator.admit_key(silo, pem)
    orchestrator.start()
    try:
        yield orchestrator
    finally:
        orchestrator.stop(over=False)


def _by_relay(
    conf: Conf, orchestrator: Orchestrator, care: Caretaker, secrets: SecretStore
) -> contextlib.AbstractContextManager[object]:
    """Let silos come by a relay too, where the federation names one."""
    if conf.federation.relay.url is None:
        return contextlib.nullcontext()
    # Its modules are loaded where there is a relay.
    from server.orchestrator.relayed_silos import by_relay

    return by_relay(conf, orchestrator, lambda: care.credentials, secrets)


@dataclass(frozen=True)
class _Work:
    """The runs of the queue, one after another."""

    conf: Conf
    orchestrator: Orchestrator
    queue: RunQueue
    here: OrchestratorBackends
    care: Caretaker
    bundle: bytes | None = None
    """Flower's app bundle of this tree, where Flower's own nodes may join."""
    signer: HeadSigner | None = None
    """Who signs the ledgers' heads."""
    keys: AdmittedKeys | None = None
    """The list of admitted keys, whose certificates vouch for the receipts in the ledgers."""
    met: set[str] = field(default_factory=set)
    """The silos that were connected since this process began."""

    def until_idle(self) -> None:
        """Do what is asked until nothing has been for `idle_timeout`.

        Raises Interrupted, and what the care met.
        """
        clock = self.orchestrator.clock
        idle_since = clock()
        expire_at = clock()
        while True:
            self.care.check()
            if clock() >= expire_at:
                self._expire()
                expire_at = clock() + EXPIRE_SECONDS
            request = self.queue.next()
            if request is not None:
                self._run(request)
                idle_since = clock()
            elif clock() - idle_since >= self.conf.federation.orchestrator.idle_timeout:
                return
            else:
                # Of a run that was cancelled while no orchestrator was there.
                self.orchestrator.forget_uploads()
                time.sleep(POLL_SECONDS)

    def _expire(self) -> None:
        """Delete what ended runs have left for longer than its lifetime."""
        lifetimes = self.conf.federation.orchestrator.lifetimes
        output = Path(self.conf.run.output)
        expire(self.here.store, self.queue, output, lifetimes, time.time())

    def _run(self, request: Request) -> None:
        """Do one run. What is wrong with the run ends the run; what is wrong with this orchestrator
        goes up.
        """
        note("first run")
        try:
            with self.care.running(request):
                outcome = (
                    CANCELLED_OUTCOME
                    if self.queue.is_cancelled(request)
                    else self._outcome(request)
                )
        except (Interrupted, LeaseLost):
            self.care.check()
            if not self.queue.is_cancelled(request):
                raise  # the run goes on when the orchestrator is started again
            log.info("the run %s was cancelled", request.run_id)
            outcome = CANCELLED_OUTCOME
        except MeadowError as error:
            log.error("the run %s failed: %s", request.run_id, error)
            outcome = Outcome("failed", str(error), error.exit_status, self._left(request))
        except (
            Exception
        ) as error:  # one run's fault must not end the federation, nor be met again at each start
            log.exception("the run %s failed", request.run_id)
            outcome = _unhandled(error, self._left(request))
        finally:
            self.orchestrator.close_run()
        self.queue.ended(request, outcome)
        self.orchestrator.forget_uploads()

    def _admission_of(self, key: str) -> str:
        """Return the certificate by which the CA admits a key, of several the last."""
        entries = self.keys.all() if self.keys is not None else []
        found = [entry.certificate for entry in entries if entry.pem.decode() == key]
        return found[-1] if found else ""

    def _left(self, request: Request) -> str:
        """Return the folder of a run's files, kept beyond this disk where results are; empty where
        it has none.
        """
        folder = (Path(self.conf.run.output) / request.run_id).absolute()
        if not folder.is_dir():
            return ""
        self.here.upload_results(folder, request.run_id)
        return str(folder)

    def _queue_timeout(self) -> float:
        """Return for how long silos' jobs may be queued: here they run as soon as they are asked
        for.
        """
        own = self.conf.federation.orchestrator
        return own.queue_timeout if own.workspace else 0.0

    def _outcome(self, request: Request) -> Outcome:
        conf = request.checked(self.conf.federation.orchestrator.targets)
        conf.run.output = self.conf.run.output
        check_folders(conf, self.conf)
        take_addresses(conf.tracking, self.here.secrets)
        members, strategy = silos(conf), build_strategy(conf.strategy)
        task = task_of(conf.task)
        check_here(conf, task, len(members), task.made_up())
        names = [silo.name for silo in members]
        below = PrefixStore(self.here.store, f"runs/{request.run_id}/")
        display = _Display(Console(highlight=False))
        display.care = self.care
        self.queue.begins(request)
        mode = "azure" if self.conf.federation.orchestrator.workspace else "local"
        with session(
            conf,
            members,
            mode=mode,
            command=request.command,
            display=display,
            store=below,
            signer=self.signer,
        ) as run:
            needed = needed_at_start(conf.run, len(names), run.state.round)
            settle = settling_at_start(conf.run, run.state.round)
            with self.care.waiting_for_silos():
                patience = StartPatience(conf.run.start_timeout, self._queue_timeout(), self.met)
                self.orchestrator.wait_for(
                    names, needed, patience, settle, lambda: self.care.job_states
                )
            files = run_files(conf.task.name, conf.model.name, conf.strategy.name)
            opened = self.orchestrator.open_run(
                request.run_id,
                names,
                files=files,
                bundle=self.bundle,
                resumed=run.state.round > 0,
            )
            grid = PackedGrid(opened)
            run.admission_of = self._admission_of
            run.reminders = AccountReminders(self.here.store)
            ceilings = Ceilings(self.keys, OwnerNotes(self.here.store, time.time))
            run.ceilings = ceilings
            run.owner_notes = ceilings.facts
            quorum = quorum_of(conf.run, conf.run.cohort or len(names))
            with self.care.watching(Presence(names, quorum, run.observer.presence)):
                federate(run, grid, strategy)
        return Outcome(run.result.status, folder=self._left(request))


class _Display(PlainProgress):
    """A run's lines, and once how old the process was at its first round; the caretaker hears what
    silos run.
    """

    care: Caretaker | None = None

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._lateness = Lateness()

    def round_started(self, round: int, cohort: list[str]) -> None:
        """See `Observer`."""
        note("first round")

    def round_closed(self, record: RoundRecord) -> None:
        """See `Observer`."""
        super().round_closed(record)
        self._lateness.take(record)
        if self.care is not None:
            self.care.late = self._lateness.said()
        if self.care is not None and record.software:
            self.care.software = {**self.care.software, **record.software}


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # a second one must not break off what the first one closes
    raise Interrupted(
        "MDW-901", "The orchestrator was told to stop.", "Started again it goes on with its run."
    )


def _unhandled(error: Exception, left: str) -> Outcome:
    """Return how a run ended that nobody on the way has caught: by its cause, where it has one."""
    fault = foreseen(error)
    if fault is not None:
        return Outcome("failed", str(fault), fault.exit_status, left)
    return Outcome("failed", f"MDW-000: {type(error).__name__}: {error}", 1, left)
