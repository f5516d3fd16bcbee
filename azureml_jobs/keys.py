"""`meadow keys init | silo | admit | list | rotate | revoke`: a federation's CA, node keys and admitted list by hand.

meadow keys init                        the orchestrator's owner: make the CA; give its certificate to the silos
meadow keys silo NAME                   a silo's owner: make the node key; give the .pub to the orchestrator's owner
meadow keys admit NAME FILE.pub         the orchestrator's owner: let that key connect
meadow keys rotate NAME [FILE.pub]      admit the new key (made here, without a file), then revoke the older ones
meadow keys revoke NAME [--key PRINT]   end a silo's keys, or one; a running federation drops it within seconds
meadow keys list                        who may connect, since when, until when
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from azureml_jobs.admitted_keys import NODE_KEY_DAYS, AdmittedKey, AdmittedKeys, KeyEntries
from azureml_jobs.credentials import CA_CERTIFICATE, load_ca, make_ca
from azureml_jobs.expiry import expiry_warning
from azureml_jobs.node_keys import fingerprint, fresh_node_key, load_public_key, make_node_key, node_secret
from azureml_jobs.secret_store import FolderSecrets, checked_name
from conf.errors import IdentityError, MeadowError
from conf.federation_folder import FederationFolder
from conf.schema import FederationConf

OpenStore = Callable[[Path], KeyEntries]
Clock = Callable[[], float]


def main(argv: list[str], open_store: OpenStore, clock: Clock = time.time) -> int:
    """Run one verb and return its exit status; `open_store` gives the orchestrator's store in a folder."""
    chosen = _parser().parse_args(argv)
    try:
        own = FederationFolder(Path(".meadow") / checked_name(chosen.federation))
        keys = Keys(chosen.dir or own.keys, chosen.store or own.store, open_store, clock)
        for line in _VERBS[chosen.verb](keys, chosen):
            print(line)
    except MeadowError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


class Keys:
    """The verbs; each returns the lines to print."""

    def __init__(self, folder: Path, store: Path, open_store: OpenStore, clock: Clock) -> None:
        self._folder, self._secrets, self._clock = folder, FolderSecrets(folder), clock
        self._admitted = AdmittedKeys(open_store(store), clock)

    def init(self, federation: str) -> list[str]:
        """Make the CA; raises IdentityError MDW-707 where there is one."""
        make_ca(self._secrets, federation, self._now())
        path = self._secrets.where(CA_CERTIFICATE)
        return [f"CA certificate: {path}", "Give that file to every silo: it is how they know the orchestrator."]

    def silo(self, name: str) -> list[str]:
        """Make a silo's node key; raises IdentityError MDW-707 where it has one."""
        public = make_node_key(self._secrets, name)
        return [*self._published(name, public), f"Give that file to the orchestrator's owner: meadow keys admit {name}"]

    def admit(self, name: str, file: Path, days: float) -> list[str]:
        """Admit the public key in a file for a silo."""
        key = self._admitted.admit(name, _text(file), days)
        return [f"{name} may connect with {key.fingerprint} until {_day(key.expires)}."]

    def rotate(self, name: str, file: Path | None, days: float) -> list[str]:
        """Admit a new key of a silo, then revoke its others: at no moment is the silo without a good key."""
        lines: list[str] = []
        if file is None:
            secret, public = fresh_node_key()
            new = self._admitted.admit(name, public, days)
            self._secrets.set(node_secret(name), secret)
            lines += self._published(name, public)
        else:
            new = self._admitted.admit(name, _text(file), days)
        good = [key.fingerprint for key in self._admitted.all() if key.silo == name and key.revoked is None]
        ended = self._admitted.revoke(name, but=new.fingerprint) if good != [new.fingerprint] else []
        return [*lines, f"{name} may connect with {new.fingerprint} until {_day(new.expires)}.", *map(_ended, ended)]

    def revoke(self, name: str, only: str | None) -> list[str]:
        """Revoke a silo's keys, or one."""
        return [_ended(key) for key in self._admitted.revoke(name, only)]

    def table(self) -> list[str]:
        """Return the table of every key, and warnings of what expires."""
        rows = [("silo", "key", "since", "until", "state")]
        rows += [(k.silo, k.fingerprint, _day(k.since), _day(k.expires), self._state(k)) for k in self._admitted.all()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return table + self._warnings()

    def _published(self, silo: str, public: str) -> list[str]:
        path = self._folder / f"{node_secret(silo)}.pub"
        try:
            path.write_text(f"{public} {silo}\n")
        except OSError as error:
            raise IdentityError("MDW-713", f"Can't write {path}: {error.strerror}.", "Free it, then rotate.") from error
        return [f"Public key of {silo}: {path}  {fingerprint(load_public_key(public, str(path)))}"]

    def _state(self, key: AdmittedKey) -> str:
        if key.revoked is not None:
            return f"revoked {_day(key.revoked)}"
        return "expired" if self._clock() >= key.expires else "admitted"

    def _warnings(self) -> list[str]:
        spans = [
            (f"The key {k.fingerprint} of {k.silo}", _time(k.since), _time(k.expires))
            for k in self._admitted.all()
            if k.revoked is None
        ]
        if CA_CERTIFICATE in self._secrets.list():
            where = self._secrets.where(CA_CERTIFICATE)
            ca = load_ca(self._secrets.get(CA_CERTIFICATE), where, self._now())
            spans.append((f"The CA in {where}", ca.not_valid_before_utc, ca.not_valid_after_utc))
        warnings = (expiry_warning(what, begins, ends, self._now()) for what, begins, ends in spans)
        return [f"Warning: {warning}" for warning in warnings if warning]

    def _now(self) -> datetime:
        return _time(self._clock())


Verb = Callable[[Keys, argparse.Namespace], list[str]]
_VERBS: Final[dict[str, Verb]] = {
    "init": lambda keys, a: keys.init(a.federation),
    "silo": lambda keys, a: keys.silo(a.name),
    "admit": lambda keys, a: keys.admit(a.name, a.file, a.days),
    "rotate": lambda keys, a: keys.rotate(a.name, a.file, a.days),
    "revoke": lambda keys, a: keys.revoke(a.name, a.key),
    "list": lambda keys, a: keys.table(),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("meadow keys", description="A federation's CA, node keys and admitted list.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    init = verbs.add_parser("init", help="make the CA")
    silo = verbs.add_parser("silo", help="make a silo's node key")
    admit = verbs.add_parser("admit", help="let a silo's public key connect")
    rotate = verbs.add_parser("rotate", help="admit a silo's new key, then revoke its older ones")
    revoke = verbs.add_parser("revoke", help="end a silo's keys, or one of them")
    for verb in (silo, admit, rotate, revoke):
        verb.add_argument("name", help="the silo")
    admit.add_argument("file", type=Path, help="the .pub file")
    rotate.add_argument("file", type=Path, nargs="?", help="the new .pub file; without one the key is made here")
    revoke.add_argument("--key", help="only the key with this fingerprint (SHA256:...)")
    for verb in (admit, rotate):
        verb.add_argument("--days", type=float, default=NODE_KEY_DAYS, help="how long it may connect")
    for verb in (init, silo, admit, rotate, revoke, verbs.add_parser("list", help="who may connect")):
        verb.add_argument("--federation", default=FederationConf.name, help=f"its name ({FederationConf.name})")
        verb.add_argument("--dir", type=Path, help="the folder of private parts (.meadow/FEDERATION/keys)")
        verb.add_argument("--store", type=Path, help="the orchestrator's store (.meadow/FEDERATION/store)")
    return parser


def _text(file: Path) -> str:
    try:
        return file.read_text()[:4096]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise IdentityError("MDW-702", f"Can't read {file}: {why}.", "Name the .pub file of the silo.") from None


def _ended(key: AdmittedKey) -> str:
    return f"Revoked: {key.silo} {key.fingerprint}"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _day(seconds: float) -> str:
    return f"{_time(seconds):%Y-%m-%d}"
