"""What it costs to admit an update: on a quiet machine, and with every core busy.

    python -m benchmarks.admission
    python -m benchmarks.admission --megabytes 64 --repeat 30

An update of float32 in arrays of several sizes is checked again and again, as the orchestrator does
it for each silo: layout, values, norm, and the sketch of its change. The busy cores are processes
that multiply matrices with BLAS, as training does; a check that used the threads of BLAS itself
would wait for them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from server.round.admission import Admission
from strategies.wire import protocol
from strategies.wire.objects import array_of

BUSY = "import numpy as n\na = n.ones((700, 700))\nwhile True: a @ a"


def model(megabytes: int, shift: float) -> ArrayRecord:
    """Return arrays of `megabytes` in all: one of half the size, the others smaller and smaller."""
    left = megabytes * 2**18
    record = ArrayRecord()
    generator = np.random.default_rng(0)
    for at in range(20):
        size = left // 2 if at < 19 else left
        left -= size
        values = generator.standard_normal(size).astype(np.float32) + np.float32(shift)
        record[f"w{at}"] = array_of(values)
    return record


def checks(megabytes: int, *, sketched: bool) -> Callable[[], None]:
    """Return what admits one update."""
    more = {}
    if sketched:
        from server.round.sketch import Sketcher

        more["sketcher"] = Sketcher(0)
    admission = Admission({}, **more)
    before = model(megabytes, 0.0)
    numbers = MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 1.0})
    content = RecordDict({protocol.ARRAYS: model(megabytes, 0.01), protocol.METRICS: numbers})

    def check() -> None:
        admission.open(1, before, ["a"])
        verdict = admission.check(content, silo="a", round=1, phase="train")
        assert type(verdict).__name__ == "Admitted", verdict

    return check


def measured(check: Callable[[], None], repeat: int) -> tuple[float, float]:
    """Return the median milliseconds of a check: of CPU and of the clock."""
    check()
    cpu = []
    wall = []
    for _ in range(repeat):
        cpu_before = time.process_time()
        wall_before = time.perf_counter()
        check()
        wall.append(time.perf_counter() - wall_before)
        cpu.append(time.process_time() - cpu_before)
    return statistics.median(cpu) * 1e3, statistics.median(wall) * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--busy", type=int, default=2, help="processes that keep the cores busy")
    parser.add_argument("--no-sketch", action="store_true")
    given = parser.parse_args()
    check = checks(given.megabytes, sketched=not given.no_sketch)
    print(f"| {given.megabytes} MB | CPU ms | ms |\n|---|---|---|")
    cpu, wall = measured(check, given.repeat)
    print(f"| other cores as they are | {cpu:.1f} | {wall:.1f} |")
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(given.busy)]
    try:
        time.sleep(1.0)
        cpu, wall = measured(check, given.repeat)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    print(f"| {given.busy} busy processes | {cpu:.1f} | {wall:.1f} |")


if __name__ == "__main__":
    main()
