"""Disturbs a federation for as long as it is told, and says whether anything was lost or counted twice.

    python -m tests.chaos --seconds 3600 --seed 7        # make chaos ARGS="--seconds 900"

Runs of ten rounds follow each other on one server and five silos, of which one lies and one joins
late, while processes are killed and paused, clocks stepped, links cut and made slow (`disturbances`).
When the time is over nothing more is done, what was begun has to end well, and each run's ledger is
judged (`oracle`). A table says what was done and what was compared; a finding makes the status 1.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from tests.chaos.scene import Scene
from tests.chaos.table import table


def main() -> int:
    """Do what the arguments say, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=None, help="a folder for what is left")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if given.seed is None else given.seed
    folder = given.keep or Path(tempfile.mkdtemp(prefix="meadow-chaos-"))
    command = f"python -m tests.chaos --seconds {given.seconds:g} --seed {seed}"
    print(f"{command}: in {folder}", flush=True)
    started = time.monotonic()
    with Scene(folder, seed, given.seconds) as scene:
        report = scene.play()
    report.findings += scene.left_behind()
    print(table(report, command, time.monotonic() - started))
    flower = version("flwr")
    system = f"{platform.system()} {platform.release()}"
    print(f"Python {platform.python_version()}, Flower {flower}, {system}")
    if report.findings:
        print(f"To repeat it: {command}\nWhat is left lies in {folder}", file=sys.stderr)
        return 1
    if given.keep is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
