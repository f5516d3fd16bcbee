"""The way by a Hybrid Connection of Azure Relay: its documented protocol, and never tried on Azure.

    listener   wss://NAMESPACE/$hc/PATH?sb-hc-action=listen&sb-hc-id=ID      with a token
    sender     wss://NAMESPACE/$hc/PATH?sb-hc-action=connect&sb-hc-id=ID     without one

The listener is told of each sender by a text on its control channel, and opens a connection to the
address in it (`accept`); to refuse one, it opens the same address with `sb-hc-statusCode` added. It
renews its token over the channel (`renewToken`). Senders are let in by anybody's request
(`requiresClientAuthorization` false): who they are, the federation's own TLS decides.

Source: learn.microsoft.com, "Azure Relay Hybrid Connections protocol".

    MDW-696 Azure Relay refuses    MDW-769 no token for it
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from azureml_jobs.relay.carrying import Frames, closed
from azureml_jobs.relay.connection_proofs import not_of_the_protocol, plain_frame
from azureml_jobs.relay.meeting import RelayAddress, Take
from azureml_jobs.relay.outward import Outward, dial
from conf.border import one_line
from conf.errors import IdentityError, MeadowError, WireError

TOKEN_SECONDS: Final = 3600
"""A token's life; it is renewed when half of it has passed."""
SCOPE: Final = "https://relay.azure.net/.default"
"""For a token of Microsoft Entra, in the place of a shared access key."""
_TOKEN = "ServiceBusAuthorization"

Token = Callable[[str], str]
"""Returns a token for the address of a Hybrid Connection; raises MeadowError."""


def shared_access_token(resource: str, key_name: str, key: str, expires: int) -> str:
    """Return a shared access signature: HMAC-SHA256 of address and end, by the named key.

    Source: learn.microsoft.com, "Relay authentication and authorization" and "Shared Access
    Signature token".
    """
    encoded = quote_plus(resource)
    signed = f"{encoded}\n{expires}".encode()
    signature = base64.b64encode(hmac.new(key.encode(), signed, hashlib.sha256).digest())
    return (
        f"SharedAccessSignature sr={encoded}&sig={quote_plus(signature)}"
        f"&se={expires}&skn={quote_plus(key_name)}"
    )


@dataclass(frozen=True)
class _Place:
    address: RelayAddress
    outward: Outward

    def url(self, action: str) -> str:
        path = quote(self.address.path)
        return (
            f"wss://{self.address.authority}/$hc/{path}"
            f"?sb-hc-action={action}&sb-hc-id={uuid.uuid4().hex}"
        )

    @property
    def resource(self) -> str:
        return f"http://{self.address.host}/{self.address.path}"

    async def dial(self, url: str, token: str | None = None) -> ClientConnection:
        headers = None if token is None else {_TOKEN: token}
        try:
            return await dial(url, self.outward, headers)
        except InvalidStatus as error:
            body = one_line((error.response.body or b"").decode("utf-8", "replace"), 150)
            status = error.response.status_code
            raise _refused(self.address.host, f"it answers {status} {body}".strip()) from None


@dataclass(frozen=True)
class HybridDialing:
    """A silo's end: a sender."""

    address: RelayAddress
    outward: Outward

    async def dial(self) -> Frames:
        """See `Dialing`."""
        place = _Place(self.address, self.outward)
        return await place.dial(place.url("connect"))


@dataclass(frozen=True)
class HybridListening:
    """The orchestrator's end: a listener."""

    address: RelayAddress
    outward: Outward
    token: Token

    async def listen(self, take: Take, listens: Callable[[], None]) -> None:
        """See `Listening`."""
        place = _Place(self.address, self.outward)
        token = await asyncio.to_thread(self.token, place.resource)
        control = await place.dial(place.url("listen"), token)
        renewing = asyncio.ensure_future(self._renew(place, control))
        listens()
        try:
            while True:
                asked = plain_frame(await control.recv()).get("accept")
                # What else Azure may send (requests of HTTP) is not for us.
                if isinstance(asked, dict):
                    await take(_Sender(place, _address(asked, self.address.host)))
        except ConnectionClosed:
            why = control.close_reason or f"code {control.close_code}"
            raise _refused(self.address.host, f"it ended the channel: {why}") from None
        finally:
            renewing.cancel()
            await closed(control)

    async def _renew(self, place: _Place, control: ClientConnection) -> None:
        """Send another token before the one that was given ends."""
        while True:
            await asyncio.sleep(TOKEN_SECONDS / 2)
            try:
                token = await asyncio.to_thread(self.token, place.resource)
            except MeadowError:
                # The channel ends with its token, and the next one says why.
                continue
            with contextlib.suppress(ConnectionClosed):
                await control.send(json.dumps({"renewToken": {"token": token}}))


@dataclass(frozen=True)
class _Sender:
    """A silo that waits at Azure Relay, of which nothing is known."""

    place: _Place
    url: str
    key: str = ""

    async def fetch(self) -> Frames:
        """See `Caller`."""
        return await self.place.dial(self.url)

    async def refuse(self, why: str) -> None:
        """See `Caller`: Azure answers the sender with the status."""
        told = f"&sb-hc-statusCode=429&sb-hc-statusDescription={quote_plus(why[:100])}"
        # Azure answers such a request with 410: it was understood.
        with contextlib.suppress(MeadowError):
            frames = await self.place.dial(self.url + told)
            await closed(frames)


def _address(asked: dict[str, Any], host: str) -> str:
    """Return the address at which a sender waits; raises WireError MDW-690 for a stranger's."""
    url = asked.get("address")
    if not isinstance(url, str) or len(url) > 4096:
        raise not_of_the_protocol("no address to accept at")
    parts = urlsplit(url)
    domain = host.partition(".")[2] or host
    told = (parts.hostname or "").lower()
    # Nobody is dialled whom the namespace's own domain does not hold.
    if parts.scheme != "wss" or not (told == host or told.endswith(f".{domain}")):
        raise not_of_the_protocol("an address to accept at that is not Azure Relay's")
    return url


def expires() -> int:
    """Return when a token that is made now ends, in seconds since 1970."""
    return int(time.time()) + TOKEN_SECONDS


def no_token(why: str) -> IdentityError:
    """Return the error where there is nothing to show Azure Relay, MDW-769."""
    hint = "Set MEADOW_RELAY_KEY_NAME and MEADOW_RELAY_KEY of the orchestrator, or let it sign in."
    return IdentityError("MDW-769", f"There is no token for Azure Relay: {why}.", hint)


def _refused(host: str, why: str) -> WireError:
    hint = "Compare the address and the listener's right ('Listen') with the namespace's owner."
    return WireError("MDW-696", f"Azure Relay at {host} refuses: {why}.", hint)
