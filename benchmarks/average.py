"""CPU seconds and memory of an aggregation: Meadow's FedAvg beside Flower's, a process each, replies as they arrive.

    python benchmarks/average.py                        # 11.2 million parameters in 62 arrays, 3, 10 and 30 silos
    python benchmarks/average.py --parameters 60000 --silos 3 100

Each strategy gets ready-made replies from an iterator that makes one at a time, as the round loop does. The seconds
of making them are taken off. Memory is the peak of the process above what it held before the first reply.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.supercore.task_identity import TaskIdentity

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from strategies.fedavg import FedAvg
from strategies.streaming import Streaming


class Replies:
    """Makes one reply at a time and counts the seconds that this takes."""

    def __init__(self, parameters: int, arrays: int, silos: int) -> None:
        rng = np.random.default_rng(0)
        self.values = [
            rng.normal(0, 0.1, parameters // arrays).astype(np.float32) for _ in range(arrays)
        ]
        self.silos, self.seconds = silos, 0.0

    def __iter__(self) -> Iterator[Message]:
        for k in range(self.silos):
            yield self._reply(k)

    def _reply(self, k: int) -> Message:
        started = time.thread_time()
        arrays = ArrayRecord(
            {f"layer{i}": Array(v + np.float32(k)) for i, v in enumerate(self.values)}
        )
        content = RecordDict(
            {"arrays": arrays, "metrics": MetricRecord({"num-examples": 100 + k, "loss": 0.5})}
        )
        asked = Message(
            content=RecordDict({"config": ConfigRecord()}), message_type="train", dst_node_id=k + 1
        )
        reply = Message(content=content, reply_to=asked)
        self.seconds += time.thread_time() - started
        return reply


class PeakMemory:
    """The largest resident memory of this process while it is entered, above that at entry, in bytes."""

    def __enter__(self) -> PeakMemory:
        self._process, self._done = psutil.Process(), threading.Event()
        self.start = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self.peak - self.start


def measure(name: str, parameters: int, arrays: int, silos: int) -> None:
    """Aggregate once and print seconds and bytes."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    strategy = {"meadow": FedAvg, "flower": FlowerFedAvg}[name]()
    replies = Replies(parameters, arrays, silos)
    with PeakMemory() as memory:
        started = time.thread_time()
        given = iter(replies) if isinstance(strategy, Streaming) else list(replies)
        result, _ = strategy.aggregate_train(1, given)
        seconds = time.thread_time() - started - replies.seconds
    assert result is not None
    print(seconds, memory.grown)


def in_process(name: str, parameters: int, arrays: int, silos: int) -> tuple[float, float]:
    """Measure in a process of its own; return seconds and bytes."""
    command = [sys.executable, __file__, "--one", name, "--parameters", str(parameters)]
    command += ["--arrays", str(arrays), "--silos", str(silos)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    seconds, grown = output.split()[-2:]
    return float(seconds), float(grown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=11_200_000)
    parser.add_argument("--arrays", type=int, default=62)
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 10, 30])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=["meadow", "flower"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.parameters, options.arrays, options.silos[0])
        return
    print(
        f"{options.parameters:,} float32 parameters in {options.arrays} arrays, median of {options.repeats}"
    )
    print(
        "| silos | strategy | CPU seconds a round (min-max) | ms a reply | peak memory, MB |\n|---|---|---|---|---|"
    )
    for silos in options.silos:
        found: dict[str, list[tuple[float, float]]] = {"meadow": [], "flower": []}
        for _ in range(options.repeats):  # interleaved, so that a busy moment hits both
            for name, runs in found.items():
                runs.append(in_process(name, options.parameters, options.arrays, silos))
        for name, runs in found.items():
            seconds, grown = sorted(s for s, _ in runs), statistics.median(m for _, m in runs)
            middle = statistics.median(seconds)
            spread = f"{middle:.2f} ({seconds[0]:.2f}-{seconds[-1]:.2f})"
            print(
                f"| {silos} | {name} | {spread} | {1000 * middle / silos:.0f} | {grown / 1e6:.0f} |"
            )


if __name__ == "__main__":
    main()
