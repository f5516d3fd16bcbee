"""The queue of runs: in order, each once, its end on record, held to the schema whoever wrote it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from azureml_jobs.storage.folder_store import FolderStore
from conf.compose import compose
from conf.errors import ConfigError
from server.store.run_queue import Outcome, RunQueue

FINISHED = Outcome("finished", folder="/outputs/a")


@pytest.fixture
def queue(tmp_path: Path) -> RunQueue:
    times = iter(range(1, 1000))
    return RunQueue(FolderStore(tmp_path), lambda: float(next(times)))


def test_runs_are_taken_up_in_the_order_in_which_they_were_asked_for(queue: RunQueue) -> None:
    for run in ("b", "a", "c"):
        queue.submit(run, compose([]))
    order = []
    while (request := queue.next()) is not None:
        order.append(request.run_id)
        assert queue.outcome(request.run_id) is None
        queue.ended(request, FINISHED)
    assert order == ["b", "a", "c"]
    assert queue.outcome("b") == FINISHED


def test_a_request_gives_back_the_configuration_under_the_runs_name(queue: RunQueue) -> None:
    conf = compose(["run.rounds=7", "strategy=fedprox", "federation.silos.north.threads=2"])
    queue.submit("a.1", conf, "meadow submit")
    request = queue.next()
    assert request is not None and request.command == "meadow submit"
    assert request.checked() == replace(conf, run=replace(conf.run, name="a.1"))


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a.", "a b", "a" * 101])
def test_a_name_that_no_file_can_have_is_refused(queue: RunQueue, name: str) -> None:
    with pytest.raises(ConfigError, match="MDW-187"):
        queue.submit(name, compose([]))


def test_a_name_is_used_once_unless_its_run_is_gone_on_with(queue: RunQueue) -> None:
    again = compose([])
    again.run.resume = "a"
    request = queue.submit("a", compose([]))
    for conf in (compose([]), again):
        with pytest.raises(ConfigError, match=r"MDW-187.*has not ended"):
            queue.submit("a", conf)
    queue.ended(request, Outcome("failed", "why", 5))
    queue.begins(request)
    with pytest.raises(ConfigError, match=r"MDW-187.*run\.resume=a"):
        queue.submit("a", compose([]))
    queue.submit("a", again)
    assert queue.outcome("a") is None
    taken = queue.next()
    assert taken is not None and taken.run_id == "a" and taken != request


def test_a_run_that_left_nothing_can_be_asked_for_again(queue: RunQueue) -> None:
    queue.ended(queue.submit("a", compose([])), Outcome("failed", "no silo came", 4))
    queue.submit("a", compose([]))
    assert queue.outcome("a") is None


def test_a_cancelled_run_ends_at_once_or_by_the_live_orchestrator(queue: RunQueue) -> None:
    queue.submit("a", compose([]))
    queue.cancel("a", live=True)
    request = queue.next()
    assert request is not None and queue.is_cancelled(request) and queue.outcome("a") is None
    queue.cancel("a", live=False)
    outcome = queue.outcome("a")
    assert (
        queue.next() is None
        and outcome is not None
        and (outcome.status, outcome.exit) == ("cancelled", 130)
    )
    queue.submit("b", compose([]))
    waiting = queue.next()
    assert waiting is not None and not queue.is_cancelled(waiting)


def test_a_run_that_ended_is_not_cancelled(queue: RunQueue) -> None:
    queue.ended(queue.submit("a", compose([])), FINISHED)
    queue.cancel("a", live=False)
    assert queue.outcome("a") == FINISHED


def test_a_run_that_nobody_asked_for_is_an_error(queue: RunQueue) -> None:
    queue.submit("a", compose([]))
    with pytest.raises(ConfigError, match=r"MDW-183.*Submitted: a"):
        queue.outcome("b")


def test_a_request_with_a_key_that_is_not_ours_is_refused_when_it_is_taken_up(
    queue: RunQueue, tmp_path: Path
) -> None:
    queue.submit("a", compose([]))
    (file,) = (tmp_path / "queue" / "requests").iterdir()
    content = json.loads(file.read_text())
    content["conf"]["trainer"]["hook"] = "os.system"
    file.write_text(json.dumps(content))
    request = queue.next()
    assert request is not None
    with pytest.raises(ConfigError, match="MDW-101"):
        request.checked()
