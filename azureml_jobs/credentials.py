"""Who may speak to whom: the federation's CA, the orchestrator's certificate, the silos' node keys, the admitted list.

Private parts live in a `SecretStore` (a 0700 folder of 0600 files here, a Key Vault on Azure) and nowhere else; the
orchestrator's own key exists only in memory. A silo makes its node key itself and hands out the public half.

    MDW-700 missing              MDW-705 expired or not yet valid   MDW-710 admitted for another silo
    MDW-701 others may read it   MDW-706 not the certificate asked  MDW-711 revoked for good
    MDW-702 not readable         MDW-707 exists already             MDW-712 nothing to revoke
    MDW-703 wrong type of key    MDW-708 not an address             MDW-713 the disk failed
                                 MDW-709 not a name                 MDW-714 damaged entry of the list
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import logging
import os
import re
import stat
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from conf.errors import IdentityError

log = logging.getLogger(__name__)

CA_KEY: Final = "ca-key"
CA_CERTIFICATE: Final = "ca-certificate"
CA_DAYS: Final = 3650
SERVER_DAYS: Final = 14
"""An orchestrator's certificate is made anew at each start, and outlives the longest run by far."""
NODE_KEY_DAYS: Final = 365
WARN_DAYS: Final = (1, 7, 30)
SKEW: Final = timedelta(hours=1)
"""Certificates begin this long ago, for silos whose clocks are behind."""

Names = list[str]
NodeKey = ec.EllipticCurvePrivateKey
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")  # a Key Vault takes 127, '_' excepted
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"{_LABEL}(\.{_LABEL}){{0,9}}")


class SecretStore(Protocol):
    """Where private parts are kept; names as a silo's name."""

    def get(self, name: str) -> bytes:
        """Return a secret; raises IdentityError MDW-700 where it is missing, MDW-701 where others may read it."""

    def set(self, name: str, secret: bytes) -> None:
        """Keep a secret, in the place of an older one of that name."""

    def list(self) -> Names:
        """Return the names of the secrets, sorted."""

    def delete(self, name: str) -> None:
        """Forget a secret; nothing happens where it is missing."""

    def where(self, name: str) -> str:
        """Return where a person finds that secret, for messages: never the secret."""


class FolderSecrets:
    """Secrets as files of mode 0600 in a folder of mode 0700; written whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def where(self, name: str) -> str:
        """See `SecretStore`."""
        return str(self._file(name))

    def get(self, name: str) -> bytes:
        """See `SecretStore`."""
        return read_private(self._file(name))

    def set(self, name: str, secret: bytes) -> None:
        """See `SecretStore`."""
        path = self._file(name)
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _only_the_owner(self._folder)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secret)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            hint = "Choose a folder that this user may write, on a disk with room."
            raise IdentityError("MDW-713", f"Can't write {path}: {error.strerror}.", hint) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def list(self) -> Names:
        """See `SecretStore`."""
        if not self._folder.is_dir():
            return []
        return sorted(p.name for p in self._folder.iterdir() if p.is_file() and _NAME.fullmatch(p.name))

    def delete(self, name: str) -> None:
        """See `SecretStore`."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / checked_name(name, most=80)


def checked_name(name: str, most: int = 64) -> str:
    """Return a name that is fit for a silo or (80 characters) a secret; raises IdentityError MDW-709."""
    if not _NAME.fullmatch(name) or len(name) > most:
        hint = "Use up to 64 letters, digits, '_' and '-', and begin with a letter or digit."
        raise IdentityError("MDW-709", f"{name[:120]!r} can't be a name.", hint)
    return name


def read_private(path: Path) -> bytes:
    """Return the bytes of a file that only its owner may read; raises IdentityError MDW-700, 701 or 702."""
    try:
        _only_the_owner(path.parent)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            _private(os.fstat(handle), path, "0600")
            return file.read(1 << 20)
    except FileNotFoundError:
        raise IdentityError("MDW-700", f"There is no {path}.", "Make it with `meadow keys`, or name another.") from None
    except OSError as error:
        raise IdentityError("MDW-702", f"Can't read {path}: {error.strerror}.", "Name a readable file.") from error


def _only_the_owner(folder: Path) -> None:
    _private(folder.stat(), folder, "0700")


def _private(found: os.stat_result, path: Path, mode: str) -> None:
    """A folder that others may look into but not change is fine (0755); a private file that they may read is not."""
    forbidden = 0o022 if stat.S_ISDIR(found.st_mode) else 0o077
    if found.st_mode & forbidden and not found.st_mode & stat.S_ISVTX:
        what = f"Others may use {path} (mode {stat.S_IMODE(found.st_mode):04o})."
        raise IdentityError("MDW-701", what, f"Run: chmod {mode} {path} - and make a new key if it was shared.")


# ---- the CA and the orchestrator's certificate


@dataclass(frozen=True)
class ServerCredentials:
    """What the orchestrator's port needs, all PEM: the CA's certificate, its own, and its private key."""

    ca: bytes
    certificate: bytes
    key: bytes
    expires: datetime

    def __repr__(self) -> str:
        return f"ServerCredentials(expires={self.expires:%Y-%m-%d})"


def make_ca(secrets: SecretStore, name: str, now: datetime) -> x509.Certificate:
    """Make and keep the CA of a federation, for ten years; raises IdentityError MDW-707 where one is kept already."""
    if CA_KEY in secrets.list() or CA_CERTIFICATE in secrets.list():
        hint = "Every silo trusts that one: to replace it, move it away and hand the new certificate to every silo."
        raise IdentityError("MDW-707", f"There is a CA in {secrets.where(CA_KEY)}.", hint)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Meadow CA {checked_name(name)}"[:64])])
    usage = _usage(certificates=True)
    builder = _builder(subject, subject, key.public_key(), now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA384())
    secrets.set(CA_KEY, _pkcs8(key))
    secrets.set(CA_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate


def server_credentials(
    secrets: SecretStore, hosts: Sequence[str], now: datetime, days: int = SERVER_DAYS
) -> ServerCredentials:
    """Return a fresh key and certificate for the hosts (IP addresses or DNS names) that silos will dial.

    The CA's key is in memory only while this runs. Raises IdentityError for a missing, unreadable or expired CA, or
    a host that no silo can dial.
    """
    names = [_subject_name(host) for host in hosts]
    certificate = load_ca(secrets.get(CA_CERTIFICATE), secrets.where(CA_CERTIFICATE), now)
    authority = _load_ca_key(secrets, certificate)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Meadow orchestrator")])
    builder = _builder(subject, certificate.subject, key.public_key(), now, days, certificate.not_valid_after_utc)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    own = builder.add_extension(issuer, critical=False).sign(authority, hashes.SHA384())
    pem = serialization.Encoding.PEM
    return ServerCredentials(certificate.public_bytes(pem), own.public_bytes(pem), _pkcs8(key), own.not_valid_after_utc)


def load_ca(pem: bytes, where: str, now: datetime) -> x509.Certificate:
    """Return the CA's certificate that a silo trusts, checked; raises IdentityError MDW-705 or 706."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        hint = "It should be the PEM file that `meadow keys init` wrote."
        raise IdentityError("MDW-706", f"{where} is not the certificate of a CA.", hint) from None
    if not constraints.ca:
        raise IdentityError("MDW-706", f"{where} is a certificate, but not of a CA.", "Use the CA's, not the server's.")
    check_dates(f"The CA in {where}", certificate.not_valid_before_utc, certificate.not_valid_after_utc, now)
    return certificate


def check_dates(what: str, begins: datetime, ends: datetime, now: datetime) -> None:
    """Raise IdentityError MDW-705 unless `now` lies between the two."""
    if now >= ends:
        raise IdentityError("MDW-705", f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC.", "Make a new one.")
    if now < begins:
        hint = f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC: set it right."
        raise IdentityError("MDW-705", f"{what} is valid only from {begins:%Y-%m-%d %H:%M} UTC.", hint)


def expiry_warning(what: str, begins: datetime, ends: datetime, now: datetime) -> str | None:
    """Return one line where the end is at most 30, 7 or 1 days away, or past; None otherwise.

    A limit that is half of a short life or more does not warn, or a fresh two-week certificate would.
    """
    if now >= ends:
        return f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC."
    for days in WARN_DAYS:
        if ends - now <= timedelta(days=days) and timedelta(days=2 * days) < ends - begins:
            return f"{what} expires in {'a day' if days == 1 else f'{days} days'} or less: {ends:%Y-%m-%d %H:%M} UTC."
    return None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int,
    at_most: datetime | None = None,
) -> x509.CertificateBuilder:  # fmt: skip
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(min(ends, at_most) if at_most else ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates, key_cert_sign=certificates, crl_sign=certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _load_ca_key(secrets: SecretStore, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    where = secrets.where(CA_KEY)
    try:
        key = serialization.load_pem_private_key(secrets.get(CA_KEY), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError("MDW-702", f"{where} is not a private key that can be read.", "Restore the CA.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        hint = f"Restore the pair {CA_KEY} and {CA_CERTIFICATE}."
        raise IdentityError("MDW-706", f"{where} is not the key of the CA's certificate.", hint)
    return key


def _subject_name(host: str) -> x509.GeneralName:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if not _DNS.fullmatch(host) or host.replace(".", "").isdigit():
            hint = "Give the IP address or DNS name that silos dial, without scheme and port."
            raise IdentityError("MDW-708", f"{host[:80]!r} is no host.", hint) from None
        return x509.DNSName(host)
    if address.is_unspecified:
        hint = "A server may listen on all addresses, but silos dial one: give that one."
        raise IdentityError("MDW-708", f"Nobody can dial {host}.", hint)
    return x509.IPAddress(address)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, form, serialization.NoEncryption())


# ---- a silo's node key


def node_secret(silo: str) -> str:
    """Return the name of a silo's node key in a SecretStore."""
    return f"node-{checked_name(silo)}"


def fresh_node_key() -> tuple[bytes, str]:
    """Return a new P-384 key in OpenSSH's format, and its public half as one line."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    return key.private_bytes(pem, form, serialization.NoEncryption()), public_line(key.public_key())


def make_node_key(secrets: SecretStore, silo: str) -> str:
    """Make and keep a silo's key; return the public half. Raises IdentityError MDW-707 where the silo has one."""
    name = node_secret(silo)
    if name in secrets.list():
        raise IdentityError("MDW-707", f"{silo} has a key, {secrets.where(name)}.", "Use `meadow keys rotate`.")
    secret, public = fresh_node_key()
    secrets.set(name, secret)
    return public


def load_node_key(secret: bytes, where: str) -> NodeKey:
    """Return a node key from OpenSSH's format, which Flower loads too; raises IdentityError MDW-702 or 703."""
    hint = "Make one with `meadow keys silo NAME`."
    try:
        key = serialization.load_ssh_private_key(secret, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, TypeError) or "password" in str(error).lower():
            hint = "A node starts unattended: take the passphrase off with `ssh-keygen -p`, or make another key."
            raise IdentityError("MDW-702", f"{where} needs a passphrase.", hint) from None
        raise IdentityError("MDW-702", f"{where} is not a private key in OpenSSH's format.", hint) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise IdentityError("MDW-703", f"{where} is {_kind(key)}; a node key is ECDSA on P-384.", hint)
    return key


def load_public_key(line: str, where: str) -> ec.EllipticCurvePublicKey:
    """Return the public half of a node key from its OpenSSH line; raises IdentityError MDW-702 or 703."""
    hint = "It should be the .pub file that `meadow keys silo NAME` wrote."
    try:
        key = serialization.load_ssh_public_key(line.strip()[:4096].encode())
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError("MDW-702", f"{where} is not a public key in OpenSSH's format.", hint) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise IdentityError("MDW-703", f"{where} is {_kind(key)}; a node key is ECDSA on P-384.", hint)
    return key


def public_line(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as OpenSSH's one line, without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return what `ssh-keygen -l` prints: SHA256: and 43 characters."""
    digest = hashlib.sha256(base64.b64decode(public_line(key).split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _kind(key: object) -> str:
    curve = getattr(getattr(key, "curve", None), "name", "")
    return f"ECDSA on {curve}" if curve else type(key).__name__.strip("_").removesuffix("Key").replace("Private", "")


# ---- the list of admitted keys


class KeyEntries(Protocol):
    """What the list needs of the orchestrator's store (`server.store.Store` has it)."""

    def list(self, prefix: str = "") -> Names:
        """Return the names that start with `prefix`."""

    def read(self, name: str) -> bytes:
        """Return the bytes under a name."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store under a new name; False where it is taken."""


@dataclass(frozen=True)
class AdmittedKey:
    """A key that a silo may connect with; times in seconds since 1970, `revoked` None while it is good."""

    silo: str
    line: str
    since: float
    expires: float
    revoked: float | None = None

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """Return the key itself."""
        return load_public_key(self.line, f"the admitted key of {self.silo}")

    @cached_property
    def pem(self) -> bytes:
        """Return the key as it stands in the header of Flower's node authentication."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.public.public_bytes(serialization.Encoding.PEM, form)

    @cached_property
    def fingerprint(self) -> str:
        """Return what `ssh-keygen -l` prints."""
        return fingerprint(self.public)


class AdmittedKeys:
    """The list of admitted keys: one immutable entry a key and one a revocation, so that no writer undoes another.

    Entries are read once and kept; `current` and `all` see what other processes have added or revoked since. A
    revoked key never comes back.
    """

    ADMITTED, REVOKED = "keys/admitted/", "keys/revoked/"

    def __init__(self, store: KeyEntries, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._known: dict[str, AdmittedKey] = {}

    def admit(self, silo: str, line: str, days: float = NODE_KEY_DAYS) -> AdmittedKey:
        """Admit a public key for a silo; the same key for the same silo again changes nothing.

        Raises IdentityError MDW-710 where another silo has the key, MDW-711 where it was revoked.
        """
        public = load_public_key(line, f"the key of {silo}")
        now = self._clock()
        entry = AdmittedKey(checked_name(silo), public_line(public), now, now + days * 86400)
        name = _entry_name(public)
        data = json.dumps({"silo": entry.silo, "key": entry.line, "since": entry.since, "expires": entry.expires})
        if not self._store.put_if_absent(self.ADMITTED + name, data.encode()):
            entry = self._entry(name)
        if entry.silo != silo:
            hint = "Each silo makes its own key: ask for another."
            raise IdentityError("MDW-710", f"The key offered for {silo} is admitted for {entry.silo}.", hint)
        if name in self._names(self.REVOKED):
            hint = "Ask the silo for a new key: a revoked one never comes back."
            raise IdentityError("MDW-711", f"The key offered for {silo} was revoked.", hint)
        return entry

    def revoke(self, silo: str, only: str | None = None, but: str | None = None) -> list[AdmittedKey]:
        """Revoke a silo's keys: all, `only` the one with that fingerprint, or all `but` that one; return them.

        Raises IdentityError MDW-712 where none is left to revoke.
        """
        mine = [key for key in self.all() if key.silo == silo and key.revoked is None]
        chosen = [key for key in mine if only in (None, key.fingerprint) and key.fingerprint != but]
        if not chosen:
            silos = ", ".join(sorted({key.silo for key in self.all() if key.revoked is None})) or "none"
            raise IdentityError("MDW-712", f"{silo} has no such key to revoke.", f"Silos with a key: {silos}.")
        for key in chosen:
            data = json.dumps({"silo": silo, "at": self._clock()}).encode()
            self._store.put_if_absent(self.REVOKED + _entry_name(key.public), data)
        return chosen

    def all(self) -> list[AdmittedKey]:
        """Return every key that was ever admitted, by silo and time."""
        revoked, names = self._names(self.REVOKED), self._names(self.ADMITTED)
        keys = [self._revoked(name) if name in revoked else self._entry(name) for name in names]
        return sorted(keys, key=lambda key: (key.silo, key.since))

    def current(self) -> dict[bytes, str]:
        """Return the silo of each key that may connect now, by its PEM as Flower's header carries it.

        A damaged entry admits nobody, and is logged; the other silos go on.
        """
        now, found = self._clock(), dict[bytes, str]()
        revoked = self._names(self.REVOKED)
        for name in self._names(self.ADMITTED) - revoked:
            try:
                key = self._entry(name)
            except IdentityError as error:
                log.error("%s", error)
                continue
            if now < key.expires:
                found[key.pem] = key.silo
        return found

    def _names(self, prefix: str) -> set[str]:
        return {name.removeprefix(prefix) for name in self._store.list(prefix)}

    def _entry(self, name: str) -> AdmittedKey:
        if name not in self._known:
            raw = self._json(self.ADMITTED + name)
            try:
                key = AdmittedKey(str(raw["silo"]), str(raw["key"]), float(raw["since"]), float(raw["expires"]))
            except (KeyError, TypeError, ValueError):
                raise _damaged(self.ADMITTED + name) from None
            if _entry_name(key.public) != name:
                raise _damaged(self.ADMITTED + name)
            self._known[name] = key
        return self._known[name]

    def _revoked(self, name: str) -> AdmittedKey:
        entry = self._entry(name)
        if entry.revoked is None:
            at = 0.0
            with suppress(IdentityError, KeyError, TypeError, ValueError):  # that it is there is what counts
                at = float(self._json(self.REVOKED + name)["at"])
            entry = self._known[name] = replace(entry, revoked=at)
        return entry

    def _json(self, name: str) -> dict[str, Any]:
        try:
            raw = json.loads(self._store.read(name))
        except ValueError:
            raise _damaged(name) from None
        if not isinstance(raw, dict):
            raise _damaged(name)
        return raw


def _entry_name(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(public_line(key).encode()).hexdigest() + ".json"


def _damaged(name: str) -> IdentityError:
    hint = "Delete it, then admit the key again."
    return IdentityError("MDW-714", f"The entry {name} of the list of admitted keys is damaged.", hint)
