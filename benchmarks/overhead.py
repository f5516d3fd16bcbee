"""What a federation adds to rounds of real training: the same training over `meadow launch` and as a bare loop.

    python benchmarks/overhead.py --seconds 30 --rounds 4 --pairs 3

Each pair is one run of `meadow launch all backend=local` with two silos (TLS, node keys, admission, ledger, evaluation,
checkpoints) and one run of the bare loop: a process a silo that trains and evaluates as often, and talks to nobody. The
epochs are chosen so that a silo trains for about `--seconds` a round. The first round of either side, which loads data
and model, is left out. Two figures come out:

  a round     (its wall time - seconds in the loops of its slowest silo) / those seconds, from result.json
  two runs    wall time of the federation's rounds / wall time of the bare loop's - 1, one for each pair
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from client.cache import load_cached  # after the path
from client.loop import evaluate, train  # after the path
from client.malloc import keep_activations_mapped  # after the path
from conf.compose import compose  # after the path
from conf.seeds import seed_for  # after the path
from conf.silos import silos  # after the path
from server.run.history import read_history  # after the path
from server.run.result import RoundRecord  # after the path
from strategies.wire import (
    protocol,  # after the path
    run_config,  # after the path
)

SILOS = 2
MODELS = {
    "3.8 MB, 6 arrays": "model=mlp model.hidden=[900,950]",
    "45 MB, 122 arrays": "model=resnet18",
}
"""A size of update, and a model of that size on the digits."""


def settings(model: str, rounds: int, epochs: int) -> list[str]:
    """Return the overrides that both sides train with."""
    return [
        *(
            "task=digits",
            "data=iid",
            f"federation.size={SILOS}",
            "trainer.threads=1",
            "run.baseline=none",
        ),
        *(*model.split(), f"run.rounds={rounds}", f"trainer.epochs={epochs}"),
    ]


def bare(overrides: list[str], index: int) -> list[float]:
    """Return the seconds of each round of one silo's bare loop."""
    keep_activations_mapped()  # as in a node
    conf = compose(overrides)
    scope, silo = run_config.unpack(run_config.pack(conf)), silos(conf)[index]
    here = load_cached(scope, silo)
    seconds = []
    for round in range(1, scope.run.rounds + 1):
        started = time.perf_counter()
        seed = seed_for(scope.run.seed, silo.name, round, "train")
        train(
            here.model,
            here.data.train,
            here.task,
            scope.trainer,
            seed=seed,
            round=round,
            rounds=scope.run.rounds,
        )
        evaluate(here.model, here.data.validation, here.task, scope.trainer)
        seconds.append(time.perf_counter() - started)
    return seconds


def bare_loops(overrides: list[str]) -> float:
    """Return the seconds of the slowest of the bare loops, which run side by side, without the first round."""
    command = [sys.executable, __file__, "--bare", json.dumps(overrides)]
    loops = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(SILOS)
    ]
    return max(sum(map(float, json.loads(loop.communicate()[0])[1:])) for loop in loops)


def federation(overrides: list[str]) -> list[RoundRecord]:
    """Return the rounds of a launched federation after the first."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "azureml_jobs.cli.main", "launch", "all", "backend=local"]
        places = [f"federation.folder={folder}/federation", f"run.output={folder}/outputs"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [*command, *places, *overrides], check=True, stdout=subprocess.DEVNULL, env=environment
        )
        run = next((Path(folder) / "outputs").iterdir())
        return list(read_history(run))[1:]


def in_the_loop(record: RoundRecord) -> float:
    """Return the seconds that the slowest silo trained and evaluated in a round."""
    return max(
        record.seconds_training[silo] + record.metrics[silo][protocol.SECONDS]
        for silo in record.replied
    )


def epochs_for(model: str, seconds: float) -> int:
    """Return how many epochs take so long where two silos train side by side."""
    few = 2
    return max(1, math.ceil(seconds / (bare_loops(settings(model, 2, few)) / few)))


def row(name: str, seconds: float, rounds: int, pairs: int) -> str:
    """Measure one size and return its row."""
    model = MODELS[name]
    overrides = settings(model, rounds, epochs_for(model, seconds))
    shares, ratios, loops = list[float](), list[float](), list[float]()
    for _ in range(pairs):
        records, alone = federation(overrides), bare_loops(overrides)
        loops += [in_the_loop(record) for record in records]
        shares += [
            (record.seconds - in_the_loop(record)) / in_the_loop(record) for record in records
        ]
        ratios.append(sum(record.seconds for record in records) / alone - 1)
    return (
        f"| {name} | {statistics.median(loops):.1f} s | {_percent(shares)} | {_percent(ratios)} |"
    )


def _percent(shares: list[float]) -> str:
    middle, low, high = (
        100 * value for value in (statistics.median(shares), min(shares), max(shares))
    )
    return f"**{middle:.2f} %** ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print where and when it was measured, and the table."""
    if sys.argv[1:2] == ["--bare"]:
        print(json.dumps(bare(json.loads(sys.argv[2]), int(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=list(MODELS), choices=list(MODELS))
    args = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, seed 0\n")
    print(
        "| update | in the loop, a round | a round's overhead | two runs |\n|---|---|---|---|",
        flush=True,
    )
    for name in args.sizes:
        print(row(name, args.seconds, args.rounds, args.pairs), flush=True)
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
