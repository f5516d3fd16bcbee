"""`meadow keys`: a federation's CA, node keys and list of who may connect, by hand.

Private parts are in a folder or a Key Vault, the list in the orchestrator's store: a folder or a
blob container.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.key_places import KeyPlaces, places_of
from azureml_jobs.cli.table import columns
from azureml_jobs.identity.admitted_key import NODE_KEY_DAYS, AdmittedKey
from azureml_jobs.identity.authority import CA_CERTIFICATE, load_ca, make_ca
from azureml_jobs.identity.expiry import expiry_warning
from azureml_jobs.identity.node_key import (
    fingerprint,
    fresh_node_key,
    load_node_key,
    load_public_key,
    make_node_key,
    node_secret,
    public_line,
)
from azureml_jobs.identity.owner_note import BY_NOTE, EXAMPLES
from azureml_jobs.identity.renewal import terms_of_renewal
from azureml_jobs.identity.succession import finish_ca, rotate_ca
from conf.errors import AzureError, IdentityError
from conf.files.whole import write_atomic

if TYPE_CHECKING:
    from server.store.admitted_keys import AdmittedKeys

Clock = Callable[[], float]
MOST_DAYS = 36500
WITHIN_DAYS = 30.0
DAY = 86400.0
RENEWABLE = "renewable"


def keys(arguments: Arguments, clock: Clock = time.time) -> int:
    """Do what one verb of `meadow keys` asks; raises MeadowError."""
    # all is done before a reader of the lines can go away
    lines = list(Keys(arguments, places_of(arguments), clock).do())
    print("\n".join(lines))
    return 0


class Keys:
    """The verbs; each yields the lines to print."""

    def __init__(self, arguments: Arguments, places: KeyPlaces, clock: Clock) -> None:
        self._arguments = arguments
        self._places = places
        self._clock = clock
        self._name = places.name
        self._federation = places.conf.federation.name
        self._secrets = places.secrets

    def do(self) -> Iterator[str]:
        """Do what is asked."""
        verbs = {
            "init": self.init,
            "silo": self.silo,
            "admit": self.admit,
            "renew": self.renew,
            "rotate": self.rotate,
            "revoke": self.revoke,
            "rotate-ca": self.rotate_ca,
            "list": self.table,
        }
        return verbs[self._verb]()

    @property
    def _verb(self) -> str:
        return self._arguments.verb.name.partition(" ")[2]

    @property
    def _days(self) -> float:
        return self._arguments.number("days", NODE_KEY_DAYS, MOST_DAYS)

    @property
    def _limits(self) -> dict[str, float]:
        """Return the further limits that the CA's owner signs with an admission."""
        limits: dict[str, float] = {}
        if self._arguments.has(EXAMPLES):
            limits[EXAMPLES] = self._arguments.number(EXAMPLES, 0.0)
        if self._arguments.has(BY_NOTE):
            limits[BY_NOTE] = self._arguments.number(BY_NOTE, 0.0)
        if self._arguments.has(RENEWABLE):
            in_all = self._arguments.number(RENEWABLE, 0.0, MOST_DAYS)
            if in_all <= self._days:
                hint = "A renewal reaches as far as the admission: days=30 renewable=365."
                raise self._arguments.wrong(f"renewable={in_all:g} is no more than days=", hint)
            limits |= terms_of_renewal(self._days, self._clock() + in_all * DAY)
        return limits

    def _limits_before(self) -> Mapping[str, float]:
        """Return the limits of the key that a silo has now: a rotation keeps them."""
        own = [key for key in self._admitted.all() if key.silo == self._name]
        newest = max(own, key=lambda key: key.since, default=None)
        return newest.limits if newest is not None else {}

    @cached_property
    def _admitted(self) -> AdmittedKeys:
        """The list, opened when it is needed: a silo's owner has no rights to it."""
        from server.store.admitted_keys import AdmittedKeys

        return AdmittedKeys(self._places.open_store(), self._clock, self._places.authority)

    def init(self) -> Iterator[str]:
        """Make the CA, or hand out again the one that is there.

        Raises IdentityError MDW-707 where nothing is to do.
        """
        path = self._places.certificate
        name = self._places.conf.federation.name
        kept = self._secrets.get(CA_CERTIFICATE) if CA_CERTIFICATE in self._secrets.list() else None
        shown = _content(path)
        if shown is not None and shown != kept:
            hint = "Move it away, or name another file: federation.orchestrator.ca=FILE."
            raise IdentityError(
                "MDW-707", f"{path} is there, and not the certificate of this CA.", hint
            )
        if kept is None or shown is not None:
            make_ca(self._secrets, name, self._now())
            kept = self._secrets.get(CA_CERTIFICATE)
        _hand_out(path, kept)
        yield f"CA certificate: {path}"
        yield "Give that file to every silo: it is how they know the orchestrator."

    def silo(self) -> Iterator[str]:
        """Make a silo's node key, or hand out again its public half.

        Raises IdentityError MDW-707 as `init`.
        """
        secret = node_secret(self._federation, self._name)
        path = self._places.public
        new = self._arguments.has("--new")
        public = ""
        if secret in self._secrets.list() and not new:
            where = self._secrets.where(secret)
            public = public_line(load_node_key(self._secrets.get(secret), where).public_key())
        if not public or _content(path) == self._text(public).encode():
            public = make_node_key(self._secrets, self._federation, self._name, new=new)
        yield self._published(public)
        verb = "rotate" if new else "admit"
        yield f"Give that file to the orchestrator's owner: meadow keys {verb} {self._name} {path.name}"

    def admit(self) -> Iterator[str]:
        """Admit the public key in a file for a silo."""
        key = self._admitted.admit(self._name, self._given_key(), self._days, self._limits)
        yield from self._admitted_lines(key)

    def renew(self) -> Iterator[str]:
        """Sign anew what ends soon, or what a silo has, with the limits of before.

        Raises IdentityError MDW-724 where a silo has no key that could be renewed.
        """
        self._admitted.trust(self._places.authority.certificate())
        chosen = self._to_renew()
        if not chosen:
            yield "No admission ends so soon."
        for key in chosen:
            if key.expires > self._clock() + self._days * DAY:
                hint = "Of two admissions the one that ends last counts."
                raise self._arguments.wrong(f"that of {key.silo} ends later than days=", hint)
            limits = {**key.limits, **self._limits}
            key = self._admitted.renew(replace(key, limits=limits), self._days)
            yield f"{key.silo} may connect with {key.fingerprint} until {_day(key.expires)}."

    def _to_renew(self) -> list[AdmittedKey]:
        if self._name:
            own = [key for key in self._admitted.signed() if key.silo == self._name]
            if not own:
                hint = "Admit its key: meadow keys admit NAME FILE.pub."
                what = f"{self._name} has no key that may be renewed: none, or a revoked one."
                raise IdentityError("MDW-724", what, hint)
            return own
        within = self._arguments.number("within", WITHIN_DAYS, MOST_DAYS)
        ends = self._clock() + within * DAY
        return [key for key in self._admitted.current_keys() if key.expires < ends]

    def rotate(self) -> Iterator[str]:
        """Admit a new key of a silo, then revoke its others: at no moment is the silo without a
        good key.
        """
        limits = self._limits or self._limits_before()
        if not self._arguments.has("FILE"):
            secret, public = fresh_node_key()
            new = self._admitted.admit(self._name, public, self._days, limits)
            self._secrets.set(node_secret(self._federation, self._name), secret)
            yield self._published(public)
        else:
            new = self._admitted.admit(self._name, self._given_key(), self._days, limits)
        yield from self._admitted_lines(new)
        good = [
            key.fingerprint
            for key in self._admitted.all()
            if key.silo == self._name and key.revoked is None
        ]
        if good != [new.fingerprint]:
            yield from map(_ended, self._admitted.revoke(self._name, but=new.fingerprint))

    def rotate_ca(self) -> Iterator[str]:
        """Put another CA in the place of this one, or trust the one before no more.

        Raises IdentityError MDW-721 where there is none, MDW-722 for words that exclude each other.
        """
        chosen = [word for word in ("--finish", "--lost", "--stolen") if self._arguments.has(word)]
        if len(chosen) > 1:
            what = f"{' and '.join(chosen)} exclude each other."
            raise IdentityError("MDW-722", what, "Give one of them, or none.")
        if chosen == ["--finish"]:
            yield from self._finished_ca()
            return
        lost = chosen == ["--lost"]
        stolen = chosen == ["--stolen"]
        before = self._secrets.get(CA_CERTIFICATE)
        name = self._places.conf.federation.name
        succession = rotate_ca(self._secrets, name, self._now(), lost=lost, stolen=stolen)
        path = self._places.certificate
        _replace(path, self._secrets.get(CA_CERTIFICATE), before)
        yield f"CA certificate: {path}"
        if not stolen:
            # Only what the CA before has signed is signed again: others may write to that place.
            self._admitted.trust(before)
            for key in self._admitted.renew_all():
                yield f"{key.silo} may connect with {key.fingerprint} under both CAs."
        text = succession.to_text() if succession is not None else "{}"
        self._admitted.note_ca(self._note_name(), text)
        yield from self._what_is_next(lost, stolen)

    def _what_is_next(self, lost: bool, stolen: bool) -> Iterator[str]:
        if stolen:
            yield "No silo may connect any more. Hand that file to each silo, by a way it trusts,"
            yield "compare its key's SHA256 anew, and admit it: meadow keys admit NAME FILE.pub"
            return
        if lost:
            yield "Hand that file to every silo: without the older CA's key none follows by itself."
        else:
            yield "Silos that look at the rendezvous follow by themselves; hand that file to the others."
        yield "When all have: meadow keys rotate-ca --finish"

    def _finished_ca(self) -> Iterator[str]:
        if not finish_ca(self._secrets):
            yield "One CA is trusted: there is nothing to finish."
            return
        self._admitted.note_ca(self._note_name(), "{}")
        yield "The CA before this one is trusted no more."

    def _note_name(self) -> str:
        return f"{int(self._clock() * 1000):014d}"

    def _admitted_lines(self, key: AdmittedKey) -> Iterator[str]:
        """Write the file of an admission, and say until when it counts."""
        path = self._places.admission
        _hand_out(path, key.certificate)
        yield f"{self._name} may connect with {key.fingerprint} until {_day(key.expires)}."
        yield f"Admission: {path}  (public; a silo that dials a fixed address needs it)"

    def revoke(self) -> Iterator[str]:
        """Revoke a silo's keys, or one."""
        yield from map(
            _ended, self._admitted.revoke(self._name, self._arguments.get("key") or None)
        )

    def table(self) -> Iterator[str]:
        """Return the table of every key, and warnings of what expires."""
        keys = self._admitted.all()
        rows = [("silo", "key", "since", "until", "state")]
        rows += [
            (k.silo, k.fingerprint, _day(k.since), _day(k.expires), self._state(k)) for k in keys
        ]
        yield from columns(rows)
        for key in keys:
            warning = key.warning(self._clock())
            if warning:
                yield f"Warning: {warning}"
        try:
            yield from self._ca_warning()
        except AzureError as error:  # who may see the list need not see the vault
            yield f"The CA was not looked at: {error.message}"

    def _ca_warning(self) -> Iterator[str]:
        if CA_CERTIFICATE in self._secrets.list():
            where = self._secrets.where(CA_CERTIFICATE)
            ca = load_ca(self._secrets.get(CA_CERTIFICATE), where, self._now())
            warning = expiry_warning(
                f"The CA in {where}", ca.not_valid_before_utc, ca.not_valid_after_utc, self._now()
            )
            yield from [f"Warning: {warning}"] if warning else []

    def _given_key(self) -> str:
        """Return the public key in the given file, or in the one that the federation's file names."""
        named = self._arguments.get("FILE") or self._places.silo.public_key
        if not named:
            hint = "Name the .pub file that its owner made."
            raise self._arguments.wrong(f"no key of {self._name} is named", hint)
        file = Path(named)
        try:
            return file.read_text()[:4096]
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not text"
            raise IdentityError(
                "MDW-702", f"Can't read {file}: {why}.", "Name the .pub file of the silo."
            ) from None

    def _text(self, public: str) -> str:
        return f"{public} {self._name}\n"

    def _published(self, public: str) -> str:
        path = self._places.public
        _hand_out(path, self._text(public))
        return (
            f"Public key of {self._name}: {path}  {fingerprint(load_public_key(public, str(path)))}"
        )

    def _state(self, key: AdmittedKey) -> str:
        if key.revoked is not None:
            return f"revoked {_day(key.revoked)}"
        return "expired" if self._clock() >= key.expires else "admitted"

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _replace(path: Path, content: bytes, before: bytes) -> None:
    """Write the CA's certificate over the one before; another's file is left as it is."""
    shown = _content(path)
    if shown in (before, None):
        write_atomic(path, content)
        return
    if shown != content:
        hint = "Move it away, then hand out the new one: meadow keys init."
        raise IdentityError("MDW-707", f"{path} is there, and not this CA's.", hint)


def _hand_out(path: Path, content: bytes | str) -> None:
    """Write what is public to a file, for others to be given."""
    if _content(path) == (content.encode() if isinstance(content, str) else content):
        return  # in a folder of keys the CA's certificate is its own file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        hint = "Make room for it: `meadow keys init` and `silo` hand out again what is there."
        raise IdentityError("MDW-713", f"Can't write {path}: {error.strerror}.", hint) from error


def _content(path: Path) -> bytes | None:
    """Return what a file that is handed out holds, None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityError(
            "MDW-702", f"Can't read {path}: {error.strerror}.", "Name another file."
        ) from error


def _ended(key: AdmittedKey) -> str:
    return f"Revoked: {key.silo} {key.fingerprint}"


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
