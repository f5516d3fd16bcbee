"""The way between silo and server is cut, or drops everything in silence: the round completes, nothing counts twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from server.orchestrator.packed_grid import PackedGrid
from tests.faults.federation import Federation, ask, lines, model, until
from tests.faults.proxy import Proxy

SIZE = 5_000_000


def one_round(folder: Path, disturb: Callable[[Proxy], None], wait: float) -> list[Message]:
    """Run a round of 60 MB whose upload is disturbed half way, and return all replies."""
    federation, trained = Federation(folder, silos=1), folder / "trained.jsonl"
    with federation.orchestrator() as orchestrator:
        proxy = Proxy(orchestrator.address)
        with federation.thread_node(proxy.address, federation.silos[0]):
            orchestrator.wait_for(["silo-1"], 1, 20)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            asked = ask(grid, 1, model(SIZE, seed=1), **{"trained-file": str(trained)})
            before = proxy.carried
            ids = grid.push_messages(asked)
            until(lambda: proxy.carried - before > SIZE * 4, 60)
            disturber = threading.Thread(target=disturb, args=(proxy,))
            disturber.start()
            replies = list(grid.replies(ids, wait))
            disturber.join()
            assert len(orchestrator._fleet.instructions.store) == 0
        proxy.close()
    assert len(lines(trained)) == 1
    return replies


def cut_for(seconds: float) -> Callable[[Proxy], None]:
    def disturb(proxy: Proxy) -> None:
        proxy.cut()
        time.sleep(seconds)
        proxy.mend()

    return disturb


def swallow_for(seconds: float, broken: bool) -> Callable[[Proxy], None]:
    def disturb(proxy: Proxy) -> None:
        proxy.swallow()
        time.sleep(seconds)
        proxy.mend(broken=broken)

    return disturb


def complete(replies: list[Message]) -> None:
    assert len(replies) == 1 and not replies[0].has_error()
    for name, array in model(SIZE, seed=1).items():
        assert np.array_equal(replies[0].content["arrays"][name].numpy(), array.numpy() + 1)


def test_cut_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    complete(one_round(tmp_path, cut_for(1.5), 60))


@pytest.mark.slow
def test_cut_for_ten_seconds_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    complete(one_round(tmp_path, cut_for(10.0), 90))


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_a_link_that_drops_everything_in_silence_for_fifteen_seconds(
    tmp_path: Path, broken: bool
) -> None:
    complete(one_round(tmp_path, swallow_for(15.0, broken), 120))
