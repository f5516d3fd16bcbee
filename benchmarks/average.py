"""What the mean of a round's updates costs, and whether its bits are right.

    OMP_NUM_THREADS=1 python benchmarks/average.py               # 3, 10, 50 and 100 updates of 45 MB
    OMP_NUM_THREADS=1 python benchmarks/average.py --large       # and 10 of 500 MB
    OMP_NUM_THREADS=1 python benchmarks/average.py --bits        # against exact fractions

Sides, each in a process of its own, in turn: Meadow's FedAvg as a run uses it (held in the silos'
order up to 2 GiB, as they arrive beyond), the same with `strategy.hold_mib=0`, Flower's FedAvg,
numpy's plain streaming mean in float32, and one read of every value. Flower's copies each array out
of its bytes first; all others read it where it lies. Each gets ready-made replies from an iterator
that makes one at a time, and the seconds of making them are taken off. Memory is the peak of the
process above what it held before the first reply.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.supercore.task_identity import TaskIdentity

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from strategies.average import WeightedMean
from strategies.fedavg import FedAvg
from strategies.streaming import Replies
from strategies.wire import protocol
from tests.unused_grid import UnusedGrid


class MadeReplies(Replies):
    """Makes one reply at a time, and counts the seconds that this takes."""

    def __init__(self, megabytes: float, arrays: int, silos: int) -> None:
        rng = np.random.default_rng(0)
        elements = int(megabytes * 1e6) // 4 // arrays
        self.values = [rng.normal(0, 0.1, elements).astype(np.float32) for _ in range(arrays)]
        self.silos = silos
        self.number = 0
        self.cpu = 0.0
        self.wall = 0.0

    def __next__(self) -> Message:
        if self.number == self.silos:
            raise StopIteration
        cpu = time.thread_time()
        wall = time.perf_counter()
        self.number += 1
        reply = self._made(self.number)
        self.cpu += time.thread_time() - cpu
        self.wall += time.perf_counter() - wall
        return reply

    def silo(self) -> str:
        """Return names in the order of arrival: the costs are the same in any."""
        return f"silo-{self.number:04}"

    def largest(self) -> Mapping[str, Mapping[str, float]]:
        """Return what admission has found by then."""
        return {"arrays": {f"layer{i}": float(self.silos) + 1 for i in range(len(self.values))}}

    def refuse(self, why: Exception) -> None:
        """Nothing is refused here."""
        raise why

    def model(self) -> ArrayRecord:
        """Return the model that the replies answer."""
        return ArrayRecord({f"layer{i}": Array(v) for i, v in enumerate(self.values)})

    def _made(self, number: int) -> Message:
        arrays = ArrayRecord(
            {f"layer{i}": Array(v + np.float32(number)) for i, v in enumerate(self.values)}
        )
        metrics = MetricRecord({"num-examples": 100 + number, "loss": 0.5})
        content = RecordDict({"arrays": arrays, "metrics": metrics})
        config = RecordDict({"config": ConfigRecord()})
        asked = Message(content=config, message_type="train", dst_node_id=number)
        return Message(content=content, reply_to=asked)


class PeakMemory:
    """The largest resident memory of this process while it is entered, above that at entry."""

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self._done = threading.Event()
        self.start = self._process.memory_info().rss
        self.peak = self.start
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Nodes(UnusedGrid):
    """A grid that shows nobody: the replies are made here."""

    def get_node_ids(self) -> list[int]:
        """Return no node."""
        return []


def by_meadow(replies: MadeReplies, hold_bytes: int | None = None) -> None:
    """Average as the round loop lets a strategy do it."""
    strategy = FedAvg()
    strategy.cohort = replies.silos
    if hold_bytes is not None:
        strategy.hold_bytes = hold_bytes
    strategy.configure_train(1, replies.model(), ConfigRecord(), Nodes())
    assert strategy.aggregate_train(1, replies)[0] is not None


def by_flower(replies: MadeReplies) -> None:
    """Average as Flower does, which takes a list."""
    assert FlowerFedAvg().aggregate_train(1, list(replies))[0] is not None


def by_numpy(replies: MadeReplies) -> None:
    """Add up in float32 as the replies arrive: the bits depend on the order."""
    sums: dict[str, np.ndarray] = {}
    total = 0
    for reply in replies:
        n = int(reply.content["metrics"]["num-examples"])
        total += n
        for name, values in protocol.to_numpy(reply.content["arrays"]).items():
            term = values * np.float32(n)
            if name in sums:
                sums[name] += term
            else:
                sums[name] = term
    for one in sums.values():
        one /= np.float32(total)


def by_reading(replies: MadeReplies) -> None:
    """Look at every value once."""
    for reply in replies:
        for values in protocol.to_numpy(reply.content["arrays"]).values():
            values.max()


SIDES: dict[str, Callable[[MadeReplies], None]] = {
    "Meadow": by_meadow,
    "Meadow, hold_mib=0": lambda replies: by_meadow(replies, 0),
    "Flower's FedAvg": by_flower,
    "numpy, float32, streaming": by_numpy,
    "one read": by_reading,
}


def measure(side: str, megabytes: float, arrays: int, silos: int) -> None:
    """Average once, and print seconds of CPU and of the clock, and bytes."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    replies = MadeReplies(megabytes, arrays, silos)
    with PeakMemory() as memory:
        cpu = time.thread_time()
        wall = time.perf_counter()
        SIDES[side](replies)
        cpu = time.thread_time() - cpu - replies.cpu
        wall = time.perf_counter() - wall - replies.wall
    print(cpu, wall, memory.peak - memory.start)


def in_process(side: str, megabytes: float, arrays: int, silos: int) -> tuple[float, ...]:
    """Measure in a process of its own; return seconds of CPU and of the clock, and bytes."""
    command = [sys.executable, __file__, "--one", side, "--megabytes", str(megabytes)]
    command += ["--arrays", str(arrays), "--silos", str(silos)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return tuple(map(float, output.split()[-3:]))


def costs(megabytes: float, arrays: int, silos: int, repeats: int) -> None:
    """Print the rows of one size."""
    found: dict[str, list[tuple[float, ...]]] = {side: [] for side in SIDES}
    # In turn, so that a busy moment hits all of them.
    for _ in range(repeats):
        for side, runs in found.items():
            runs.append(in_process(side, megabytes, arrays, silos))
    middle = {
        side: [statistics.median(c) for c in zip(*runs, strict=True)]
        for side, runs in found.items()
    }
    read = middle["one read"][0]
    flower = middle["Flower's FedAvg"][0]
    for side, (cpu, wall, grown) in middle.items():
        seconds = sorted(run[0] for run in found[side])
        print(
            f"| {silos} x {megabytes:g} MB | {side} | {cpu:.2f} ({seconds[0]:.2f}-{seconds[-1]:.2f})"
            f" | {wall:.2f} | {cpu / read:.1f} | {cpu / flower:.2f} | {grown / 1e6:.0f} |",
            flush=True,
        )


Updates = list[tuple[np.ndarray, int]]


def meadows_mean(updates: Updates, *, held: bool) -> np.ndarray:
    """Return the product's mean of one array."""
    mean = WeightedMean(held=held)
    for number, (values, n) in enumerate(updates):
        mean.add({"w": values}, n, f"{number:04}")
    return mean.result()["w"]


def plain_mean(updates: Updates, dtype: Any) -> np.ndarray:
    """Return the mean that is added up in a type, in this order."""
    total = np.zeros(updates[0][0].size, dtype)
    for values, n in updates:
        total += values.astype(dtype) * dtype(n)
    return (total / dtype(sum(n for _, n in updates))).astype(np.float32)


MEANS: dict[str, Callable[[Updates], np.ndarray]] = {
    "held": lambda updates: meadows_mean(updates, held=True),
    "as they arrive": lambda updates: meadows_mean(updates, held=False),
    "float64, any order": lambda updates: plain_mean(updates[::-1], np.float64),
    "float32": lambda updates: plain_mean(updates, np.float32),
}


def drawn(kind: str, silos: int, elements: int) -> Updates:
    """Return updates of random values of a kind, and of random numbers of examples."""
    rng = np.random.default_rng([silos, elements])
    shared = rng.normal(size=elements)
    updates = []
    for number in range(silos):
        if kind == "cancelling":
            # All but a millionth of what half of the silos say is taken back by the others.
            sign = 1.0 if number % 2 else -1.0
            values = sign * shared + 1e-6 * rng.normal(size=elements)
            n = 1000
        elif kind == "1e-8 to 1e3":
            values = rng.normal(size=elements) * 10 ** rng.uniform(-8, 3, elements)
            n = int(rng.integers(1, 100_000))
        else:
            values = rng.normal(size=elements) * float(kind)
            n = int(rng.integers(1, 100_000))
        updates.append((values.astype(np.float32), n))
    return updates


def exact_mean(updates: Updates) -> np.ndarray:
    """Return the mean in fractions, rounded to float32 once by way of float64."""
    total = sum(n for _, n in updates)
    rows = [([Fraction(float(v)) for v in values], n) for values, n in updates]
    sums = [sum((n * row[i] for row, n in rows), Fraction(0)) for i in range(updates[0][0].size)]
    return np.array([np.float32(float(one / total)) for one in sums], np.float32)


def bits(elements: int) -> None:
    """Print how many elements of a mean are not the exact mean's float32."""
    print("| values | silos | " + " | ".join(MEANS) + " |\n|---|---|" + "---|" * len(MEANS))
    for kind in ("1e-12", "1e-8", "1e-3", "1", "1e3", "1e-8 to 1e3", "cancelling"):
        for silos in (3, 10, 50):
            updates = drawn(kind, silos, elements)
            exact = exact_mean(updates)
            cells = [_differing(mean(updates), exact) for mean in MEANS.values()]
            print(f"| {kind} | {silos} | {' | '.join(cells)} |", flush=True)


def _differing(mean: np.ndarray, exact: np.ndarray) -> str:
    differ = mean != exact
    if not differ.any():
        return "0"
    off = np.abs(mean.astype(np.float64) - exact) / np.spacing(np.abs(exact))
    return f"{100 * differ.mean():.3g} % (at most {off.max():.3g} last places)"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=45)
    parser.add_argument("--arrays", type=int, default=62)
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 10, 50, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="10 updates of 500 MB as well")
    parser.add_argument("--bits", action="store_true", help="compare bits, and no seconds")
    parser.add_argument("--elements", type=int, default=5000, help="of an array, for --bits")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.megabytes, options.arrays, options.silos[0])
        return
    if options.bits:
        bits(options.elements)
        return
    print(f"float32 in {options.arrays} arrays, medians of {options.repeats}")
    print("| updates | side | CPU s (min-max) | wall s | x read | x Flower | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for silos in options.silos:
        costs(options.megabytes, options.arrays, silos, options.repeats)
    if options.large:
        costs(500, options.arrays, 10, options.repeats)


if __name__ == "__main__":
    main()
