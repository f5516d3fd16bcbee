"""What compression saves and what it costs: bytes at the socket, accuracy, seconds to encode and decode.

    python -m benchmarks.wire bytes --sizes 3.8x10 45x62
    python -m benchmarks.wire link --megabytes 45 --rate 10 --silos 10
    python -m benchmarks.wire codecs --sizes 45x62 500x100
    python -m benchmarks.wire accuracy --root DATA --seeds 0 1 2

`bytes` counts what passes a TCP proxy in front of an orchestrator on 127.0.0.1, TLS and all, each way, in a round of
`--silos` that train nothing: each moves every weight by a draw and sends the change as a silo does. `link` has the
proxy let no more than so many megabits a second through for each silo, and times the round. `codecs` encodes and
decodes one change beside a copy of it (`copy`: one read and one write of its bytes), in one thread, each the median of
several. `accuracy` trains MNIST over Dirichlet .5 with each form, from the same seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from conf.telemetry import turn_off

turn_off()  # before Flower is imported

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.model_step import step_mod
from client.update_form import in_form
from conf.compose import compose
from conf.schema import VARIANTS
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator, quiet_flower
from server.round.admission import Admission
from server.round.decoding import Decoding
from server.round.downlink import Downlink
from server.round.exchange import Closing, exchange
from server.round.judgement import Admitted, Verdict
from server.simulation import simulate
from strategies.compression import codec_of
from strategies.compression.codec import Seeds, Shapes
from strategies.compression.form import Form
from strategies.fedavg import FedAvg
from strategies.wire import protocol, run_config
from tests.faults.federation import Federation
from tests.faults.proxy import Proxy

FORMS = tuple(VARIANTS["compression"])
APP = "benchmarks.wire:client_app"
KIND = "compression"
DOWNS = ("bf16", "int8", "int4")

client_app = ClientApp(mods=[step_mod])


def shapes_of(megabytes: float, arrays: int) -> Shapes:
    """Return the shapes of a model: matrices of the same size, and a bias for each."""
    values = int(megabytes * 1e6 / 4 / arrays)
    rows = max(int(math.sqrt(values)) // 64 * 64, 8)
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(arrays // 2 or 1):
        shapes[f"layer{number:03}.bias"] = (rows,)
        shapes[f"layer{number:03}.weight"] = (rows, max(2 * values // rows - 1, 1))
    return shapes


def drawn(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Return weights of these shapes."""
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draws) * 0.05 for name, shape in shapes.items()}


def form_named(name: str, names: Any) -> Form | None:
    """Return a form in which all arrays of a model are parameters; None for `none`."""
    codec = codec_of(VARIANTS["compression"][name](name=name))
    return None if codec is None else Form(codec, frozenset(names), frozenset(), (), 0)


@client_app.train()
def move_every_weight(message: Message, context: Context) -> Message:
    """Answer as a silo does that has trained: every weight has moved a little."""
    sent = message.content[protocol.ARRAYS]
    config = message.content[protocol.CONFIG]
    assert isinstance(sent, ArrayRecord) and isinstance(config, ConfigRecord)
    round = int(config[protocol.ROUND])  # type: ignore[arg-type]  # written below
    draws = torch.Generator().manual_seed(context.node_id % 997 + round)
    leaves = {
        name: tensor + 1e-3 * torch.randn(tensor.shape, generator=draws)
        for name, tensor in protocol.to_state(sent).items()
    }
    form = form_named(str(config[KIND]), leaves)
    update, _ = in_form(form, leaves, sent, f"silo-{context.node_id}", round, {})
    numbers = MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 0.5, protocol.SECONDS: 0.1})
    return Message(RecordDict({**update, protocol.METRICS: numbers}), reply_to=message)


def down_of(kind: str) -> str:
    """Return the downlink that is measured beside an uplink: the same where there is one."""
    return kind if kind in DOWNS else "full"


class Served:
    """An orchestrator, and silos each behind a proxy of its own."""

    def __init__(self, stack: ExitStack, silos: int, rate: float | None = None) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        federation = Federation(folder, silos)
        orchestrator: Orchestrator = stack.enter_context(federation.orchestrator())
        self.proxies = [Proxy(orchestrator.address) for _ in federation.silos]
        for proxy, silo in zip(self.proxies, federation.silos, strict=True):
            stack.callback(proxy.close)
            if rate is not None:
                proxy.limit(rate)
            stack.enter_context(federation.thread_node(proxy.address, silo, app=APP))
        names = [silo.name for silo in federation.silos]
        orchestrator.wait_for(names, silos, 120)
        self.grid = PackedGrid(orchestrator.open_run("benchmark", names))
        self.strategy = FedAvg()
        self.down: Downlink | None = None

    def round(
        self, number: int, arrays: ArrayRecord, kind: str, down: str
    ) -> tuple[ArrayRecord, float]:
        """Go through a round as a run does; return the next model and the round's seconds."""
        asked = compose(["task=digits", f"compression={kind}", f"compression.down={down}"])
        text = run_config.pack(asked)
        config = ConfigRecord({protocol.ROUND: number, KIND: kind, protocol.RUN_CONFIG: text})
        if self.down is None:
            self.down = Downlink.of(asked.compression, list(arrays), 0)
        if self.down is not None:
            self.grid.offer(self.down.sent(arrays))
        form = form_named(kind, list(arrays))
        admission = Admission({}, decoding=None if form is None else Decoding(form))
        silos = self.grid.names()
        admission.open(number, arrays, list(silos.values()))
        started = time.perf_counter()
        messages = list(self.strategy.configure_train(number, arrays, config, self.grid))

        def judge(node: int, reply: Message) -> Verdict:
            assert not reply.has_error(), reply.error.reason
            return admission.check(reply.content, silo=silos[node], round=number, phase="train")

        def replies() -> Iterator[Message]:
            for _, reply, verdict in exchange(self.grid, messages, Closing(3600), judge):
                assert isinstance(verdict, Admitted), verdict
                yield reply

        mean, _ = self.strategy.aggregate_train(number, replies())
        assert mean is not None
        if self.down is not None:
            offer = self.down.next(arrays, mean, number)
            self.grid.offer(offer)
            mean = offer.model
        return mean, time.perf_counter() - started

    def passed(self) -> tuple[int, int]:
        """Return how many bytes all silos have sent and been sent."""
        return sum(one.carried for one in self.proxies), sum(one.returned for one in self.proxies)


@contextmanager
def served(silos: int, rate: float | None = None) -> Iterator[Served]:
    """Serve some silos within the block."""
    with ExitStack() as stack:
        yield Served(stack, silos, rate)


def bytes_table(sizes: list[str], forms: list[str], silos: int) -> None:
    """Print the bytes of a round at the socket, each way."""
    print("| update | form | up, a silo | of fp32 | down, a silo | of fp32 |\n" + "|---" * 6 + "|")
    for size in sizes:
        whole: tuple[float, float] | None = None
        for kind in forms:
            with served(silos) as here:
                arrays = protocol.to_record(drawn(shapes_of(*parsed(size)), 0))
                # The first round has what a connection begins with.
                arrays, _ = here.round(1, arrays, kind, down_of(kind))
                before = here.passed()
                here.round(2, arrays, kind, down_of(kind))
                up, down = ((b - a) / silos for a, b in zip(before, here.passed(), strict=True))
            whole = (up, down) if whole is None else whole
            print(
                f"| {size.partition('x')[0]} MB | {kind} | {up / 1e6:.3f} MB | {up / whole[0]:.1%}"
                f" | {down / 1e6:.3f} MB | {down / whole[1]:.1%} |",
                flush=True,
            )


def link_table(megabytes: float, rate: float, forms: list[str], silos: int) -> None:
    """Print the seconds of a round over a thin link."""
    print(f"{silos} silos, {megabytes:g} MB, {rate:g} Mbit/s a silo and way\n")
    print("| up | down | round 1 | round 2 |\n|---|---|---|---|")
    for kind in forms:
        with served(silos, rate * 1e6 / 8) as here:
            arrays = protocol.to_record(drawn(shapes_of(megabytes, 62), 0))
            arrays, first = here.round(1, arrays, kind, down_of(kind))
            _, seconds = here.round(2, arrays, kind, down_of(kind))
        print(f"| {kind} | {down_of(kind)} | {first:.1f} s | {seconds:.1f} s |", flush=True)


def median_of(
    times: int, work: Callable[[], object], before: Callable[[], object] = lambda: None
) -> float:
    """Return the median seconds of some calls, each after something that is not counted."""
    seconds = []
    for _ in range(times):
        before()
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def codec_table(sizes: list[str], forms: list[str], times: int) -> None:
    """Print what encoding and decoding take beside a copy."""
    print("| change | form | encode | x copy | decode | x copy | bytes |\n" + "|---" * 7 + "|")
    for size in sizes:
        shapes = shapes_of(*parsed(size))
        count = sum(math.prod(shape) for shape in shapes.values())
        row = np.random.default_rng(0).standard_normal(count, np.float32)
        target = row.copy()
        copy = median_of(times, lambda: np.copyto(target, row))  # noqa: B023  # called at once
        for kind in forms:
            codec = codec_of(VARIANTS["compression"][kind](name=kind))
            if codec is None:
                continue
            memory = codec.encode(row.copy(), shapes, Seeds(0, 1), {}).memory
            encoded = codec.encode(row.copy(), shapes, Seeds(1, 2), memory)

            def fill() -> None:
                np.copyto(target, row)  # noqa: B023  # called at once

            def encode() -> None:
                codec.encode(target, shapes, Seeds(1, 2), memory)  # noqa: B023  # the same

            def decode() -> None:
                for _ in codec.decode(encoded.arrays, shapes, 2):  # noqa: B023  # the same
                    pass

            there = median_of(times, encode, fill)
            back = median_of(times, decode)
            share = sum(one.nbytes for one in encoded.arrays.values()) / row.nbytes
            print(
                f"| {row.nbytes / 1e6:.0f} MB | {kind} | {there:.3f} s | {there / copy:.1f}"
                f" | {back:.3f} s | {back / copy:.1f} | {share:.1%} |",
                flush=True,
            )
        print(f"| {row.nbytes / 1e6:.0f} MB | copy | {copy:.3f} s | 1 | | | |", flush=True)


def accuracy_table(
    root: Path, seeds: list[int], forms: list[str], down: str, more: list[str]
) -> None:
    """Print the accuracy of the federation's test sets after equal rounds."""
    print("| form | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | less than none |")
    print("|---" * (len(seeds) + 3) + "|")
    plain = 0.0
    for kind in forms:
        found = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                run = simulate(
                    [
                        *("task=mnist", "data=dirichlet", "data.alpha=0.5", "model=mlp"),
                        *(f"data.root={root}", "federation.size=5", "trainer.lr=0.02"),
                        *("trainer.batch_size=64", "data.validation=0.05", "data.test=0"),
                        *("tracking=off", "simulation=pool", "simulation.workers=0"),
                        *(f"compression={kind}", f"run.seed={seed}", f"run.output={folder}"),
                        f"compression.down={down_of(kind) if down == 'same' else 'full'}",
                        *more,
                    ]
                )
            found.append(run.result.final["central_accuracy"])
        mean = statistics.fmean(found)
        plain = mean if kind == "none" else plain
        cells = " | ".join(f"{value:.4f}" for value in found)
        print(f"| {kind} | {cells} | {mean:.4f} | {100 * (plain - mean):+.2f} points |", flush=True)


def parsed(size: str) -> tuple[float, int]:
    """Return megabytes and arrays of `45x62`."""
    megabytes, _, arrays = size.partition("x")
    return float(megabytes), int(arrays)


def main() -> None:
    """Print one table, and where and when it was made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["bytes", "link", "codecs", "accuracy"])
    parser.add_argument("--sizes", nargs="+", default=["3.8x10", "45x62"])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--megabytes", type=float, default=45)
    parser.add_argument("--rate", type=float, default=10, help="megabits a second, each way")
    parser.add_argument("--silos", type=int, default=2)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--root", type=Path, help="folder of MNIST's files")
    parser.add_argument("--down", choices=["full", "same"], default="full")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--more", nargs="*", default=["run.rounds=10", "data.examples=12000"])
    args = parser.parse_args()
    quiet_flower()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, numpy {np.__version__},", end=" ")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.0f}: {' '.join(sys.argv[1:])}\n")
    if args.what == "bytes":
        bytes_table(args.sizes, args.forms, args.silos)
    elif args.what == "link":
        link_table(args.megabytes, args.rate, args.forms, args.silos)
    elif args.what == "codecs":
        codec_table(args.sizes, args.forms, args.times)
    else:
        accuracy_table(args.root, args.seeds, args.forms, args.down, args.more)


if __name__ == "__main__":
    main()
