"""What an engine costs beside the training: milliseconds a no-op message, start-up, and memory of all processes.

    python benchmarks/messages.py                      # pool with 2 workers against ray, 10 and 100 silos
    python benchmarks/messages.py silos=10,100,300 rounds=20 workers=2

A message carries a model of 7,850 parameters there and back. Each engine runs in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

START = time.monotonic()
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

APP = """
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
import torch

app = ClientApp()

@app.train()
def train(message: Message, context: Context) -> Message:
    return Message(RecordDict(dict(message.content.array_records)), reply_to=message)
"""


def measure(engine: str, count: int, rounds: int, workers: int, folder: Path) -> dict[str, float]:
    """Return what one engine costs with `count` silos; runs in a process of its own."""
    sys.path.insert(0, str(folder))
    import numpy as np
    import psutil
    from flwr.app import Array, ArrayRecord, Message, RecordDict

    from conf.schema import Silo

    silos = [Silo(f"silo-{i}", i, count) for i in range(count)]
    cost: dict[str, float] = {}

    def main(grid: Any, context: object = None) -> None:
        nodes = list(grid.get_node_ids())
        took: list[float] = []
        for _ in range(rounds + 1):
            arrays = {
                "w": Array(np.zeros((10, 784), np.float32)),
                "b": Array(np.zeros(10, np.float32)),
            }
            content = RecordDict({"arrays": ArrayRecord(arrays)})
            began = time.monotonic()
            ids = grid.push_messages([Message(content, node, "train") for node in nodes])
            for arrived, reply in enumerate(grid.replies(ids, None), 1):
                assert reply.has_content(), reply.error
                if not took and arrived == 1:
                    cost["first message s"] = time.monotonic() - engine_at
            took.append(time.monotonic() - began)
        cost["ms a message"] = statistics.median(took[1:]) / count * 1000
        low, high = min(took[1:]), max(took[1:])
        cost["lowest"], cost["highest"] = low / count * 1000, high / count * 1000
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        cost["PSS GB"] = sum(p.memory_full_info().pss for p in family) / 1e9

    if engine == "pool":
        from server.engines.pool import PoolGrid

        cost["imports s"], engine_at = time.monotonic() - START, time.monotonic()
        with PoolGrid(silos, workers, app="noop_app:app", log=folder / "workers.log") as grid:
            main(grid)
            ended = time.monotonic()
    else:
        from server.engines.ray_engine import run_on_ray

        cost["imports s"], engine_at = time.monotonic() - START, time.monotonic()

        def timed(grid: Any, context: object) -> None:
            nonlocal ended
            main(grid)
            ended = time.monotonic()

        ended = 0.0
        log_dir = folder / "run/logs"
        run_on_ray(
            timed,
            silos,
            workers=workers,
            ray_address=None,
            malloc=True,
            log_dir=log_dir,
            app="noop_app:app",
        )
    cost["end s"] = time.monotonic() - ended
    return cost


def measured(engine: str, count: int, rounds: int, workers: int) -> dict[str, float]:
    """Run `measure` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "noop_app.py").write_text(APP)
        command = [sys.executable, __file__, engine, str(count), str(rounds), str(workers), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def table(options: dict[str, str]) -> None:
    """Print one row an engine and number of silos, and the ratio."""
    rounds, workers = int(options.get("rounds", "10")), int(options.get("workers", "2"))
    print(
        f"no-op messages, 7,850 parameters, {workers} workers, median of {rounds} rounds (lowest to highest)\n"
    )
    print(
        "| silos | engine | ms a message | imports s | engine to first reply s | end s | PSS GB |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in [int(n) for n in options.get("silos", "10,100").split(",")]:
        row = {engine: measured(engine, count, rounds, workers) for engine in ("pool", "ray")}
        for engine, c in row.items():
            spread = f"{c['ms a message']:.2f} ({c['lowest']:.2f} to {c['highest']:.2f})"
            rest = " | ".join(
                f"{c[k]:.1f}" for k in ("imports s", "first message s", "end s", "PSS GB")
            )
            print(f"| {count} | {engine} | {spread} | {rest} |")
        ratio = row["pool"]["ms a message"] / row["ray"]["ms a message"]
        print(f"| {count} | pool / ray | {ratio:.2f} (bar 0.25) | | | | |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 6:
        silos, rounds, workers = map(int, sys.argv[2:5])
        print(json.dumps(measure(sys.argv[1], silos, rounds, workers, Path(sys.argv[5]))))
    else:
        table(dict(argument.split("=", 1) for argument in sys.argv[1:]))
