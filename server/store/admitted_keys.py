"""The list of keys that may connect, in the orchestrator's store, read again while it runs.

An entry is the client certificate that the CA signed over the key (`identity.signed_admission`), and
counts only as such: who can write the store, and has not the CA's key, admits nobody.

MDW-710 admitted for another silo    MDW-711 revoked for good
MDW-712 nothing to revoke            MDW-714 damaged entry
MDW-716 an entry that this federation's CA did not sign
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.admitted_key import NODE_KEY_DAYS, AdmittedKey
from azureml_jobs.identity.node_key import load_public_key, public_line
from azureml_jobs.identity.renewal import Renewal, due, may_be_renewed, renewed, says_less
from azureml_jobs.identity.secret_store import checked_name
from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.identity.signed_admission import Admission, AdmissionAuthority, check_admission
from azureml_jobs.storage.base import Store
from conf.errors import CheckpointError, IdentityError, MeadowError
from conf.versions import Format
from server.store.renewals import Renewals

log = logging.getLogger(__name__)

FORMAT: Final = Format("entry of the admitted keys", 2)
REVOCATION: Final = Format("revocation of a key", 1)


class AdmittedKeys:
    """The list of admitted keys.

    Each admission and each revocation is an entry of its own that never changes, so that no writer
    can undo what another wrote. A key that is admitted for longer has one more entry, and the one
    that ends last counts. Entries are read once and cached; `current` and `all` see what other
    processes have added or revoked since. A revoked key never comes back.
    """

    ADMITTED = "keys/admitted/"
    REVOKED = "keys/revoked/"
    CAS = "keys/ca/"
    """Notes of the CA's owner that another CA is trusted, or one no more; public."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        authority: AdmissionAuthority | None = None,
        ca: bytes | None = None,
    ) -> None:
        """`authority` signs what is admitted here; `ca` (PEM) is the CA, or both while one follows
        the other, whose signature an entry needs to be in `current`.
        """
        self._store = store
        self._clock = clock
        self._authority = authority
        self._ca = ca
        self._cache: dict[str, AdmittedKey] = {}
        self._signed: dict[str, bool] = {}
        self._renewals = Renewals(store)
        self._ca_seen = b""

    def admit(
        self,
        silo: str,
        line: str,
        days: float = NODE_KEY_DAYS,
        limits: Mapping[str, float] | None = None,
    ) -> AdmittedKey:
        """Admit a public key for a silo; the same key for the same silo again changes nothing.

        Raises IdentityError MDW-710 where another silo has the key, MDW-711 where it was revoked,
        and those of the CA.
        """
        public = load_public_key(line, f"the key of {silo}")
        digest = _key_digest(public)
        entries = self._entries_of(digest)
        if entries and not any(self._is_of_this_ca(entry) for entry in entries):
            # The CA was replaced: who admits a key again has compared it anew.
            entries = [self.renew(replace(_latest(entries), limits=limits or {}), days)]
        if not entries:
            self._put(f"{digest}.json", self._signed_entry(silo, line, days, limits or {}))
            # Another process may have admitted it in the meantime: the entry that is there decides.
            entries = self._entries_of(digest)
        entry = _latest(entries)
        if entry.silo != silo:
            hint = "Each silo makes its own key: ask for another."
            raise IdentityError(
                "MDW-710", f"The key offered for {silo} is admitted for {entry.silo}.", hint
            )
        self._check_not_revoked(silo, digest)
        return entry

    def renew(self, key: AdmittedKey, days: float = NODE_KEY_DAYS) -> AdmittedKey:
        """Have the CA sign an admission anew, for longer, with the limits that `key` has.

        Raises IdentityError MDW-711 where it was revoked, and those of the CA.
        """
        digest = _key_digest(key.public)
        self._check_not_revoked(key.silo, digest)
        entry = self._signed_entry(key.silo, key.line, days, key.limits)
        number = 1 + len(self._entries_of(digest))
        while not self._put(f"{digest}-{number}.json", entry):
            number += 1
        return entry

    def renew_all(self) -> list[AdmittedKey]:
        """Sign the admission of each key that may connect anew, by the CA of now; return them.

        Each ends when it would have, and a second later: of two the one that ends last counts.
        """
        renewed = []
        for key in self.current_keys():
            seconds = key.expires - self._clock() + 1
            renewed.append(self.renew(key, seconds / 86400))
        return renewed

    def due(self) -> list[AdmittedKey]:
        """Return each key that may connect now and that the orchestrator may and should renew."""
        return [key for key in self.current_keys() if due(key, self._clock())]

    def renew_by(self, signer: HeadSigner, key: AdmittedKey) -> Renewal:
        """Let a key connect for longer, by the orchestrator's word (`identity.renewal`)."""
        renewal = renewed(key, signer, self._clock())
        self._renewals.put(_key_digest(key.public), renewal)
        return renewal

    def to_reissue(self) -> list[AdmittedKey]:
        """Return each key that may connect now and was renewed, while its certificate says less."""
        return [key for key in self.current_keys() if may_be_renewed(key) and says_less(key)]

    def reissue(self, key: AdmittedKey, certificate: str) -> None:
        """Keep the certificate (PEM) that the CA has signed anew for a renewed key."""
        self._renewals.put_admission(_key_digest(key.public), certificate)

    def note_ca(self, name: str, text: str) -> None:
        """Leave a note for the orchestrator that its CAs have changed."""
        self._store.put_if_absent(f"{self.CAS}{name}.json", text.encode())

    def ca_notes(self) -> list[str]:
        """Return the names of these notes."""
        return sorted(self._names(self.CAS))

    def ca_note(self, name: str) -> bytes:
        """Return one of them."""
        return self._store.read(self.CAS + name)

    def trust(self, ca: bytes) -> None:
        """Count the entries that one of these CAs (PEM) has signed, and no others."""
        self._ca = ca
        self._signed.clear()
        self._renewals.forget()

    def _is_of_this_ca(self, entry: AdmittedKey) -> bool:
        """Return whether the authority that would sign here has signed an entry."""
        if self._authority is None:
            return True
        try:
            check_admission(entry.certificate, self._authority.certificate(), "an entry")
        except IdentityError:
            return False
        return True

    def _signed_entry(
        self, silo: str, line: str, days: float, limits: Mapping[str, float]
    ) -> AdmittedKey:
        if self._authority is None:
            raise ValueError("a list that was opened without an authority admits no key")
        public = public_line(load_public_key(line, f"the key of {silo}"))
        now = self._clock()
        admission = Admission(
            self._authority.federation,
            checked_name(silo),
            public,
            now,
            now + days * 86400,
            limits,
        )
        return AdmittedKey.of(self._authority.sign(admission), f"the admission of {silo}")

    def _put(self, name: str, entry: AdmittedKey) -> bool:
        """Write an entry unless there is one of that name; return whether it was written."""
        data = json.dumps(FORMAT.stamp | {"certificate": entry.certificate})
        return self._store.put_if_absent(self.ADMITTED + name, data.encode())

    def _check_not_revoked(self, silo: str, digest: str) -> None:
        if digest in self._revoked():
            hint = "Ask the silo for a new key: a revoked one never comes back."
            raise IdentityError("MDW-711", f"The key offered for {silo} was revoked.", hint)

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
            data = json.dumps(REVOCATION.stamp | {"silo": silo, "at": self._clock()}).encode()
            name = f"{_key_digest(key.public)}.json"
            self._store.put_if_absent(self.REVOKED + name, data)
        return chosen

    def all(self) -> list[AdmittedKey]:
        """Return every key that was ever admitted, by silo and time, as its last entry has it."""
        revoked = self._revoked()
        keys = []
        for digest, names in self._by_key().items():
            key = self._last_word(digest, [self._entry(name) for name in names])
            if digest in revoked:
                key = replace(key, revoked=self._revoked_at(digest))
            keys.append(key)
        return sorted(keys, key=lambda key: (key.silo, key.since))

    def current(self) -> dict[bytes, str]:
        """Return the silo of each key that may connect now, by its PEM as Flower's header has it."""
        return {key.pem: key.silo for key in self.current_keys()}

    def current_keys(self) -> list[AdmittedKey]:
        """Return each key that may connect now, by its last entry and renewal.

        An entry that is damaged, or that the CA did not sign, admits nobody and is logged; the
        other silos are not affected.
        """
        return [key for key in self.signed() if self._clock() < key.expires]

    def signed(self) -> list[AdmittedKey]:
        """Return each key that the CA has signed and nobody revoked, those that have ended too."""
        revoked = self._revoked()
        keys = []
        for digest, names in self._by_key().items():
            if digest in revoked:
                continue
            good = list(self._trusted(names))
            if good:
                keys.append(self._last_word(digest, good))
        return keys

    def shut_out(self) -> dict[bytes, bool]:
        """Return by its PEM each key that was admitted and may not connect now, with whether it has
        expired; if not, it was revoked.

        An entry that can't be read is left out: `current_keys` has logged it.
        """
        now = self._clock()
        revoked = self._revoked()
        found = {}
        for digest, names in self._by_key().items():
            with suppress(IdentityError, CheckpointError):
                key = self._last_word(digest, [self._entry(name) for name in names])
                if digest in revoked:
                    found[key.pem] = False
                elif now >= key.expires:
                    found[key.pem] = True
        return found

    def _last_word(self, digest: str, entries: Iterable[AdmittedKey]) -> AdmittedKey:
        """Return a key as its last entry has it, or for longer where that has been renewed."""
        key = _latest(entries)
        if not may_be_renewed(key):
            return key
        return self._renewals.of(digest, key, self._known_ca())

    def _known_ca(self) -> bytes:
        """Return the CA whose orchestrator may renew; none (no bytes) where it can't be seen."""
        if self._ca is None and self._authority is not None:
            # Who may see the list need not see the vault.
            with suppress(MeadowError):
                self._ca_seen = self._ca_seen or self._authority.certificate()
        return self._ca or self._ca_seen

    def _trusted(self, names: Iterable[str]) -> Iterable[AdmittedKey]:
        for name in names:
            try:
                entry = self._entry(name)
                self._check_signed(name, entry)
            except (IdentityError, CheckpointError) as error:
                log.error("%s", error)
                continue
            yield entry

    def _check_signed(self, name: str, entry: AdmittedKey) -> None:
        """Raise IdentityError MDW-716 unless the CA, where it is known, has signed an entry."""
        if self._ca is None or name in self._signed:
            return
        check_admission(entry.certificate, self._ca, self.ADMITTED + name)
        self._signed[name] = True

    def _by_key(self) -> dict[str, list[str]]:
        """Return the names of the entries of each key, by the digest that the names begin with."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._names(self.ADMITTED)):
            digest = name.removesuffix(".json").partition("-")[0]
            found.setdefault(digest, []).append(name)
        return found

    def _entries_of(self, digest: str) -> list[AdmittedKey]:
        return [self._entry(name) for name in self._by_key().get(digest, [])]

    def _revoked(self) -> set[str]:
        return {name.removesuffix(".json") for name in self._names(self.REVOKED)}

    def _names(self, prefix: str) -> set[str]:
        return {name.removeprefix(prefix) for name in self._store.list(prefix)}

    def _entry(self, name: str) -> AdmittedKey:
        if name not in self._cache:
            where = self.ADMITTED + name
            raw = self._json(where, FORMAT)
            try:
                key = AdmittedKey.of(str(raw["certificate"]), where)
            except KeyError:
                raise _damaged(where) from None
            # The name is the key's digest: an entry moved or edited to hold another key is refused.
            if not name.startswith(_key_digest(key.public)):
                raise _damaged(where)
            self._cache[name] = key
        return self._cache[name]

    def _revoked_at(self, digest: str) -> float:
        """Return when a key was revoked; 0 where the entry is damaged, which still revokes."""
        with suppress(IdentityError, CheckpointError, KeyError, TypeError, ValueError):
            return float(self._json(f"{self.REVOKED}{digest}.json", REVOCATION)["at"])
        return 0.0

    def _json(self, name: str, form: Format) -> dict[str, Any]:
        """Return an entry.

        Raises IdentityError MDW-714 for a damaged one, MDW-505 for one of another version.
        """
        data = self._store.read(name)
        try:
            return form.loads(data, name)
        except CheckpointError as error:
            if error.code == "MDW-505":
                raise
            raise _damaged(name) from None


def _latest(entries: Iterable[AdmittedKey]) -> AdmittedKey:
    return max(entries, key=lambda entry: entry.expires)


def _key_digest(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(public_line(key).encode()).hexdigest()


def _damaged(name: str) -> IdentityError:
    hint = "Delete it, then admit the key again."
    return IdentityError(
        "MDW-714", f"The entry {name} of the list of admitted keys is damaged.", hint
    )
