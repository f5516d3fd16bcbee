"""What an orchestrator's command says of the relay: its address, and how connections leave there."""

from __future__ import annotations

import dataclasses

from conf.schema import Conf, OutboundConf

_KEY = "federation.orchestrator.outbound"


def relay_overrides(conf: Conf) -> dict[str, str]:
    """Return the keys of the relay that are set, with their values; none is a secret."""
    url = conf.federation.relay.url
    if url is None:
        return {}
    outbound = conf.federation.orchestrator.outbound
    texts = {
        f"{_KEY}.{field.name}": getattr(outbound, field.name)
        for field in dataclasses.fields(outbound)
    }
    said = {key: text for key, text in texts.items() if isinstance(text, str)}
    return {"federation.relay.url": url, **said}


def no_proxy_override(outbound: OutboundConf) -> list[str]:
    """Return the hosts that the orchestrator reaches without its proxy, as one override or none."""
    if not outbound.no_proxy:
        return []
    hosts = ",".join(f"'{host}'" for host in outbound.no_proxy)
    return [f"{_KEY}.no_proxy=[{hosts}]"]
