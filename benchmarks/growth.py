"""What a round costs the server and its silos in processor time, as the federation grows.

    python benchmarks/growth.py                         # 3, 10, 60 and 200 silos
    python benchmarks/growth.py --silos 60 --rounds 6 --profile server.prof

Light silos: real nodes (TLS, node keys, their own connection each) whose app trains by one addition
and answers each evaluation with the sums of one that was made before, a model of 19 kB. The
server is the whole of it: rounds of training and evaluation, admission, ledger, history,
checkpoints. Processor seconds are those of all threads, per silo and round, medians of the rounds
after the first; the nodes share some processes, so that their side is without imports. `--profile`
writes the profile of the server's threads that handle calls and of the one that drives rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from conf.telemetry import turn_off

turn_off()  # before Flower is imported

import psutil  # after the path
from flwr.app import (  # after the path
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp  # after the path

NODE_PROCESSES = 4
OVERRIDES = ("task=digits", "model=mlp", "model.hidden=[64]", "run.baseline=none")
app = ClientApp()
_made: list[tuple[ArrayRecord, MetricRecord]] = []
_making = threading.Lock()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Add one to each number."""
    arrays = ArrayRecord()
    for name, array in message.content["arrays"].items():
        arrays[name] = Array(array.numpy() + array.numpy().dtype.type(context.node_id % 7))
    metrics = MetricRecord({"num-examples": 100, "loss": 1.0, "seconds": 0.0})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with an evaluation that was made before."""
    with _making:
        if not _made:
            _made.append(_evaluation())
    sums, metrics = _made[0]
    content = RecordDict({"sums": sums, "metrics": metrics})
    return Message(content, reply_to=message)


@app.query("ready")
def ready(message: Message, context: Context) -> Message:
    """Say that all is well."""
    return Message(RecordDict({"config": ConfigRecord({"meadow-protocol": 1})}), reply_to=message)


def _evaluation() -> tuple[ArrayRecord, MetricRecord]:
    from client.cache import load_cached
    from client.loop import evaluate as evaluated
    from client.withholding import told
    from conf.compose import compose
    from conf.silos import silos
    from strategies.wire import protocol, run_config

    conf = compose([*OVERRIDES, "federation.size=3"])
    scope = run_config.unpacked(run_config.pack(conf))
    loaded = load_cached(scope, silos(conf)[0])
    one = evaluated(loaded.model, loaded.data.validation, loaded.task, scope.trainer)
    said = told(one, loaded.task, silos(conf)[0].policy)
    return protocol.to_record(said.sums), MetricRecord({**said.metrics})


@dataclass
class Side:
    """What the rounds took: seconds and processor seconds of the server and of the nodes."""

    seconds: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    nodes: list[float] = field(default_factory=list)
    peak: int = 0
    """Of the server's memory, bytes."""


def serve(folder: Path, count: int, rounds: int, profile: str) -> None:
    """Be the server, start the nodes, and write what the rounds took."""
    from azureml_jobs.storage.folder_store import FolderStore
    from conf.code_digest import run_files
    from conf.compose import compose
    from conf.silos import silos
    from server.app import federate
    from server.observers.base import Observer
    from server.orchestrator.packed_grid import PackedGrid
    from server.orchestrator.service import Orchestrator, quiet_flower
    from server.run.result import RoundRecord
    from server.session import session
    from strategies import build_strategy
    from tests.faults.federation import Federation

    quiet_flower()
    folder.chmod(0o700)
    federation = Federation(folder, count)
    side = Side()
    profilers: list[cProfile.Profile] = []
    if profile:
        profilers = _profile_all_threads()
    orchestrator = Orchestrator("127.0.0.1:0", federation.credentials(), federation.public)
    orchestrator.start()
    (folder / "ca.pem").write_bytes(federation.authority)
    groups = [range(first, count, NODE_PROCESSES) for first in range(min(NODE_PROCESSES, count))]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--nodes", str(folder), orchestrator.address, str(count)]
            + [str(i) for i in group],
            cwd=ROOT,
            env=_environment(),
        )
        for group in groups
    ]

    class Watch(Observer):
        """Takes the times when a round is closed."""

        def __init__(self) -> None:
            self.at = (0.0, 0.0, 0.0)

        def round_closed(self, record: RoundRecord) -> None:
            assert not record.failed, record.failed
            nodes = sum(sum(psutil.Process(one.pid).cpu_times()[:2]) for one in processes)
            now = (time.perf_counter(), time.process_time(), nodes)
            if self.at[0]:
                side.seconds.append(now[0] - self.at[0])
                side.server.append(now[1] - self.at[1])
                side.nodes.append(now[2] - self.at[2])
            self.at = now

    try:
        os.chdir(folder)
        conf = compose([*OVERRIDES, f"federation.size={count}", f"run.rounds={rounds}"])
        members = silos(conf)
        names = [silo.name for silo in members]
        orchestrator.wait_for(names, count, 300)
        store = FolderStore(folder / "store")
        with session(conf, members, mode="local", display=Watch(), store=store) as run:
            files = run_files(conf.task.name, conf.model.name, conf.strategy.name)
            grid = PackedGrid(orchestrator.open_run(run.folder.run_id, names, files=files))
            federate(run, grid, build_strategy(conf.strategy))
    finally:
        orchestrator.stop(over=True)
        for one in processes:
            one.wait(60)
    side.peak = psutil.Process().memory_info().rss
    (folder / "out.json").write_text(json.dumps(side.__dict__))
    if profile:
        _write(profilers, profile)


def _profile_all_threads() -> list[cProfile.Profile]:
    """Let each thread of this process have a profiler; return their growing list."""
    profilers: list[cProfile.Profile] = []
    run = threading.Thread.run

    def profiled(self: threading.Thread) -> None:
        one = cProfile.Profile(time.thread_time)
        profilers.append(one)
        one.runcall(run, self)

    threading.Thread.run = profiled  # type: ignore[method-assign]  # to take the times
    main = cProfile.Profile(time.thread_time)
    profilers.append(main)
    main.enable()
    return profilers


def _write(profilers: list[cProfile.Profile], file: str) -> None:
    import pstats

    profilers[0].disable()
    ended = [one for one in profilers if one.getstats()]
    stats = pstats.Stats(ended[0])
    for one in ended[1:]:
        stats.add(one)
    stats.dump_stats(file)


def be_nodes(folder: Path, address: str, count: int, indices: list[int]) -> None:
    """Be some of the nodes, each in a thread, until the federation is over."""
    from client.node.connection import FederationOver
    from tests.faults.federation import Federation

    federation = Federation(folder, count)
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                federation.thread_node(
                    address, federation.silos[i], folder / f"state-{i}", "benchmarks.growth:app"
                )
            )
            for i in indices
        ]
        for node in nodes:
            node.thread.join()
            assert isinstance(node.ended_with, FederationOver), node.ended_with


def measured(count: int, rounds: int, profile: str = "") -> Side:
    """Measure one size in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--serve", name, str(count), str(rounds), profile]
        subprocess.run(command, check=True, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL)
        raw: dict[str, Any] = json.loads((Path(name) / "out.json").read_text())
        return Side(**raw)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def row(count: int, side: Side) -> str:
    """Return a row of the table."""
    server = statistics.median(side.server) / count * 1000
    nodes = statistics.median(side.nodes) / count * 1000
    return (
        f"| {count} | **{server:.1f}** ({min(side.server) / count * 1000:.1f} to"
        f" {max(side.server) / count * 1000:.1f}) | {nodes:.1f} |"
        f" {statistics.median(side.seconds):.2f} | {side.peak / 1e6:.0f} |"
    )


def main() -> None:
    """Print the table, or be one of its parts."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
        return
    if sys.argv[1:2] == ["--nodes"]:
        be_nodes(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), [int(i) for i in sys.argv[5:]])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--silos", nargs="+", type=int, default=[3, 10, 60, 200])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--profile", default="")
    args = parser.parse_args()
    profile = str(Path(args.profile).absolute()) if args.profile else ""
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores\n")
    print(
        "| silos | server: CPU ms a silo and round | silos: CPU ms | round s | server's memory MB |"
    )
    print("|---|---|---|---|---|")
    for count in args.silos:
        print(row(count, measured(count, args.rounds, profile)), flush=True)
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
