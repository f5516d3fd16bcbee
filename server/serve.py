"""The orchestrator job: one process, one open port, the runs of its queue one after another, for days.

    meadow serve federation.folder=/store federation.orchestrator.listen=0.0.0.0:9092

It ends with status 0 when there was nothing to do for `idle_timeout`, with 143 on SIGTERM after the last closed
round, and with the status of its error otherwise. Started again on the same store it goes on with the run that was
in progress; the nodes reconnect by themselves.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType
from typing import Final

from azureml_jobs.credentials import AdmittedKeys, FolderSecrets, server_credentials
from azureml_jobs.rendezvous import OPEN, OVER, FolderRendezvous, Record, Rendezvous
from conf.errors import CheckpointError, Interrupted, MeadowError
from conf.federation_folder import FederationFolder
from conf.schema import Conf
from conf.silos import silos
from server.app import federate
from server.orchestrator import Certificate, Orchestrator, quiet_flower
from server.packed_grid import PackedGrid
from server.progress import progress
from server.run_queue import Request, RunQueue
from server.session import session
from server.store import Below, FolderStore, Lease, LeaseLost, Store

log = logging.getLogger(__name__)

LEASE: Final = "orchestrator"
LEASE_SECONDS: Final = 60.0
"""For a successor to know that this orchestrator is dead; renewed every CARE_SECONDS."""
CARE_SECONDS: Final = 2.0
"""Between two looks at the list of keys and the lease, and two heartbeats of the rendezvous."""
POLL_SECONDS: Final = 0.5
"""Between two looks at an empty queue."""


def serve(conf: Conf) -> None:
    """Be the live orchestrator of a federation until it is idle, told to stop, or loses its lease.

    Raises CheckpointError MDW-516/518 where another orchestrator is live, IdentityError for keys and addresses.
    """
    quiet_flower()
    signal.signal(signal.SIGTERM, _terminate)
    folder = FederationFolder.of(conf.federation)
    store = FolderStore(folder.store)
    lease = _lease(store)
    orchestrator = _orchestrator(conf, folder, store)
    orchestrator.start()
    care = Caretaker(orchestrator, conf.federation.orchestrator.host, store, lease, FolderRendezvous(folder.rendezvous))
    over = False
    try:
        care.start()
        _work(conf, orchestrator, RunQueue(store), store, care)
        over = True
    finally:
        care.stop(over)
        orchestrator.stop(over=over)
        store.release(care.lease)


def _lease(store: Store) -> Lease:
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    deadline = time.monotonic() + LEASE_SECONDS + CARE_SECONDS
    while (lease := store.acquire(LEASE, owner, LEASE_SECONDS)) is None:
        if time.monotonic() > deadline:
            hint = "Use it, or stop it first: meadow stop."
            raise CheckpointError("MDW-518", "Another orchestrator of this federation is live.", hint)
        time.sleep(POLL_SECONDS)
    return lease


def _orchestrator(conf: Conf, folder: FederationFolder, store: Store) -> Orchestrator:
    own = conf.federation.orchestrator
    made = server_credentials(FolderSecrets(folder.keys), [own.host], datetime.now(UTC))
    certificate = Certificate(made.ca, made.certificate, made.key)
    keys = {silo: pem for pem, silo in AdmittedKeys(store, time.time).current().items()}
    return Orchestrator(own.listen, certificate, keys)


def _work(conf: Conf, orchestrator: Orchestrator, queue: RunQueue, store: Store, care: Caretaker) -> None:
    idle_since = time.monotonic()
    while True:
        care.check()
        request = queue.next()
        if request is not None:
            _run(conf, orchestrator, queue, request, store)
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= conf.federation.orchestrator.idle_timeout:
            return
        else:
            time.sleep(POLL_SECONDS)


def _run(own: Conf, orchestrator: Orchestrator, queue: RunQueue, request: Request, store: Store) -> None:
    """Do one run. What is wrong with the run ends the run; what is wrong with this orchestrator goes up."""
    try:
        conf = request.checked()
        conf.run.output, conf.run.baseline = own.run.output, "none"
        members = silos(conf)
        names = [silo.name for silo in members]
        orchestrator.wait_for(names, conf.run.start_quorum or len(names), conf.run.start_timeout)
        grid = PackedGrid(orchestrator.open_run(request.run_id, names))
        below = Below(store, f"runs/{request.run_id}/")
        with session(
            conf, members, mode="local", command=request.command, display=progress(live=False), store=below
        ) as run:
            federate(run, grid)
        queue.ended(request, run.result.status)
    except (Interrupted, LeaseLost):
        raise  # the run goes on when the orchestrator is started again
    except MeadowError as error:
        log.error("run %s failed: %s", request.run_id, error)
        queue.ended(request, "failed", str(error))
    finally:
        orchestrator.close_run()


@dataclass
class Caretaker:
    """Keeps the lease, the rendezvous and the list of admitted keys up to date beside the runs."""

    orchestrator: Orchestrator
    host: str
    store: Store
    lease: Lease
    rendezvous: Rendezvous
    lost: MeadowError | None = None
    _keys: dict[bytes, str] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Publish the address and begin."""
        self._keys = AdmittedKeys(self.store, time.time).current()
        self._publish(OPEN)
        self._thread = threading.Thread(target=self._keep, name="caretaker", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong in the thread: a lost lease means that another orchestrator has taken over."""
        if self.lost is not None:
            raise self.lost

    def stop(self, over: bool) -> None:
        """End; with `over`, say to silos that look for the orchestrator that the federation has ended."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if over:
            self._publish(OVER)

    def _keep(self) -> None:
        while not self._stopped.wait(CARE_SECONDS):
            try:
                self.lease = self.store.renew(self.lease, LEASE_SECONDS)
                self._publish(OPEN)
                self._follow_keys()
            except LeaseLost as error:
                self.lost = error
                os.kill(os.getpid(), signal.SIGTERM)  # the run must not write another round
                return
            except MeadowError as error:
                log.warning("%s; trying again", error)

    def _publish(self, state: str) -> None:
        address = f"{self.host}:{self.orchestrator.address.rpartition(':')[2]}"
        self.rendezvous.publish(Record(address, self.lease.epoch, time.time(), state))

    def _follow_keys(self) -> None:
        now = AdmittedKeys(self.store, time.time).current()
        for pem in self._keys.keys() - now.keys():
            log.info("the key of %s was revoked", self._keys[pem])
            self.orchestrator.revoke_key(pem)
        for pem in now.keys() - self._keys.keys():
            log.info("a key of %s was admitted", now[pem])
            self.orchestrator.admit_key(now[pem], pem)
        self._keys = now


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted("MDW-901", "The orchestrator was told to stop.", "Started again it goes on with its run.")
