"""What a megabyte of an update costs the server's processor, from the bytes that arrive to the model
that is kept.

    OMP_NUM_THREADS=1 python -m benchmarks.server_cost
    OMP_NUM_THREADS=1 python -m benchmarks.server_cost --megabytes 45 --silos 10

The steps are the product's own, in the order of a round: the request is parsed, its objects are
hashed as they are stored, the message is made of them, the update is admitted (with its digest),
averaged, and the model is written into a checkpoint. The last two come once a round; their share of
an update is told. Sent over a socket and decrypted it is not: that is in benchmarks/rounds.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from azureml_jobs.storage.folder_store import FolderStore
from server.orchestrator.object_store import ObjectStore
from server.round.admission import Admission
from server.round.sketch import Sketcher
from server.run.checkpoint import Checkpoints, RunState
from strategies.fedavg import FedAvg
from strategies.streaming import Replies
from strategies.wire import protocol
from strategies.wire.digests import arrays_digest
from strategies.wire.objects import array_of, deflate, inflate
from strategies.wire.packing import pack_content, unpack_content
from strategies.wire.transfer_calls import Part, PushPartsRequest
from tests.unused_grid import UnusedGrid

LIMIT = 2**34
STEPS = ("parse", "sha256", "make the message", "admit", "mean", "model's digest", "checkpoint")


class Nodes(UnusedGrid):
    """A grid that shows nobody: the replies are made here."""

    def get_node_ids(self) -> list[int]:
        """Return no node."""
        return []


class Cpu:
    """CPU seconds of this process by step, all threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)

    def of(self, step: str, work: Callable[[], Any]) -> Any:
        """Do some work, and note what it took."""
        began = time.process_time()
        result = work()
        self.seconds[step] += time.process_time() - began
        return result


class Arriving(Replies):
    """The updates of a round as they come out of the first steps, one at a time."""

    def __init__(self, model: ArrayRecord, silos: int, cpu: Cpu) -> None:
        self._model = model
        self._silos = [f"silo-{number:03}" for number in range(silos)]
        self._cpu = cpu
        self._number = 0
        self._largest: Mapping[str, Mapping[str, float]] = {}
        self._admission = Admission({}, sketcher=Sketcher(0))
        self._admission.open(1, model, self._silos)
        self.aside = 0.0
        """CPU seconds of all that is not the mean."""

    def __next__(self) -> Message:
        if self._number == len(self._silos):
            raise StopIteration
        began = time.process_time()
        self._number += 1
        reply = self._arrived(self._number)
        self.aside += time.process_time() - began
        return reply

    def silo(self) -> str:
        """Return the name of the silo that answered last."""
        return self._silos[self._number - 1]

    def largest(self) -> Mapping[str, Mapping[str, float]]:
        """Return what admission found."""
        return self._largest

    def refuse(self, why: Exception) -> None:
        """Nothing is refused here."""
        raise why

    def _arrived(self, number: int) -> Message:
        calls, root = sent_by(self._model, number)
        requests = self._cpu.of(
            "parse", lambda: [PushPartsRequest.from_bytes(one) for one in calls]
        )
        store = ObjectStore()
        contents = {part.object_id: part.content for one in requests for part in one.parts}
        tree = root[1]
        store.hold("it", tree)
        del requests

        def stored() -> None:
            assert all(store.put(id, content) for id, content in contents.items())

        self._cpu.of("sha256", stored)
        made = self._cpu.of(
            "make the message", lambda: inflate(root[0], store.held_by("it"), LIMIT, hashed=True)
        )
        content = self._cpu.of("make the message", lambda: unpack_content(made))
        verdict = self._cpu.of(
            "admit",
            lambda: self._admission.check(content, silo=self.silo(), round=1, phase="train"),
        )
        self._largest = verdict.largest
        asked = Message(RecordDict({"config": ConfigRecord()}), number, "train")
        return Message(content, reply_to=asked)


def sent_by(model: ArrayRecord, number: int) -> tuple[list[bytes], tuple[str, Any]]:
    """Return what a silo's node sends: its calls' bytes, the id and the tree of its message."""
    arrays = ArrayRecord()
    for name, array in model.items():
        arrays[name] = array_of(array.numpy() + np.float32(number) / 1000)
    numbers = MetricRecord({protocol.NUM_EXAMPLES: 100 + number, protocol.LOSS: 0.5})
    content = pack_content(RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: numbers}))
    asked = Message(RecordDict({"config": ConfigRecord()}), number, "train")
    id, tree, contents = deflate(Message(content, reply_to=asked))
    parts = [Part(object_id=i, size=len(c), content=c) for i, c in contents.items()]
    return [PushPartsRequest(parts=group).to_bytes() for group in calls_of(parts)], (id, tree)


def calls_of(parts: list[Part]) -> list[list[Part]]:
    """Return the parts of each call: a chunk, as a node sends it, and all that is small with the
    last.
    """
    large = [[part] for part in parts if len(part.content) > 2**20]
    small = [part for part in parts if len(part.content) <= 2**20]
    return [*large, small]


def model_of(megabytes: float, arrays: int) -> ArrayRecord:
    """Return a model of float32."""
    rng = np.random.default_rng(0)
    record = ArrayRecord()
    for number in range(arrays):
        values = rng.normal(0, 0.1, int(megabytes * 1e6) // 4 // arrays).astype(np.float32)
        record[f"layer{number}"] = array_of(values)
    return record


def round_of(model: ArrayRecord, silos: int, folder: Path) -> Mapping[str, float]:
    """Return the CPU seconds of the steps of one round."""
    cpu = Cpu()
    strategy = FedAvg()
    strategy.cohort = silos
    strategy.configure_train(1, model, ConfigRecord(), Nodes())
    arriving = Arriving(model, silos, cpu)
    began = time.process_time()
    mean, _ = strategy.aggregate_train(1, arriving)
    cpu.seconds["mean"] = time.process_time() - began - arriving.aside
    assert mean is not None
    cpu.of("model's digest", lambda: arrays_digest(mean))
    checkpoints = Checkpoints(FolderStore(folder))
    cpu.of("checkpoint", lambda: checkpoints.save(RunState(1, mean)))
    return cpu.seconds


def rows(found: list[Mapping[str, float]], megabytes: float) -> Iterator[str]:
    """Yield the rows of the table: milliseconds a megabyte of an update."""
    total = [sum(one.values()) for one in found]
    for step in STEPS:
        ms = [1e3 * one[step] / megabytes for one in found]
        yield f"| {step} | {statistics.median(ms):.2f} ({min(ms):.2f} to {max(ms):.2f}) |"
    ms = [1e3 * one / megabytes for one in total]
    yield f"| **all** | **{statistics.median(ms):.2f}** ({min(ms):.2f} to {max(ms):.2f}) |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=45)
    parser.add_argument("--arrays", type=int, default=62)
    parser.add_argument("--silos", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    model = model_of(options.megabytes, options.arrays)
    found = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            found.append(round_of(model, options.silos, Path(folder)))
    size = f"{options.silos} x {options.megabytes:g} MB in {options.arrays} arrays"
    print(f"{size}, CPU ms a MB of an update, median of {options.repeats} rounds (min to max)")
    print("| step | ms |\n|---|---|")
    for row in rows(found, options.megabytes * options.silos):
        print(row)


if __name__ == "__main__":
    main()
