"""Meadow's side of `benchmarks/frameworks.py`: a whole `simulate`, that says when rounds begin and end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS.parent), str(BENCHMARKS)]

from work import Work, say

from conf.telemetry import turn_off

turn_off()  # before Flower is imported

from server.round.rounds import Rounds
from server.simulation import simulate


def overrides(work: Work) -> list[str]:
    """Return the work as arguments of `meadow simulate`."""
    return [
        *("task=mnist", "model=cnn", "data=iid", f"data.root={Path(work.root).absolute()}"),
        *("data.validation=0", "data.test=0", f"data.examples={work.examples}"),
        *(f"federation.size={work.silos}", f"run.seed={work.seed}"),
        f"run.cohort={work.cohort or 'null'}",
        f"run.test={'rounds' if work.test else 'end'}",
        *(f"run.rounds={work.rounds}", f"trainer.epochs={work.epochs}"),
        *(f"trainer.batch_size={work.batch_size}", f"trainer.lr={work.lr}"),
        *(f"trainer.eval_batch_size={work.eval_batch_size}", f"trainer.momentum={work.momentum}"),
        *("tracking=off", "simulation.workers=2"),
    ]


def main() -> None:
    """Run one simulation in the present folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    Work.add_to(parser)
    parser.add_argument("--engine", default="pool")
    args = parser.parse_args()
    work = Work.of(args)
    whole, close = Rounds._round, Rounds._close

    def begun(self: Rounds, number: int) -> Any:
        if number == 1:
            say("begin")
        return whole(self, number)

    def closed(self: Rounds, *rest: Any) -> None:
        close(self, *rest)
        say("round")

    Rounds._round = begun  # type: ignore[method-assign]  # to take the time
    Rounds._close = closed  # type: ignore[method-assign]  # to take the time
    run = simulate([*overrides(work), f"simulation={args.engine}"])
    say("accuracy", run.result.final["central_accuracy"])


if __name__ == "__main__":
    main()
