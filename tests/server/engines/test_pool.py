"""The pool is a Flower Grid: order, affinity, bits, late replies, and what happens when a client fails."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from conf.errors import DataError, SiloError
from conf.schema import Silo
from conf.silos import silo_from_json
from server.engines import queues
from server.engines.pipe import Call, Job
from server.engines.pool import PoolGrid
from server.engines.silo_context import node_id
from server.engines.worker import Answered, Worker
from strategies.wire import protocol

APP = "echo_app:app"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def silos(count: int) -> list[Silo]:
    return [Silo(f"silo-{i}", i, count) for i in range(count)]


def pool(count: int, workers: int, log: Path | None = None) -> PoolGrid:
    return PoolGrid(silos(count), workers, app=APP, malloc=False, log=log)


def arrays(size: int = 100) -> ArrayRecord:
    return ArrayRecord(
        {name: Array(np.random.default_rng(size).normal(size=size)) for name in ("w", "b")}
    )


def asked(
    grid: PoolGrid, model: ArrayRecord | None = None, **config: str | int | float
) -> list[Message]:
    content = RecordDict(
        {"config": ConfigRecord(dict(config)), **({"arrays": model} if model else {})}
    )
    return [Message(content, node, "train") for node in grid.get_node_ids()]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def metric(reply: Message, name: str) -> int:
    return int(reply.content.metric_records["metrics"][name])  # type: ignore[arg-type]


@pytest.fixture(params=[0, 2], ids=["here", "workers"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PoolGrid]:
    with pool(4, request.param, tmp_path / "workers.log") as grid:
        yield grid


def test_every_silo_answers_once_with_the_bits_it_was_sent(grid: PoolGrid) -> None:
    for size in (100, 100_000):  # inside the message, and beside it
        model = arrays(size)
        for _ in range(2):
            replies = grid.send_and_receive(asked(grid, model))
            assert sorted(metric(r, "partition") for r in replies) == [0, 1, 2, 3]
            assert all(r.content.array_records["arrays"] == model for r in replies)
            assert len({r.metadata.message_id for r in replies}) == 4


def test_silos_are_known_by_name(grid: PoolGrid) -> None:
    assert grid.names() == {node_id(f"silo-{i}"): f"silo-{i}" for i in range(4)}
    assert all(0 < node < 2**63 for node in grid.names())
    by_node = {
        r.metadata.src_node_id: metric(r, "partition") for r in grid.send_and_receive(asked(grid))
    }
    assert by_node == {node_id(f"silo-{i}"): i for i in range(4)}


def test_the_state_of_a_silo_goes_with_it(grid: PoolGrid) -> None:
    for rounds in (1, 2, 3):
        assert {metric(r, "rounds") for r in grid.send_and_receive(asked(grid))} == {rounds}


def test_a_silo_reads_its_own_settings(tmp_path: Path) -> None:
    with pool(2, 0) as grid:
        node = grid.get_node_ids()[1]
        context: Context = grid._contexts[node]
        assert silo_from_json(str(context.node_config["silo"])) == silos(2)[1]
        assert (
            context.node_config["partition-id"] == 1 and context.node_config["num-partitions"] == 2
        )


def test_an_exception_becomes_an_error_reply_in_one_line_and_the_others_answer(
    grid: PoolGrid,
) -> None:
    replies = grid.send_and_receive(asked(grid, do="raise", partition=1))
    failed = [r for r in replies if r.has_error()]
    assert [r.error.code for r in failed] == [ErrorCode.CLIENT_APP_RAISED_EXCEPTION]
    assert failed[0].error.reason == "ValueError: no such\nlabel"
    assert failed[0].metadata.src_node_id == node_id("silo-1")
    assert sorted(metric(r, "partition") for r in replies if not r.has_error()) == [0, 2, 3]
    again = grid.send_and_receive(asked(grid))
    # what the silo did before it raised is forgotten
    assert sorted((metric(r, "partition"), metric(r, "rounds")) for r in again) == [
        (0, 2),
        (1, 1),
        (2, 2),
        (3, 2),
    ]


def test_sys_exit_in_a_client_ends_neither_server_nor_worker(grid: PoolGrid) -> None:
    replies = grid.send_and_receive(asked(grid, do="sys.exit", partition=0))
    assert [r.error.reason for r in replies if r.has_error()] == ["SystemExit: 3"]


def test_a_message_to_an_unknown_node_gets_no_id(grid: PoolGrid) -> None:
    stranger = Message(RecordDict(), 12345, "train")
    assert grid.push_messages([stranger]) == [""]


def test_replies_come_as_they_are_done() -> None:
    with pool(2, 2) as grid:
        grid.send_and_receive(asked(grid))
        started = time.monotonic()
        arrived = [
            (metric(r, "partition"), time.monotonic() - started)
            for r in grid.replies(
                grid.push_messages(asked(grid, do="sleep", seconds=0.5, partition=0)), None
            )
        ]
        assert [who for who, _ in arrived] == [1, 0]
        assert arrived[0][1] < 0.4 < arrived[1][1]


def test_here_runs_in_the_callers_thread_only_as_replies_are_asked_for() -> None:
    with pool(3, 0) as grid:
        ids = grid.push_messages(asked(grid))
        before = threading.active_count()
        first = next(iter(grid.replies(ids, None)))
        assert metric(first, "pid") == os.getpid() and threading.active_count() == before
        assert len(grid._queues) == 2
        assert [metric(r, "partition") for r in grid.replies(ids, None)] == [1, 2]


def test_pull_messages_returns_each_reply_once(grid: PoolGrid) -> None:
    ids = grid.push_messages(asked(grid))
    got: list[Message] = []
    deadline = time.monotonic() + 30
    while len(got) < 4 and time.monotonic() < deadline:
        got += grid.pull_messages(ids)
    assert sorted(metric(r, "partition") for r in got) == [0, 1, 2, 3]
    assert grid.pull_messages(ids) == [] and list(grid.replies(ids, None)) == []


def test_a_silo_goes_to_the_same_worker_while_none_is_idle_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queues, "STEAL_SECONDS", 60.0)
    with pool(5, 2) as grid:
        pids = [
            {metric(r, "partition"): metric(r, "pid") for r in grid.send_and_receive(asked(grid))}
            for _ in range(2)
        ]
        assert pids[0] == pids[1]
        assert sorted(list(pids[0].values()).count(pid) for pid in set(pids[0].values())) == [2, 3]


def test_an_idle_worker_takes_what_waits_for_a_busy_one_with_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pool(4, 2) as grid:
        grid.send_and_receive(asked(grid))
        # Silos 0 and 2 are at one worker; who sleeps is asked first.
        sleeper, other = grid.get_node_ids()[0], grid.get_node_ids()[2]
        sleep = ConfigRecord({"do": "sleep", "seconds": 1.0})
        first = grid.push_messages([Message(RecordDict({"config": sleep}), sleeper, "train")])
        wait_until(lambda: len(grid._queues) == 0)
        second = grid.push_messages([Message(RecordDict(), other, "train")])
        arrived = [metric(r, "partition") for r in grid.replies(first + second, None)]
        assert arrived == [2, 0]
        # On a busy machine another silo might wait for long enough to be taken, too.
        monkeypatch.setattr(queues, "STEAL_SECONDS", 600.0)
        replies = grid.send_and_receive(asked(grid))
        assert sorted((metric(r, "partition"), metric(r, "rounds")) for r in replies) == [
            (0, 3),
            (1, 2),
            (2, 3),
            (3, 2),
        ]
        # It stays at the worker that took it: its data is there now.
        pids = {metric(r, "partition"): metric(r, "pid") for r in replies}
        assert pids[2] == pids[1] == pids[3]


def test_short_silos_are_asked_together_and_answer_one_by_one(tmp_path: Path) -> None:
    with pool(6, 1) as grid:
        for _ in range(2):
            grid.send_and_receive(asked(grid))
        asked_for: list[int] = []
        ask = grid._workers[0].ask

        def counted(jobs: Sequence[Job], **rest: Any) -> Iterator[Answered]:
            asked_for.append(len(jobs))
            return ask(jobs, **rest)

        grid._workers[0].ask = counted  # type: ignore[method-assign]  # counts, and asks
        once = str(tmp_path / "once")
        messages = asked(grid, do="exit", partition=2, path=once)
        replies = list(grid.replies(grid.push_messages(messages), None))
        failed = [r.has_error() for r in replies]
        assert failed.count(True) == 1
        # What it had not begun when it died was asked again, and nothing else.
        again = 5 - failed.index(True)
        assert asked_for == ([6, again] if again else [6])
        assert sorted(metric(r, "rounds") for r in replies if not r.has_error()) == [3] * 5


def test_a_late_reply_is_dropped_and_counted_and_the_next_round_is_clean() -> None:
    with pool(2, 2) as grid:
        grid.send_and_receive(asked(grid))
        replies = grid.send_and_receive(
            asked(grid, do="sleep", seconds=0.6, partition=0), timeout=0.3
        )
        assert [metric(r, "partition") for r in replies] == [1]
        assert grid.late == 0
        replies = grid.send_and_receive(asked(grid))
        assert grid.late == 1
        assert sorted((metric(r, "partition"), metric(r, "rounds")) for r in replies) == [
            (0, 3),
            (1, 3),
        ]


def test_forgotten_messages_that_have_not_begun_never_run() -> None:
    with pool(3, 1) as grid:
        ids = grid.push_messages(asked(grid, do="sleep", seconds=0.3, partition=0))
        grid.forget(ids[1:])
        assert len(list(grid.replies(ids, None))) == 1
        replies = grid.send_and_receive(asked(grid))
        by_silo = sorted((metric(r, "partition"), metric(r, "rounds")) for r in replies)
        assert by_silo == [(0, 2), (1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("do", "how"), [("exit", "exit code 7"), ("kill", "SIGKILL, most likely out of memory")]
)
def test_a_dead_worker_is_one_error_and_the_next_round_is_clean(
    do: str, how: str, tmp_path: Path
) -> None:
    with pool(4, 2) as grid:
        replies = grid.send_and_receive(
            asked(grid, do=do, partition=2, path=str(tmp_path / "once"))
        )
        failed = [r for r in replies if r.has_error()]
        assert len(replies) == 4 and [r.error.code for r in failed] == [
            ErrorCode.CLIENT_APP_CRASHED
        ]
        assert "silo-2" in str(failed[0].error.reason) and how in str(failed[0].error.reason)
        again = grid.send_and_receive(asked(grid))
        # the crashed training left no trace in its silo's state
        assert sorted((metric(r, "partition"), metric(r, "rounds")) for r in again) == [
            (0, 2),
            (1, 2),
            (2, 1),
            (3, 2),
        ]


def test_a_silo_that_always_ends_its_worker_is_given_up_and_the_others_go_on() -> None:
    with pool(3, 1) as grid:
        for round in range(5):
            replies = grid.send_and_receive(asked(grid, do="exit", partition=0))
            reasons = [str(r.error.reason) for r in replies if r.has_error()]
            assert len(reasons) == 1 and ("not tried again" in reasons[0]) == (round >= 3)


def test_large_arrays_survive_a_restart_of_their_worker(tmp_path: Path) -> None:
    model = arrays(50_000)
    with pool(3, 1) as grid:
        grid.send_and_receive(asked(grid, model))
        replies = grid.send_and_receive(
            asked(grid, model, do="exit", partition=1, path=str(tmp_path / "once"))
        )
        whole = [r for r in replies if not r.has_error()]
        assert len(whole) == 2 and all(r.content.array_records["arrays"] == model for r in whole)


def test_an_app_that_is_not_there_is_named() -> None:
    for app in ("no_such_module:app", "echo_app:nothing", "echo_app:train", "__main__:app"):
        with pytest.raises(SiloError, match="MDW-310") as caught:
            PoolGrid(silos(2), 2, app=app)
        assert app in str(caught.value)


def test_workers_that_cannot_start_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "parent_only_app.py"
    module.write_text(
        "from echo_app import app\nimport os\nassert os.environ.get('PARENT') == '1'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PARENT", "1")
    importlib.import_module("parent_only_app")
    monkeypatch.setenv("PARENT", "0")
    grid = PoolGrid(silos(2), 2, app="parent_only_app:app", malloc=False)
    with grid, pytest.raises(SiloError, match="MDW-311"):
        grid.send_and_receive(asked(grid))


def test_workers_write_to_the_log_and_not_to_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pool(2, 2, tmp_path / "workers.log") as grid:
        grid.send_and_receive(asked(grid, do="raise", partition=0))
    assert "train call 1" in (tmp_path / "workers.log").read_text()
    assert "ValueError: no such" in (tmp_path / "workers.log").read_text()
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_grids_one_after_another_and_inside_each_other_give_the_identity_back() -> None:
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    with pool(2, 1) as outer:
        mine = TaskIdentity.run_id
        with pool(2, 0) as inner:
            assert TaskIdentity.run_id == inner.run.run_id != mine
            assert len(inner.send_and_receive(asked(inner))) == 2
        assert TaskIdentity.run_id == mine
        assert len(outer.send_and_receive(asked(outer))) == 2
    assert (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id) == before


@pytest.mark.parametrize("do", ["sleep", "block"])
def test_close_ends_workers_in_the_middle_of_a_training(do: str) -> None:
    me = psutil.Process()
    grid = pool(2, 2)
    pids = {metric(r, "pid") for r in grid.send_and_receive(asked(grid))}
    assert pids <= {p.pid for p in me.children(recursive=True)}
    grid.send_and_receive(asked(grid, do=do, seconds=600), timeout=0.2)
    started = time.monotonic()
    grid.close()
    assert time.monotonic() - started < 3
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert grid.pull_messages(["x"]) == []


def test_both_ways_give_the_same_bits_and_states() -> None:
    model = arrays(30_000)

    def run(workers: int) -> list[tuple[int, ArrayRecord, int]]:
        with pool(3, workers) as grid:
            for _ in range(3):
                replies = grid.send_and_receive(asked(grid, model))
            return sorted(
                (
                    (metric(r, "partition"), r.content.array_records["arrays"], metric(r, "rounds"))
                    for r in replies
                ),
                key=lambda one: one[0],
            )

    assert run(0) == run(1) == run(2)


def test_the_message_given_to_a_client_is_its_own() -> None:
    model = arrays()
    with pool(2, 0) as grid:
        messages = asked(grid, model)
        grid.send_and_receive(messages)
        assert messages[0].content.array_records["arrays"] is model
        assert protocol.ARRAYS in messages[1].content


def test_more_workers_than_silos_are_not_started() -> None:
    with pool(2, 16) as grid:
        assert len(grid._workers) == 2
        assert len(grid.send_and_receive(asked(grid))) == 2


def test_a_function_is_called_in_a_worker_with_the_model_s_bits() -> None:
    model = arrays(100_000)
    with pool(2, 2) as grid:
        for _ in range(2):
            futures = [grid.call(Call("echo_app:called", model, number)) for number in range(3)]
            found = [future.result(60) for future in futures]
            assert [number for number, _, _ in found] == [0, 1, 2]
            assert all(values == model["w"].numpy().sum() for _, values, _ in found)
            assert os.getpid() not in {pid for _, _, pid in found}


def test_what_a_called_function_raises_is_raised_as_it_was() -> None:
    with pool(2, 1) as grid:
        with pytest.raises(DataError, match="MDW-202") as caught:
            grid.call(Call("echo_app:called", arrays(), "data error")).result(60)
        assert caught.value.hint == "hint"
        with pytest.raises(ZeroDivisionError, match="no such number"):
            grid.call(Call("echo_app:called", arrays(), "zero")).result(60)
        # An exception whose class can't make it again.
        with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
            grid.call(Call("echo_app:called", arrays(), "odd")).result(60)
        # The worker is the same, and goes on.
        assert len(grid.send_and_receive(asked(grid))) == 2


def test_a_call_over_which_two_workers_end_is_an_error_and_silos_are_asked_on() -> None:
    with pool(2, 1) as grid:
        with pytest.raises(SiloError, match=r"MDW-317: .* echo_app:called ended: exit code 9"):
            grid.call(Call("echo_app:called", arrays(), "exit")).result(60)
        assert len(grid.send_and_receive(asked(grid))) == 2


def test_a_call_that_never_began_ends_with_the_pool() -> None:
    with pool(2, 1) as grid:
        grid.send_and_receive(asked(grid))
        grid.push_messages(asked(grid, do="sleep", seconds=600))
        wait_until(lambda: len(grid._queues) < 2)
        future = grid.call(Call("echo_app:called", arrays(), 1))
    assert future.cancelled()


class Stopping:
    """A process that another thread stops while somebody wants to end it."""

    def __init__(self, worker: Worker, *, closed: bool) -> None:
        self.worker = worker
        self.closed = closed
        self.terminated = 0

    def is_alive(self) -> bool:
        self.worker._process = None
        if self.closed:
            raise ValueError("process object is closed")
        return True

    def terminate(self) -> None:
        self.terminated += 1


@pytest.mark.parametrize("closed", [False, True])
def test_a_worker_that_is_being_stopped_may_be_ended_too(closed: bool) -> None:
    worker = Worker("echo_app:app", keep_mapped=False, log_file=None)
    process = Stopping(worker, closed=closed)
    worker._process = process  # type: ignore[assignment]  # as far as it is looked at here
    worker.end()
    assert process.terminated == (not closed)
