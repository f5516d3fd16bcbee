"""The parent's hold of the process that writes to MLflow: lines go in from a bounded queue, answers
come back.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

Json = dict[str, Any]

MODULE: Final = "server.observers.mlflow_writer"
MOST_BYTES: Final = 64 << 20
"""Of lines that wait for a process which does not read: what comes after is dropped, the run goes
on.
"""
CLOSE_SECONDS: Final = 2.0
"""For the process to end when nothing more is asked of it."""


class MlflowProcess:
    """One process and two threads, which carry lines to it and its answers to `heard`.

    `heard` is called with each answer, and with `{"gone": how}` once the process has ended; in a
    thread of its own. The process gets this one's environment: tokens are never arguments. Ctrl-C
    does not reach it.
    """

    def __init__(self, heard: Callable[[Json], None]) -> None:
        self._heard = heard
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._change = threading.Condition()
        # As the fork server of the pool: with our import path, so that no stray file is taken for a
        # module.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=target, name="meadow mlflow", daemon=True)
            for target in (self._write, self._read)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def send(self, line: Json) -> bool:
        """Queue a line; False where so much waits already that it is dropped."""
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        with self._change:
            if self._bytes and self._bytes + len(data) > MOST_BYTES:
                return False
            self._lines.append(data)
            self._bytes += len(data)
            self._change.notify_all()
        return True

    def close(self) -> list[bytes]:
        """End the process, if it does not end by itself within seconds; return the lines that it
        never got.
        """
        with self._change:
            self._closed = True
            self._change.notify_all()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return list(self._lines)

    def resend(self, lines: list[bytes]) -> None:
        """Queue lines that another process never got."""
        with self._change:
            self._lines.extend(lines)
            self._bytes += sum(len(line) for line in lines)
            self._change.notify_all()

    def _write(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        with contextlib.suppress(OSError):
            while (line := self._next()) is not None:
                stream.write(line)
                stream.flush()
                self._taken()
        with contextlib.suppress(OSError):
            stream.close()

    def _next(self) -> bytes | None:
        with self._change:
            self._change.wait_for(lambda: self._lines or self._closed)
            return self._lines[0] if self._lines and not self._closed else None

    def _taken(self) -> None:
        with self._change:
            self._bytes -= len(self._lines.popleft())

    def _read(self) -> None:
        assert self._process.stdout is not None
        # A line that the process was killed in the middle of is no answer.
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                self._heard(json.loads(line))
        self._heard({"gone": f"exit status {self._process.wait()}"})
