"""Every port of an orchestrator before anybody is admitted: any bytes, handshakes, requests and calls end there.

    python -m tests.security.fuzz_listeners --cases 100000 --seed 0

The orchestrator is a process of its own with all three ports: that of Meadow's nodes (mutual TLS),
that of Flower's (HTTPS), that of Flower's 1.39 (gRPC); a relay is in it too. Cases come over plain
TCP, inside TLS, and as calls of a key that the CA has certified and nobody has admitted. Beside them
an admitted silo beats. A finding is: the process has ended, a lost or late beat, an exception in its
log, memory or connections that stay, a case that takes more than `SECONDS`. No port but these listens
for anybody (`tests/security/test_shared_machine.py`); a webhook only calls.
"""

from __future__ import annotations

import argparse
import base64
import multiprocessing
import os
import random
import socket
import ssl
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node

from server.orchestrator.grpc_port import allow_many_files
from server.orchestrator.service import quiet_flower
from strategies.wire import transfer_calls
from strategies.wire.fleet_calls import FLEET_CALLS
from strategies.wire.headers import CALL_CHALLENGE, CALL_NUMBER, CALL_SIGNATURE, CALL_TIME
from tests.azureml_jobs.relay.place import relay_of
from tests.faults.federation import Federation
from tests.security.caller import Caller, FlowerCaller
from tests.security.fuzz_relay import relay_case
from tests.security.spoilt_bytes import (
    SECONDS,
    WAIT_SECONDS,
    exchanged,
    first_record,
    secured,
    spoilt,
)

BEAT_SECONDS: Final = 5.0
"""That an admitted silo's beat may take."""
STALL_SECONDS: Final = 0.5
GROWTH: Final = 48 * 2**20
"""Bytes by which the process may grow after the first fifth of the cases."""
AT_ONCE: Final = 6
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Outcome:
    """What came of all cases."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0
    resident: list[int] = field(default_factory=list)
    """Bytes of the orchestrator's process, after each fiftieth of the cases."""
    beats: list[float] = field(default_factory=list)
    lost: int = 0
    stalls: int = 0
    """Times that the fuzzer itself was not run: what was late then is nobody's finding."""

    def said(self) -> str:
        """Return it in a few lines."""
        lines = [f"{count:8} {what}" for what, count in self.counts.most_common()]
        megabytes = [size >> 20 for size in self.resident]
        lines.append(f"slowest case {self.slowest:.2f} s; the orchestrator, in MiB: {megabytes}")
        if self.beats:
            median = statistics.median(self.beats) * 1000
            lines.append(
                f"{len(self.beats)} beats, median {median:.0f} ms, longest {max(self.beats):.2f} s,"
                f" {self.lost} lost; this machine stood still {self.stalls} times"
            )
        return "\n".join([*lines, *self.findings[:20], f"{len(self.findings)} findings"])


def orchestrate(folder: str, pipe: Pipe) -> None:
    """Be the orchestrator until told to end; what it says goes into a file."""
    log = os.open(f"{folder}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    quiet_flower()
    federation = Federation(Path(folder), silos=1)
    many = {"connections_per_minute": 1e6, "proof_seconds": 3.0}
    with (
        federation.orchestrator(stock="127.0.0.1:0", stock_grpc="127.0.0.1:0") as orchestrator,
        relay_of(Path(folder) / "relay", federation, **many) as relay,
    ):
        ports = orchestrator.address, orchestrator.stock_address, orchestrator.stock_grpc_address
        pipe.send((os.getpid(), *ports, f"127.0.0.1:{relay.port}", str(relay.ca.file)))
        pipe.recv()


class Cases:
    """What is sent, by number: the same seed and number are the same case."""

    def __init__(self, federation: Federation, seed: int, ports: list[str], relay_ca: str) -> None:
        self._seed = seed
        places = [_place(port) for port in ports]
        self._own, self._stock, self._stock_grpc, self._relay = places
        self._to_relay = ssl.create_default_context(cafile=relay_ca)
        key = ec.generate_private_key(ec.SECP384R1())
        self._stranger = Caller(federation, ports[0], key)
        self._flower = FlowerCaller(federation, ports[2], key)
        self._context = ssl.create_default_context(cadata=federation.authority.decode())
        self._http2 = ssl.create_default_context(cadata=federation.authority.decode())
        self._http2.set_alpn_protocols(["h2"])

    def one(self, number: int) -> str:
        """Send one case, and return in a word or two what came of it."""
        drawn = random.Random(f"{self._seed}/{number}")
        kind = drawn.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        return f"{kind}: {KINDS[kind][1](self, drawn)}"

    def close(self) -> None:
        """Close the channels."""
        self._stranger.channel.close()
        self._flower.channel.close()

    # ---- bytes

    def raw(self, drawn: random.Random) -> str:
        """Send bytes that are no TLS to any port."""
        place = drawn.choice([self._own, self._own, self._stock, self._stock_grpc, self._relay])
        content = drawn.choice(
            [
                b"",
                drawn.randbytes(drawn.randint(1, 2000)),
                PREFACE + drawn.randbytes(30),
                b"GET / HTTP/1.1\r\n\r\n",
                b"\x16\x03\x01" + struct.pack(">H", drawn.randrange(65536)) + drawn.randbytes(50),
                b"\x80" + drawn.randbytes(40),
            ]
        )
        return exchanged(place, content)

    def hello(self, drawn: random.Random) -> str:
        """Send the first record of a handshake, with something wrong in it."""
        place = drawn.choice([self._own, self._own, self._stock, self._stock_grpc, self._relay])
        return exchanged(place, spoilt(drawn, first_record(self._http2)))

    # ---- inside TLS

    def http(self, drawn: random.Random) -> str:
        """Send a request with something wrong in it, or several, to the port that speaks HTTP."""
        try:
            with secured(self._stock, self._context) as stream:
                # Who says that more comes than does is waited for, by the server and not here.
                stream.settimeout(WAIT_SECONDS)
                stream.sendall(self._request(drawn))
                answer = stream.recv(4096)
                for _ in range(drawn.randint(0, 2)):
                    stream.sendall(self._request(drawn))
                return answer[9:12].decode(errors="replace") or "closed"
        except OSError as error:
            return type(error).__name__

    def http2(self, drawn: random.Random) -> str:
        """Send frames with something wrong in them to the gRPC port that asks for no certificate."""
        frames = b"".join(frame(drawn) for _ in range(drawn.randint(1, 12)))
        start = PREFACE if drawn.random() < 0.9 else spoilt(drawn, PREFACE)
        try:
            with secured(self._stock_grpc, self._http2) as stream:
                stream.sendall(start + frame(drawn, kind=4, body=b"") + frames)
                stream.shutdown(socket.SHUT_WR)
                got = b""
                while part := stream.recv(65536):
                    got += part
                return "answered" if got else "closed"
        except OSError as error:
            return type(error).__name__

    def relay(self, drawn: random.Random) -> str:
        """Send bytes, a request or frames with something wrong in them to a relay."""
        return relay_case(drawn, self._relay, self._to_relay)

    def _request(self, drawn: random.Random) -> bytes:
        name = drawn.choice([call.path for call in FLEET_CALLS.values()])
        body = spoilt(drawn, PullMessagesRequest(node=Node(node_id=1)).SerializeToString() * 3)
        lengths = [str(len(body))] * 6 + [
            "-1",
            "1e3",
            "0x10",
            "9" * 4000,
            "",
            "٣",
            "99999999",
            "+4",
        ]
        head = [f"POST /v1/fleet/{name} HTTP/1.1", f"content-length: {drawn.choice(lengths)}"]
        # A good signature of a key that is not admitted, or none that is any good.
        for header, value in self._flower.headers() if drawn.random() < 0.5 else []:
            text = value if isinstance(value, str) else base64.b64encode(value).decode()
            head.append(f"{header.removesuffix('-bin')}: {text}")
        lies: list[Callable[[], Any]] = [
            lambda: head.append(drawn.choice(["no colon", " folded: a", "a b: c", "x" * 20_000])),
            lambda: head.append(f"flwr-signature: {drawn.randbytes(90).hex()}"),
            lambda: head.append(f"flwr-public-key: {'A' * drawn.choice([3, 400, 9000])}"),
            lambda: head.append(f"flwr-timestamp: {drawn.choice(TIMES)}"),
            lambda: head.append("transfer-encoding: chunked"),
            lambda: head.append(head[1]),
            lambda: head.extend(f"h{i}: {i}" for i in range(drawn.choice([10, 1000]))),
            lambda: head.__setitem__(
                0, f"{drawn.choice(['GET', 'PRI', '', 'A' * 999])} / HTTP/1.1"
            ),
            lambda: head.__setitem__(0, head[0].replace("1.1", drawn.choice(["1.0", "2", "1.1 "]))),
            lambda: None,
        ]
        for _ in range(drawn.randint(1, 2)):
            drawn.choice(lies)()
        raw = "\r\n".join(head).encode("utf-8", "replace") + b"\r\n\r\n" + body
        return spoilt(drawn, raw) if drawn.random() < 0.3 else raw

    # ---- calls

    def calls(self, drawn: random.Random) -> str:
        """Make a call of a key that is certified and not admitted, or of nobody, with wrong headers."""
        channel = drawn.choice([self._stranger.channel, self._flower.channel])
        call = channel.unary_unary(path(drawn))
        body = drawn.choice([b"", drawn.randbytes(drawn.randint(1, 3000)), b"\x0a\xff" * 50_000])
        metadata: list[tuple[str, Any]] = []
        if drawn.random() < 0.5:
            metadata += self._flower.headers(shift=drawn.choice([0.0, -1e4, 1e9]))
        for _ in range(drawn.randint(0, 6)):
            metadata.append(drawn.choice(HEADERS)(drawn))
        try:
            call(body, timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
        except (ValueError, UnicodeError):
            return "not sent by gRPC"
        return "answered"


TIMES: Final = ("", "0", "-1", "9" * 3000, "2026-13-45T99:99", "nan", "1e400", "\x7f\x01", "٣")
HEADERS: Final[list[Callable[[random.Random], tuple[str, Any]]]] = [
    lambda drawn: (CALL_CHALLENGE, drawn.randbytes(drawn.choice([0, 1, 32, 600]))),
    lambda drawn: (CALL_NUMBER, drawn.choice(["0", "-1", "9" * 500, "1e9", "", "x"])),
    lambda drawn: (CALL_TIME, drawn.choice(["0", "nan", "inf", "-1e400", "9" * 500, ""])),
    lambda drawn: (CALL_SIGNATURE, drawn.choice(["", "AAAA", "=" * 50, "/" * 400])),
    lambda drawn: ("meadow-node", drawn.choice(["", "x" * 3000, "0" * 16])),
    lambda drawn: ("flwr-version", drawn.choice(["", "1.42.0", "9" * 900, "1.39", "a.b.c"])),
    lambda drawn: (f"x{drawn.randrange(99)}-bin", drawn.randbytes(drawn.randrange(3000))),
]


def path(drawn: random.Random) -> str:
    """Return the path of a call, of a service that is there or not."""
    method = drawn.choice([*FLEET_CALLS, "PullParts", "PushParts", "Nothing", "x" * 900])
    service = drawn.choice(["flwr.proto.Fleet", "flwr.proto.Fleet", transfer_calls.SERVICE, "a.b"])
    if drawn.random() < 0.7:
        return f"/flwr.proto.Fleet/{drawn.choice(list(FLEET_CALLS))}"
    return drawn.choice([f"/{service}/{method}", f"/{service}/{method}", "/", f"/{method}//"])


def frame(drawn: random.Random, kind: int | None = None, body: bytes | None = None) -> bytes:
    """Return a frame of HTTP/2, of any kind and flags, whose length may lie."""
    content = drawn.randbytes(drawn.choice([0, 4, 5, 8, 60, 3000])) if body is None else body
    length = len(content) if drawn.random() < 0.8 or body == b"" else drawn.randrange(2**24)
    number = drawn.randrange(12) if kind is None else kind
    flags = 0 if kind is not None else drawn.randrange(256)
    stream = 0 if kind is not None else drawn.choice([0, 1, 2, 3, 2**31 - 1, 2**32 - 1])
    return (
        struct.pack(">I", length)[1:] + bytes([number, flags]) + struct.pack(">I", stream) + content
    )


KINDS: Final[dict[str, tuple[int, Callable[[Cases, random.Random], str]]]] = {
    "bytes": (25, Cases.raw),
    "handshakes": (25, Cases.hello),
    "HTTP": (20, Cases.http),
    "HTTP/2": (10, Cases.http2),
    "calls": (20, Cases.calls),
    "relay": (15, Cases.relay),
}


class Stalls:
    """When this process was not run though it had something to do: then the other was not either."""

    def __init__(self) -> None:
        self._last = 0.0
        self.count = 0
        threading.Thread(target=self._watch, name="stalls", daemon=True).start()

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(0.05)
            if time.monotonic() - before > STALL_SECONDS:
                self._last = time.monotonic()
                self.count += 1

    def since(self, moment: float) -> bool:
        """Return whether there was one since a moment."""
        # One that lasts still is noted when it is over.
        time.sleep(0.2)
        return self._last >= moment


class Beats:
    """An admitted silo that says again and again that it is there."""

    def __init__(
        self, federation: Federation, address: str, outcome: Outcome, stalls: Stalls
    ) -> None:
        self._caller = Caller.silo(federation, address, "silo-1")
        self._outcome = outcome
        self._stalls = stalls
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._caller.node, heartbeat_interval=10)
        call = self._caller.own_stub["SendNodeHeartbeat"]
        while not self._ended.wait(0.5):
            started = time.monotonic()
            try:
                call(request, timeout=BEAT_SECONDS)
                self._outcome.beats.append(time.monotonic() - started)
            except grpc.RpcError as error:
                self._outcome.lost += 1
                if not self._stalls.since(started):
                    self._outcome.findings.append(f"a beat was lost: {error.code().name}")

    def end(self) -> None:
        """End, and close the connection."""
        self._ended.set()
        self._thread.join()
        self._caller.channel.close()


def fuzz(cases: int, seed: int, folder: Path, told: Callable[[str], None] = print) -> Outcome:
    """Go through so many cases, and return what came of them."""
    allow_many_files()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    federation = Federation(folder, silos=1)
    server = spawn.Process(target=orchestrate, args=(str(folder), theirs))
    server.start()
    outcome = Outcome()
    try:
        pid, *ports, relay_ca = ours.recv()
        process = psutil.Process(pid)
        stalls = Stalls()
        beats = Beats(federation, ports[0], outcome, stalls)
        sent = Cases(federation, seed, ports, relay_ca)
        _send(sent, cases, process, outcome, stalls, told)
        outcome.stalls = stalls.count
        sent.close()
        _settle(process, outcome)
        beats.end()
        ours.send("end")
        server.join(30)
    finally:
        server.kill()
        server.join()
    _judge(folder, outcome)
    return outcome


def _send(
    sent: Cases,
    cases: int,
    process: psutil.Process,
    outcome: Outcome,
    stalls: Stalls,
    told: Callable[[str], None],
) -> None:
    """Send all cases, a few at a time; look at the process in between."""

    def one(number: int) -> tuple[str, float, int]:
        started = time.monotonic()
        what = sent.one(number)
        seconds = time.monotonic() - started
        if seconds > SECONDS and not stalls.since(started):
            outcome.findings.append(f"case {number} took {seconds:.1f} s: {what}")
        return what, seconds, number

    step = max(1, cases // 50)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, cases, step):
            for what, seconds, _ in pool.map(one, range(start, min(cases, start + step))):
                outcome.counts[what] += 1
                outcome.slowest = max(outcome.slowest, seconds)
            if not process.is_running():
                outcome.findings.append(f"the orchestrator has ended before case {start + step}")
                return
            outcome.resident.append(process.memory_info().rss)
            told(f"{start + step} cases, {outcome.resident[-1] >> 20} MiB")


def _settle(process: psutil.Process, outcome: Outcome) -> None:
    """Wait until what the strangers had open is closed."""
    deadline = time.monotonic() + 60
    while process.is_running() and time.monotonic() < deadline:
        left = sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections())
        if left <= 3:
            return
        time.sleep(0.5)
    outcome.findings.append("connections of strangers are left after a minute")


def _judge(folder: Path, outcome: Outcome) -> None:
    text = (folder / "log.txt").read_text(errors="replace")
    if "Traceback" in text:
        at = text.index("Traceback")
        outcome.findings.append(f"an exception in the log: {text[at : at + 1500]}")
    warm = outcome.resident[len(outcome.resident) // 5 :]
    if warm and max(warm) - warm[0] > GROWTH:
        outcome.findings.append(f"the process grew from {warm[0]} to {max(warm)} bytes")


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def main() -> int:
    """Print what came of all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        outcome = fuzz(given.cases, given.seed, Path(folder))
    print(outcome.said())
    seconds = time.monotonic() - started
    print(f"{given.cases} cases, seed {given.seed}, {seconds:.0f} s")
    return int(bool(outcome.findings))


if __name__ == "__main__":
    sys.exit(main())
