"""What an orchestrator keeps up to date beside its runs: lease, rendezvous, admitted keys, and what
it says of itself.

A thread looks every `CARE_SECONDS`. It stops a run that somebody cancelled by SIGUSR1 to this
process, and ends the orchestrator by SIGTERM when the lease is lost: another one is live, and this
one must not write another round.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.authority import ServerCredentials
from azureml_jobs.identity.expiry import Reminder
from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.identity.succession import Succession
from azureml_jobs.rendezvous import (
    OPEN,
    OVER,
    Record,
    RecordSigner,
    Rendezvous,
    admission_name,
)
from azureml_jobs.storage.base import Lease, LeaseLost, Store, StoreMissing
from conf.errors import Interrupted, MeadowError
from conf.host_port import joined
from conf.schema import FederationConf
from server.orchestrator.key_renewal import KeyRenewal
from server.orchestrator.presence import Presence
from server.orchestrator.service import Orchestrator
from server.run.absence import TWINS
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import Request, RunQueue

log = logging.getLogger(__name__)

LEASE: Final = "orchestrator"
LEASE_SECONDS: Final = 20.0
"""For a successor to know that this orchestrator is dead: ten looks missed.

A longer pause only lets it take over.
"""
CARE_SECONDS: Final = 2.0
"""Between two looks at the list of keys, the lease and the queue, and two heartbeats of the
rendezvous.
"""
WARN_SECONDS: Final = 3600.0
"""Between two looks at what will end."""
END_FILE: Final = "end.json"
"""In its store, the request to end: the epoch of the orchestrator that is meant."""
STATES_SECONDS: Final = 300.0
"""For which a note about silos' jobs counts without a newer one."""
STATUS_FILE: Final = "orchestrator.json"
"""What the orchestrator says of itself in its store, replaced when it changes."""


@dataclass
class Caretaker:
    """Works from `with` to its end; `check` raises what went wrong meanwhile."""

    orchestrator: Orchestrator
    credentials: ServerCredentials
    host: str
    store: Store
    lease: Lease
    rendezvous: Rendezvous
    keys: AdmittedKeys
    queue: RunQueue
    federation: str = FederationConf.name
    renew_credentials: Callable[[], ServerCredentials] | None = None
    """Makes a certificate by the CA of now; asked where the CA's owner has left a note."""
    authority: AdmissionAuthority | None = None
    """Has the CA sign certificates of renewed keys; None: renewed by word alone."""
    software: dict[str, dict[str, str]] = field(default_factory=dict)
    """What each silo said last that it runs; replaced, not changed, because a thread reads it."""
    publish_seconds: float = 0.0
    """Between two heartbeats at the rendezvous, where each is a call to a service."""
    _beat: int = 0
    _next_publication: float = 0.0
    late: dict[str, str] = field(default_factory=dict)
    """What there is to say of silos that gave no answer round after round; replaced, not changed."""
    presence: Presence | None = None
    """Watches the silos of the open run; None between runs."""
    _ca_notes: list[str] | None = None
    _lost: MeadowError | None = None
    _admitted: dict[bytes, str] = field(default_factory=dict)
    _shut_out: set[bytes] = field(default_factory=set)
    _published: dict[str, str] = field(default_factory=dict)
    asked_to_end: bool = False
    """Whether the owner asked, through the store, for the federation's end."""
    starting: bool = False
    """Whether a run waits for its silos."""
    job_states: dict[str, str] = field(default_factory=dict)
    """Of silos' jobs, as who waits for the run told of late; replaced, not changed."""
    _told_states: tuple[int, float] = (0, 0.0)  # the last beat, and when it was new
    _request: Request | None = None
    _status: dict[str, Any] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _reminder: Reminder = field(default_factory=lambda: Reminder(log))
    _next_look: float = 0.0  # at what will end

    def __post_init__(self) -> None:
        self._renewal = KeyRenewal(self.orchestrator, self.keys, self.authority)

    def __enter__(self) -> Caretaker:
        """Admit the keys, publish the address and begin."""
        signal.signal(signal.SIGUSR1, self._cancel)
        self._follow_ca()
        self._follow_keys()
        self._publish(OPEN)
        self._write_status()
        self._thread = threading.Thread(target=self._keep, name="caretaker", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Raise LeaseLost where another orchestrator has taken over."""
        if self._lost is not None:
            raise self._lost

    def announce_end(self) -> None:
        """Say to silos that look for the orchestrator that the federation has ended; the last thing
        to do.
        """
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._publish(OVER)

    @contextlib.contextmanager
    def running(self, request: Request) -> Iterator[None]:
        """Tell that a run is in progress, and raise Interrupted in this block when it is cancelled."""
        self._request = request
        try:
            yield
        finally:
            self._request = None

    @contextlib.contextmanager
    def watching(self, presence: Presence) -> Iterator[None]:
        """Watch the silos of a run while this block is open."""
        self.presence = presence
        try:
            yield
        finally:
            self.presence = None

    def _keep(self) -> None:
        while not self._stopped.wait(CARE_SECONDS):
            try:
                self.lease = self.store.renew(self.lease, LEASE_SECONDS)
                self._follow_ca()
                self._publish(OPEN)
                # Before the list is followed: of a process that stood still, a key that is in use
                # and near its end is renewed, and one that has ended is not.
                self._renew_keys()
                self._follow_keys()
                self._follow_queue()
                self._look_at_silos()
                self._write_status()
                self._warn()
                if self._is_asked_to_end():
                    self.asked_to_end = True
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            except LeaseLost as error:
                self._lost = error
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except MeadowError as error:
                log.warning("%s; trying again", error)

    def _renew_keys(self) -> None:
        try:
            self._renewal.look(HeadSigner.of(self.credentials))
        except LeaseLost:
            raise
        except MeadowError as error:
            # What can't be renewed keeps nobody in who was revoked.
            log.warning("%s; trying again", error)

    def _is_asked_to_end(self) -> bool:
        """Return whether the owner asks this start of an orchestrator to end, and not one before."""
        try:
            return bool(json.loads(self.store.read(END_FILE))["epoch"] == self.lease.epoch)
        except (StoreMissing, ValueError, TypeError, LookupError):
            return False

    def _publish(self, state: str) -> None:
        address = joined(self.host, self.orchestrator.address.rpartition(":")[2])
        now = time.monotonic()
        if state == OPEN and now < self._next_publication:
            return
        self._next_publication = now + self.publish_seconds
        self._beat += 1
        record = Record(address, self.lease.epoch, time.time(), state, self._beat)
        signer = RecordSigner(HeadSigner.of(self.credentials), self.federation)
        self.rendezvous.publish(signer.signed(record))

    def _follow_ca(self) -> None:
        """Take the CA that the owner has made in the place of another, and tell the silos."""
        notes = self.keys.ca_notes()
        if notes == self._ca_notes:
            return
        if self._ca_notes is not None and self.renew_credentials is not None:
            credentials = self.renew_credentials()
            self.orchestrator.use(credentials)
            self.keys.trust(credentials.ca)
            self.credentials = credentials
            log.warning("the CA has changed: another certificate is shown from now on")
        for name in notes:
            succession = Succession.from_text(self.keys.ca_note(name))
            if succession is not None:
                self.rendezvous.publish_succession(succession.name, succession.to_text())
        self._ca_notes = notes

    def _follow_keys(self) -> None:
        current = self.keys.current_keys()
        now = {key.pem: key.silo for key in current}
        for pem, expired in self.keys.shut_out().items():
            if pem not in self._shut_out or pem in self._admitted:
                self._shut_out.add(pem)
                self.orchestrator.revoke_key(pem, expired=expired)
        for pem in self._admitted.keys() - now.keys():
            log.warning("the key of %s was revoked, or has ended", self._admitted[pem])
        for pem in now.keys() - self._admitted.keys():
            log.info("a key of %s was admitted", now[pem])
            self.orchestrator.admit_key(now[pem], pem)
            self._shut_out.discard(pem)
        self._admitted = now
        self._publish_admissions(current)

    def _publish_admissions(self, keys: list[AdmittedKey]) -> None:
        """Send new certificates to the silos, by the way on which they look for the server."""
        for key in keys:
            name = admission_name(key.line)
            if self._published.get(name) != key.certificate:
                self.rendezvous.publish_admission(name, key.certificate)
                self._published[name] = key.certificate

    def _follow_queue(self) -> None:
        request = self._request
        if request is not None and self.queue.is_cancelled(request):
            os.kill(os.getpid(), signal.SIGUSR1)
        if request is not None and self.starting:
            self._follow_states(request)

    def _follow_states(self, request: Request) -> None:
        """Look what was told of silos' jobs; a note that stands still for long says nothing."""
        beat, states = self.queue.states(request.run_id)
        now = time.monotonic()
        if beat != self._told_states[0]:
            self._told_states = (beat, now)
        fresh = now - self._told_states[1] < STATES_SECONDS
        self.job_states = states if fresh else {}

    @contextlib.contextmanager
    def waiting_for_silos(self) -> Iterator[None]:
        """Follow the states of silos' jobs in this block."""
        self.starting = True
        try:
            yield
        finally:
            self.starting = False
            self.job_states = {}

    def _look_at_silos(self) -> None:
        presence = self.presence
        if presence is not None:
            presence.look(self.orchestrator.connected())

    def _write_status(self) -> None:
        run = self._request.run_id if self._request is not None else None
        presence = self.presence
        now: dict[str, Any] = {
            "connected": self.orchestrator.connected(),
            "run": run,
            "epoch": self.lease.epoch,
            "software": self.software,
            "named": self._named(),
            "quorum": presence.lacking() if presence is not None else None,
            "transfers": self.orchestrator.transfers(),
            "ways": self.orchestrator.ways(),
        }
        if now != self._status:
            self.store.replace(STATUS_FILE, json.dumps(now).encode())
            self._status = now

    def _named(self) -> dict[str, str]:
        """Return the silos that need a look, each with what there is to say."""
        twins = dict.fromkeys(self.orchestrator.twins(), f"two processes use its key ({TWINS})")
        return {**self.late, **twins}

    def _warn(self) -> None:
        """Say in the log what will end, and tell each silo of its key; once a day, however often
        this is called.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + WARN_SECONDS
        good = [key for key in self.keys.all() if key.revoked is None and key.expires > time.time()]
        for key in good:
            if key.warning(time.time()) is not None:
                self.orchestrator.tell_end(key.pem, key.expires)
        self._reminder.look([*self.credentials.spans(), *(key.span for key in good)])

    def _cancel(self, number: int, frame: FrameType | None) -> None:
        if self._request is not None:
            self._request = None  # once is enough
            raise Interrupted("MDW-902", "The run was cancelled.", "Resume it with run.resume.")


def ask_to_end(store: Store) -> bool:
    """Ask the orchestrator of a store to end its federation; return False where none ever was.

    Only its owner may write there. A later orchestrator has another epoch, and is not meant.
    """
    epoch = read_status(store).get("epoch")
    if not isinstance(epoch, int):
        return False
    store.replace(END_FILE, json.dumps({"epoch": epoch}).encode())
    return True


def was_ended(store: Store) -> bool:
    """Return whether the last orchestrator of a store was asked to end its federation."""
    epoch = read_status(store).get("epoch")
    try:
        return epoch is not None and bool(json.loads(store.read(END_FILE))["epoch"] == epoch)
    except (StoreMissing, ValueError, TypeError, LookupError):
        return False


def read_status(store: Store) -> dict[str, Any]:
    """Return what the last orchestrator said of itself, empty where none ever did.

    `connected`: silos; `run`: its id or null; `epoch`; `software`: by silo, what it said last that
    it runs; `named`: by silo, what there is to look at; `quorum`: what a round lacks, or null; `ways`: by
    silo, how it came, `direct` or `relay`.
    """
    try:
        content: dict[str, Any] = json.loads(store.read(STATUS_FILE))
        return content
    except StoreMissing:
        return {}
