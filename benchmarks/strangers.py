"""Ten thousand strangers at an orchestrator's port, and what its silos notice of them.

    python benchmarks/strangers.py --connections 10000 --seconds 60 --open 1000 --silos 4

Three processes: the orchestrator; the silos, which beat twice a second with 5 s for each call; the
strangers, who open connections evenly over the time, at most `--open` at once, of four kinds in
turn: mute; half a handshake; a whole handshake without a certificate, then the headers of a call;
garbage. With `--insider` a fifth party, a silo that is admitted, keeps 200 calls open whose bodies
never come. Printed: calls and their times with and without strangers, the longest time that a silo
was without an answered call, and what the orchestrator used.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import resource
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import grpc
import psutil
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from server.orchestrator.grpc_port import allow_many_files
from server.orchestrator.service import quiet_flower
from tests.faults.federation import Federation
from tests.security.caller import Caller

BEAT_SECONDS = 0.5
DEADLINE = 5.0
PULL = "/flwr.proto.Fleet/PullMessages"
KINDS = ("mute", "half a handshake", "headers only", "garbage")
# The head of a TLS record of 512 bytes, and half of what it announces.
HALF = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(256)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


def orchestrate(folder: str, silos: int, pipe: Pipe) -> None:
    """Be the orchestrator until told to end; then say what it used."""
    quiet_flower()
    federation = Federation(Path(folder), silos)
    with federation.orchestrator() as orchestrator:
        pipe.send(orchestrator.address)
        process = psutil.Process()
        most = Counter[str]()
        before = process.cpu_times()
        while not pipe.poll(0.5):
            most["files"] = max(most["files"], process.num_fds())
            most["threads"] = max(most["threads"], process.num_threads())
            most["megabytes"] = max(most["megabytes"], process.memory_info().rss // 2**20)
        after = process.cpu_times()
        seconds = after.user + after.system - before.user - before.system
        pipe.send({**most, "CPU seconds": round(seconds, 1)})


class Beats:
    """One silo's heartbeats: when each was answered, and how long it took."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.answered: list[tuple[float, float]] = []
        self.lost = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._caller.node, heartbeat_interval=10)
        call = self._caller.own_stub["SendNodeHeartbeat"]
        while not self._ended.wait(BEAT_SECONDS):
            started = time.monotonic()
            try:
                call(request, timeout=DEADLINE)
            except grpc.RpcError:
                self.lost += 1
            else:
                now = time.monotonic()
                self.answered.append((now, now - started))

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def longest_gap(self, begins: float, ends: float) -> float:
        """Return the longest time without an answered call, in seconds."""
        times = [begins, *(when for when, _ in self.answered if begins <= when <= ends), ends]
        return max(late - early for early, late in itertools.pairwise(times))


def strangers(address: str, connections: int, seconds: float, most: int) -> None:
    """Open connections evenly over the time, of all kinds in turn, and close the oldest beyond."""
    allow_many_files()
    host, _, port = address.rpartition(":")
    opened: deque[socket.socket] = deque()
    began = time.monotonic()
    for number in range(connections):
        late = began + seconds * number / connections - time.monotonic()
        if late > 0:
            time.sleep(late)
        with contextlib.suppress(OSError):
            opened.append(one_stranger(host, int(port), KINDS[number % len(KINDS)]))
        while len(opened) > most:
            opened.popleft().close()


def one_stranger(host: str, port: int, kind: str) -> socket.socket:
    raw = socket.create_connection((host, port), timeout=5)
    if kind == "headers only":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        secured = context.wrap_socket(raw, do_handshake_on_connect=False)
        secured.settimeout(2)
        with contextlib.suppress(OSError):
            secured.do_handshake()
            secured.sendall(PREFACE)
        return secured
    sent = {"mute": b"", "half a handshake": HALF, "garbage": os.urandom(300)}
    raw.sendall(sent[kind])
    return raw


@contextlib.contextmanager
def insider(federation: Federation, address: str, silo: str) -> Iterator[None]:
    """An admitted silo that keeps 200 calls open whose bodies never come, and opens ended ones anew."""
    caller = Caller.silo(federation, address, silo)
    call = caller.channel.stream_unary(PULL)
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait()
        yield b""

    def keep() -> None:
        hung: list[Any] = []
        while not ended.wait(0.02):
            hung = [one for one in hung if not one.done()]
            for _ in range(min(4, 200 - len(hung))):
                hung.append(call.future(never(), metadata=caller.signed(PULL)))

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        caller.channel.close()


def row(name: str, beats: list[Beats], begins: float, ends: float) -> str:
    """Return a line of the table: what the silos saw within a time."""
    times = [took for one in beats for when, took in one.answered if begins <= when <= ends]
    gap = max(one.longest_gap(begins, ends) for one in beats)
    times.sort()
    late = times[int(0.99 * len(times))]
    return (
        f"| {name} | {len(times)} | {statistics.median(times) * 1000:.0f} ms"
        f" | {late * 1000:.0f} ms | {times[-1]:.2f} s | {gap:.2f} s |"
    )


def measure(options: argparse.Namespace, folder: str) -> None:
    """Print the table."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    silos = options.silos + 1
    federation = Federation(Path(folder), silos)
    server = spawn.Process(target=orchestrate, args=(folder, silos, theirs))
    server.start()
    address = ours.recv()
    names = [silo.name for silo in federation.silos]
    beats = [Beats(Caller.silo(federation, address, name)) for name in names[:-1]]
    time.sleep(2)
    quiet = time.monotonic()
    time.sleep(10)
    begins = time.monotonic()
    arguments = (address, options.connections, options.seconds, options.open)
    with contextlib.ExitStack() as stack:
        if options.insider:
            stack.enter_context(insider(federation, address, names[-1]))
        crowd = spawn.Process(target=strangers, args=arguments)
        crowd.start()
        crowd.join()
    ends = time.monotonic()
    time.sleep(2)
    for one in beats:
        one.end()
    print("| | calls answered | median | 99 of 100 | longest | longest without |")
    print("|---|---|---|---|---|---|")
    print(row("quiet", beats, quiet, begins))
    print(row(f"{options.connections} strangers in {ends - begins:.0f} s", beats, begins, ends))
    print(f"calls lost: {sum(one.lost for one in beats)}")
    ours.send("end")
    print(f"orchestrator, at most: {ours.recv()}")
    server.join()
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"CPU of all children: {own.ru_utime + own.ru_stime:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--open", type=int, default=1000)
    parser.add_argument("--silos", type=int, default=4)
    parser.add_argument("--insider", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        measure(options, folder)


if __name__ == "__main__":
    main()
