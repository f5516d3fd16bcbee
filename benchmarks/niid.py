"""NIID-Bench's MNIST setting: accuracy against the published table, and time against plain PyTorch.

    python benchmarks/niid.py accuracy --root DATA --rounds 10 --epochs 2 --seeds 0
    python benchmarks/niid.py time --root DATA --silos 10 100

`accuracy` trains each strategy and prints measured beside published (Li et al. 2022, arXiv 2102.02079, table 3: 50
rounds of 10 local epochs, mean of 3 seeds). `time` interleaves the training phase of a round, side by side in one
process, so that all sides see the same machine: two plain processes of one thread (the best use of two cores), a
plain loop with two threads (the one people write by hand), Meadow's pool and Meadow on Ray.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from conf.telemetry import turn_off

turn_off()  # before Flower is imported

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg as StockFedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.nn import functional

from client.app import app
from client.silo_settings import hand_over
from client.tasks import task_of
from conf.compose import compose
from conf.schema import Conf
from conf.silos import silos
from server.engines.pool import PoolGrid
from server.engines.quiet import logs_to
from server.engines.ray_engine import run_on_ray
from server.round.exchange import Answer, Closing, exchange
from server.scoring.evaluation import first_weights
from server.simulation import simulate
from strategies.fedavg import FedAvg
from strategies.wire import protocol, run_config

PUBLISHED = {
    ("iid", "fedavg"): 99.09,
    ("iid", "fedprox"): 99.16,
    ("0.5", "fedavg"): 98.89,
    ("0.5", "fedprox"): 99.02,
}
"""Best test accuracy over 50 rounds, by Dirichlet alpha and strategy."""

State = dict[str, torch.Tensor]
Split = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["accuracy", "time"])
    parser.add_argument(
        "--root", type=Path, help="folder of the MNIST idx files; torchvision's download without it"
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--silos", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--strategies", nargs="+", default=["fedavg", "fedprox"])
    args = parser.parse_args()
    setting = ["experiment=niid_mnist", f"trainer.epochs={args.epochs}"]
    if args.root:
        setting.append(f"data.root={args.root.absolute()}")
    if args.what == "accuracy":
        accuracy([*setting, f"run.rounds={args.rounds}"], args.seeds, args.strategies)
    else:
        for count in args.silos:
            times([*setting, f"federation.size={count}"], args.rounds)
            stock([*setting, f"federation.size={count}"], args.rounds)


# ---- accuracy ----


def accuracy(setting: list[str], seeds: list[int], strategies: list[str]) -> None:
    print("| alpha | strategy | best test accuracy, mean of seeds | published | seconds a run |")
    print("|---|---|---|---|---|")
    for alpha, strategy in (("0.5", strategy) for strategy in strategies):
        best, seconds = [], []
        for seed in seeds:
            started = time.perf_counter()
            overrides = [
                *setting,
                f"data.alpha={alpha}",
                f"strategy={strategy}",
                f"run.seed={seed}",
                "simulation=pool",
            ]
            run = simulate(overrides)
            seconds.append(time.perf_counter() - started)
            best.append(100 * max(record.aggregate["central_accuracy"] for record in run.rounds))
            curve = " ".join(f"{record.aggregate['central_accuracy']:.3f}" for record in run.rounds)
            print(f"<!-- {strategy} alpha {alpha} seed {seed}: {curve} -->")
        published = PUBLISHED.get((alpha, strategy), "")
        print(
            f"| {alpha} | {strategy} | {statistics.mean(best):.2f} | {published} | {statistics.mean(seconds):.0f} |"
        )


# ---- time ----


@dataclass
class Side:
    """One way to do the training phase of a round: from the global weights to the mean of the silos' models."""

    name: str
    phase: Callable[[int], object]


def times(setting: list[str], rounds: int) -> None:
    """Print the seconds of a training phase for each side, interleaved, the first of each left out."""
    conf = compose(setting)
    members, splits = silos(conf), _splits(conf)
    print(
        f"\n{len(members)} silos, {conf.trainer.epochs} epochs, medians of {rounds} interleaved phases\n"
    )
    with PoolGrid(members, 2) as pool, TwoProcesses(splits, conf) as floor:
        sides = [
            floor.side(),
            _one_process(splits, conf),
            Side("Meadow, pool, 2 workers", _phase(pool, conf)),
        ]
        _print(_interleaved(sides, rounds), "two plain processes")
    with TwoProcesses(splits, conf) as floor:

        def on_ray(grid: Grid, _: object) -> None:
            sides = [floor.side(), Side("Meadow, ray", _phase(grid, conf))]
            _print(_interleaved(sides, rounds), "two plain processes")

        run_on_ray(on_ray, members, workers=2, ray_address=None, malloc=True, log_dir=_logs())


def stock(setting: list[str], rounds: int) -> None:
    """Print the seconds of a round of Flower's own loop and strategy on Flower's own simulation, same ClientApp."""
    conf = compose(setting)
    members, times = silos(conf), []
    keys = _keys(conf)

    def main(grid: Grid, context: Context) -> None:
        left = hand_over(members, context.run_id)
        every = StockFedAvg(
            fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=len(members)
        )
        config, first = ConfigRecord({**keys}), first_weights(conf)
        clock = lambda *_: times.append(time.perf_counter())  # noqa: E731  # called before the first round and after each
        every.start(grid, first, rounds + 1, train_config=config, evaluate_fn=clock)
        left.unlink()

    server = ServerApp()
    server.main()(main)
    with logs_to(_logs()):
        run_simulation(
            server, app, len(members), backend_config={"client_resources": {"num_cpus": 1}}
        )
    seconds = [b - a for a, b in itertools.pairwise(times[1:])]
    print(
        f"stock strategy.start on flwr.simulation, {len(members)} silos: median {statistics.median(seconds):.3f} s,"
    )
    print(f"min-max {min(seconds):.3f}-{max(seconds):.3f} of {len(seconds)} rounds\n", flush=True)


def _interleaved(sides: list[Side], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(rounds + 1):
        for side in sides:
            started = time.perf_counter()
            side.phase(number + 1)
            if number:
                seconds[side.name].append(time.perf_counter() - started)
    return seconds


def _print(seconds: dict[str, list[float]], floor: str) -> None:
    base = seconds[floor]
    print("| side | median s | min-max | ratio to the floor, median of pairs |")
    print("|---|---|---|---|")
    for name, taken in seconds.items():
        ratio = statistics.median(t / b for t, b in zip(taken, base, strict=True))
        print(
            f"| {name} | {statistics.median(taken):.3f} | {min(taken):.3f}-{max(taken):.3f} | {ratio:.3f} |"
        )
    print(flush=True)


def _phase(grid: Grid, conf: Conf) -> Callable[[int], object]:
    """Meadow's training phase: the strategy's messages, the exchange, the streaming mean."""
    arrays, strategy, keys = first_weights(conf), FedAvg(), _keys(conf)

    def phase(number: int) -> ArrayRecord | None:
        messages = strategy.configure_train(number, arrays, ConfigRecord({**keys}), grid)
        answers = exchange(grid, messages, Closing(3600))
        mean, _ = strategy.aggregate_train(number, _good(answers))
        return mean

    return phase


def _keys(conf: Conf) -> dict[str, str | int]:
    text = run_config.pack(conf)
    keys: dict[str, str | int] = {
        protocol.PROTOCOL_KEY: protocol.PROTOCOL,
        protocol.RUN_ID: "bench",
        protocol.RUN_CONFIG: text,
    }
    return {**keys, protocol.RUN_DIGEST: run_config.digest(text)}


def _good(answers: Iterable[Answer]) -> Iterable[Message]:
    for _, reply, _ in answers:
        if reply.has_error():
            raise RuntimeError(reply.error.reason)
        yield reply


class NiidCnn(nn.Module):
    """The network as one would write it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        result: torch.Tensor = self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))
        return result


def _plain(model: NiidCnn, weights: State, split: Split, conf: Conf) -> State:
    """One silo's local training as one would write it by hand."""
    model.load_state_dict(weights)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=conf.trainer.lr, momentum=conf.trainer.momentum
    )
    x, y = split
    model.train()
    for _ in range(conf.trainer.epochs):
        for batch in torch.randperm(len(y)).split(conf.trainer.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _share(model: NiidCnn, weights: State, splits: list[Split], conf: Conf) -> tuple[State, int]:
    """Return the example-weighted sum over some silos, and their examples."""
    total, examples = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}, 0
    for split in splits:
        count = len(split[1])
        for name, tensor in _plain(model, weights, split, conf).items():
            total[name] += count * tensor
        examples += count
    return total, examples


def _one_process(splits: list[Split], conf: Conf) -> Side:
    model = NiidCnn()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def phase(number: int) -> State:
        torch.set_num_threads(2)
        total, examples = _share(model, weights, splits, conf)
        torch.set_num_threads(1)
        return {name: tensor / examples for name, tensor in total.items()}

    return Side("one plain process, two threads", phase)


class TwoProcesses(AbstractContextManager["TwoProcesses"]):
    """Two forked processes of one thread, each with half of the silos; weights travel as raw bytes."""

    def __init__(self, splits: list[Split], conf: Conf) -> None:
        self._weights = NiidCnn().state_dict()
        order = sorted(range(len(splits)), key=lambda i: -len(splits[i][1]))
        halves: list[list[Split]] = [[], []]
        for i in order:  # the largest first, each to the half that has less
            min(halves, key=lambda half: sum(len(y) for _, y in half)).append(splits[i])
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes = []
        for half in halves:
            ours, theirs = context.Pipe()
            process = context.Process(target=_half, args=(theirs, half, conf), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def side(self) -> Side:
        return Side("two plain processes", self._phase)

    def _phase(self, number: int) -> State:
        for pipe in self._pipes:
            pipe.send_bytes(_bytes(self._weights))
        parts = [pipe.recv_bytes() for pipe in self._pipes]
        sums = [torch.frombuffer(bytearray(part), dtype=torch.float32) for part in parts]
        flat = (sums[0][:-1] + sums[1][:-1]) / (sums[0][-1] + sums[1][-1])
        return _named(flat, self._weights)

    def __exit__(self, *exc: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)


def _half(pipe: Connection, splits: list[Split], conf: Conf) -> None:
    torch.set_num_threads(1)
    model = NiidCnn()
    while True:
        try:
            flat = torch.frombuffer(bytearray(pipe.recv_bytes()), dtype=torch.float32)
        except EOFError:
            return
        total, examples = _share(model, _named(flat, model.state_dict()), splits, conf)
        pipe.send_bytes(_bytes({**total, "examples": torch.tensor([float(examples)])}))


def _bytes(state: State) -> bytes:
    return torch.cat([tensor.flatten() for tensor in state.values()]).numpy().tobytes()


def _named(flat: torch.Tensor, like: State) -> State:
    pieces = flat.split([tensor.numel() for tensor in like.values()])
    return {
        name: piece.view_as(tensor)
        for (name, tensor), piece in zip(like.items(), pieces, strict=True)
    }


def _splits(conf: Conf) -> list[Split]:
    task = task_of(conf.task)
    return [task.data(silo).train.tensors for silo in silos(conf)]  # type: ignore[attr-defined]  # held in memory


def _logs() -> Path:
    folder = Path("outputs/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
