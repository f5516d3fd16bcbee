"""How connections leave: by which CAs the other side is trusted, and through which proxy.

These are settings of whoever owns the machine, and of the outer connection alone: what is inside
trusts the federation's CA and nothing else. An inspecting proxy that signs with a CA of the bundle
reads the outer connection, and sees the federation's own TLS in it.

    MDW-692 not reached              MDW-766 the other side's certificate is not trusted
    MDW-693 the proxy refuses        MDW-768 no password for the proxy
    MDW-728 broken in a callback, in the log alone
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)

from azureml_jobs.identity.secret_store import read_private
from azureml_jobs.relay.carrying import WAITING_FRAMES, WRITTEN_BYTES
from azureml_jobs.relay.stream_connection import FRAME_BYTES, DialledConnection
from conf.border import one_line
from conf.errors import IdentityError, MeadowError, WireError
from conf.schema import OutboundConf

log = logging.getLogger(__name__)

OPEN_SECONDS: Final = 15.0
"""For TCP, a proxy, TLS and the WebSocket handshake together."""
PING_SECONDS: Final = 20.0
PONG_SECONDS: Final = 40.0
"""Below the 240 s after which an ingress cuts a silent connection; an answer may wait behind bytes."""
CLOSE_SECONDS: Final = 2.0
_SAID: Final = 200

Secrets = Callable[[str], bytes]
"""Returns a secret by its name, of the owner's own Key Vault; raises IdentityError."""


@dataclass(frozen=True)
class Outward:
    """How connections leave this machine; the password is in memory alone."""

    trusted: Path | None = None
    """PEM of the CAs that are trusted; None: this machine's own."""
    proxy: str | None = None
    """`http://host:port`, or `https://` for one that is spoken to by TLS; None: no proxy."""
    user: str = ""
    password: str = ""
    not_by_proxy: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"Outward(proxy={self.proxy!r})"

    @staticmethod
    def from_conf(conf: OutboundConf, secrets: Secrets | None = None) -> Outward:
        """Return what an owner's settings say; the password is read now.

        Raises IdentityError MDW-768.
        """
        password = "" if conf.proxy_password is None else _password(conf.proxy_password, secrets)
        return Outward(
            None if conf.ca is None else Path(conf.ca),
            conf.proxy,
            conf.proxy_user or "",
            password,
            tuple(conf.no_proxy),
        )

    def proxy_for(self, host: str) -> str | None:
        """Return the proxy's address, with user and password in it, where this host needs it."""
        if self.proxy is None or is_named(host, self.not_by_proxy):
            return None
        if not self.user:
            return self.proxy
        scheme, _, rest = self.proxy.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{rest}"

    def context(self) -> ssl.SSLContext:
        """Return what trusts the other side of the outer connection; raises IdentityError MDW-766."""
        try:
            context = ssl.create_default_context(cafile=self.trusted and str(self.trusted))
        except (OSError, ssl.SSLError) as error:
            what = f"The CAs in {self.trusted} can't be used: {error}."
            raise IdentityError("MDW-766", what, "Name a PEM file: outbound.ca.") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        return context


def is_named(host: str, names: Sequence[str]) -> bool:
    """Whether a host is one of the names: itself, below `.example.org`, in a network, or `*`."""
    host = host.lower().strip("[]")
    for name in names:
        name = name.lower()
        if name == "*" or host == name.lstrip(".") or host.endswith(f".{name.lstrip('.')}"):
            return True
        try:
            if ip_address(host) in ip_network(name, strict=False):
                return True
        except ValueError:
            continue
    return False


def _password(where: str, secrets: Secrets | None) -> str:
    kind, _, name = where.partition(":")
    try:
        if kind == "env":
            if name not in os.environ:
                raise _no_password(f"the variable {name} is not set")
            return os.environ[name]
        if kind == "file":
            return read_private(Path(name)).decode().rstrip("\r\n")
        if secrets is None:
            raise _no_password("no Key Vault is named")
        return secrets(name).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise _no_password("it is not text") from None
    except MeadowError as error:
        if error.code == "MDW-768":
            raise
        raise _no_password(error.message.rstrip(".")) from None


def _no_password(why: str) -> IdentityError:
    hint = "Write outbound.proxy_password as env:NAME, file:PATH or vault:NAME."
    return IdentityError("MDW-768", f"There is no password for the proxy: {why}.", hint)


class _Connect(connect):
    """Follows no redirect: what was dialled is what was meant."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(
    address: str, outward: Outward, headers: Mapping[str, str] | None = None, **more: Any
) -> ClientConnection:
    """Return a WebSocket connection to an address (`wss://...`, or `ws://` on this machine).

    Raises WireError MDW-692 or 693, IdentityError MDW-766; InvalidStatus where the other side
    answers with a status of HTTP.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    proxy = outward.proxy_for(host)
    if parts.scheme == "wss":
        more["ssl"] = outward.context()
        if proxy is not None and proxy.startswith("https:"):
            more["proxy_ssl"] = outward.context()
    try:
        return await _Connect(
            address,
            additional_headers=headers,
            user_agent_header="meadow",
            proxy=proxy,
            compression=None,
            create_connection=DialledConnection,
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=FRAME_BYTES,
            max_queue=WAITING_FRAMES,
            write_limit=WRITTEN_BYTES,
            **more,
        )
    except InvalidStatus:
        raise
    except ssl.SSLCertVerificationError as error:
        what = f"The certificate of {host} is not trusted: {error.verify_message}."
        hint = (
            "Where a proxy inspects connections, name the file of its CA: outbound.ca. Else compare"
            " the address."
        )
        raise IdentityError("MDW-766", what, hint) from None
    except InvalidProxyStatus as error:
        raise _by_proxy(outward, f"it answers {error.response.status_code}") from None
    except ProxyError:
        raise _by_proxy(outward, "it does not answer as a proxy") from None
    except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
        # Its own text names no more than addresses: the proxy's with its password is none of it.
        by = "" if proxy is None else f" through the proxy {outward.proxy}"
        reason = one_line(str(error) or type(error).__name__, _SAID)
        hint = "Let this network reach it, or set outbound.proxy."
        raise WireError("MDW-692", f"{host} is not reached{by}: {reason}.", hint) from None


def _by_proxy(outward: Outward, why: str) -> WireError:
    hint = (
        "Compare outbound.proxy, its user and password, and what it lets through, with its owner."
    )
    return WireError("MDW-693", f"The proxy {outward.proxy} opens no way: {why}.", hint)


def quiet_websockets() -> None:
    """Keep the library's own lines, which may hold what others wrote, out of the log.

    In a running loop also what it raises where nobody can catch it: a proxy that hangs up before
    its answer is such a case (websockets 15 to 17).
    """
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop().set_exception_handler(_told_in_a_line)


def _told_in_a_line(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what was raised in a callback: a line with a code, its traceback for who debugs."""
    error = context.get("exception")
    kind = "nothing" if error is None else type(error).__name__
    said = one_line(f"{context.get('message', '')}", _SAID)
    log.warning("MDW-728: a connection broke where nobody waited for it: %s (%s)", kind, said)
    log.debug("where it was raised", exc_info=error)
