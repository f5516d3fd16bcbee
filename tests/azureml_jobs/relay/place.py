"""A relay in a thread of this process, with a certificate of a public CA of its own, and two federations."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from azureml_jobs.identity.authority import key_usage, relayed_name, server_credentials
from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.identity.signatures import HeadSigner, authorities_in
from azureml_jobs.relay.connection_proofs import Signer
from azureml_jobs.relay.meeting import RelayAddress
from azureml_jobs.relay.outward import Outward
from azureml_jobs.relay.own_relay import Place, RelayDialing, RelayListening
from azureml_jobs.relay.relay import Relay
from azureml_jobs.relay.settings import settings_of
from tests.faults.federation import Federation

NAME = "127.0.0.1"


@dataclass(frozen=True)
class PublicCa:
    """A CA that machines trust, as a folder of PEM files."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @staticmethod
    def made(folder: Path, name: str = "public") -> PublicCa:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{name} CA")
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        made = PublicCa(folder, key, certificate)
        made.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return made

    @property
    def file(self) -> Path:
        return self.folder / "public-ca.pem"

    def certify(self, name: str, hosts: Sequence[str]) -> tuple[Path, Path]:
        """A certificate and its key for these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(hosts[0]), self.certificate.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([_host(one) for one in hosts]), False)
            .add_extension(key_usage(certificates=False), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        pem = self.folder / f"{name}.pem"
        private = self.folder / f"{name}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        return pem, private


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
    )


class RelayThread:
    """A relay that can be killed, and started again at the same port."""

    def __init__(self, folder: Path, federations: dict[str, Any], **file: Any) -> None:
        self.ca = PublicCa.made(folder / "public")
        pem, key = self.ca.certify("relay", [NAME, "relay.test"])
        self.raw = {
            "name": NAME,
            "listen": "127.0.0.1:0",
            "certificate": str(pem),
            "key": str(key),
            "federations": federations,
            **file,
        }
        self._folder = folder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self.relay: Relay | None = None
        self.port = 0

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def _run(self, ready: threading.Event) -> None:
        async def live() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            raw = {**self.raw, "listen": f"127.0.0.1:{self.port}"}
            self.relay = Relay(settings_of(raw, self._folder, "the relay of a test"))
            async with self.relay.running():
                self.port = int(self.relay.address.rpartition(":")[2])
                ready.set()
                await self._stop.wait()

        asyncio.run(live())

    def stop(self) -> None:
        if self._thread is None:
            return
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._thread = None

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}"

    @property
    def outward(self) -> Outward:
        return Outward(trusted=self.ca.file)

    def place(self, federation: str = "federation") -> Place:
        return Place(RelayAddress.from_text(self.url), federation, self.outward)


@contextmanager
def relay_of(folder: Path, *federations: Federation, **file: Any) -> Iterator[RelayThread]:
    """A relay at which some federations may meet: `federation`, and `other` for the second."""
    names = dict(zip(("federation", "other"), federations, strict=False))
    limits = file.pop("limits", {})
    told = {}
    for name, one in names.items():
        path = one.folder / "federations-ca.pem"
        path.write_bytes(one.authority)
        told[name] = {"ca": [str(path)], **limits.get(name, {})}
    relay = RelayThread(folder, told, **file)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()


def silo_signer(federation: Federation, silo: str = "silo-1") -> Signer:
    key = load_node_key(federation.secrets.get(node_secret("federation", silo)), silo)
    return Signer(key, federation.admission(silo))


def server_signer(federation: Federation, name: str = "federation") -> Signer:
    hosts = ["127.0.0.1", relayed_name(name)]
    head = HeadSigner.of(server_credentials(federation.secrets, hosts, datetime.now(UTC)))
    return Signer(head.key, head.certificate)


def dialing(relay: RelayThread, federation: Federation, silo: str = "silo-1") -> RelayDialing:
    signer = silo_signer(federation, silo)
    return RelayDialing(relay.place(), lambda: signer)


def listening(relay: RelayThread, federation: Federation) -> RelayListening:
    signer = server_signer(federation)
    authorities = authorities_in(federation.authority)
    return RelayListening(relay.place(), lambda: signer, lambda: authorities)
