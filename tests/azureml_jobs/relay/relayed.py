"""An orchestrator in this process, and its silos' connections to it, all by one relay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from azureml_jobs.identity.authority import relayed_name, server_credentials
from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.rendezvous import StaticRendezvous
from client.node.connection import Connection
from client.node.own_admission import SiloAdmission
from client.node.relayed_server import RelayedServer
from conf.compose import compose
from conf.schema import OutboundConf
from server.orchestrator.relayed_silos import by_relay
from server.orchestrator.service import Orchestrator
from tests.faults.federation import Federation, ThreadNode


class Relayed:
    """A federation at a relay, which all dial at one address, or the silos at another."""

    def __init__(self, federation: Federation, url: str, ca: Path, silos: str = "") -> None:
        self.federation = federation
        self.url = silos or url
        self.ca = ca
        hosts = ["127.0.0.1", relayed_name("federation")]
        self.credentials = server_credentials(federation.secrets, hosts, datetime.now(UTC))
        self.orchestrator = Orchestrator("127.0.0.1:0", self.credentials, federation.public)
        self.conf = compose(
            [f"federation.relay.url={url}", f"federation.orchestrator.outbound.ca={ca}"]
        )

    @contextmanager
    def running(self) -> Iterator[Relayed]:
        self.orchestrator.start()
        secrets = self.federation.secrets
        try:
            with by_relay(self.conf, self.orchestrator, lambda: self.credentials, secrets) as end:
                self.end = end
                assert end.listens.wait(10)
                yield self
        finally:
            self.orchestrator.stop(over=False)

    @contextmanager
    def silo(
        self,
        name: str,
        url: str | None = None,
        ca: Path | None = None,
        outbound: OutboundConf | None = None,
    ) -> Iterator[Connection]:
        key = load_node_key(self.federation.secrets.get(node_secret("federation", name)), name)
        way = RelayedServer(url or self.url)
        file = self.federation.admission_file(name)
        place = StaticRendezvous("127.0.0.1:1")
        admission = SiloAdmission(name, key, self.federation.authority, place, file)
        way.start(key, admission, outbound or OutboundConf(ca=str(ca or self.ca)), None)
        self.way = way
        connection = Connection(
            lambda: way.place.address,
            self.federation.authority,
            key,
            admission=admission,
            options=way.options,
            target=way.target,
        )
        try:
            yield connection
        finally:
            connection.close()
            way.stop()

    @contextmanager
    def node(
        self, number: int = 0, state: Path | None = None, outbound: OutboundConf | None = None
    ) -> Iterator[ThreadNode]:
        """A silo's node in a thread, ended with the block."""
        silo = self.federation.silos[number]
        with self.silo(silo.name, outbound=outbound) as connection:
            node = ThreadNode(connection, silo, state)
            try:
                yield node
            finally:
                node.end()
