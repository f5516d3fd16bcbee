"""Rounds of many small silos: Meadow's pool beside pfl-research, each side's round in turn.

    python -m venv PFL && PFL/bin/pip install pfl torch numpy
    python benchmarks/many_silos.py --root DATA --pfl PFL/bin/python

1,000 silos of 60 MNIST images, 50 of them a round, the CNN of NIID-Bench, one epoch of batches of
10; two processes of one thread on each side. Meadow's round is a whole one of `simulate`
(admission, ledger, history, checkpoint); both sides evaluate the 10,000 test images after each.
One round of a side, then one of the other, so that both see the same machine; the first of each
does not count. `--profile FILE` writes the profile of Meadow's parent process.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.work import Work, wait_for_go

PEERS = Path(__file__).parent / "peers"
PORT = "29611"
"""At which the two processes of pfl-research meet."""


WHAT = ("training", "round", "cpu")
"""What is measured of each round."""


class Side:
    """A side in processes of its own, which does one round each time it is told to."""

    def __init__(self, name: str, commands: list[tuple[list[str], dict[str, str]]]) -> None:
        self.name = name
        self.rounds: list[dict[str, float]] = []
        self._processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for command, environment in commands
        ]

    def cpu_seconds(self) -> float:
        """Return the processor time of all processes of the side until now."""
        total = 0.0
        for process in self._processes:
            root = psutil.Process(process.pid)
            for one in [root, *root.children(recursive=True)]:
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def read(self) -> str:
        """Return the next line of the side's first process."""
        line = self._processes[0].stdout.readline()  # type: ignore[union-attr]  # a pipe
        if not line:
            sys.exit(f"{self.name} ended: {self._processes[0].wait()}")
        return line.strip()

    def wait_until_ready(self) -> None:
        """Read until the side waits for its turn; keep what it says of its round."""
        while (line := self.read()) != "ready":
            if line.startswith('{"training"'):
                self.rounds.append(json.loads(line))

    def go(self) -> None:
        """Let the side do its next round."""
        stdin = self._processes[0].stdin
        assert stdin is not None
        stdin.write("go\n")
        stdin.flush()

    def end(self) -> None:
        """Let the side end: its input is closed."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait()


def meadow_side(work: Work, folder: Path, more: list[str]) -> Side:
    """Return Meadow in a process of its own."""
    command = [sys.executable, __file__, "--side", *work.arguments(), *more]
    return Side("Meadow, pool, 2 workers", [(command, {"MEADOW_BENCH": str(folder)})])


def pfl_side(work: Work, python: str) -> Side:
    """Return the two processes of pfl-research."""
    command = [python, "-W", "ignore", str(PEERS / "pfl_fedavg.py"), "--stepped", *work.arguments()]
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": PORT,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        # By this pfl-research knows that the ranks are given.
        "TORCHELASTIC_RUN_ID": "many-silos",
    }
    ranks = [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return Side("pfl-research, 2 processes", [(command, rank) for rank in ranks])


def run_side(work: Work, profile: str | None) -> None:
    """Be Meadow's side: `simulate`, with a wait before each round."""
    os.chdir(os.environ["MEADOW_BENCH"])
    from benchmarks.peers.meadow_simulate import overrides
    from server.round.rounds import Rounds
    from server.round.train_phase import TrainPhase
    from server.simulation import simulate

    whole, train = Rounds._round, TrainPhase.run
    profiler = cProfile.Profile()
    times: dict[str, float] = {}

    def round_of(self: Rounds, number: int) -> Any:
        # The last round was closed, with its checkpoint, when the next begins.
        if "started" in times:
            report()
        wait_for_go()
        times["started"] = time.perf_counter()
        if profile and number > 1:
            profiler.enable()
        return whole(self, number)

    def train_phase(self: TrainPhase, *args: Any) -> Any:
        aggregate = train(self, *args)
        times["trained"] = time.perf_counter()
        return aggregate

    def report() -> None:
        profiler.disable()
        ended = time.perf_counter()
        seconds = {
            "training": times["trained"] - times["started"],
            "round": ended - times["started"],
        }
        print(json.dumps(seconds), flush=True)

    Rounds._round = round_of  # type: ignore[method-assign]  # to take the time
    TrainPhase.run = train_phase  # type: ignore[method-assign]  # to take the time
    try:
        simulate([*overrides(work), "simulation=pool"])
    finally:
        if profile:
            profiler.dump_stats(profile)


def interleaved(sides: list[Side], rounds: int) -> None:
    """Let each side do its rounds in turn."""
    for side in sides:
        side.wait_until_ready()
    for _ in range(rounds):
        for side in sides:
            before = side.cpu_seconds()
            side.go()
            side.wait_until_ready()
            side.rounds[-1]["cpu"] = side.cpu_seconds() - before


def table(sides: list[Side], silos: int) -> None:
    """Print the medians of the rounds after the first, and the ratio of the pairs."""
    print(
        f"{silos} silos, medians (lowest to highest) of {len(sides[0].rounds) - 1} rounds in turn"
    )
    print("| side | training s | round s | CPU s a round, all processes |")
    print("|---|---|---|---|")
    for side in sides:
        cells = [_spread([r[what] for r in side.rounds[1:]]) for what in WHAT]
        print(f"| {side.name} | {' | '.join(cells)} |")
    first, second = (side.rounds[1:] for side in sides)
    ratios = [
        statistics.median(a[what] / b[what] for a, b in zip(first, second, strict=True))
        for what in WHAT
    ]
    cells = [f"**{ratio:.2f}**" for ratio in ratios]
    print(f"| **Meadow / pfl-research** | {' | '.join(cells)} |", flush=True)


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def main() -> None:
    """Run both sides, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    Work.add_to(parser)
    parser.add_argument("--pfl", help="python of an environment with pfl and torch")
    parser.add_argument("--profile", help="file for a profile of Meadow's parent process")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = Work.of(args)
    profile = str(Path(args.profile).absolute()) if args.profile else None
    if args.side:
        run_side(work, profile)
        return
    # A side reports a round when it is ready for the next one.
    counted = work.rounds
    work.rounds += 2
    with tempfile.TemporaryDirectory(prefix="meadow-many-silos-") as folder:
        more = ["--profile", profile] if profile else []
        sides = [meadow_side(work, Path(folder), more)]
        if args.pfl:
            sides.append(pfl_side(work, args.pfl))
        interleaved(sides, counted + 1)
        for side in sides:
            side.end()
    if len(sides) > 1:
        table(sides, work.silos)
    else:
        for what in WHAT:
            print(what, _spread([r[what] for r in sides[0].rounds[1:]]))


if __name__ == "__main__":
    main()
