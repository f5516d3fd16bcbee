"""Seconds and memory of a round without training: Meadow, stock Flower and the bare TLS floor, side by side.

    python benchmarks/rounds.py --sizes 3.8x10 45x62 45x320 --rounds 6
    python benchmarks/rounds.py --sizes 500x100 --arms meadow floor

A size is megabytes x number of float32 arrays. Every arm has TLS and, but for the floor, node keys; two silos on this
machine; the ClientApp adds a number to each array, another at each silo, so that nothing can be reused between rounds
or silos. The figure is the median of the rounds after the first, and beside it the processor time
of a round, of all processes together (of stock it is not taken). Stock is flower-superlink and flower-supernode of the
installed version, same app.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from conf.telemetry import OFF, turn_off

turn_off()  # before Flower is imported

import numpy as np  # after the path
import psutil  # after the path
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)  # after the path
from flwr.clientapp import ClientApp  # after the path
from flwr.serverapp import Grid, ServerApp  # after the path

APP = "import benchmarks.rounds\nclient = benchmarks.rounds.client_app\nserver = benchmarks.rounds.server_app\n"
"""The one module of the app that stock Flower runs."""

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def add_one(message: Message, context: Context) -> Message:
    step = np.float32(
        1 + context.node_id % 997 / 1000
    )  # another for each silo: equal objects would travel once
    arrays = ArrayRecord()
    for name, array in message.content["arrays"].items():
        arrays[name] = Array(array.numpy() + step)
    return Message(
        RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}),
        reply_to=message,
    )


@dataclass
class Arm:
    """What one arm measured: seconds of each round, and peak memory by role in bytes."""

    seconds: list[float] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    used: list[float] = field(default_factory=list)
    """Processor seconds of all processes, at the end of each round."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds[1:])

    @property
    def cpu(self) -> float | None:
        """Processor seconds of a round after the first; None where nobody looked."""
        if len(self.used) < 2:
            return None
        return (self.used[-1] - self.used[0]) / (len(self.used) - 1)


def model(megabytes: float, arrays: int) -> ArrayRecord:
    elements = int(megabytes * 1e6) // 4 // arrays
    values = np.random.default_rng(0)
    record = ArrayRecord()
    for i in range(arrays):
        record[f"w{i}"] = Array(values.standard_normal(elements, dtype=np.float32))
    return record


Average = Callable[[Iterable[Message]], ArrayRecord]


def rounds(
    grid: Grid,
    megabytes: float,
    arrays: int,
    number: int,
    silos: int,
    average: Average,
    closed: Callable[[], object] = lambda: None,
) -> list[float]:
    """Drive the rounds over any grid, averaging the replies as they arrive where the grid yields them."""
    while len(nodes := list(grid.get_node_ids())) < silos:
        time.sleep(0.05)
    current, seconds = model(megabytes, arrays), []
    for round in range(1, number + 1):
        started = time.perf_counter()
        config = ConfigRecord({"server-round": round})
        sent = [
            Message(RecordDict({"arrays": current, "config": config}), node, "train")
            for node in nodes
        ]
        current = average(_replies(grid, sent))
        seconds.append(time.perf_counter() - started)
        closed()
    return seconds


def _replies(grid: Grid, sent: list[Message]) -> Any:
    if hasattr(grid, "replies"):
        yield from grid.replies(grid.push_messages(sent), 600)
    else:
        yield from grid.send_and_receive(sent, timeout=600)


def meadows_mean(silos: int) -> Average:
    """Return what averages as a run with strategy=fedavg does, the replies of so many silos."""
    from strategies.fedavg import FedAvg
    from strategies.streaming import Replies

    class Named(Replies):
        """Replies as they arrive, with names."""

        def __init__(self, replies: Iterable[Message]) -> None:
            self._replies = iter(_checked(replies))
            self._node = 0

        def __next__(self) -> Message:
            reply = next(self._replies)
            self._node = reply.metadata.src_node_id
            return reply

        def silo(self) -> str:
            return str(self._node)

        def refuse(self, why: Exception) -> None:
            raise why

    def average(replies: Iterable[Message]) -> ArrayRecord:
        strategy = FedAvg()
        strategy.cohort = silos
        arrays, _ = strategy.aggregate_train(1, Named(replies))
        assert arrays is not None
        return arrays

    return average


def _checked(replies: Iterable[Message]) -> Iterable[Message]:
    for reply in replies:
        assert not reply.has_error(), reply.error.reason
        yield reply
        del reply


def plain_mean(replies: Iterable[Message]) -> ArrayRecord:
    """Return the unweighted mean, added up in float32: less work than Flower's FedAvg."""
    total: dict[str, np.ndarray] = {}
    count = 0
    for reply in _checked(replies):
        count += 1
        for name, array in reply.content["arrays"].items():
            values = array.numpy()
            total[name] = (
                values.copy() if name not in total else np.add(total[name], values, out=total[name])
            )
        del reply
    record = ArrayRecord()
    for name in list(total):
        record[name] = Array(np.divide(total.pop(name), np.float32(count)))
    return record


@server_app.main()
def main_of_stock(grid: Grid, context: Context) -> None:
    config = context.run_config
    megabytes, arrays = float(config["megabytes"]), int(config["arrays"])
    seconds = rounds(
        grid, megabytes, arrays, int(config["rounds"]), int(config["silos"]), plain_mean
    )
    partial = Path(f"{config['out']}.part")
    partial.write_text(json.dumps(seconds))
    partial.rename(str(config["out"]))


def meadow(megabytes: float, arrays: int, number: int, silos: int) -> Arm:
    """Measure Meadow: the orchestrator in a process of its own, a node process a silo."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out.json"
        command = [
            sys.executable,
            __file__,
            "--serve",
            name,
            f"{megabytes}x{arrays}",
            str(number),
            str(silos),
        ]
        subprocess.run(command, check=True, cwd=ROOT, env=_environment())
        raw = json.loads(out.read_text())
        return Arm(raw["seconds"], raw["memory"], raw["used"])


def serve(folder: Path, size: str, number: int, silos: int) -> None:
    """Be the orchestrator of the Meadow arm and start its nodes."""
    from server.orchestrator.packed_grid import PackedGrid
    from server.orchestrator.service import Orchestrator, quiet_flower
    from tests.faults.federation import Federation

    quiet_flower()
    megabytes, arrays = parse(size)
    folder.chmod(0o700)
    federation = Federation(folder, silos)
    orchestrator = Orchestrator("127.0.0.1:0", federation.credentials(), federation.public)
    orchestrator.start()
    app = "benchmarks.rounds:client_app"
    nodes = [
        federation.process_node(orchestrator.address, silo, app=app) for silo in federation.silos
    ]
    processes = [node.__enter__() for node in nodes]
    try:
        names = [silo.name for silo in federation.silos]
        orchestrator.wait_for(names, silos, 120)
        grid = PackedGrid(orchestrator.open_run("benchmark", names))
        used: list[float] = []
        ids = [one.process.pid for one in processes]
        mean = meadows_mean(silos)
        closed = lambda: used.append(cpu_of(os.getpid(), *ids))  # noqa: E731 # one line of use
        seconds = rounds(grid, megabytes, arrays, number, silos, mean, closed)
        memory = {"server": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        memory["node"] = max(_peak(one.process.pid) for one in processes)
        (folder / "out.json").write_text(
            json.dumps({"seconds": seconds, "memory": memory, "used": used})
        )
    finally:
        orchestrator.stop(over=True)
        for node in nodes:
            node.__exit__(None, None, None)


def stock(megabytes: float, arrays: int, number: int, silos: int) -> Arm:
    """Measure stock Flower: superlink, supernodes, and `flwr run`, in a home of their own."""
    from tests.faults.federation import Federation
    from tests.faults.stock import app_folder
    from tests.faults.stock import stock as stock_flower

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out.json"
        config = {
            "megabytes": megabytes,
            "arrays": arrays,
            "rounds": number,
            "silos": silos,
            "out": str(out),
        }
        federation = Federation(folder, silos)
        with stock_flower(federation) as flower:
            app = app_folder(folder, APP, config)
            flower.superlink()
            for silo in federation.silos:
                flower.supernode(silo.name, flower.nodes_server)
            flower.flwr("run", str(app), "here")
            memory: dict[str, int] = {}
            deadline = time.monotonic() + 600
            while not out.exists():
                assert time.monotonic() < deadline, flower.logs()
                for kind, peak in flower.memory().items():
                    memory[kind] = max(memory.get(kind, 0), peak)
                time.sleep(1.0)
        return Arm(json.loads(out.read_text()), memory)


def bare(megabytes: float, number: int, silos: int) -> Arm:
    from benchmarks import tls_floor

    used: list[float] = []
    return Arm(tls_floor.floor(int(megabytes * 1e6), number, silos, used), used=used)


def cpu_of(*ids: int) -> float:
    """Return the processor seconds that some processes have used."""
    times = [psutil.Process(id).cpu_times() for id in ids]
    return sum(one.user + one.system for one in times)


def _peak(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM")
    )


def _environment() -> dict[str, str]:
    return {**os.environ, **OFF, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def parse(size: str) -> tuple[float, int]:
    megabytes, _, arrays = size.partition("x")
    return float(megabytes), int(arrays)


HEAD = (
    "| update | arm | first round | median | min-max | x floor | CPU s | x floor | stock / it"
    + " | peak memory |\n"
    + "|---" * 10
    + "|"
)


def rows(size: str, arms: list[str], number: int, silos: int) -> list[str]:
    """Measure one size with every arm and return the rows of the table."""
    megabytes, arrays = parse(size)
    measured: dict[str, Arm] = {}
    for arm in arms:
        if arm == "floor":
            measured[arm] = bare(megabytes, number, silos)
        else:
            measured[arm] = {"meadow": meadow, "stock": stock}[arm](
                megabytes, arrays, number, silos
            )
    lines = []
    for arm, one in measured.items():
        floor = f"{one.median / measured['floor'].median:.1f}" if "floor" in measured else "-"
        cpu, over = cpu_columns(one, measured.get("floor"))
        gain = f"{measured['stock'].median / one.median:.1f}" if "stock" in measured else "-"
        memory = (
            ", ".join(f"{role} {peak / 1e6:.0f} MB" for role, peak in one.memory.items()) or "-"
        )
        spread = f"{min(one.seconds[1:]):.3f}-{max(one.seconds[1:]):.3f}"
        lines.append(
            f"| {megabytes:g} MB, {arrays} arrays | {arm} | {one.seconds[0]:.3f} s | **{one.median:.3f} s** | {spread}"
            f" | {floor} | {cpu} | {over} | {gain} | {memory} |"
        )
    return lines


def cpu_columns(arm: Arm, floor: Arm | None) -> tuple[str, str]:
    """Return the processor seconds of an arm's round, and how many times the floor's they are."""
    if arm.cpu is None:
        return "-", "-"
    over = floor.cpu if floor is not None else None
    return f"{arm.cpu:.3f}", f"{arm.cpu / over:.1f}" if over else "-"


def main() -> None:
    """Print where and when it was measured, and the table."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["3.8x10", "45x62", "45x320"])
    parser.add_argument("--arms", nargs="+", default=["meadow", "stock", "floor"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--silos", type=int, default=2)
    args = parser.parse_args()
    memory = psutil.virtual_memory().total / 2**30
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB\n\n{HEAD}",
        flush=True,
    )
    for size in args.sizes:
        print("\n".join(rows(size, args.arms, args.rounds, args.silos)), flush=True)
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
