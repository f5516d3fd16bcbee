"""The check of a relay: whether it answers under its name by this side's own way out. Nothing is signed."""

from __future__ import annotations

import asyncio
import time

from azureml_jobs.preflight.findings import WARNING, Finding, tried
from azureml_jobs.relay.meeting import RelayAddress
from azureml_jobs.relay.outward import Outward
from azureml_jobs.relay.own_relay import Place
from conf.errors import MeadowError
from conf.schema import OutboundConf


def met(part: str, url: str, federation: str, outbound: OutboundConf) -> Finding:
    """Dial the relay as a part would, as far as its challenge.

    What does not answer is a warning: this machine has another network than a job.
    """
    try:
        address = RelayAddress.from_text(url)
    except MeadowError:
        return tried(part, "relay", lambda: str(RelayAddress.from_text(url)))
    if address.is_azure:
        seen = f"{url} is a Hybrid Connection, which was never tried on Azure"
        return Finding(part, "relay", WARNING, seen, "See docs/relay.md.")
    if (outbound.proxy_password or "").startswith("vault:"):
        seen = "not looked at: the proxy's password is in a vault, for the job alone"
        return Finding(part, "relay", seen=seen)
    try:
        place = Place(address, federation, Outward.from_conf(outbound))
        began = time.perf_counter()
        name = asyncio.run(place.look())
    except MeadowError as error:
        seen = f"{error.code} {error.message.rstrip('.')}; seen from this machine"
        return Finding(part, "relay", WARNING, seen, error.hint)
    return Finding(part, "relay", seen=f"{name} answers in {time.perf_counter() - began:.1f} s")
