"""A service on 127.0.0.1 that takes what is posted to it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Service:
    """What came, in order of arrival, and with which statuses it is answered: the last for all after it."""

    address: str
    answers: list[int]
    bodies: list[bytes] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)

    def answer(self, body: bytes) -> int:
        """Note a body and return the status to answer with."""
        self.bodies.append(body)
        self.came.set()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def service(*answers: int) -> Iterator[Service]:
    """Run a service until it is left; without `answers` all is taken."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(found.answer(body))
            self.send_header("location", "http://127.0.0.1:9/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *given: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Service(f"http://127.0.0.1:{server.server_port}/hook", list(answers) or [200])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
