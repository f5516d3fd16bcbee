"""The list of keys that may connect, in the orchestrator's store, read again while it runs.

MDW-710 admitted for another silo    MDW-711 revoked for good
MDW-712 nothing to revoke            MDW-714 damaged entry
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.admitted_key import NODE_KEY_DAYS, AdmittedKey
from azureml_jobs.identity.node_key import load_public_key, public_line
from azureml_jobs.identity.secret_store import checked_name
from azureml_jobs.storage.base import Store
from conf.errors import CheckpointError, IdentityError
from conf.versions import Format

log = logging.getLogger(__name__)

FORMAT: Final = Format("entry of the admitted keys", 1)


class AdmittedKeys:
    """The list of admitted keys.

    Each key and each revocation is an entry of its own that never changes, so that no writer can
    undo what another wrote. Entries are read once and cached; `current` and `all` see what other
    processes have added or revoked since. A revoked key never comes back.
    """

    ADMITTED = "keys/admitted/"
    REVOKED = "keys/revoked/"

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._cache: dict[str, AdmittedKey] = {}

    def admit(self, silo: str, line: str, days: float = NODE_KEY_DAYS) -> AdmittedKey:
        """Admit a public key for a silo; the same key for the same silo again changes nothing.

        Raises IdentityError MDW-710 where another silo has the key, MDW-711 where it was revoked.
        """
        public = load_public_key(line, f"the key of {silo}")
        now = self._clock()
        entry = AdmittedKey(checked_name(silo), public_line(public), now, now + days * 86400)
        name = _entry_name(public)
        data = json.dumps(
            FORMAT.stamp
            | {
                "silo": entry.silo,
                "key": entry.line,
                "since": entry.since,
                "expires": entry.expires,
            }
        )
        if not self._store.put_if_absent(self.ADMITTED + name, data.encode()):
            # The key was admitted before, perhaps by another process: that entry decides.
            entry = self._entry(name)
        if entry.silo != silo:
            hint = "Each silo makes its own key: ask for another."
            raise IdentityError(
                "MDW-710", f"The key offered for {silo} is admitted for {entry.silo}.", hint
            )
        if name in self._names(self.REVOKED):
            hint = "Ask the silo for a new key: a revoked one never comes back."
            raise IdentityError("MDW-711", f"The key offered for {silo} was revoked.", hint)
        return entry

    def revoke(
        self, silo: str, only: str | None = None, but: str | None = None
    ) -> list[AdmittedKey]:
        """Revoke a silo's keys and return them.

        All of them, `only` the one with that fingerprint, or all `but` that one. Raises
        IdentityError MDW-712 where there is none to revoke.
        """
        valid = [key for key in self.all() if key.revoked is None]
        chosen = []
        for key in valid:
            wanted = only is None or key.fingerprint == only
            if key.silo == silo and wanted and key.fingerprint != but:
                chosen.append(key)
        if not chosen:
            silos = ", ".join(sorted({key.silo for key in valid})) or "none"
            raise IdentityError(
                "MDW-712", f"{silo} has no such key to revoke.", f"Silos with a key: {silos}."
            )
        for key in chosen:
            data = json.dumps(FORMAT.stamp | {"silo": silo, "at": self._clock()}).encode()
            self._store.put_if_absent(self.REVOKED + _entry_name(key.public), data)
        return chosen

    def all(self) -> list[AdmittedKey]:
        """Return every key that was ever admitted, by silo and time."""
        revoked = self._names(self.REVOKED)
        keys = []
        for name in self._names(self.ADMITTED):
            if name in revoked:
                keys.append(self._revoked_entry(name))
            else:
                keys.append(self._entry(name))
        return sorted(keys, key=lambda key: (key.silo, key.since))

    def current(self) -> dict[bytes, str]:
        """Return the silo of each key that may connect now, by its PEM as Flower's header has it.

        A damaged entry admits nobody and is logged; the other silos are not affected.
        """
        now = self._clock()
        silo_by_pem: dict[bytes, str] = {}
        revoked = self._names(self.REVOKED)
        for name in self._names(self.ADMITTED) - revoked:
            try:
                key = self._entry(name)
            except (IdentityError, CheckpointError) as error:
                log.error("%s", error)
                continue
            if now < key.expires:
                silo_by_pem[key.pem] = key.silo
        return silo_by_pem

    def _names(self, prefix: str) -> set[str]:
        return {name.removeprefix(prefix) for name in self._store.list(prefix)}

    def _entry(self, name: str) -> AdmittedKey:
        if name not in self._cache:
            raw = self._json(self.ADMITTED + name)
            try:
                key = AdmittedKey(
                    str(raw["silo"]), str(raw["key"]), float(raw["since"]), float(raw["expires"])
                )
            except (KeyError, TypeError, ValueError):
                raise _damaged(self.ADMITTED + name) from None
            # The name is the key's digest: an entry moved or edited to hold another key is refused.
            if _entry_name(key.public) != name:
                raise _damaged(self.ADMITTED + name)
            self._cache[name] = key
        return self._cache[name]

    def _revoked_entry(self, name: str) -> AdmittedKey:
        entry = self._entry(name)
        if entry.revoked is None:
            revoked = 0.0
            # The revocation counts because it exists; a damaged one still revokes, without a time.
            with suppress(IdentityError, KeyError, TypeError, ValueError):
                revoked = float(self._json(self.REVOKED + name)["at"])
            entry = replace(entry, revoked=revoked)
            self._cache[name] = entry
        return entry

    def _json(self, name: str) -> dict[str, Any]:
        """Return an entry.

        Raises IdentityError MDW-714 for a damaged one, MDW-505 for one of another version.
        """
        data = self._store.read(name)
        try:
            return FORMAT.loads(data, name)
        except CheckpointError as error:
            if error.code == "MDW-505":
                raise
            raise _damaged(name) from None


def _entry_name(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(public_line(key).encode()).hexdigest() + ".json"


def _damaged(name: str) -> IdentityError:
    hint = "Delete it, then admit the key again."
    return IdentityError(
        "MDW-714", f"The entry {name} of the list of admitted keys is damaged.", hint
    )
