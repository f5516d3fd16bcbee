"""The relay's own file: its name, where it listens, and the federations that may meet at it.

    name: relay.example.org
    listen: 0.0.0.0:443
    certificate: /etc/meadow/fullchain.pem
    key: /etc/meadow/privkey.pem
    federations:
      trial: {ca: [trial-ca.pem]}

It holds no secret of a federation: a CA's certificate is public. The key is that of the relay's own
certificate; without both the relay speaks plain HTTP, for an ingress that ends the outer TLS.

    MDW-117 a file that can't be used
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from azureml_jobs.relay.connection_proofs import NAME
from conf import plain_yaml
from conf.errors import ConfigError
from conf.fields import YEAR, entries, number, text, value
from conf.parse import from_plain
from conf.validate import check_limits

_MOST = 1_000_000
_ADDRESS = r"[0-9a-zA-Z.:\[\]-]+:\d{1,5}"
_NETWORK = r"[0-9a-fA-F:.]+(/\d{1,3})?"


@dataclass
class FederationLimits:
    """One federation at a relay: whom it lets in, and how much of the relay it may take."""

    ca: list[str] = entries(
        list,
        pattern=r".{1,4096}",
        wanted="a file",
        help="files of its CA's certificate, beside this one; of both while a CA is replaced",
    )
    streams: int = number(
        512, at_least=1, at_most=_MOST, help="connections of silos at once, all servers together"
    )
    streams_per_key: int = number(8, at_least=1, at_most=_MOST, help="of one silo at once")
    connections_per_minute: float = number(
        1200.0, above=0, at_most=_MOST, help="connections that begin, of all its keys together"
    )
    connections_per_minute_per_key: float = number(
        120.0, above=0, at_most=_MOST, help="of one key that begin"
    )
    megabytes_per_second: float | None = number(
        None, above=0, at_most=_MOST, help="carried for it, both ways together; null = any"
    )


@dataclass
class RelayFile:
    """What a relay is started with."""

    name: str = text(
        "",
        r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?",
        "a host's name",
        help="the name that silos and orchestrators dial",
    )
    listen: str = text("0.0.0.0:443", _ADDRESS, "host:port", help="host:port; port 0 = any free")
    certificate: str | None = value(
        None, help="PEM of its certificate, with those between; null = an ingress has it"
    )
    key: str | None = value(None, help="PEM of the certificate's key, which its owner alone reads")
    ingress: list[str] = entries(
        list,
        pattern=_NETWORK,
        wanted="an IP address or a network such as 10.1.0.0/16",
        help="addresses of an ingress before it, whose X-Forwarded-For is believed",
    )
    strangers: int = number(
        500, at_least=1, at_most=_MOST, help="connections at once that have proven nothing yet"
    )
    connections_per_minute: float = number(
        600.0, above=0, at_most=_MOST, help="of one address, proven or not"
    )
    proof_seconds: float = number(
        10.0, above=0, at_most=600.0, help="from a connection's begin to its proof"
    )
    fetch_seconds: float = number(
        15.0, above=0, at_most=600.0, help="from a silo's proof until its orchestrator has it"
    )
    idle_seconds: float = number(
        120.0, above=0, at_most=YEAR, help="without a byte either way, then a stream is ended"
    )
    ping_seconds: float = number(
        20.0, above=0, at_most=600.0, help="between two pings of a connection, to find a dead one"
    )
    federations: dict[str, Any] = entries(
        dict, keys_of=None, help="by name: who may meet here, with FederationLimits"
    )


@dataclass(frozen=True)
class RelaySettings:
    """A relay's file, with its federations by name; paths are those of files beside it."""

    file: RelayFile
    federations: dict[str, FederationLimits]


def read_settings(path: Path) -> RelaySettings:
    """Return what a relay's file says.

    Raises ConfigError: MDW-117 a file that can't be read or names nobody, MDW-101 to MDW-104 a
    wrong key or value.
    """
    where = str(path)
    try:
        raw = plain_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unusable(f"{where} can't be read: {' '.join(str(error).split())}") from None
    return settings_of(raw if isinstance(raw, dict) else {}, path.parent, where)


def settings_of(raw: dict[str, Any], folder: Path, where: str) -> RelaySettings:
    """Return the settings that plain values describe; raises ConfigError as `read_settings`."""
    file = from_plain(RelayFile, raw, key="relay", where=where)
    if not file.name:
        raise unusable(f"{where} has no name: what do silos dial")
    check_limits(file, "relay", lambda key: where)
    if (file.certificate is None) != (file.key is None):
        raise unusable(f"{where} names one of certificate and key, and not the other")
    if not file.federations:
        raise unusable(f"{where} names no federation")
    federations = {}
    for name, told in file.federations.items():
        key = f"relay.federations.{name}"
        if not NAME.fullmatch(name):
            raise unusable(f"{where}: {name[:80]!r} can't name a federation")
        limits = from_plain(FederationLimits, told, key=key, where=where)
        check_limits(limits, key, lambda key: where)
        if not limits.ca:
            raise unusable(f"{where}: {key}.ca names no file")
        federations[name] = replace(limits, ca=[str(folder / one) for one in limits.ca])
    if file.certificate is not None and file.key is not None:
        certificate = str(folder / file.certificate)
        file = replace(file, certificate=certificate, key=str(folder / file.key))
    return RelaySettings(file, federations)


def unusable(what: str) -> ConfigError:
    """Return the error for a relay's file that nothing can be started with, MDW-117."""
    return ConfigError("MDW-117", f"{what}.", "Correct it; docs/relay.md has a whole one.")
