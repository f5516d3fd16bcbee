"""A relay in a thread of this process, with a certificate of a public CA of its own, and two federations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azureml_jobs.identity.authority import relayed_name, server_credentials
from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.identity.signatures import HeadSigner, authorities_in
from azureml_jobs.relay.connection_proofs import Signer
from azureml_jobs.relay.meeting import RelayAddress
from azureml_jobs.relay.outward import Outward
from azureml_jobs.relay.own_relay import Place, RelayDialing, RelayListening
from azureml_jobs.relay.relay import Relay
from azureml_jobs.relay.settings import settings_of
from tests.azureml_jobs.relay.public_ca import PublicCa
from tests.faults.federation import Federation

NAME = "127.0.0.1"


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
