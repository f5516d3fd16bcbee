"""Whole runs as the number of silos grows: what a framework adds to the training itself.

    python benchmarks/scale.py --root DATA --pfl PFL/bin/python --nvflare NVF/bin/python

FedAvg with NIID-Bench's CNN on MNIST, one epoch of batches of 10, two processes of one thread. A case
is SILOSxEXAMPLES of each silo; of more than 100 silos a cohort of 50 is asked. Sides take turns, each
in a process of its own, `--repeat` times: Meadow with admission, ledger, evaluation and checkpoints,
and without a framework the same training by hand in two processes, which is the floor. The table has
medians of a further round (the first loads data), its processor time being that of the whole run
divided by its rounds, and both over the floor's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import frameworks
from benchmarks.frameworks import COHORT, PEERS, Run, run
from benchmarks.work import Work

BY_HAND: Final = "by hand, two processes"
SIDES: Final = (BY_HAND, *frameworks.SIDES)
CASES: Final = ("10x640", "90x640", "10x60", "100x60", "1000x60")
"""MNIST has 60,000 examples: 93 silos of 640."""


def work_of(case: str, rounds: int, root: str) -> Work:
    """Return the work of a case."""
    silos, each = (int(part) for part in case.split("x"))
    cohort = COHORT if silos > 2 * COHORT else 0
    return Work(root, silos, cohort, rounds, test=0, examples=silos * each)


def measured(side: str, work: Work, args: argparse.Namespace) -> Run | None:
    """Do one run of a side; None where it is not installed."""
    if side != BY_HAND:
        return run(side, work, args)
    command = [sys.executable, str(PEERS / "by_hand.py"), *work.arguments()]
    return frameworks.run_of(side, work, [(command, {})], args.limit)


def table(runs: dict[tuple[str, str], list[Run]], rounds: int) -> str:
    """Return the medians of each case and side, beside the floor of the case."""
    lines = [
        "| silos x examples | side | a further round s | over the floor | whole run s | CPU s | over the"
        " floor | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (case, side), group in runs.items():
        good = [one for one in group if not one.error]
        if not good:
            lines.append(f"| {case} | {side} | {group[0].error} | | | | | |")
            continue
        floor = [one for one in runs.get((case, BY_HAND), []) if not one.error]
        further = statistics.median(one.rounds / (rounds - 1) for one in good)
        wall = statistics.median(one.wall for one in good)
        cpu = statistics.median(one.cpu for one in good)
        over = ["", ""]
        if floor:
            least = statistics.median(one.rounds / (rounds - 1) for one in floor)
            spent = statistics.median(one.cpu for one in floor)
            over = [f"{further / least:.2f}", f"{cpu / spent:.2f}"]
        cells = [f"{further:.2f}", over[0], f"{wall:.1f}", f"{cpu:.1f}", over[1]]
        lines.append(f"| {case} | {side} | {' | '.join(cells)} | {good[0].accuracy:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Do the runs and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of MNIST's idx files")
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--pfl", help="python of an environment with pfl and torch")
    parser.add_argument("--nvflare", help="python of an environment with nvflare and torch")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that a run may take")
    args = parser.parse_args()
    runs: dict[tuple[str, str], list[Run]] = {}
    for case in args.cases:
        for _ in range(args.repeat):
            for side in args.sides:
                done = measured(side, work_of(case, args.rounds, args.root), args)
                if done is None:
                    continue
                runs.setdefault((case, side), []).append(done)
                print(json.dumps({"case": case, **asdict(done)}), flush=True)
    print(table(runs, args.rounds))


if __name__ == "__main__":
    main()
