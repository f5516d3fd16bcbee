"""A silo's node key: ECDSA on P-384 in OpenSSH's format, made by the silo; one line is public.

MDW-702 not readable    MDW-703 wrong type of key    MDW-707 exists already    MDW-505 named by another version
"""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import suppress
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from azureml_jobs.identity.secret_store import SecretStore, checked_name
from conf.errors import IdentityError
from conf.versions import Format

NodeKey = ec.EllipticCurvePrivateKey


NAMES: Final = Format("name of a node key", 2)
"""How node keys are named: `node-NAME` in version 1, `node2-LENGTH-FEDERATION-NAME` in version 2;
a later version N begins with `nodeN-`.
"""
_OF_A_LATER_VERSION = re.compile(r"node(\d+)-(.+)")
_LONGEST_NAME: Final = 80


def node_secret(federation: str, silo: str) -> str:
    """Return the name of a silo's node key in a SecretStore: one key for each federation.

    No two pairs have one name: the length of the federation's name comes first, since both parts
    may hold '-'. A name that is too long for a store is replaced by its digest, behind a length
    that no federation has.
    """
    checked_name(federation)
    checked_name(silo)
    name = f"node2-{len(federation)}-{federation}-{silo}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"node2-0-{hashlib.sha256(name.encode()).hexdigest()}"


def read_node_key(secrets: SecretStore, federation: str, silo: str) -> NodeKey:
    """Return a silo's node key for a federation from a SecretStore.

    Raises IdentityError MDW-700 where there is none, 702 or 703 for another thing; CheckpointError
    MDW-505 where the silo's key is there under a name of another version of Meadow.
    """
    name = node_secret(federation, silo)
    try:
        secret = secrets.get(name)
    except IdentityError as error:
        if error.code == "MDW-700":
            _check_names(secrets, silo)
        raise
    return load_node_key(secret, secrets.where(name))


def _check_names(secrets: SecretStore, silo: str) -> None:
    """Raise CheckpointError MDW-505 where a silo has a key under a name of another version."""
    # A silo may be permitted to read its own secret and not to list: then there is nothing more to
    # say.
    with suppress(IdentityError):
        for name in secrets.list():
            if name == f"node-{silo}":
                raise NAMES.of_another_version(secrets.where(name), 1)
            match = _OF_A_LATER_VERSION.fullmatch(name)
            later = match is not None and int(match[1]) > NAMES.version
            if match is not None and later and match[2].endswith(silo):
                raise NAMES.of_another_version(secrets.where(name), int(match[1]))


def data_key_of(key: NodeKey) -> bytes:
    """Return the key for the fingerprint of a silo's data: derived from the silo's own key (HKDF),
    from which nobody else can make it, and the same as long as that key is.
    """
    secret = key.private_numbers().private_value.to_bytes(64, "big")
    derivation = HKDF(hashes.SHA256(), length=32, salt=None, info=b"meadow: fingerprint of data")
    return derivation.derive(secret)


def fresh_node_key() -> tuple[bytes, str]:
    """Return a new P-384 key in OpenSSH's format, and its public half as one line."""
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return secret, public_line(key.public_key())


def make_node_key(secrets: SecretStore, federation: str, silo: str, *, new: bool = False) -> str:
    """Make and store a silo's key for a federation; return the public half.

    Raises IdentityError MDW-707 where the silo has one, unless a `new` one shall replace it.
    """
    name = node_secret(federation, silo)
    _check_names(secrets, silo)
    if not new and name in secrets.list():
        hint = f"To replace it: `meadow keys silo {silo} --new`, then have the new one admitted."
        raise IdentityError("MDW-707", f"{silo} has a key, {secrets.where(name)}.", hint)
    secret, public = fresh_node_key()
    secrets.set(name, secret)
    return public


def load_node_key(secret: bytes, where: str) -> NodeKey:
    """Return a node key from OpenSSH's format, which Flower loads too.

    Raises IdentityError MDW-702 or 703.
    """
    hint = "Make one with `meadow keys silo NAME`."
    try:
        key = serialization.load_ssh_private_key(secret, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, TypeError) or "password" in str(error).lower():
            hint = (
                "A node starts without a person: remove the passphrase with `ssh-keygen -p`,"
                " or make another key."
            )
            raise IdentityError("MDW-702", f"{where} needs a passphrase.", hint) from None
        raise IdentityError(
            "MDW-702", f"{where} is not a private key in OpenSSH's format.", hint
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _wrong_type(key, where, hint)
    return key


def load_public_key(line: str, where: str) -> ec.EllipticCurvePublicKey:
    """Return the public half of a node key from its OpenSSH line.

    Raises IdentityError MDW-702 or 703.
    """
    hint = "It should be the .pub file that `meadow keys silo NAME` wrote."
    try:
        key = serialization.load_ssh_public_key(line.strip()[:4096].encode())
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError(
            "MDW-702", f"{where} is not a public key in OpenSSH's format.", hint
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _wrong_type(key, where, hint)
    return key


def public_line(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as OpenSSH's one line, without a comment."""
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return what `ssh-keygen -l` prints: SHA256: and 43 characters."""
    digest = hashlib.sha256(base64.b64decode(public_line(key).split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _wrong_type(key: object, where: str, hint: str) -> IdentityError:
    message = f"{where} is {_key_type(key)}; a node key is ECDSA on P-384."
    return IdentityError("MDW-703", message, hint)


def _key_type(key: object) -> str:
    curve = getattr(getattr(key, "curve", None), "name", "")
    if curve:
        return f"ECDSA on {curve}"
    return type(key).__name__.strip("_").removesuffix("Key").replace("Private", "")
