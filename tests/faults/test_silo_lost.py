"""A silo is killed, frozen, or raises: it is named, the others go on, and it is welcome again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from flwr.app import Message

from server.orchestrator.deliveries import MOST
from server.orchestrator.packed_grid import PackedGrid
from server.round.exchange import NO_REPLY, Closing, exchange
from tests.faults.federation import Federation, ProcessNode, ask, lines, model, until

BOTH = ["silo-1", "silo-2"]


def test_killed_in_mid_epoch_it_comes_back_and_answers_for_the_open_round(tmp_path: Path) -> None:
    federation, trained = Federation(tmp_path), tmp_path / "trained.jsonl"
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        with federation.process_node(orchestrator.address, federation.silos[1]) as doomed:
            orchestrator.wait_for(BOTH, 2, 60)
            grid = PackedGrid(orchestrator.open_run("run", BOTH))
            config = {"sleep": 3.0, "sleep-silo": "silo-2", "trained-file": str(trained)}
            ids = grid.push_messages(ask(grid, 1, model(), **config))
            until(lambda: len(lines(trained)) == 2)
            doomed.send(signal.SIGKILL)
            doomed.wait(10)
        with federation.process_node(orchestrator.address, federation.silos[1]):
            replies = list(grid.replies(ids, 60))
        assert not any(reply.has_error() for reply in replies) and len(replies) == 2
        assert [one["silo"] for one in lines(trained)].count("silo-2") == 2


def test_frozen_for_longer_than_the_round_it_is_left_out_and_welcome_in_the_next(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
        federation.process_node(orchestrator.address, federation.silos[1]) as frozen,
    ):
        orchestrator.wait_for(BOTH, 2, 60)
        grid = PackedGrid(orchestrator.open_run("run", BOTH))
        frozen.send(signal.SIGSTOP)
        answered = []
        late = []
        for node, reply, _ in exchange(grid, ask(grid, 1, model()), Closing(timeout=2.0, quorum=1)):
            silo = grid.names()[node]
            if not reply.has_error():
                answered.append(silo)
            elif reply.error.code == NO_REPLY:
                late.append(silo)
        assert (answered, late) == (["silo-1"], ["silo-2"])
        frozen.send(signal.SIGCONT)
        replies = grid.send_and_receive(ask(grid, 2, model()), timeout=30)
        assert (
            sorted(grid.names()[m.metadata.src_node_id] for m in replies if m.has_content()) == BOTH
        )


def test_a_silo_whose_app_raises_is_named_and_the_rest_go_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
        federation.thread_node(orchestrator.address, federation.silos[1]),
    ):
        orchestrator.wait_for(BOTH, 2, 20)
        grid = PackedGrid(orchestrator.open_run("run", BOTH))
        for round in (1, 2, 3):
            told = {"raise": "silo-2"} if round == 2 else {}
            replies = grid.send_and_receive(ask(grid, round, model(), **told), timeout=20)
            failed = {
                grid.names()[m.metadata.src_node_id]: m.error.reason
                for m in replies
                if m.has_error()
            }
            assert set(failed) == ({"silo-2"} if round == 2 else set())
            for why in failed.values():
                assert why.startswith("the silo says MDW-647 (at toy.py:")
                assert why.endswith("raised RuntimeError)"), "the text stays in the silo's log"


@pytest.mark.slow
def test_a_message_that_kills_its_silo_each_time_costs_that_silo_the_round_and_no_more(
    tmp_path: Path,
) -> None:
    federation, trained = Federation(tmp_path), tmp_path / "trained.jsonl"
    doomed, answers = federation.silos[1], dict[str, Message]()
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        with restarted(lambda: federation.process_node(orchestrator.address, doomed)):
            orchestrator.wait_for(BOTH, 2, 60)
            grid = PackedGrid(orchestrator.open_run("run", BOTH))
            for round, told in ((1, {"kill": "silo-2", "trained-file": str(trained)}), (2, {})):
                messages = ask(grid, round, model(), **told)
                for node, reply, _ in exchange(grid, messages, Closing(timeout=120.0)):
                    answers[f"{grid.names()[node]} {round}"] = reply
        assert answers["silo-2 1"].error.reason.startswith("MDW-334: silo-2 ended")
        assert [name for name, reply in answers.items() if reply.has_error()] == ["silo-2 1"]
        assert sorted(answers) == ["silo-1 1", "silo-1 2", "silo-2 1", "silo-2 2"]
        assert [one["silo"] for one in lines(trained)].count("silo-2") == MOST


@contextmanager
def restarted(start: Callable[[], AbstractContextManager[ProcessNode]]) -> Iterator[None]:
    """Start a silo's process again each time it ends, as its scheduler does, until the block is left."""
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            with start() as node:
                until(lambda: over.is_set() or node.process.poll() is not None, 120)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join(60)
    assert not keeper.is_alive()


def test_sigterm_hands_the_message_back_and_has_its_own_status(tmp_path: Path) -> None:
    federation, trained = Federation(tmp_path, silos=1), tmp_path / "trained.jsonl"
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(orchestrator.address, federation.silos[0]) as preempted,
    ):
        orchestrator.wait_for(["silo-1"], 1, 60)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        ids = grid.push_messages(
            ask(grid, 1, model(), sleep=30.0, **{"trained-file": str(trained)})
        )
        until(lambda: lines(trained))
        preempted.send(signal.SIGTERM)
        told = time.monotonic()
        (reply,) = grid.replies(ids, 20)
        assert reply.has_error() and "silo-1 has gone" in reply.error.reason
        assert time.monotonic() - told < 5
        assert preempted.wait(10) == 143


@pytest.mark.slow
def test_killed_it_is_known_to_be_lost_within_thirty_seconds(tmp_path: Path) -> None:
    federation, trained = Federation(tmp_path, silos=1), tmp_path / "trained.jsonl"
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(orchestrator.address, federation.silos[0]) as doomed,
    ):
        orchestrator.wait_for(["silo-1"], 1, 60)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        ids = grid.push_messages(
            ask(grid, 1, model(), sleep=60.0, **{"trained-file": str(trained)})
        )
        until(lambda: lines(trained))
        doomed.send(signal.SIGKILL)
        killed = time.monotonic()
        (reply,) = grid.replies(ids, 60)
        assert reply.has_error() and time.monotonic() - killed < 30


@pytest.mark.slow
def test_killed_in_the_middle_of_its_upload_it_comes_back_and_its_update_counts_once(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator() as orchestrator:
        fleet = orchestrator._fleet
        state = ("--state", str(tmp_path / "state"))
        with federation.process_node(orchestrator.address, federation.silos[0], *state) as doomed:
            orchestrator.wait_for(["silo-1"], 1, 60)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            trained = str(tmp_path / "trained.jsonl")
            ids = grid.push_messages(
                ask(grid, 1, model(size=10_000_000, seed=1), **{"trained-file": trained})
            )
            node = orchestrator._fleet.nodes.entries()[0].id
            until(lambda: fleet.instructions.uploaded_by(node), 60)
            doomed.send(signal.SIGKILL)
            doomed.wait(10)
        with federation.process_node(orchestrator.address, federation.silos[0], *state):
            (reply,) = grid.replies(ids, 90)
        assert not reply.has_error()
        assert len(lines(Path(trained))) == 1, (
            "the update that was kept on disk was sent, not trained again"
        )


@pytest.mark.slow
def test_two_hundred_rounds_leave_memory_descriptors_and_disk_flat(tmp_path: Path) -> None:
    import psutil

    federation = Federation(tmp_path, silos=1)
    state = tmp_path / "state"
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(
            orchestrator.address, federation.silos[0], "--state", str(state)
        ) as node,
    ):
        orchestrator.wait_for(["silo-1"], 1, 60)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        us, them = psutil.Process(), psutil.Process(node.process.pid)
        marks = []
        for round in range(1, 221):
            (reply,) = grid.send_and_receive(ask(grid, round, model(size=100_000)), timeout=30)
            assert not reply.has_error()
            if round in (20, 220):
                marks.append([f(p) for p in (us, them) for f in (_rss, psutil.Process.num_fds)])
        disk = sum(file.stat().st_size for file in state.iterdir())
        for before, after in zip(*marks, strict=True):
            assert after <= before * 1.1 + 5, marks
        assert disk < 3 * 1_200_000 and len(list(state.iterdir())) == 2
        assert len(orchestrator._fleet.instructions.store) == 0


def _rss(process: object) -> int:
    return int(process.memory_info().rss)  # type: ignore[attr-defined]
