"""CPU seconds from a command to its first round, beside what importing torch and Flower alone costs.

    python benchmarks/start.py --times 7
    python benchmarks/start.py --times 7 --side "simulation.workers=0"

Every side is a command of its own, and the sides take turns, so that a busy machine hurts all of
them alike. The CPU seconds are those of every process that the command started, workers and all,
read when the first round's line is printed (to the first round), and again when all of them have
ended (the whole command: one round, model and report included). "workers" are all processes but the
first one; "the rest" is the first one's: Meadow's own modules, the data, the folder, the round. The
floor is an empty program that imports what every run needs: torch and Flower's two apps. The
figures are medians.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FLOOR: Final = "import torch, flwr.app, flwr.serverapp"
ONE_ROUND: Final = ("task=digits", "run.rounds=1")
PR_SET_CHILD_SUBREAPER: Final = 36
TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Side:
    """One command, and what its runs took: CPU seconds to its line and to its end, and seconds."""

    name: str
    command: list[str]
    line: str = ""
    first_line_at: list[float] = field(default_factory=list)
    to_first_line: list[float] = field(default_factory=list)
    in_workers: list[float] = field(default_factory=list)
    to_round: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def cpu_of_session(session: int, but: int = 0) -> float:
    """Return the CPU seconds of all processes of a session, with those of children they reaped.

    The process `but` is left out.
    """
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == but:
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended in between
        # After the name: state, parent, group, session; user, system and their children's time
        # are fields 14 to 17 of proc(5).
        if int(fields[3]) == session:
            ticks += sum(int(number) for number in fields[11:15])
    return ticks / TICK


def reaped() -> float:
    """Return the CPU seconds of all children that have ended so far, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


def measure(side: Side, folder: Path) -> None:
    """Run a side once, to the end of every process that it started."""
    before = reaped()
    started = time.monotonic()
    process = subprocess.Popen(
        side.command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    found = not side.line
    for line in process.stdout:
        if not said:
            side.first_line_at.append(time.monotonic() - started)
            side.to_first_line.append(cpu_of_session(process.pid))
        said.append(line)
        if not found and line.startswith(side.line):
            found = True
            side.to_round.append(cpu_of_session(process.pid))
            side.in_workers.append(cpu_of_session(process.pid, but=process.pid))
            side.wall.append(time.monotonic() - started)
    process.wait()
    _reap_the_rest()
    if process.returncode or not found:
        raise SystemExit("".join([f"{side.command} failed:\n", *said]))
    side.whole.append(reaped() - before)
    if not side.line:
        side.to_round.append(side.whole[-1])
        side.wall.append(time.monotonic() - started)


def _reap_the_rest() -> None:
    """Wait for processes that outlived the one that started them: they are ours as a subreaper."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="runs of each side")
    parser.add_argument(
        "--side", action="append", default=[], help="another side: overrides of the command"
    )
    parser.add_argument("--python", default=sys.executable, help="of the tree that is measured")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    # What a command leaves behind becomes a child of this process, so that its time is counted.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    meadow = str(Path(given.python).with_name("meadow"))
    sides = [Side("floor", [given.python, "-c", FLOOR])]
    for extra in ["", *given.side]:
        command = [meadow, "simulate", *ONE_ROUND, *extra.split()]
        sides.append(Side(f"meadow simulate {extra}".strip(), command, "round 1/1"))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.times):
            for side in sides:
                measure(side, Path(folder))
    show(sides)


def show(sides: list[Side]) -> None:
    floor = statistics.median(sides[0].to_round)
    print("| side | CPU s to the first round | x the floor | whole command | wall s to the round |")
    print("|---|---|---|---|---|")
    for side in sides:
        to_round = statistics.median(side.to_round)
        whole = statistics.median(side.whole)
        wall = statistics.median(side.wall)
        row = (side.name, f"{to_round:.2f}", f"{to_round / floor:.2f}", f"{whole:.2f}")
        print(f"| {' | '.join(row)} | {wall:.1f} |")
    print("\nWhere the CPU seconds to the first round go:")
    print("| side | to its first line | imports (the floor) | workers | the rest | first line at |")
    print("|---|---|---|---|---|---|")
    for side in sides[1:]:
        first = statistics.median(side.to_first_line)
        workers = statistics.median(side.in_workers)
        rest = statistics.median(side.to_round) - first - workers - floor
        parts = [f"{part:.2f}" for part in (first, floor, workers, rest)]
        at = statistics.median(side.first_line_at)
        print(f"| {' | '.join([side.name, *parts])} | {at:.2f} s |")


if __name__ == "__main__":
    main()
