"""What a silo's algorithm remembers, in storage of the silo's own that outlives its node's disk.

    <silo>/runs/<run>/round-000005.state     an entry of `client.state_entry`: the state after a round
    <silo>/runs.json                         the runs in the order in which they first kept a state, and when
    <silo>/writer.lease                      which process of this silo may write

Of a run, the state that its latest round began with and the one that it ended with are kept: which
of the two counts is known when the silo is asked again (`client.context_state`). The one before
these is kept as well, here and not in memory: a server whose latest checkpoint is damaged goes on
from the one before it, and then asks for the round that is closed already. A state is stored
before the update that goes with it is journaled or sent, so that no update counts whose state is
not there.

The lease is taken when there is something to write, or to go on from. So an algorithm without a
state asks nothing of the store, and a second process of a silo ends before it trains.

    MDW-343 another process of this silo is running     MDW-516 it has taken over
    MDW-519 a state that is not what was written     MDW-511, 513 to 515 what a store raises
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from flwr.app import RecordDict

from azureml_jobs.storage.base import Lease, LeaseLost, Store, StoreMissing, checked_name
from azureml_jobs.storage.lease_wait import waited_for
from client.context_state import versions
from client.state_entry import FORMAT, decode_whole, encode
from conf.errors import CheckpointError, MeadowError, SiloError
from conf.versions import Format

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 20.0
"""For a successor to know that this process is dead: four renewals missed."""
RENEW_SECONDS: Final = 5.0
KEPT_RUNS: Final = 8
"""Runs of which a silo keeps the states: an older one that ended can't be resumed here any more."""
RUNS_FORMAT: Final = Format("list of runs", 2, damaged="MDW-519", fix="Delete it.")
_STATE: Final = re.compile(r"round-(\d{6,12})\.state")


class AnotherProcess(SiloError):
    """Another process of the same silo holds the right to write its state (MDW-343)."""


class SiloStateStore:
    """The states of one silo; `open_store` is called when the first is read or written."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        silo: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open = open_store
        self._clock = clock
        self._silo = checked_name(silo)
        self._opened: Store | None = None
        self._lease: Lease | None = None
        self._lost: LeaseLost | None = None
        self._waited = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._rounds: dict[str, set[int]] = {}
        """The rounds whose states are stored, by run, of the runs that were looked at."""

    def restore(self, run: str) -> RecordDict:
        """Return what is stored of a run, as it was in `context.state`; empty where there is none.

        Raises MeadowError: what cannot be read must not be taken for nothing.
        """
        rounds = self._stored_rounds(run)
        self._rounds[run] = rounds
        if not rounds:
            return RecordDict()
        self._hold()
        state = RecordDict()
        for round in sorted(rounds):
            name = self._name(run, round)
            where = f"{name} in {self._store!r}"
            entry, records = decode_whole(self._store.read(name), where)
            if (entry.silo, entry.run, entry.round) != (self._silo, run, round):
                raise FORMAT.fault(where, f"it is of {entry.silo}, {entry.run}, {entry.round}")
            for key, record in records.items():
                state[key] = record
        return state

    def has(self, run: str, round: int) -> bool:
        """Say whether the state after a round of a run is stored, as far as this process knows."""
        return round in self._rounds.get(run, ())

    def keep(self, run: str, round: int, archive: RecordDict) -> None:
        """Store the state after a round, out of `context.state`; nothing where there is none.

        Raises MeadowError, and what was stored before is whole; LeaseLost or AnotherProcess where
        another process of this silo is the one that may write.
        """
        if not archive:
            return
        states = {when: state for (of, when), state in versions(archive).items() if of == run}
        if round not in states:
            return
        lease = self._hold()
        if run not in self._rounds:
            self._rounds[run] = self._stored_rounds(run)
        if not self._rounds[run]:
            self._note_run(run, lease)
        entry, parts = encode(self._silo, run, round, states[round])
        data = b"".join([entry.line(), *parts])
        self._store.replace(self._name(run, round), data, under=lease)
        # From here on the state lasts; what follows only tidies up.
        stored = self._rounds[run] | {round}
        earlier = [one for one in stored if one < min(states)]
        stay = (stored & set(states)) | set(sorted(earlier)[-1:])
        for old in stored - stay:
            self._store.delete(self._name(run, old))
        self._rounds[run] = stay

    def forget(self, run: str) -> int:
        """Delete what is stored of a run; return how many files that were.

        Raises MeadowError; AnotherProcess where one is running, which may need it.
        """
        stored = self._store.list(self._folder(run))
        if not stored:
            return 0
        lease = self._hold()
        for name in stored:
            self._store.delete(name)
        self._rounds.pop(run, None)
        others = {one: when for one, when in self._noted_runs().items() if one != run}
        self._store.replace(self._runs_name, _runs_record(others), under=lease)
        return len(stored)

    def expire(self, older_than: float) -> list[str]:
        """Delete what is stored of the runs that were first noted before `older_than` (seconds
        since 1970), but the last one's, and return their ids.

        Raises MeadowError.
        """
        noted = list(self._noted_runs().items())
        old = [run for run, when in noted[:-1] if when < older_than]
        for run in old:
            self.forget(run)
        return old

    def read_note(self, name: str) -> bytes | None:
        """Return a small record of the silo's own, which belongs to no run; None where there is none.

        The lease is taken first: whoever reads it is about to write it. Raises MeadowError.
        """
        self._hold()
        with suppress(StoreMissing):
            return self._store.read(f"{self._silo}/{name}")
        return None

    def write_note(self, name: str, data: bytes) -> None:
        """Store such a record; raises MeadowError, and the one before is whole."""
        self._store.replace(f"{self._silo}/{name}", data, under=self._hold())

    def close(self) -> None:
        """Give the lease up, so that the next process of this silo need not wait."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if self._lease is not None:
            try:
                self._store.release(self._lease)
            except MeadowError as error:
                log.warning("the lease could not be given up and runs out by itself: %s", error)
            self._lease = None

    # ---- names

    @property
    def _store(self) -> Store:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    @property
    def _lease_name(self) -> str:
        return f"{self._silo}/writer"

    def _folder(self, run: str) -> str:
        # The run's name comes from the server, and must not lead out of this folder.
        return f"{checked_name(f'{self._silo}/runs/{run}')}/"

    def _name(self, run: str, round: int) -> str:
        return f"{self._folder(run)}round-{round:06d}.state"

    def _stored_rounds(self, run: str) -> set[int]:
        folder = self._folder(run)
        rounds = set()
        for name in self._store.list(folder):
            match = _STATE.fullmatch(name.removeprefix(folder))
            if match:
                rounds.add(int(match[1]))
        return rounds

    # ---- runs

    @property
    def _runs_name(self) -> str:
        return f"{self._silo}/runs.json"

    def _noted_runs(self) -> dict[str, float]:
        """Return when each run was noted, in the order in which they first kept a state."""
        try:
            data = self._store.read(self._runs_name)
        except StoreMissing:
            return {}
        where = f"{self._runs_name} in {self._store!r}"
        raw = RUNS_FORMAT.loads(data, where)
        with RUNS_FORMAT.reading(where):
            return {str(run): float(when) for run, when in raw["runs"]}

    def _note_run(self, run: str, lease: Lease) -> None:
        """Add a run to the list, and forget those beyond `KEPT_RUNS`, the oldest first."""
        runs = [(one, when) for one, when in self._noted_runs().items() if one != run]
        runs.append((run, round(self._clock(), 3)))
        for old, _ in runs[:-KEPT_RUNS]:
            log.info("the states of the run %s are deleted: %d later ones", old, KEPT_RUNS)
            for stored in self._store.list(self._folder(old)):
                self._store.delete(stored)
            self._rounds.pop(old, None)
        self._store.replace(self._runs_name, _runs_record(dict(runs[-KEPT_RUNS:])), under=lease)

    # ---- the lease

    def _hold(self) -> Lease:
        """Return the lease, taken at first; raises AnotherProcess or LeaseLost."""
        if self._lost is not None:
            raise self._lost
        if self._lease is None:
            self._lease = self._acquired()
            self._thread = threading.Thread(target=self._renew, name="state lease", daemon=True)
            self._thread.start()
        return self._lease

    def _acquired(self) -> Lease:
        """Take the lease, waited for as long as a process that was killed may have held it."""
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        lease = waited_for(
            self._store,
            self._lease_name,
            owner,
            LEASE_SECONDS,
            LEASE_SECONDS + RENEW_SECONDS,
            self._pause,
        )
        if lease is not None:
            return lease
        raise AnotherProcess(
            "MDW-343",
            f"Another process of {self._silo} is running{self._holder()}; only one may"
            f" write the silo's state in {self._store!r}.",
            "End one of the two, or give each silo a name and a state of its own.",
        )

    def _pause(self, seconds: float) -> bool:
        if not self._waited:
            log.info("waiting for the lease of the state, which another process holds")
            self._waited = True
        return self._closed.wait(seconds)

    def _holder(self) -> str:
        with suppress(CheckpointError):
            holder = self._store.holder(self._lease_name)
            return f", {holder.owner}" if holder is not None else ""
        return ""

    def _renew(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            assert self._lease is not None
            try:
                self._lease = self._store.renew(self._lease, LEASE_SECONDS)
            except LeaseLost as error:
                self._lost = error
                return
            except MeadowError as error:
                log.warning("%s; trying again", error)


def _runs_record(runs: Mapping[str, float]) -> bytes:
    return json.dumps(RUNS_FORMAT.stamp | {"runs": [list(one) for one in runs.items()]}).encode()
