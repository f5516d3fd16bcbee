"""Flower's side of `benchmarks/frameworks.py`: its own strategy, loop and simulation, a plain ClientApp."""

from __future__ import annotations

import argparse
import os
import sys
from functools import lru_cache
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS), str(Path(__file__).parent)]
# Ray's actors import this module, too.
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])

from conf.telemetry import turn_off

turn_off()

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from work import NiidCnn, Work, accuracy, mnist, parts, say, trained

app = ClientApp()


@lru_cache(maxsize=1)
def _data(root: str, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = mnist(root, "train")
    return x[:examples], y[:examples]


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the node's part."""
    torch.set_num_threads(1)
    config = message.content["config"]
    work = Work(**{name: config[name] for name in Work.__dataclass_fields__})  # type: ignore[arg-type, index]
    x, y = _data(work.root, work.examples)
    mine = parts(len(y), work.silos)[int(context.node_config["partition-id"])]
    model = NiidCnn()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
    trained(model, x[mine], y[mine], work)
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(mine)}),
        }
    )
    return Message(content=content, reply_to=message)


def main() -> None:
    """Run one simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    Work.add_to(parser)
    work = Work.of(parser.parse_args())
    server = ServerApp()
    tx, ty = mnist(work.root, "t10k")

    def central(round: int, arrays: ArrayRecord) -> MetricRecord:
        # Called before the first round and after each.
        say("round" if round else "begin")
        return MetricRecord()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        torch.manual_seed(work.seed)
        asked = work.cohort or work.silos
        strategy = FedAvg(
            fraction_train=asked / work.silos,
            fraction_evaluate=0.0,
            min_train_nodes=asked,
            min_available_nodes=work.silos,
        )
        config = ConfigRecord({name: getattr(work, name) for name in Work.__dataclass_fields__})
        result = strategy.start(
            grid,
            ArrayRecord(NiidCnn().state_dict()),
            work.rounds,
            train_config=config,
            evaluate_fn=central,
        )
        model = NiidCnn()
        model.load_state_dict(result.arrays.to_torch_state_dict())
        say("accuracy", accuracy(model, tx, ty, work))

    run_simulation(
        server,
        app,
        work.silos,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}},
    )


if __name__ == "__main__":
    # As a module of a name: Ray's actors import what the app needs by it.
    import flower_simulation

    flower_simulation.main()
