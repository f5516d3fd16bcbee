"""What a round, a start and a report cost beside the training, at any length of a run: flat is the aim.

    python benchmarks/bookkeeping.py                       # rounds and report, for 3 and 100 silos
    python benchmarks/bookkeeping.py start --root DATA     # 1,000 silos of MNIST before round 1

Replies are synthetic: each silo sends the model back as it came. All else is the product's own: session, rounds,
admission, ledger, history, checkpoint, observers. The rounds between two measurements are written with the same
classes, without an exchange of messages. CPU seconds are those of this process; bytes are what it gave to write().
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from azureml_jobs.storage.folder_store import FolderStore
from conf.compose import compose
from conf.schema import Conf
from conf.silos import silos
from server.app import federate
from server.observers.base import Observer
from server.round.judgement import Admitted
from server.round.rounds import Rounds
from server.round.silo_grid import SiloGrid
from server.run.checkpoint import Checkpoints
from server.run.history import FILE, History
from server.run.ledger import Ledger
from server.run.result import RoundRecord
from server.session import session
from server.simulation import simulate_conf
from strategies import build_strategy
from strategies.wire import protocol
from strategies.wire.digests import arrays_digest

WINDOW = 10
"""Rounds of each measurement, the last of them the one that is named."""
NAMED = (10, 100, 1000)
SILOS = (3, 100)


class Echo(SiloGrid):
    """Silos that send the model back as it came, with metrics that look like a training's."""

    def __init__(self, names: list[str]) -> None:
        self._names = dict(enumerate(names, 1))
        self._answers: dict[str, Message] = {}
        self._draw = random.Random(5)
        self._sent = 0

    def names(self) -> dict[int, str]:
        """Return all silos: they are always there."""
        return dict(self._names)

    def get_node_ids(self) -> list[int]:
        """Return all nodes."""
        return list(self._names)

    @property
    def run(self) -> Run:
        """Nobody asks for it."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Answer at once."""
        ids = []
        for message in messages:
            self._sent += 1
            name = f"{self._sent}"
            message.metadata.__dict__["_message_id"] = name
            self._answers[name] = self._answer(message)
            ids.append(name)
        return ids

    def _answer(self, message: Message) -> Message:
        loss = self._draw.uniform(0.1, 2.0)
        metrics: dict[str, int | float] = {protocol.NUM_EXAMPLES: 400, protocol.LOSS: loss}
        metrics[protocol.SECONDS] = self._draw.uniform(0.5, 1.5)
        if message.metadata.message_type.startswith("evaluate"):
            metrics["accuracy"] = self._draw.uniform(0.5, 1.0)
            return Message(RecordDict({protocol.METRICS: MetricRecord(metrics)}), reply_to=message)
        arrays = protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]
        content = RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: MetricRecord(metrics)})
        return Message(content, reply_to=message)

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        """Yield the answers."""
        return iter([self._answers.pop(name) for name in message_ids if name in self._answers])

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the answers."""
        return list(self.replies(message_ids, 0))

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop answers that nobody wants."""
        for name in message_ids:
            self._answers.pop(name, None)


@dataclass
class Meter(Observer):
    """CPU seconds, bytes and syncs of each round, and of its closing alone."""

    cpu: list[float] = field(default_factory=list)
    closing: list[float] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    syncs: list[int] = field(default_factory=list)
    _synced: int = 0
    _began: tuple[float, int, int] = (0.0, 0, 0)

    def count(self) -> None:
        """Count syncs from now on, and time what closes a round."""
        fsync = os.fsync
        close = Rounds._close

        def counted(handle: int) -> None:
            self._synced += 1
            fsync(handle)

        def timed(rounds: Rounds, *given: object) -> None:
            began = time.process_time()
            close(rounds, *given)  # type: ignore[arg-type]  # whatever the loop hands over
            self.closing.append(time.process_time() - began)

        os.fsync = counted
        Rounds._close = timed  # type: ignore[method-assign]  # measured in place

    def round_started(self, round: int, cohort: list[str]) -> None:
        """Begin a round."""
        self._began = (time.process_time(), _bytes_written(), self._synced)

    def round_closed(self, record: RoundRecord) -> None:
        """End it; the display, of which this stands in the place, is the last to be told."""
        began, written, synced = self._began
        self.cpu.append(time.process_time() - began)
        self.written.append(_bytes_written() - written)
        self.syncs.append(self._synced - synced)


def _bytes_written() -> int:
    facts = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in facts if line.startswith("wchar")).split()[1])


def measured(conf: Conf, meter: Meter) -> None:
    """Run the rounds of a configuration over silos that answer at once."""
    members = silos(conf)
    with session(conf, members, mode="simulate", display=meter) as run:
        federate(run, Echo([silo.name for silo in members]), build_strategy(conf.strategy))


def filled(folder: Path, until: int) -> None:
    """Write the rounds up to `until` as a run does, without an exchange of messages."""
    store = FolderStore(folder)
    state = Checkpoints(store).load()
    assert state is not None
    history = History(folder / FILE, state.history)
    last = history.last
    assert last is not None
    digest = arrays_digest(state.arrays)
    with Ledger(folder / "ledger.jsonl", folder.name) as ledger:
        for number in range(state.round + 1, until + 1):
            record = RoundRecord(**{**vars(last), "round": number})
            for silo in record.cohort:
                ledger.update(number, silo, Admitted(400, 0.5), digest)
            state.history = history.append(record)
            anchor = ledger.round_closed(number, digest, record.replied, history=state.history.head)
            state.anchor = str(anchor)
            state.round = number
        Checkpoints(store).save(state)


def rounds(folder: Path, count: int) -> Path:
    """Print the rows of one number of silos; return the run's folder."""
    output = f"run.output={folder}"
    run = folder / f"silos-{count}"
    meter = Meter()
    meter.count()
    for number in NAMED:
        if number == NAMED[0]:
            words = [f"run.name={run.name}", f"federation.size={count}", "task=digits"]
            words += ["tracking=off", "model.hidden=[16]", "run.seed=5"]
        else:
            filled(run, number - WINDOW)
            words = [f"run.resume={run}"]
        conf = compose([*words, output, f"run.rounds={number}"])
        measured(conf, meter)
        row = [_median(values[-WINDOW:]) for values in (meter.closing, meter.cpu)]
        written = statistics.median(meter.written[-WINDOW:])
        syncs = sorted(set(meter.syncs[-WINDOW:]))
        print(
            f"| {count} | {number:,} | {row[0]:.1f} | {row[1]:.1f} | {written / 1e3:.0f} |"
            f" {', '.join(map(str, syncs))} |",
            flush=True,
        )
    return run


def _median(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


def report(run: Path) -> None:
    """Print what `meadow report` of a run costs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "azureml_jobs.cli.main", "report", f"run={run}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = (run / "report.html").stat().st_size
    history = (run / FILE).stat().st_size
    print(
        f"\nmeadow report, {run.name}, 1,000 rounds: {cpu:.1f} CPU s, page {size / 1e6:.2f} MB,"
        f" history {history / 1e6:.1f} MB, result.json {(run / 'result.json').stat().st_size:,} B"
    )


class _Started(Exception):
    """The first round would begin now."""


def start(folder: Path, root: Path, count: int) -> None:
    """Print the CPU seconds from a composed configuration to the first round."""

    def stop(rounds: Rounds) -> bool:
        print(f"start, {count:,} silos: {time.process_time() - began:.2f} CPU s to the first round")
        raise _Started

    Rounds.run = stop  # type: ignore[method-assign]  # the rounds are not what is measured
    words = ["task=mnist", f"data.root={root}", f"federation.size={count}", "tracking=off"]
    words += ["data.partition=dirichlet", "data.alpha=0.5", "model=cnn", "run.name=start"]
    conf = compose([*words, f"run.output={folder}", "simulation=pool", "simulation.workers=0"])
    began = time.process_time()
    with contextlib.suppress(_Started):
        simulate_conf(conf)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("rounds", "start"), default="rounds")
    parser.add_argument("--root", type=Path, help="a folder with MNIST's idx files")
    parser.add_argument("--silos", type=int, default=1000, help="of the start")
    parser.add_argument("--keep", type=Path, help="leave the runs there")
    args = parser.parse_args()
    TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        if args.what == "start":
            start(folder, args.root, args.silos)
            return
        print("| silos | round | CPU ms to close it | CPU ms in all | kB written | syncs |")
        print("|---|---|---|---|---|---|", flush=True)
        runs = [rounds(folder, count) for count in SILOS]
        report(runs[-1])


if __name__ == "__main__":
    main()
