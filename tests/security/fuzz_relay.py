"""One case of a stranger at a relay: a request, or what follows it, with something wrong in it."""

from __future__ import annotations

import base64
import json
import random
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

from tests.security.spoilt_bytes import WAIT_SECONDS, Place, secured, spoilt

PATHS: Final = (
    *("/v1/federation/server/silo", "/v1/federation/server/control"),
    "/v1/federation/server/accept/" + "0" * 32,
    *("/v1/other/server/silo", "/v1/federation/../silo", "/", "/%00", "/" + "a" * 5000),
)


def relay_case(drawn: random.Random, place: Place, context: ssl.SSLContext) -> str:
    """Send one, and return the status of the answer, or how the connection ended."""
    try:
        with secured(place, context) as stream:
            stream.settimeout(WAIT_SECONDS)
            good = drawn.random() < 0.6
            stream.sendall(request(PATHS[0] if good else drawn.choice(PATHS), drawn, good=good))
            status = stream.recv(4096)[9:12].decode(errors="replace") or "closed"
            if status != "101":
                return status
            for _ in range(drawn.randint(1, 4)):
                stream.sendall(frame(drawn))
            while stream.recv(4096):
                pass
            return "let in no further"
    except OSError as error:
        return type(error).__name__


def request(path: str, drawn: random.Random, *, good: bool) -> bytes:
    """Return a request for a WebSocket; where it is not `good` it is spoilt."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(drawn.randbytes(16)).decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if not good and drawn.random() < 0.5:
        lines.insert(drawn.randint(1, 6), drawn.choice(["no colon", "X-Forwarded-For: " * 400]))
    raw = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return raw if good else spoilt(drawn, raw)


def frame(drawn: random.Random) -> bytes:
    """Return a frame of a WebSocket, whose content, length, kind or mask may lie."""
    content = drawn.choice(CONTENTS)(drawn)
    first = 0x81 if drawn.random() < 0.6 else drawn.randrange(256)
    size = len(content) if drawn.random() < 0.85 else drawn.choice([0, 2**31, 2**63, 7])
    mask = drawn.randbytes(4)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 2**16:
        head = bytes([first, 0x80 | 126]) + struct.pack(">H", size)
    else:
        head = bytes([first, 0x80 | 127]) + struct.pack(">Q", size)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(content))
    return spoilt(drawn, head + mask + masked) if drawn.random() < 0.2 else head + mask + masked


def _proof(drawn: random.Random) -> bytes:
    values: list[Any] = [
        "",
        "x" * 9000,
        "-----BEGIN CERTIFICATE-----\n",
        None,
        [],
        1,
        {"a": 1},
        "A==",
    ]
    told = {name: drawn.choice(values) for name in ("certificate", "signature", "open", "stream")}
    return json.dumps(told).encode()


CONTENTS: Final[list[Callable[[random.Random], bytes]]] = [
    _proof,
    _proof,
    lambda drawn: drawn.choice(
        [b"{}", b"[]", b"null", b"[" * 5000, b'{"open": true}', b"\xff\xfe"]
    ),
    lambda drawn: drawn.randbytes(drawn.choice([0, 3, 125, 126, 5000])),
    lambda drawn: b'{"certificate": ' + b"9" * drawn.choice([5, 6000]) + b"}",
]
