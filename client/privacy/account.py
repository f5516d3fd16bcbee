"""A silo's account: what its releases have cost, over all runs, in storage of the silo's own.

    <silo>/account/000001.json     one release, reserved before its training; never changed, never removed
    <silo>/account/head.json       how many there are, and the digest of the last

Each entry names the one before it by its digest. Entries and head are signed with a key that the
silo's own key gives: an entry that is changed, taken out or put in between is noticed, and the head
tells of entries that are missing at the end. What is reserved is spent, whatever becomes of the training: a process
that dies over it has used it up. Two processes of one silo write to one account: an entry's number is
taken by the one that comes first.

An entry names its mechanism and unit, which say for which neighbours it holds (`conf.privacy_kinds`).
There is a sum for each unit: what an example has cost, a group of examples, and the silo as a whole.
Nothing is added across them; but a release that holds for any two sets of data (local_dp) holds for
two that differ by an example too, and so is counted in all.

An account without entries is not an account: it is begun once (`begin`), and where it is missing
afterwards nothing is released. With a new key of the silo its owner continues it (`go_on`).

One that was put back as a whole from an old copy looks as whole as it was. So each answer takes a
reminder along: the last entry's digest, and a code over it that this key alone makes. The server
keeps it, though it can make nothing of it, and shows it with the next round; an account that does
not have that entry is refused. A server that keeps none shows none: it can hide that an account was
put back, and gains nothing by it.

    MDW-376 there is no place to keep one     MDW-540 an account that is missing or was changed
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from azureml_jobs.storage.base import Store, StoreMissing
from azureml_jobs.storage.opened import open_store
from client.privacy import owner_bounds
from client.privacy.accountant import Release
from conf.canonical import canonical
from conf.errors import CheckpointError, SiloError
from conf.privacy_kinds import ADD_OR_REMOVE_ONE, EXAMPLE, RELATIONS, SAMPLE_DP, UNITS
from conf.schema import PolicyConf
from conf.versions import Format

FORMAT: Final = Format(
    "entry of a silo's account",
    2,
    damaged="MDW-540",
    fix="Restore the account from a copy: without it nobody knows what was spent.",
    # The first version knew no groups: a release of them would have counted as one of examples.
    migrations={1: dict},
)
BEGUN: Final = "begun"
CONTINUED: Final = "continued"
"""Written with a new key: what stands before it counts as its owner found it."""
LATER: Final = ("released",)
"""Fields of an entry that earlier releases had not."""
TRIES: Final = 64
"""Numbers that are tried for an entry while other processes take them."""


@dataclass(frozen=True)
class Entry:
    """One release of a silo; or the account's beginning, or its going on with another key."""

    number: int
    before: str
    """The digest of the entry before it; of the first one nothing."""
    when: str
    mechanism: str
    run: str = ""
    round: int = 0
    relation: str = ADD_OR_REMOVE_ONE
    unit: str = EXAMPLE
    rate: float = 0.0
    noise: float = 0.0
    steps: int = 0
    released: str = ""
    """What was released, where it is kept to be sent again (`client.privacy.kept_answers`)."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is signed: without what earlier releases did not say, where it says nothing."""
        return {name: value for name, value in asdict(self).items() if value or name not in LATER}

    @property
    def release(self) -> Release:
        """Return what the accountant counts."""
        return Release(self.rate, self.noise, self.steps)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what it says, in hex."""
        return hashlib.sha256(canonical(self.facts)).hexdigest()


class Account:
    """The account of one silo in a store; `key` signs it, and is the silo's secret."""

    def __init__(self, store: Store, silo: str, key: bytes) -> None:
        self._store = store
        self._silo = silo
        self._key = key
        # What this process has read and checked: an entry never changes.
        self._known: list[Entry] = []
        self._signed: list[bool] = []

    @staticmethod
    def at(where: str, silo: str, key: bytes) -> Account:
        """Return the account in a folder or a container; raises SiloError MDW-376 without one."""
        if not where:
            what = f"{silo} has no place for its account, so that nothing may be released."
            raise SiloError("MDW-376", what, "Start it with --state or --state-store.")
        return Account(open_store(where, 2**16), silo, key)

    def begin(self) -> bool:
        """Begin the account; return False where it was begun before."""
        # The head before the entry: an entry without a head is one of which others were taken away.
        # The same at every process, so that whoever comes first writes what the others would.
        first = Entry(1, "", "", BEGUN)
        if self._names():
            return False
        self._store.replace(self._head_name, self._head(first))
        return self._put(first)

    def go_on(self) -> bool:
        """Go on with an account that another key of this silo's has signed; False where none is
        needed, or another process came first.

        Raises CheckpointError MDW-540 where it is not whole; its signatures are not looked at.
        """
        known, signed, head_is_ours = self._chain()
        if head_is_ours and self._first_forged(known, signed) is None:
            return False
        return self._put(Entry(known[-1].number + 1, known[-1].digest, _now(), CONTINUED))

    def entries(self) -> list[Entry]:
        """Return the releases so far.

        Raises CheckpointError MDW-540 where the account was not begun or is not what was written.
        """
        return _releases(self._entries())

    def reminder(self) -> str:
        """Return what shows later that the account was this long: `DIGEST:CODE`, in hex.

        It does not say how many entries there are, of which other servers have asked for some.
        """
        digest = self._entries()[-1].digest
        return f"{digest}:{self._code(digest)}"

    def check_reminder(self, reminder: str) -> None:
        """Raise CheckpointError MDW-540 where this key has given the reminder and the account does
        not have the entry; one that another key has given says nothing.
        """
        digest, _, code = reminder.partition(":")
        if not hmac.compare_digest(code.encode(), self._code(digest).encode()):
            return
        if digest not in (entry.digest for entry in self._entries()):
            why = "it once had an entry that it lacks, and so was put back from an old copy"
            raise self._fault(why)

    def check(self, release: Release, policy: PolicyConf, mechanism: str) -> None:
        """Raise SiloError MDW-373 where a release would cost more than the owner allows."""
        entry = self._entry(self._entries(), "", 0, release, mechanism)
        owner_bounds.check(policy, self.entries(), entry, self._silo)

    def reserve(
        self,
        run: str,
        round: int,
        release: Release,
        policy: PolicyConf,
        mechanism: str = SAMPLE_DP,
        unit: str = "",
        released: str = "",
        made: int | None = None,
    ) -> list[Entry]:
        """Note a release before it is made, and return the run's releases with it; nothing, and note
        nothing, where the run has not `made` so many of this kind any more, by which its noise was chosen.

        `mechanism` is the kind of privacy that it is of, `unit` what it protects as a whole; of none
        the first that this kind protects (`conf.privacy_kinds`). What is `released` again is noted
        once.

        Raises SiloError MDW-373 where all releases together would then cost more than the owner
        allows (`client.privacy.owner_bounds`), CheckpointError where it can't be noted: what is not
        noted is not released.
        """
        for _ in range(TRIES):
            known = self._entries()
            before = _releases(known)
            if released and any(one.released == released for one in before):
                return [one for one in before if one.run == run]
            others = [one for one in before if (one.run, one.mechanism) == (run, mechanism)]
            if made is not None and len(others) != made:
                return []
            entry = self._entry(known, run, round, release, mechanism, unit, released)
            owner_bounds.check(policy, before, entry, self._silo)
            if self._put(entry):
                return [one for one in [*before, entry] if one.run == run]
        raise self._fault("other processes write to it all the time")

    @staticmethod
    def _entry(
        known: list[Entry],
        run: str,
        round: int,
        release: Release,
        mechanism: str,
        unit: str = "",
        released: str = "",
    ) -> Entry:
        """Return what would be noted of a release after what is known."""
        return Entry(
            known[-1].number + 1,
            known[-1].digest,
            _now(),
            mechanism,
            run,
            round,
            RELATIONS[mechanism],
            unit or UNITS[mechanism][0],
            rate=release.rate,
            noise=release.noise,
            steps=release.steps,
            released=released,
        )

    def _put(self, entry: Entry) -> bool:
        line = FORMAT.stamp | entry.facts | {"signature": self._signature(entry)}
        if not self._store.put_if_absent(self._name(entry.number), json.dumps(line).encode()):
            return False
        self._store.replace(self._head_name, self._head(entry))
        return True

    def _entries(self) -> list[Entry]:
        known, signed, head_is_ours = self._chain()
        forged = self._first_forged(known, signed)
        if forged is not None:
            why = f"its entry {forged} was changed, or another key of this silo has signed it"
            raise self._fault(why)
        if not head_is_ours:
            raise self._fault("its head was changed, or another key of this silo has signed it")
        return known

    def _first_forged(self, known: list[Entry], signed: list[bool]) -> int | None:
        """Return the number of the first entry whose signature is not this key's and should be."""
        went_on = [
            one.number for one in known if one.mechanism == CONTINUED and signed[one.number - 1]
        ]
        first = went_on[-1] if went_on else 1
        return next((n for n in range(first, len(known) + 1) if not signed[n - 1]), None)

    def _names(self) -> list[str]:
        listed = self._store.list(f"{self._silo}/account/")
        return [name for name in listed if name != self._head_name]

    def _chain(self) -> tuple[list[Entry], list[bool], bool]:
        """Return all entries, each of which names the one before it, whether this key signed it, and
        whether this key signed the head.
        """
        names = self._names()
        if not names:
            raise self._fault("it is not there")
        missing = [n for n, name in enumerate(names, 1) if name != self._name(n)]
        if missing or len(names) < len(self._known):
            raise self._fault(f"its entry {missing[0] if missing else len(names) + 1} is missing")
        for number in range(len(self._known) + 1, len(names) + 1):
            before = self._known[-1].digest if self._known else ""
            entry, signed = self._read(number, before)
            self._known.append(entry)
            self._signed.append(signed)
        return list(self._known), list(self._signed), self._checked_head(self._known)

    def _read(self, number: int, before: str) -> tuple[Entry, bool]:
        name = self._name(number)
        where = f"{name} of {self._store!r}"
        raw: dict[str, Any] = FORMAT.loads(self._store.read(name), where)
        with FORMAT.reading(where):
            signature = str(raw.pop("signature"))
            raw.pop(FORMAT.key)
            entry = Entry(**raw)
            _check_numbers(entry)
        if (entry.number, entry.before) != (number, before):
            raise self._fault(f"its entry {number} does not follow the one before it")
        return entry, hmac.compare_digest(signature, self._signature(entry))

    def _checked_head(self, found: list[Entry]) -> bool:
        """Return whether this key signed the head; raise where entries are missing at the end.

        A process that died between an entry and the head leaves one more than the head says.
        """
        try:
            data = self._store.read(self._head_name)
        except StoreMissing:
            raise self._fault("its head is missing") from None
        head = FORMAT.loads(data, self._head_name)
        with FORMAT.reading(self._head_name):
            number = int(head["number"])
        if number > len(found):
            raise self._fault(f"it has {len(found)} entries of {number}")
        if number < 1 or str(head.get("digest")) != found[number - 1].digest:
            raise self._fault("its head is of another account")
        signed = self._signed_by_us(_head_of(found[number - 1]))
        return hmac.compare_digest(str(head.get("signature")).encode(), signed.encode())

    def _head(self, entry: Entry) -> bytes:
        facts = _head_of(entry)
        return json.dumps(FORMAT.stamp | facts | {"signature": self._signed_by_us(facts)}).encode()

    def _signature(self, entry: Entry) -> str:
        return self._signed_by_us(entry.facts)

    def _signed_by_us(self, facts: dict[str, Any]) -> str:
        return hmac.new(self._key, canonical(facts), hashlib.sha256).hexdigest()

    def _code(self, digest: str) -> str:
        return self._signed_by_us({"reminder": digest})

    @property
    def _head_name(self) -> str:
        return f"{self._silo}/account/head.json"

    def _name(self, number: int) -> str:
        return f"{self._silo}/account/{number:06d}.json"

    def _fault(self, why: str) -> CheckpointError:
        return CheckpointError(
            "MDW-540",
            f"The account of {self._silo} in {self._store!r} can't be used: {why}.",
            "Restore it from a copy; a silo that has none yet begins one: meadow budget NAME --begin.",
        )


def _head_of(entry: Entry) -> dict[str, Any]:
    return {"number": entry.number, "digest": entry.digest}


def _releases(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.mechanism in RELATIONS]


def _check_numbers(entry: Entry) -> None:
    if entry.mechanism in (BEGUN, CONTINUED):
        return
    if entry.mechanism not in RELATIONS:
        # Of a later release: what it costs is not known here, so nothing may be added to it.
        raise ValueError(f"what {entry.mechanism!r:.40} costs is not known")
    if entry.relation != RELATIONS[entry.mechanism]:
        raise ValueError(f"its relation is {entry.relation!r:.40}")
    if entry.unit not in UNITS[entry.mechanism]:
        raise ValueError(f"what is protected is {entry.unit!r:.40}")
    if not (0 < entry.rate <= 1 and entry.noise > 0 and entry.steps >= 1):
        raise ValueError("its rate, noise or steps are no such numbers")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
