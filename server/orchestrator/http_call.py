"""One call of the Fleet service as HTTP writes it: its head is parsed here and its answer written;
nothing is read.

A call is `POST /v1/fleet/NAME` of HTTP/1.1 with a protobuf message as its body.
"""

from __future__ import annotations

import binascii
import contextlib
import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER

from strategies.wire.fleet_calls import FLEET_CALLS

PREFIX: Final = "/v1/fleet/"
SMALL_CALL_BYTES: Final = 64 * 1024
"""Of every call that carries no part of an update."""
LARGE_CALLS: Final = frozenset({"push-messages", "push-object"})
SIGNED: Final = {"flwr-public-key": PUBLIC_KEY_HEADER, "flwr-signature": SIGNATURE_HEADER}
"""Base64 headers of HTTP, with the names that their bytes have over gRPC."""
_BY_PATH: Final = {call.path: name for name, call in FLEET_CALLS.items()}


class HttpError(Exception):
    """A call that is answered by a status and a reason; what follows it on the connection is not
    read.
    """

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Head:
    """A call's name, the bytes of its body, and its headers by their names in small letters."""

    name: str
    size: int
    headers: Mapping[str, str]

    def signed(self) -> dict[str, bytes | str]:
        """Return the headers that say who calls, as they are over gRPC; what is not Base64 is left
        out.
        """
        found: dict[str, bytes | str] = {}
        for name, over_grpc in SIGNED.items():
            with contextlib.suppress(binascii.Error, ValueError):
                found[over_grpc] = b64decode(self.headers.get(name, ""), validate=True)
        found[TIMESTAMP_HEADER] = self.headers.get(TIMESTAMP_HEADER, "")
        return found


def parse_head(raw: bytes, most: int) -> Head:
    """Return what a call's head says, without its empty line; `most` bytes has a part of an update
    at most.

    Raises HttpError for whatever is not a call of the service.
    """
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[2] != "HTTP/1.1":
        raise HttpError(HTTPStatus.BAD_REQUEST, "Not a request of HTTP/1.1.")
    method, path, _ = parts
    name = _BY_PATH.get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
    if name is None:
        raise HttpError(HTTPStatus.NOT_FOUND, "Not a call of the Fleet service.")
    if method != "POST":
        raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "Calls are POST.")
    headers = _parse_headers(lines)
    largest = most if path.removeprefix(PREFIX) in LARGE_CALLS else SMALL_CALL_BYTES
    return Head(name, _body_size(headers, largest), headers)


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        # Neither a folded line nor a space before the colon: two readers would read them in two
        # ways.
        if not colon or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise HttpError(HTTPStatus.BAD_REQUEST, "A header is malformed.")
        if name in headers:
            raise HttpError(HTTPStatus.BAD_REQUEST, "A header occurs twice.")
        headers[name] = value.strip(" \t")
    return headers


def _body_size(headers: Mapping[str, str], largest: int) -> int:
    size = headers.get("content-length", "")
    if not size or "transfer-encoding" in headers:
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "A call says its length.")
    if not (size.isascii() and size.isdigit()):
        raise HttpError(HTTPStatus.BAD_REQUEST, "The length is not a number.")
    # Before it is made a number: that takes long for very many digits.
    if len(size) > 12 or int(size) > largest:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"More than {largest} bytes.")
    return int(size)


def reason(error: Exception) -> bytes:
    """Return the body of an answer that refuses a call."""
    return json.dumps({"detail": str(error)}).encode()


def response(
    status: HTTPStatus, body: bytes, kind: str = "application/json", *, last: bool = False
) -> bytes:
    """Return an answer; `last` says that the connection ends with it."""
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        *(("connection: close",) if last else ()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
