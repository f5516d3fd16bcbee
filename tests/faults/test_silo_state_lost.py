"""A silo's job loses its node's disk, is preempted or killed between two writes, or its storage fails.

What its algorithm remembers is in storage of its own, so the run has the bits of the unbroken one; where it can't be
read or written, the silo says so and its update does not count.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from azureml_jobs.storage.folder_store import FolderStore
from client.node import state_store
from client.node.connection import Connection
from client.node.journal import UpdateJournal
from client.node.state_store import AnotherProcess, SiloStateStore
from conf.errors import CheckpointError
from server.orchestrator.packed_grid import PackedGrid
from strategies.wire import protocol
from tests.faults.drifting import APP
from tests.faults.federation import TOY, Federation, ask, model, until
from tests.faults.small_disk import small_disk

SILOS = ["silo-1", "silo-2"]


class Crash(BaseException):
    """The node's end, at a place of the test's choice."""


def mean(replies: list[Message]) -> ArrayRecord:
    assert [reply.error.reason for reply in replies if reply.has_error()] == []
    updates = sorted(replies, key=lambda reply: float(reply.content["arrays"]["w0"].numpy()[0]))
    result = ArrayRecord()
    for name in updates[0].content["arrays"]:
        arrays = [update.content["arrays"][name].numpy() for update in updates]
        result[name] = Array(np.asarray(sum(arrays) / len(arrays)).astype(arrays[0].dtype))
    return result


def bits(arrays: ArrayRecord) -> list[bytes]:
    return [array.numpy().tobytes() for array in arrays.values()]


@contextmanager
def grid_of(federation: Federation) -> Iterator[tuple[PackedGrid, str]]:
    with federation.orchestrator() as orchestrator:
        yield PackedGrid(orchestrator.open_run("run", SILOS)), orchestrator.address


def round_of(grid: PackedGrid, number: int, arrays: ArrayRecord) -> ArrayRecord:
    until(lambda: len(list(grid.get_node_ids())) == 2, 60)
    return mean(grid.send_and_receive(ask(grid, number, arrays), timeout=60))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("whole")
    federation = Federation(folder)
    arrays = model(seed=1)
    with grid_of(federation) as (grid, address):
        first, second = federation.silos
        with (
            federation.thread_node(address, first, folder / "1", APP),
            federation.thread_node(address, second, folder / "2", APP),
        ):
            for number in (1, 2, 3, 4):
                arrays = round_of(grid, number, arrays)
    return bits(arrays)


def preempted(folder: Path, how: int, own: Callable[[int], Path] | None = None) -> list[bytes]:
    """Return the bits of four rounds in which each node is ended after the second, and its disk emptied."""
    federation = Federation(folder)
    arrays = model(seed=1)

    def options(number: int) -> list[str]:
        given = ["--state", str(folder / f"disk-{number}")]
        return [*given, "--state-store", str(own(number))] if own else given

    with grid_of(federation) as (grid, address):
        for rounds in ((1, 2), (3, 4)):
            first, second = federation.silos
            with (
                federation.process_node(address, first, *options(1), app=APP) as one,
                federation.process_node(address, second, *options(2), app=APP) as two,
            ):
                for number in rounds:
                    arrays = round_of(grid, number, arrays)
                for node in (one, two):
                    node.send(how)
                    node.wait(20)
            for number in (1, 2):
                shutil.rmtree(folder / f"disk-{number}")
    return bits(arrays)


def test_an_emptied_disk_changes_no_bit(tmp_path: Path, undisturbed: list[bytes]) -> None:
    own = tmp_path / "own"
    assert preempted(tmp_path, signal.SIGTERM, lambda number: own) == undisturbed
    assert sorted(path.name for path in own.iterdir() if path.is_dir()) == SILOS


@pytest.mark.slow
def test_nor_do_killed_processes_whose_lease_has_to_run_out(
    tmp_path: Path, undisturbed: list[bytes]
) -> None:
    own = tmp_path / "own"
    assert preempted(tmp_path, signal.SIGKILL, lambda number: own) == undisturbed


def test_without_storage_of_its_own_the_emptied_disk_shows(
    tmp_path: Path, undisturbed: list[bytes]
) -> None:
    assert preempted(tmp_path, signal.SIGTERM) != undisturbed


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (SiloStateStore, "keep", False),
        (SiloStateStore, "keep", True),
        (UpdateJournal, "keep_update", True),
        (Connection, "answer", True),
    ],
)
def test_a_crash_at_any_step_between_training_and_reply_changes_no_bit(
    tmp_path: Path,
    undisturbed: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    after: bool,
) -> None:
    federation = Federation(tmp_path)
    first, second = federation.silos
    arrays = model(seed=1)
    real = getattr(owner, name)
    calls = itertools.count(1)

    def dying(*args: object, **more: object) -> object:
        # The fifth is in the third round: each silo made one in each of the first two.
        call = next(calls)
        if call == 5 and not after:
            raise Crash
        done = real(*args, **more)
        if call == 5:
            raise Crash
        return done

    monkeypatch.setattr(owner, name, dying)
    with grid_of(federation) as (grid, address):
        nodes = {
            silo.name: federation.thread_node(address, silo, tmp_path / silo.name, APP)
            for silo in (first, second)
        }
        opened = {silo: node.__enter__() for silo, node in nodes.items()}
        for number in (1, 2):
            arrays = round_of(grid, number, arrays)
        ids = grid.push_messages(ask(grid, 3, arrays))
        until(lambda: any(isinstance(node.ended_with, Crash) for node in opened.values()))
        (dead,) = [silo for silo, node in opened.items() if isinstance(node.ended_with, Crash)]
        opened.pop(dead).thread.join(10)
        silo = next(silo for silo in federation.silos if silo.name == dead)
        with federation.thread_node(address, silo, tmp_path / dead, APP):
            until(lambda: len(list(grid.get_node_ids())) == 2, 60)
            replies = [one for one in grid.replies(ids, 60) if not one.has_error()]
            answered = {one.metadata.src_node_id for one in replies}
            again = [m for m in ask(grid, 3, arrays) if m.metadata.dst_node_id not in answered]
            arrays = mean([*replies, *grid.send_and_receive(again, timeout=60)])
            arrays = round_of(grid, 4, arrays)
        for node in opened.values():
            node.end()
    assert bits(arrays) == undisturbed


@pytest.mark.parametrize("restarted", [False, True], ids=["running on", "restarted"])
def test_a_server_that_falls_back_to_its_checkpoint_before_finds_each_silo_s_state(
    tmp_path: Path, restarted: bool
) -> None:
    """Its latest checkpoint is of round 3, and damaged; the silos have trained round 4 already."""
    federation = Federation(tmp_path)
    at: dict[int, ArrayRecord] = {0: model(seed=1)}

    def train(grid: PackedGrid, number: int) -> ArrayRecord:
        until(lambda: len(list(grid.get_node_ids())) == 2, 60)
        asked = ask(grid, number, at[number - 1], **{protocol.COUNTED: number - 1})
        return mean(grid.send_and_receive(asked, timeout=60))

    def nodes(address: str) -> ExitStack:
        stack = ExitStack()
        for silo in federation.silos:
            stack.enter_context(federation.thread_node(address, silo, tmp_path / silo.name, APP))
        return stack

    with grid_of(federation) as (grid, address):
        running = nodes(address)
        for number in (1, 2, 3, 4):
            at[number] = train(grid, number)
        if restarted:
            running.close()
            running = nodes(address)
        with running:
            # From the checkpoint of round 2, twice: what came after it is of no run any more.
            for number in (3, 4, 5, 4):
                again = train(grid, number)
                assert bits(again) == bits(at.setdefault(number, again)), number


def test_a_full_disk_is_said_and_the_update_does_not_count(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "1m") as disk:
        federation = Federation(tmp_path, silos=1)
        with federation.orchestrator() as orchestrator:
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            (silo,) = federation.silos
            with federation.thread_node(orchestrator.address, silo, disk.seen / "state", APP):
                until(lambda: list(grid.get_node_ids()))
                arrays = model(seed=1)
                (reply,) = grid.send_and_receive(ask(grid, 1, arrays), timeout=30)
                assert not reply.has_error()
                disk.fill()
                (reply,) = grid.send_and_receive(ask(grid, 2, arrays), timeout=30)
                assert reply.has_error() and "MDW-513" in reply.error.reason
                disk.free()
                (again,) = grid.send_and_receive(ask(grid, 2, arrays), timeout=30)
                assert not again.has_error()


def damaged(place: Path) -> Path:
    file = sorted(place.rglob("*.state"))[-1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return file


def test_a_damaged_state_is_said_by_its_file_until_it_is_restored(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    (silo,) = federation.silos
    arrays = model(seed=1)
    with federation.orchestrator() as orchestrator:
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))

        def asked(number: int) -> Message:
            until(lambda: list(grid.get_node_ids()))
            (reply,) = grid.send_and_receive(ask(grid, number, arrays), timeout=30)
            return reply

        with federation.thread_node(orchestrator.address, silo, tmp_path / "1", APP):
            assert not asked(1).has_error()
        damaged(tmp_path / "1")
        with federation.thread_node(orchestrator.address, silo, tmp_path / "1", APP):
            for _ in range(2):
                reply = asked(2)
                assert reply.has_error()
                assert reply.error.reason == "the silo says MDW-519", "which file is its own affair"
            damaged(tmp_path / "1")
            assert not asked(2).has_error()


def test_an_algorithm_without_a_state_does_not_mind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: SiloStateStore, run: str) -> None:
        raise CheckpointError("MDW-514", "May not read the silo's storage.")

    monkeypatch.setattr(SiloStateStore, "restore", unreachable)
    federation = Federation(tmp_path, silos=1)
    (silo,) = federation.silos
    with federation.orchestrator() as orchestrator:
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        for app, fails in (("tests.faults.stateless:app", False), (TOY, True)):
            with federation.thread_node(orchestrator.address, silo, tmp_path / app, app):
                until(lambda: list(grid.get_node_ids()))
                (reply,) = grid.send_and_receive(ask(grid, 1, model()), timeout=30)
                assert reply.has_error() == fails
    assert "MDW-514" in reply.error.reason


def test_a_second_process_of_a_silo_ends_with_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(state_store, "RENEW_SECONDS", 0.1)
    federation = Federation(tmp_path, silos=1)
    (silo,) = federation.silos
    with federation.orchestrator() as orchestrator:
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        with federation.thread_node(orchestrator.address, silo, tmp_path / "1", APP):
            until(lambda: list(grid.get_node_ids()))
            grid.send_and_receive(ask(grid, 1, model()), timeout=30)
            place = FolderStore(tmp_path / "1/states")
            second = SiloStateStore(lambda: place, "silo-1")
            with pytest.raises(AnotherProcess, match="MDW-343: Another process of silo-1"):
                second.restore("run")
