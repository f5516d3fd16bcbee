"""The floor of a round: the same bytes through a bare TLS socket, down and up, all silos at once, no Flower at all.

    python benchmarks/tls_floor.py --megabytes 3.8 45 500 --silos 2

One server process with a thread per silo, one process per silo; the model is sent to each, each sends as much back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import ssl
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from azureml_jobs.identity.authority import make_ca, server_credentials
from azureml_jobs.identity.secret_store import FolderSecrets

BLOCK = 1 << 20


def floor(size: int, rounds: int, silos: int = 2, used: list[float] | None = None) -> list[float]:
    """Return the seconds of each round of `size` bytes down and up.

    Into `used` goes the processor time of all processes at the end of each round.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o700)
        listener = socket.create_server(("127.0.0.1", 0))
        server = _server_context(folder)
        port = listener.getsockname()[1]
        spawn = multiprocessing.get_context("spawn")
        ends = [
            spawn.Process(target=_silo, args=(port, str(folder / "ca.pem"), size, rounds))
            for _ in range(silos)
        ]
        for end in ends:
            end.start()
        connections = [server.wrap_socket(listener.accept()[0], server_side=True) for _ in ends]
        processes = [psutil.Process(id) for id in (None, *(end.pid for end in ends))]
        seconds = []
        for _ in range(rounds):
            seconds.append(_round(connections, size))
            if used is not None:
                times = [process.cpu_times() for process in processes]
                used.append(sum(one.user + one.system for one in times))
        for end in ends:
            end.join()
        for connection in connections:
            connection.close()
        listener.close()
        return seconds


def _server_context(folder: Path) -> ssl.SSLContext:
    secrets = FolderSecrets(folder / "secrets")
    make_ca(secrets, "floor", datetime.now(UTC))
    made = server_credentials(secrets, ["127.0.0.1"], datetime.now(UTC))
    (folder / "ca.pem").write_bytes(made.ca)
    pair = folder / "server.pem"
    pair.touch(mode=0o600)
    pair.write_bytes(made.key + made.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    return context


def _round(connections: list[ssl.SSLSocket], size: int) -> float:
    model = bytes(size)
    started = time.perf_counter()
    threads = [threading.Thread(target=_both_ways, args=(one, model)) for one in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def _both_ways(connection: ssl.SSLSocket, model: bytes) -> None:
    connection.sendall(model)
    _receive(connection, bytearray(len(model)))


def _silo(port: int, authority: str, size: int, rounds: int) -> None:
    context = ssl.create_default_context(cafile=authority)
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1"
    ) as connection:
        buffer = bytearray(size)
        for _ in range(rounds):
            _receive(connection, buffer)
            connection.sendall(buffer)


def _receive(connection: ssl.SSLSocket, buffer: bytearray) -> None:
    view, at = memoryview(buffer), 0
    while at < len(buffer):
        at += connection.recv_into(view[at:], min(BLOCK, len(buffer) - at))


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, nargs="+", default=[3.8, 45.0])
    parser.add_argument("--silos", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    for megabytes in args.megabytes:
        seconds = floor(int(megabytes * 1e6), args.rounds, args.silos)[1:]
        print(
            f"{megabytes:g} MB: median {statistics.median(seconds):.3f} s ({min(seconds):.3f}-{max(seconds):.3f})"
        )


if __name__ == "__main__":
    main()
