"""Transfers over slow and cut links: what has arrived stays, and nothing is sent twice that need not be.

The slow tests make a link of two network namespaces and a token bucket, where this machine lets them (root, `ip`,
`tc`), and print what a transfer took of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from server.round.exchange import Closing, exchange
from tests.faults.federation import Federation, ask, lines, model, until
from tests.faults.proxy import Proxy

SMALL = 30_000
"""Bytes of all that a message takes beside its model, the connection's own included."""


@contextmanager
def one_silo(folder: Path) -> Iterator[tuple[Federation, Orchestrator, Proxy, Grid]]:
    federation = Federation(folder, silos=1)
    with federation.orchestrator() as orchestrator:
        proxy = Proxy(orchestrator.address)
        try:
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            yield federation, orchestrator, proxy, grid
        finally:
            proxy.close()


def answers(grid: Grid, messages: list[Message]) -> list[Message]:
    """Return the answers to messages, asked again where the silo had gone."""
    closing = Closing(timeout=120, quorum=len(messages), patience=120)
    return [reply for _, reply, _ in exchange(grid, messages, closing)]


def evaluation(grid: Grid, arrays: object) -> list[Message]:
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"x": 1})})
    return [Message(content, node, "query.names") for node in grid.get_node_ids()]


def test_the_model_of_an_evaluation_is_not_sent_again_for_the_next_training(
    tmp_path: Path,
) -> None:
    with (
        one_silo(tmp_path) as (federation, orchestrator, proxy, grid),
        federation.thread_node(proxy.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        arrays = model(100_000, seed=1)
        answers(grid, evaluation(grid, arrays))
        before = proxy.returned
        assert before > 1_200_000
        (reply,) = answers(grid, ask(grid, 2, arrays))
        assert reply.has_content() and proxy.returned - before < SMALL


def test_a_kept_update_is_offered_before_the_model_is_fetched_again(tmp_path: Path) -> None:
    trained = tmp_path / "trained.jsonl"
    with one_silo(tmp_path) as (federation, orchestrator, proxy, grid):
        silo, state = federation.silos[0], tmp_path / "state"
        arrays = model(100_000, seed=1)
        config = {"trained-file": str(trained)}
        with federation.thread_node(proxy.address, silo, state):
            orchestrator.wait_for(["silo-1"], 1, 20)
            (first,) = answers(grid, ask(grid, 1, arrays, **config))
        with federation.thread_node(proxy.address, silo, state):
            until(lambda: orchestrator.connected() == ["silo-1"])
            before = proxy.returned
            (again,) = answers(grid, ask(grid, 1, arrays, **config))
            assert again.content["arrays"] == first.content["arrays"]
            assert proxy.returned - before < SMALL
    assert len(lines(trained)) == 1


def test_an_upload_broken_off_by_a_lost_silo_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with (
        one_silo(tmp_path) as (federation, orchestrator, proxy, grid),
        federation.thread_node(proxy.address, federation.silos[0], tmp_path / "state"),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        (node,) = grid.get_node_ids()
        nodes = orchestrator._fleet.nodes
        before = proxy.carried
        trained = tmp_path / "trained.jsonl"

        def lose() -> None:
            # As after 20 s of silence: the silo is lost, and its connection broken.
            until(lambda: trained.exists(), 60)
            proxy.limit(3_000_000)
            until(lambda: proxy.carried - before > 10_000_000, 60)
            proxy.cut()
            nodes.left(node)
            until(lambda: node not in grid.get_node_ids())
            time.sleep(1.0)
            proxy.mend()

        losing = threading.Thread(target=lose)
        losing.start()
        config = {"trained-file": str(trained)}
        (reply,) = answers(grid, ask(grid, 1, model(1_000_000, seed=1), **config))
        losing.join()
        assert reply.has_content()
        sent = proxy.carried - before
        assert sent < 18_500_000, f"{sent} bytes for an update of 12 MB of which 10 were sent"


def test_a_download_cut_hard_again_and_again_gets_on(tmp_path: Path) -> None:
    with (
        one_silo(tmp_path) as (federation, orchestrator, proxy, grid),
        federation.thread_node(proxy.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        proxy.limit(4_000_000)
        over = threading.Event()

        def cutting() -> None:
            while not over.wait(0.7):
                proxy.cut()
                proxy.mend()

        cutter = threading.Thread(target=cutting)
        before = proxy.returned
        cutter.start()
        try:
            (reply,) = answers(grid, ask(grid, 1, model(1_000_000, seed=1)))
        finally:
            over.set()
            cutter.join()
        assert reply.has_content()
        assert proxy.returned - before < 2.5 * 12_000_000


def test_a_transfer_stays_whole_when_the_server_is_restarted_in_its_middle(
    tmp_path: Path,
) -> None:
    """What the silo has received stays with it; what the server had received is sent anew."""
    federation = Federation(tmp_path, silos=1)
    arrays = model(1_000_000, seed=1)
    with federation.orchestrator() as orchestrator:
        proxy = Proxy(orchestrator.address)
        proxy.limit(6_000_000)
        node = federation.thread_node(proxy.address, federation.silos[0], tmp_path / "state")
        with node:
            orchestrator.wait_for(["silo-1"], 1, 20)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            grid.push_messages(ask(grid, 1, arrays))
            until(lambda: proxy.returned > 7_000_000, 60)
            proxy.cut()
            orchestrator.stop(over=False)
            with federation.orchestrator() as successor:
                proxy.target(successor.address)
                before = proxy.returned
                proxy.mend()
                successor.wait_for(["silo-1"], 1, 30)
                grid = PackedGrid(successor.open_run("run", ["silo-1"]))
                (reply,) = answers(grid, ask(grid, 1, arrays))
                assert reply.has_content()
                assert proxy.returned - before < 7_000_000, "the rest of 12 MB"
        proxy.close()


# ---- links of network namespaces

RATE = 500_000 / 8
"""Bytes a second of the link, each way."""
ELEMENTS = 1_050_000
"""Of each of three arrays: 12.6 MB."""
CUT_SECONDS = 25.0


class Link:
    """A bridge of this namespace, and one of its ports in another, `rate` bytes a second each way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.host = "10.77.41.1"
        self._near = f"{name}a"
        self._bridge = f"{name}b"

    def open(self, rate: float) -> None:
        name, near, far = self.name, self._near, f"{self.name}c"
        bucket = f"tbf rate {int(rate * 8)}bit burst 16kb limit 64kb"
        for command in (
            f"ip netns add {name}",
            f"ip link add {self._bridge} type bridge",
            f"ip addr add {self.host}/24 dev {self._bridge}",
            f"ip link set {self._bridge} up",
            f"ip link add {near} type veth peer name {far}",
            f"ip link set {far} netns {name}",
            f"ip link set {near} master {self._bridge} up",
            f"ip -n {name} addr add 10.77.41.2/24 dev {far}",
            f"ip -n {name} link set {far} up",
            f"ip -n {name} link set lo up",
            f"tc qdisc add dev {near} root {bucket}",
            f"ip netns exec {name} tc qdisc add dev {far} root {bucket}",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)

    def cut(self) -> None:
        """Take the port off the bridge: everything is dropped in silence."""
        subprocess.run(["ip", "link", "set", self._near, "nomaster"], check=True)

    def mend(self) -> None:
        subprocess.run(["ip", "link", "set", self._near, "master", self._bridge], check=True)

    def python(self, folder: Path) -> str:
        """Return an interpreter that runs at the other end."""
        script = folder / "python-there"
        script.write_text(f'#!/bin/sh\nexec ip netns exec {self.name} {sys.executable} "$@"\n')
        script.chmod(0o700)
        return str(script)

    def close(self) -> None:
        for command in (f"ip netns del {self.name}", f"ip link del {self._bridge}"):
            subprocess.run(command.split(), check=False, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("a link of network namespaces needs root, ip and tc")
    link = Link(f"mw{os.getpid() % 10_000}")
    try:
        link.open(RATE)
    except subprocess.CalledProcessError as error:
        link.close()
        pytest.skip(f"this kernel has no such link: {error.stderr.decode()[:200]}")
    try:
        yield link
    finally:
        link.close()


@dataclass
class Took:
    """Seconds of one direction, without those in which the link was cut."""

    down: float
    up: float


def over(link: Link, folder: Path, cuts: int) -> Took:
    """Send 12.6 MB there and back, each way with some cuts, and return what it took."""
    federation = Federation(folder, silos=1)
    trained = folder / "trained.jsonl"
    orchestrator = Orchestrator(
        f"{link.host}:0", federation.credentials(link.host), federation.public
    )
    orchestrator.start()
    took: dict[str, float] = {}
    replies: list[Message] = []
    try:
        silo = federation.silos[0]
        more = ("--state", str(folder / "state"))
        with federation.process_node(
            orchestrator.address, silo, *more, python=link.python(folder)
        ) as node:
            orchestrator.wait_for(["silo-1"], 1, 120)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            asked = ask(grid, 1, model(ELEMENTS, seed=1), **{"trained-file": str(trained)})
            closing = Closing(timeout=3000, quorum=1, patience=3000)

            def answered() -> None:
                replies.extend(reply for _, reply, _ in exchange(grid, asked, closing))

            asking = threading.Thread(target=answered)
            asking.start()
            took["down"] = timed(link, cuts, lambda: bool(lines(trained)))
            took["up"] = timed(link, cuts, lambda: not asking.is_alive())
            asking.join()
            log = node.text()
        assert replies and replies[0].has_content(), log
        assert len(lines(trained)) == 1
    finally:
        orchestrator.stop(over=False)
    return Took(**took)


def timed(link: Link, cuts: int, done: object) -> float:
    """Wait until something is done, with cuts in between; return the seconds with a link."""
    assert callable(done)
    began = time.monotonic()
    lost = 0.0
    for _ in range(cuts):
        until_or_seconds(done, 25.0)
        if done():
            break
        link.cut()
        time.sleep(CUT_SECONDS)
        link.mend()
        lost += CUT_SECONDS
    until(done, 900)
    return time.monotonic() - began - lost


def until_or_seconds(done: object, seconds: float) -> None:
    assert callable(done)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not done():
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cuts", [0, 5])
def test_twelve_megabytes_at_half_a_megabit_take_little_more_than_their_bytes(
    link: Link, tmp_path: Path, cuts: int
) -> None:
    took = over(link, tmp_path, cuts)
    ideal = 12 * ELEMENTS / RATE
    print(f"\n12.6 MB at 500 kbit/s, {cuts} cuts of 25 s: ideal {ideal:.0f} s")
    print(f"received in {took.down:.0f} s ({took.down / ideal:.2f} x)")
    print(f"sent in {took.up:.0f} s ({took.up / ideal:.2f} x)", flush=True)
    assert took.down < 1.3 * ideal
    assert took.up < 1.3 * ideal
