"""How silos reach the orchestrator where both meet at a relay: it dials out, and opens no port to
anybody but this machine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from cryptography import x509

from azureml_jobs.identity.authority import ServerCredentials
from azureml_jobs.identity.azure_sign_in import sign_in
from azureml_jobs.identity.secret_store import SecretStore
from azureml_jobs.identity.signatures import HeadSigner, authorities_in
from azureml_jobs.relay.bridge import ServerEnd
from azureml_jobs.relay.connection_proofs import Signer
from azureml_jobs.relay.hybrid_connections import (
    SCOPE,
    HybridListening,
    expires,
    no_token,
    shared_access_token,
)
from azureml_jobs.relay.meeting import Listening, RelayAddress
from azureml_jobs.relay.outward import Outward
from azureml_jobs.relay.own_relay import Place, RelayListening
from conf.errors import MeadowError
from conf.schema import Conf
from server.orchestrator.service import Orchestrator

KEY_NAME = "MEADOW_RELAY_KEY_NAME"
KEY = "MEADOW_RELAY_KEY"
"""Variables with a shared access key of Azure Relay; without them the job signs in."""

Credentials = Callable[[], ServerCredentials]
"""Says which certificate and CAs the orchestrator uses now."""


@contextlib.contextmanager
def by_relay(
    conf: Conf, orchestrator: Orchestrator, credentials: Credentials, secrets: SecretStore
) -> Iterator[ServerEnd]:
    """Let silos come in this block by the relay that the federation names.

    Raises ConfigError MDW-119, IdentityError MDW-766 or 768.
    """
    url = conf.federation.relay.url or ""
    outward = Outward.from_conf(conf.federation.orchestrator.outbound, secrets.get)
    way = _way(RelayAddress.from_text(url), conf.federation.name, outward, credentials)
    end = ServerEnd(way, lambda: orchestrator.address, orchestrator.comes_by_relay)
    end.start()
    try:
        yield end
    finally:
        end.stop()


def _way(
    address: RelayAddress, federation: str, outward: Outward, credentials: Credentials
) -> Listening:
    if address.is_azure:
        return HybridListening(address, outward, azure_token)

    def signer() -> Signer:
        head = HeadSigner.of(credentials())
        return Signer(head.key, head.certificate)

    def authorities() -> list[x509.Certificate]:
        return authorities_in(credentials().ca)

    return RelayListening(Place(address, federation, outward), signer, authorities)


def azure_token(resource: str) -> str:
    """Return a token for a Hybrid Connection: by a shared access key, or this job's identity.

    Raises IdentityError MDW-769.
    """
    name = os.environ.get(KEY_NAME)
    key = os.environ.get(KEY)
    if name and key:
        return shared_access_token(resource, name, key, expires())
    try:
        return str(sign_in().get_token(SCOPE).token)
    except MeadowError as error:
        raise no_token(error.message.rstrip(".")) from None
    except Exception as error:  # azure-identity has errors of its own, imported where it is used
        raise no_token(type(error).__name__) from None
