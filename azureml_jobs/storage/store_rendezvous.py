"""The rendezvous in a blob container of its own: who may read that container needs no other right.

One small blob says where each start of an orchestrator is; beside it lie the admissions and what one
CA says of the next. All of it is public and signed, as in every rendezvous (`azureml_jobs.rendezvous`).

    MDW-731 the container can't be used
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

from azureml_jobs.rendezvous import (
    ADMISSION_BYTES,
    MAX_BYTES,
    MOST_RECORDS,
    SignedRecord,
    checked_address,
    evidence,
    parsed,
)
from azureml_jobs.storage.base import Store, StoreMissing
from conf.errors import IdentityError, MeadowError

SERVER: Final = "server-"
ADMISSION: Final = "admission-"
SUCCESSOR: Final = "successor-"


class StoreRendezvous:
    """A store that both sides see; raises IdentityError MDW-731.

    What was seen is good for `look_seconds`, so that a silo that waits asks a few times a minute.
    """

    def __init__(
        self,
        store: Store,
        look_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._look_seconds = look_seconds
        self._clock = clock
        self._looked = float("-inf")
        self._names: list[str] = []
        self._read: dict[str, bytes] = {}

    def publish(self, signed: SignedRecord) -> None:
        """See `Rendezvous`; older epochs' blobs are deleted when a new one begins."""
        record = signed.record
        checked_address(record.address)
        name = f"{SERVER}{record.epoch:09d}.json"
        with self._told("write"):
            text = json.dumps(asdict(record) | evidence(signed))
            self._store.replace(name, text.encode())
            if record.beat <= 1:
                for old in self._store.list(SERVER):
                    if old < name:
                        self._store.delete(old)

    def publish_admission(self, key: str, certificate: str) -> None:
        """See `Rendezvous`."""
        with self._told("write"):
            self._store.replace(f"{ADMISSION}{key}.pem", certificate.encode())

    def admission(self, key: str) -> bytes | None:
        """See `Rendezvous`."""
        name = f"{ADMISSION}{key}.pem"
        if name not in self._listed():
            return None
        content = self._content(name)
        return content if content is not None and len(content) <= ADMISSION_BYTES else None

    def publish_succession(self, name: str, text: str) -> None:
        """See `Rendezvous`."""
        with self._told("write"):
            self._store.replace(f"{SUCCESSOR}{name}.json", text.encode())

    def successions(self) -> list[str]:
        """See `Rendezvous`."""
        names = [name for name in self._listed() if name.startswith(SUCCESSOR)]
        found = [self._content(name) for name in names[:MOST_RECORDS]]
        return [one.decode("utf-8", "replace") for one in found if one is not None]

    def seen(self) -> list[SignedRecord]:
        """See `Rendezvous`; a blob that is not a record is logged and left out."""
        names = [name for name in self._listed() if name.startswith(SERVER)]
        # The least epochs first, so that thousands of a stranger's with high ones don't come before.
        names.sort(key=lambda name: (len(name), name))
        records = []
        for name in names[:MOST_RECORDS]:
            content = self._content(name)
            record = parsed(content, name) if content is not None else None
            if record is not None:
                records.append(record)
        return records

    def _listed(self) -> list[str]:
        """Return the names, those of the last look where it was a moment ago."""
        now = self._clock()
        if now - self._looked >= self._look_seconds:
            with self._told("look"):
                self._names = self._store.list()
            self._looked = now
            self._read.clear()
        return self._names

    def _content(self, name: str) -> bytes | None:
        """Return the beginning of a blob, None where it is gone."""
        if name not in self._read:
            with self._told("look"):
                try:
                    self._read[name] = self._store.read(name)[: MAX_BYTES + 1]
                except StoreMissing:
                    return None
        return self._read[name]

    @contextmanager
    def _told(self, verb: str) -> Iterator[None]:
        try:
            yield
        except MeadowError as error:
            if isinstance(error, IdentityError):
                raise
            what = f"Can't {verb} at the rendezvous: {error.message} ({error.code})"
            raise IdentityError("MDW-731", what, error.hint) from error
