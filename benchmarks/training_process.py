"""What it costs a silo to train in a process of its own (`training.separate`), beside training in its node.

    python benchmarks/training_process.py
    python benchmarks/training_process.py times=30 sizes=0.05,1,45

Two measures: an answer without any training, by the size of the model (there and back through the
pipe), and the start of the process. Rounds of the two ways take turns; medians. With cuda there,
nothing changes: what travels is in main memory.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # the tree is found first
import psutil
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore.task_identity import TaskIdentity

from client.node.job import load_app
from client.node.training_process import TrainingProcess
from conf.code_digest import release_digest
from conf.schema import Silo, TrainingProcessConf

APP = """
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
import torch
from strategies.wire import protocol

app = ClientApp()

@app.train()
def train(message: Message, context: Context) -> Message:
    return Message(RecordDict(protocol.records(message.content, ArrayRecord)), reply_to=message)
"""
ARRAYS = 20


def message(mib: float) -> Message:
    """Return a message with a model of so many MiB in 20 arrays."""
    count = max(int(mib * 2**20) // 4 // ARRAYS, 1)
    draws = np.random.default_rng(0)
    arrays = {f"w{i}": Array(draws.random(count, dtype=np.float32)) for i in range(ARRAYS)}
    return Message(RecordDict({"arrays": ArrayRecord(arrays)}), 2, "train")


def seconds(app: ClientAppCallable, mib: float) -> float:
    """Return what one answer takes."""
    context = Context(1, 2, {}, state=RecordDict(), run_config={})
    asked = message(mib)
    began = time.perf_counter()
    app(asked, context)
    return time.perf_counter() - began


def main() -> None:
    """Print the tables."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    times = int(given.get("times", "20"))
    sizes = [float(size) for size in given.get("sizes", "0.05,1,12,45,350").split(",")]
    TaskIdentity.task_id = TaskIdentity.run_id = 1
    TaskIdentity.node_id = 2
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "answers_at_once.py").write_text(APP)
        sys.path.insert(0, folder)
        name = "answers_at_once:app"
        here = load_app(name)
        silo = Silo("silo-1", training=TrainingProcessConf(separate=True))
        began = time.perf_counter()
        apart = TrainingProcess(name, silo, release_digest())
        seconds(apart, sizes[0])
        started = time.perf_counter() - began
        print(
            "| model, MiB | in the node, ms | in a process of its own, ms | more, ms | ms a MiB |"
        )
        print("|---|---|---|---|---|")
        for mib in sizes:
            pairs = [(seconds(here, mib), seconds(apart, mib)) for _ in range(times)]
            own = statistics.median(pair[0] for pair in pairs) * 1000
            other = statistics.median(pair[1] for pair in pairs) * 1000
            more = other - own
            print(f"| {mib:g} | {own:.2f} | {other:.2f} | {more:.2f} | {more / mib:.2f} |")
        child = apart._child
        assert child is not None
        resident = psutil.Process(child._process.pid).memory_info().rss / 2**20
        print(f"start to first answer {started:.1f} s; resident after that {resident:.0f} MiB")
        apart.close()


if __name__ == "__main__":
    main()
