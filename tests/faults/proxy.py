"""A small TCP proxy whose link can be cut, or made to swallow everything in silence."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Proxy:
    """Carries bytes between its own port and a target; `carried` counts those on their way there, `returned` back."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.carried = 0
        self.returned = 0
        self.connections = 0
        self._rate: float | None = None
        self._seconds: float | None = None
        self._cut = threading.Event()
        self._passing = threading.Event()
        self._passing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def limit(self, rate: float) -> None:
        """Let no more than so many bytes a second through, each way and connection."""
        self._rate = rate

    def lasting(self, seconds: float) -> None:
        """End each new connection after so long, whatever goes over it, as an ingress does."""
        self._seconds = seconds

    def target(self, address: str) -> None:
        """Lead new connections elsewhere."""
        host, _, port = address.rpartition(":")
        self._target = host, int(port)

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._cut.set()
        self._close_all()

    def swallow(self) -> None:
        """Keep every connection open and let nothing through, as a silently dropping firewall does."""
        self._passing.clear()

    def mend(self, *, broken: bool = False) -> None:
        """Let everything through again; with `broken`, what was open before stays lost."""
        if broken:
            self._close_all()
        self._cut.clear()
        self._passing.set()

    def close(self) -> None:
        self._listener.close()
        self.mend()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._cut.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self.connections += 1
            with self._lock:
                self._open |= {near, far}
            if self._seconds is not None:
                ending = threading.Timer(self._seconds, self._drop, (near, far))
                ending.daemon = True
                ending.start()
            threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                sink.sendall(data)
                if self._rate is not None:
                    time.sleep(len(data) / self._rate)
                if counted:
                    self.carried += len(data)
                else:
                    self.returned += len(data)
        self._drop(source, sink)

    def _drop(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open -= set(sockets)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _close_all(self) -> None:
        with self._lock:
            sockets = list(self._open)
        self._drop(*sockets)
