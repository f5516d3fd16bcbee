"""How a silo's node reaches its orchestrator where both meet at a relay.

gRPC dials a socket of this process (`azureml_jobs.relay.bridge`), and inside runs the same TLS as
without a relay: to the federation's CA, with the silo's own certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from azureml_jobs.identity.authority import relayed_name
from azureml_jobs.identity.node_key import NodeKey
from azureml_jobs.relay.bridge import SiloEnd
from azureml_jobs.relay.connection_proofs import Signer
from azureml_jobs.relay.hybrid_connections import HybridDialing
from azureml_jobs.relay.meeting import Dialing, RelayAddress
from azureml_jobs.relay.outward import Outward, Secrets
from azureml_jobs.relay.own_relay import Place, RelayDialing, federation_of
from azureml_jobs.rendezvous import RelayRendezvous
from client.node.own_admission import SiloAdmission
from conf.schema import OutboundConf

HANDSHAKE_MS: Final = 20_000
"""For gRPC's handshake by a relay: a proxy, two TLS handshakes and the orchestrator's way there."""


class RelayedServer:
    """One silo's way by a relay, from its address to the channel's options."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError MDW-119 for what is not a relay's address."""
        self._address = RelayAddress.from_text(url)
        self._end = SiloEnd()
        self.place = RelayRendezvous(url, lambda: self._end.trouble)
        self.target = self._end.target
        self.options: dict[str, str | int] = {}

    def start(
        self,
        key: NodeKey,
        admission: SiloAdmission,
        outbound: OutboundConf,
        secrets: Secrets | None,
    ) -> None:
        """Begin to take gRPC's connections; afterwards `options` are those of its channel.

        Raises IdentityError MDW-715 where the silo has no admission, MDW-768.
        """

        def signer() -> Signer:
            # Asked at each connection: the owner may have put another file in its place.
            return Signer(key, _found(admission).decode("ascii"))

        federation = federation_of(_found(admission))
        name = relayed_name(federation)
        self.options = {
            "grpc.ssl_target_name_override": name,
            "grpc.default_authority": name,
            "grpc.enable_http_proxy": 0,
            "grpc.min_reconnect_backoff_ms": HANDSHAKE_MS,
        }
        outward = Outward.from_conf(outbound, secrets)
        self._end.start(self._way(federation, outward, signer))

    def _way(self, federation: str, outward: Outward, signer: Callable[[], Signer]) -> Dialing:
        if self._address.is_azure:
            return HybridDialing(self._address, outward)
        return RelayDialing(Place(self._address, federation, outward), signer)

    def stop(self) -> None:
        """End its connections."""
        self._end.stop()


def _found(admission: SiloAdmission) -> bytes:
    found = admission.find()
    if found is None:
        raise admission.missing()
    return found
