"""The orchestrator is killed, started again with the same keys, and ends with the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.federation import ROOT, Federation, free_port, lines


def serve(folder: Path, port: int, rounds: int, *more: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.faults.toy_server",
        str(folder),
        str(port),
        "2",
        str(rounds),
        *more,
    ]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ)


def undisturbed(rounds: int) -> float:
    value = 0.0
    for _ in range(rounds):
        import numpy as np

        value = float(
            (np.float32(value) + 1 + (np.float32(value) + 2)) / np.float32(2) * np.float32(1.1)
        )
    return value


def killed_and_restarted(folder: Path, place: str, processes: bool) -> None:
    federation, port = Federation(folder), free_port()
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        for silo in federation.silos:
            state = folder / f"state-{silo.name}"
            if processes:
                stack.enter_context(federation.process_node(address, silo, "--state", str(state)))
            else:
                stack.enter_context(federation.thread_node(address, silo, state))
        with serve(folder, port, 3, "--die", f"{place}:2", "--sleep", "0.5") as first:
            assert first.wait(100) == -9
        assert lines(folder / "events.jsonl")[-1] == {"event": "dying", "place": place, "round": 2}
        with serve(folder, port, 3, "--sleep", "0.5") as second:
            assert second.wait(100) == 0
    events = lines(folder / "events.jsonl")
    done = next(one for one in events if one["event"] == "done")
    assert done["first"] == pytest.approx(undisturbed(3), rel=1e-6)
    back = [one["seconds"] for one in events if one["event"] == "connected"][1]
    assert back < 15
    trained = [(one["silo"], one["round"]) for one in lines(folder / "trained.jsonl")]
    assert sorted(trained) == [(f"silo-{s}", r) for s in (1, 2) for r in (1, 2, 3)], (
        "no training was done twice"
    )


def test_killed_while_collecting_it_goes_on_and_no_silo_trains_twice(tmp_path: Path) -> None:
    killed_and_restarted(tmp_path, "collecting", processes=False)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before-send", "collecting", "aggregating", "writing"])
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path: Path, place: str) -> None:
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    plain.mkdir(mode=0o700)
    killed.mkdir(mode=0o700)
    federation, port = Federation(plain), free_port()
    with ExitStack() as stack:
        for silo in federation.silos:
            stack.enter_context(federation.thread_node(f"127.0.0.1:{port}", silo))
        with serve(plain, port, 3) as server:
            assert server.wait(100) == 0
    killed_and_restarted(killed, place, processes=True)
    digests = [
        next(one["digest"] for one in lines(folder / "events.jsonl") if one["event"] == "done")
        for folder in (plain, killed)
    ]
    assert digests[0] == digests[1]
