"""A listening socket that tells the door of each connection as it is accepted, before its TLS.

The event loop accepts connections by the socket's own method; so a stranger counts from its first
packet on, and not only when its handshake is over.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

from azureml_jobs.relay.door import Door

UNSENT_BYTES: Final = 128 * 1024
"""What the system may hold of one connection before it is on its way."""
BACKLOG: Final = 512


class GuardedSocket(socket.socket):
    """Accepts as any other; see the module."""

    door: Door

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; it is a stranger's until it has proven something."""
        accepted, address = super().accept()
        with contextlib.suppress(OSError, AttributeError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.door.arrives(address[:2], str(address[0]), _Accepted(accepted))
        return accepted, address


class _Accepted:
    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted

    def end(self) -> None:
        """See `Closable`: the event loop reads the end, and closes it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def has_ended(self) -> bool:
        """See `Closable`."""
        return self._socket.fileno() == -1


def listening(address: str, door: Door) -> GuardedSocket:
    """Return a socket that listens at host:port; raises OSError, ValueError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = GuardedSocket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, int(port)))
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    made.door = door
    return made
