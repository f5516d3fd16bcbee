"""The two ends of the way by `meadow relay`.

MDW-694 the relay refuses    MDW-695 no orchestrator is there    MDW-767 the proof does not count
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from azureml_jobs.identity.signed_admission import read_admission
from azureml_jobs.relay.carrying import Frames, closed
from azureml_jobs.relay.connection_proofs import (
    ACCEPT,
    CONTROL,
    SILO,
    Challenge,
    Claim,
    Signer,
    not_of_the_protocol,
    plain_frame,
)
from azureml_jobs.relay.control_frames import Offer, Refusal
from azureml_jobs.relay.door import path_of
from azureml_jobs.relay.meeting import RelayAddress, Take
from azureml_jobs.relay.outward import Outward, dial
from conf.border import one_line
from conf.errors import IdentityError, MeadowError, WireError

ENTER_SECONDS: Final = 30.0
"""From the challenge until the other side is there."""
_BUSY = (4429, 429)
_NOBODY = (4503, 4504)
_UNPROVEN = 4403


@dataclass(frozen=True)
class Place:
    """A federation's server at a relay, and how it is reached."""

    address: RelayAddress
    federation: str
    outward: Outward

    def claim(self, role: str, stream: str = "") -> Claim:
        """Return as whom one connects in a role."""
        return Claim(self.federation, self.address.path, role, stream)

    async def enter(self, claim: Claim, signer: Signer) -> ClientConnection:
        """Return a connection that is let in; raises MeadowError."""
        connection = await self._dial(claim)
        try:
            async with asyncio.timeout(ENTER_SECONDS):
                await self._prove(connection, claim, signer)
        except ConnectionClosed:
            raise ended(self.address.host, connection) from None
        except TimeoutError:
            await closed(connection)
            raise refused(self.address.host, _NOBODY[1], "it says nothing") from None
        except BaseException:
            await closed(connection)
            raise
        return connection

    async def look(self) -> str:
        """Return by which name the relay answers, and sign nothing; raises MeadowError."""
        connection = await self._dial(self.claim(SILO))
        try:
            async with asyncio.timeout(ENTER_SECONDS):
                challenge = Challenge.from_text(await connection.recv())
        except (ConnectionClosed, TimeoutError):
            raise refused(self.address.host, _NOBODY[1], "it says nothing") from None
        finally:
            await closed(connection)
        if challenge.relay.lower() != self.address.host:
            raise _other_name(self.address.host, challenge.relay)
        return challenge.relay

    async def _dial(self, claim: Claim) -> ClientConnection:
        scheme = "wss" if self.address.scheme == "https" else "ws"
        url = f"{scheme}://{self.address.authority}{path_of(claim)}"
        try:
            return await dial(url, self.outward)
        except InvalidStatus as error:
            status = error.response.status_code
            body = (error.response.body or b"").decode("utf-8", "replace")
            raise refused(self.address.host, status, body) from None

    async def _prove(self, connection: ClientConnection, claim: Claim, signer: Signer) -> None:
        challenge = Challenge.from_text(await connection.recv())
        if challenge.relay.lower() != self.address.host:
            # What is signed for another relay could be shown there.
            raise _other_name(self.address.host, challenge.relay)
        await connection.send(signer.proof(challenge, claim).to_text())
        if plain_frame(await connection.recv()).get("open") is not True:
            raise not_of_the_protocol("no word that the connection is open")


@dataclass(frozen=True)
class RelayDialing:
    """A silo's end; `signer` says with which key and admission, asked at each connection."""

    place: Place
    signer: Callable[[], Signer]

    async def dial(self) -> Frames:
        """See `Dialing`."""
        return await self.place.enter(self.place.claim(SILO), self.signer())


@dataclass(frozen=True)
class RelayListening:
    """The orchestrator's end; `signer` and `authorities` are asked anew, for both may change."""

    place: Place
    signer: Callable[[], Signer]
    authorities: Callable[[], list[x509.Certificate]]

    async def listen(self, take: Take, listens: Callable[[], None]) -> None:
        """See `Listening`."""
        connection = await self.place.enter(self.place.claim(CONTROL), self.signer())
        listens()
        try:
            while True:
                offer = Offer.from_text(await connection.recv())
                try:
                    key = self._checked(offer)
                except MeadowError as error:
                    await connection.send(Refusal(offer.stream, error.message).to_text())
                    continue
                await take(_Waiting(self, connection, offer, key))
        except ConnectionClosed:
            raise ended(self.place.address.host, connection) from None
        finally:
            await closed(connection)

    def _checked(self, offer: Offer) -> str:
        """Return the name of a silo's key, once its own proof is seen: no relay is believed."""
        claim = self.place.claim(SILO)
        if offer.challenge.relay.lower() != self.place.address.host:
            raise _other_name(self.place.address.host, offer.challenge.relay)
        now = datetime.now(UTC)
        return offer.proof.checked(offer.challenge, claim, self.authorities(), now)


@dataclass(frozen=True)
class _Waiting:
    """A silo that waits at the relay."""

    end: RelayListening
    control: ClientConnection
    offer: Offer
    key: str

    async def fetch(self) -> Frames:
        """See `Caller`."""
        place = self.end.place
        return await place.enter(place.claim(ACCEPT, self.offer.stream), self.end.signer())

    async def refuse(self, why: str) -> None:
        """See `Caller`."""
        with contextlib.suppress(ConnectionClosed):
            await self.control.send(Refusal(self.offer.stream, why).to_text())


def federation_of(admission: bytes | str) -> str:
    """Return the federation to which a silo's key was admitted, as its admission (PEM) says."""
    return read_admission(admission, "the silo's admission").federation


def ended(host: str, connection: ClientConnection) -> MeadowError:
    """Return what the end of a connection means."""
    code = connection.close_code or 1006
    return refused(host, code, connection.close_reason or "")


def refused(host: str, code: int, why: str) -> MeadowError:
    """Return the error for the status or close code of a relay; its words are another's."""
    said = one_line(why.strip(), 150) or f"{code}"
    if code == _UNPROVEN:
        hint = "Have the relay's owner compare this federation's name and CA with what it holds."
        return IdentityError("MDW-767", f"The relay {host} lets this key not in: {said}.", hint)
    if code in _NOBODY:
        hint = "Start the orchestrator with the same federation.relay.url; it is asked again."
        return WireError("MDW-695", f"No orchestrator is reached at {host}: {said}.", hint)
    if code in _BUSY:
        hint = "It is tried again; else have the relay's owner look at this federation's limits."
        return WireError("MDW-694", f"The relay {host} takes no more: {said}.", hint)
    hint = "It is tried again. Compare the address and the federation's name with its owner."
    return WireError("MDW-694", f"The relay {host} has ended the connection: {said}.", hint)


def _other_name(host: str, told: str) -> IdentityError:
    what = f"The relay that was dialled as {host} calls itself {told[:100]!r}."
    hint = "Dial it by the name that its own file has."
    return IdentityError("MDW-767", what, hint)
