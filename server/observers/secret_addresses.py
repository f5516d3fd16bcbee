"""Where a job gets the addresses of others that a run is told to: its environment, else its secrets.

A job of Azure ML has no environment that stays private: what is set there stands in the job's
properties, for everybody who may read the workspace. So its addresses and tokens are secrets of the
orchestrator's own vault, read inside the job and put into this process's environment alone.

    MDW-727 an address among the secrets that is none
"""

from __future__ import annotations

import logging
import os
from typing import Final

from azureml_jobs.identity.secret_store import SecretStore
from conf.errors import IdentityError, MeadowError
from conf.schema import TrackingConf
from server.observers.otlp import ENDPOINTS
from server.observers.webhook import VARIABLE

log = logging.getLogger(__name__)

HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"
WEBHOOK_SECRETS: Final = {VARIABLE: "webhook-address"}
OTLP_SECRETS: Final = {ENDPOINTS[0]: "otlp-endpoint", HEADERS: "otlp-headers"}
LONGEST: Final = 4096
MISSING: Final = "MDW-700"


def take_addresses(tracking: TrackingConf, secrets: SecretStore) -> None:
    """Put into the environment what a run asks for and the environment does not have.

    Raises IdentityError MDW-727 for a secret that is no single line of text, and what a store of
    secrets raises; where there is no such secret, whoever needs it says so.
    """
    wanted: dict[str, str] = {}
    if tracking.webhook != "off":
        wanted |= WEBHOOK_SECRETS
    if tracking.otlp != "off" and not any(os.environ.get(name) for name in ENDPOINTS):
        # The token goes with the address: never one's token to another's address.
        wanted |= OTLP_SECRETS
    for variable, name in wanted.items():
        if not os.environ.get(variable):
            _take(variable, name, secrets)


def _take(variable: str, name: str, secrets: SecretStore) -> None:
    try:
        secret = secrets.get(name)
    except MeadowError as error:
        if error.code == MISSING:
            return
        raise
    try:
        value = secret.decode().strip()
    except UnicodeDecodeError:
        value = ""
    if not value.isprintable() or not 0 < len(value) <= LONGEST:
        where = secrets.where(name)
        hint = "Store the address, or the headers, as one line of text."
        raise IdentityError("MDW-727", f"{where} is not one line of text.", hint)
    os.environ[variable] = value
    log.info("%s is taken from %s", variable, secrets.where(name))
