"""What both ends of a way through need of it: a silo dials, an orchestrator listens and fetches.

`own_relay` is the way by `meadow relay`, `hybrid_connections` the one by Azure Relay; the address in
`federation.relay.url` says which.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from azureml_jobs.relay.carrying import Frames
from azureml_jobs.relay.connection_proofs import NAME
from conf.errors import ConfigError

SERVER: Final = "server"
"""The name of a federation's server at a relay, where the address names none."""
OWN: Final = ("https", "http")
AZURE: Final = "sb"
_HOST = re.compile(r"\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_LOOPBACK: Final = ("127.0.0.1", "[::1]", "localhost")


class Caller(Protocol):
    """A silo that waits for the orchestrator."""

    @property
    def key(self) -> str:
        """Return the name of its key (`SHA256:...`), empty where the way does not say."""

    async def fetch(self) -> Frames:
        """Return the stream to it; raises MeadowError."""

    async def refuse(self, why: str) -> None:
        """Tell it that it is not taken."""


Take = Callable[[Caller], Awaitable[None]]


class Listening(Protocol):
    """The orchestrator's end."""

    async def listen(self, take: Take, listens: Callable[[], None]) -> None:
        """Pass each silo that comes to `take`, until the connection ends; `listens` hears that it
        stands.

        Raises MeadowError.
        """


class Dialing(Protocol):
    """A silo's end."""

    async def dial(self) -> Frames:
        """Return a stream to the orchestrator; raises MeadowError."""


@dataclass(frozen=True)
class RelayAddress:
    """Where two ends meet: `https://HOST[:PORT][/SERVER]`, or `sb://NAMESPACE/HYBRID_CONNECTION`."""

    scheme: str
    host: str
    """Without a port: the name in the certificate, and in what is signed."""
    authority: str
    """With its port, as it is dialled."""
    path: str

    @staticmethod
    def from_text(text: str) -> RelayAddress:
        """Return the address that a text means; raises ConfigError MDW-119."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise _no_address(text) from None
        host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
        path = parts.path.strip("/")
        if not _HOST.fullmatch(host) or parts.query or parts.fragment or "@" in parts.netloc:
            raise _no_address(text)
        if parts.scheme == AZURE and path:
            return RelayAddress(AZURE, host.lower(), parts.netloc, path)
        if parts.scheme not in OWN or not NAME.fullmatch(path or SERVER):
            raise _no_address(text)
        if parts.scheme == "http" and host not in _LOOPBACK:
            raise _no_address(text, "a relay on another machine is dialled by https")
        return RelayAddress(parts.scheme, host.lower(), parts.netloc, path or SERVER)

    @property
    def is_azure(self) -> bool:
        """Whether it is a Hybrid Connection of Azure Relay."""
        return self.scheme == AZURE


def _no_address(text: str, why: str = "it is not a relay's address") -> ConfigError:
    hint = "Write https://HOST, https://HOST:PORT/SERVER, or sb://NAMESPACE/HYBRID_CONNECTION."
    return ConfigError("MDW-119", f"federation.relay.url={text[:200]!r}: {why}.", hint)
