"""What fuzzers of ports send and how: bytes with something wrong in them, over plain TCP and inside TLS."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator
from typing import Final

SECONDS: Final = 15.0
"""That one case may take: a stranger is given 10 s by any port."""
WAIT_SECONDS: Final = 0.5
"""For an answer that need not come: who says that more follows than does is waited for by the server."""
Place = tuple[str, int]


def spoilt(drawn: random.Random, good: bytes) -> bytes:
    """Return bytes with some changed, taken out or put in."""
    data = bytearray(good)
    for _ in range(drawn.randint(1, 6)):
        at = drawn.randrange(len(data) + 1)
        how = drawn.random()
        if how < 0.5 and at < len(data):
            data[at] = drawn.randrange(256)
        elif how < 0.7:
            del data[at : at + drawn.randint(1, 30)]
        else:
            data[at:at] = drawn.randbytes(drawn.randint(1, 30))
    return bytes(data)


def first_record(context: ssl.SSLContext) -> bytes:
    """Return what a client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def exchanged(place: Place, content: bytes) -> str:
    """Send bytes over plain TCP and wait for the end."""
    try:
        with socket.create_connection(place, timeout=SECONDS) as stream:
            stream.sendall(content)
            stream.shutdown(socket.SHUT_WR)
            got = 0
            while part := stream.recv(65536):
                got += len(part)
            return "answered and closed" if got else "closed"
    except OSError as error:
        return type(error).__name__


@contextlib.contextmanager
def secured(place: Place, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A TLS connection."""
    with (
        socket.create_connection(place, timeout=SECONDS) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as stream,
    ):
        yield stream
