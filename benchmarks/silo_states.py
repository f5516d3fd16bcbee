"""What a simulation pays for its silos' states: bytes and milliseconds a round.

python benchmarks/silo_states.py [--silos 1000] [--bytes 100000] [--cohort 50] [--rounds 120]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from server.run.silo_states import SiloStates


def after(round: int, size: int, draw: np.random.Generator) -> RecordDict:
    """Return a silo's state after a round, in eight arrays."""
    arrays = {f"w{i}": Array(draw.random(size // 32, dtype=np.float32)) for i in range(8)}
    return RecordDict({f"1|run|{round}|c": ArrayRecord(arrays)})


def main() -> None:
    """Print a line for the rounds in which the file grows, and one for those in which it is begun anew."""
    parser = argparse.ArgumentParser()
    for name, value in (("silos", 1000), ("bytes", 100_000), ("cohort", 50), ("rounds", 120)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    names = [f"silo-{number}" for number in range(1, given.silos + 1)]
    draw = np.random.default_rng(0)
    grown: list[tuple[int, float]] = []
    begun: list[tuple[int, float]] = []
    largest = 0
    with tempfile.TemporaryDirectory() as folder:
        states = SiloStates(Path(folder), "run")
        for round in range(1, given.rounds + 1):
            cohort = names if round == 1 else random.Random(round).sample(names, given.cohort)
            for name in cohort:
                states.in_memory[name] = after(round, given.bytes, draw)
            before = states.mark
            started = time.perf_counter()
            mark = states.keep(round, cohort)
            states.tidy()
            milliseconds = (time.perf_counter() - started) * 1000
            if mark.file == before.file:
                grown.append((mark.bytes - before.bytes, milliseconds))
            else:
                begun.append((mark.bytes, milliseconds))
            files = Path(folder).iterdir()
            largest = max(largest, sum(path.stat().st_size for path in files))
        started = time.perf_counter()
        again = SiloStates(Path(folder), "run", states.mark)
        again.restore()
        restored = time.perf_counter() - started
        assert again.in_memory.keys() == states.in_memory.keys()
        started = time.perf_counter()
        none = SiloStates(Path(folder) / "none", "run")
        for round in range(1000):
            none.keep(round, names[: given.cohort])
            none.tidy()
        nothing = time.perf_counter() - started
    print(
        f"{len(grown)} rounds append: {statistics.median(b for b, _ in grown) / 1e6:.2f} MB,",
        end=" ",
    )
    print(f"{statistics.median(ms for _, ms in grown):.0f} ms (median)")
    for size, milliseconds in begun:
        print(f"a new file: {size / 1e6:.0f} MB, {milliseconds:.0f} ms")
    print(f"on disk at most: {largest / 1e6:.0f} MB")
    print(f"restored: {restored:.2f} s")
    print(f"a round without states: {nothing * 1000:.0f} us")


if __name__ == "__main__":
    main()
