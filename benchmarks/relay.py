"""A round by a relay and the direct one, side by side: the same model to each silo and back, in turn.

    python -m benchmarks.relay --silos 10 --megabytes 45 --rounds 5

One process is the orchestrator, one the relay, and one each silo, which is connected twice, under two
names: directly and by the relay. A silo adds a number to each array and sends as much back.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psutil

from azureml_jobs.identity.authority import relayed_name, server_credentials
from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.rendezvous import StaticRendezvous
from client.node.connection import Connection
from client.node.job import load_app
from client.node.node import Node
from client.node.own_admission import SiloAdmission
from client.node.relayed_server import RelayedServer
from conf.compose import compose
from conf.schema import OutboundConf, Silo
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.relayed_silos import by_relay
from server.orchestrator.service import Orchestrator, quiet_flower
from tests.azureml_jobs.relay.place import RelayThread
from tests.faults.federation import TOY, Federation, ask, model

ARRAYS = 12


def main() -> None:
    """Print the median seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--silos", type=int, default=10)
    parser.add_argument("--megabytes", type=float, default=45.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meadow-relay-") as name:
        direct, relayed, seconds = measured(Path(name), args.silos, args.megabytes, args.rounds)
    ratio = statistics.median(b / a for a, b in zip(direct, relayed, strict=True))
    print(f"{args.silos} silos, {args.megabytes:g} MB each way, {args.rounds} rounds in turn")
    for what, rounds in (("direct", direct), ("by the relay", relayed)):
        spread = f"{min(rounds):.2f}-{max(rounds):.2f}"
        print(f"{what:13} median {statistics.median(rounds):.2f} s ({spread})")
    print(f"ratio of each pair: median {ratio:.2f}")
    print(f"processor time of the relay: {seconds:.2f} s a round")


def measured(
    folder: Path, silos: int, megabytes: float, rounds: int
) -> tuple[list[float], list[float], float]:
    """Return the seconds of each direct round and each one by the relay, and what the relay used."""
    quiet_flower()
    federation = Federation(folder, 2 * silos)
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    relay = spawn.Process(target=_relay, args=(folder, federation.authority, theirs), daemon=True)
    relay.start()
    url, ca = mine.recv()
    hosts = ["127.0.0.1", relayed_name("federation")]
    credentials = server_credentials(federation.secrets, hosts, datetime.now(UTC))
    conf = compose([f"federation.relay.url={url}", f"federation.orchestrator.outbound.ca={ca}"])
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: (mine.send(None), relay.join()))
        orchestrator = Orchestrator("127.0.0.1:0", credentials, federation.public)
        orchestrator.start()
        stack.callback(lambda: orchestrator.stop(over=False))
        stack.enter_context(by_relay(conf, orchestrator, lambda: credentials, federation.secrets))
        ends = []
        names = [silo.name for silo in federation.silos]
        for number in range(silos):
            pipe, far = spawn.Pipe()
            both = (federation.silos[number], federation.silos[silos + number])
            given = (folder, both, orchestrator.address, url, ca, far)
            end = spawn.Process(target=_silo, args=given, daemon=True)
            end.start()
            ends.append((pipe, end))
        orchestrator.wait_for(names, len(names), 300)
        ways = orchestrator.ways()
        assert [ways[name] for name in names] == ["direct"] * silos + ["relay"] * silos
        grid = PackedGrid(orchestrator.open_run("run", names))
        arrays = model(int(megabytes * 1e6 / 4 / ARRAYS), ARRAYS, seed=0)
        taken: list[list[float]] = [[], []]
        process = psutil.Process(relay.pid)
        used = 0.0
        for number in range(rounds + 1):
            before = process.cpu_times()
            for which, list_ in enumerate(taken):
                asked = set(names[which * silos : (which + 1) * silos])
                list_.append(_round(grid, number + 1, arrays, asked))
            after = process.cpu_times()
            if number:
                used += after.user + after.system - before.user - before.system
        for pipe, end in ends:
            pipe.send(None)
            end.join(20)
            end.kill()
        # The first of each warms both up.
        return taken[0][1:], taken[1][1:], used / rounds


def _round(grid: PackedGrid, number: int, arrays: Any, asked: set[str]) -> float:
    names = grid.names()
    messages = [
        one for one in ask(grid, number, arrays) if names[one.metadata.dst_node_id] in asked
    ]
    began = time.perf_counter()
    replies = list(grid.send_and_receive(messages, timeout=300))
    seconds = time.perf_counter() - began
    assert len(replies) == len(asked)
    assert not any(reply.has_error() for reply in replies)
    return seconds


def _relay(folder: Path, authority: bytes, pipe: Pipe) -> None:
    file = folder / "federations-ca.pem"
    file.write_bytes(authority)
    relay = RelayThread(folder, {"federation": {"ca": [str(file)]}})
    relay.start()
    pipe.send((relay.url, str(relay.ca.file)))
    pipe.recv()
    relay.stop()


def _silo(
    folder: Path, silos: tuple[Silo, Silo], direct: str, url: str, ca: str, pipe: Pipe
) -> None:
    quiet_flower()
    federation = Federation(folder, silos[0].of)
    way = RelayedServer(url)
    connections = []
    for silo, address in zip(silos, (direct, url), strict=True):
        key = load_node_key(federation.secrets.get(node_secret("federation", silo.name)), silo.name)
        place = StaticRendezvous("127.0.0.1:1")
        file = federation.admission_file(silo.name)
        admission = SiloAdmission(silo.name, key, federation.authority, place, file)
        if address == url:
            way.start(key, admission, OutboundConf(ca=ca), None)
        target = way.target if address == url else None
        connection = Connection(
            lambda address=address: address,  # type: ignore[misc]
            federation.authority,
            key,
            admission=admission,
            options=way.options if address == url else None,
            target=target,
        )
        connections.append(connection)
        node = Node(connection, load_app(TOY), silo, idle_timeout=600)
        threading.Thread(target=_quietly, args=(node,), daemon=True).start()
    pipe.recv()
    for connection in connections:
        connection.close()
    way.stop()


def _quietly(node: Node) -> None:
    with contextlib.suppress(Exception):
        node.run()


if __name__ == "__main__":
    main()
