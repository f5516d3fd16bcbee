"""The same run has the same bits: in every engine, resumed, launched, and as it had them before a change.

    python benchmarks/bits.py --mnist FOLDER      # with the idx files of MNIST; digits alone without
    python benchmarks/bits.py --ways pool         # a quick look at a change of the training loop

Each row trains one model in four ways, with whole commands, and prints the digest of its tensors
(`model.digest` of result.json). RECORDED holds what commit ccbe3df gave, with the torch and the
instruction set that it was recorded with: another of them gives other bits, and says so. The status
is 1 where two ways differ, or where a digest is not the recorded one on the same ground.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
MEADOW: Final = [sys.executable, "-m", "azureml_jobs.cli.main"]
SEED: Final = 5
COMMON: Final = [f"run.seed={SEED}", "federation.size=3", "tracking=off"]
STRATEGIES: Final = {
    "fedavg": ["strategy=fedavg"],
    "fedprox": ["strategy=fedprox", "strategy.mu=0.1"],
}
WAYS: Final = ("pool", "ray", "resumed", "launched")

GROUND: Final = ("2.14.1", "AVX512")
"""Release of torch and instruction set of the recorded digests."""
RECORDED: Final = {
    ("digits", "fedavg"): "a84c818f45c87cf5",
    ("digits", "fedprox"): "098d847f4a540e13",
    ("mnist", "fedavg"): "634fc8158c01b357",
    ("mnist", "fedprox"): "c714d32076c10836",
}


def ground() -> tuple[str, str]:
    """Return the release of torch, and the instruction set that it uses here."""
    import torch

    release = torch.__version__.partition("+")[0]
    return release, torch.backends.cpu.get_cpu_capability()


def meadow(folder: Path, *arguments: str) -> None:
    """Run a command of Meadow; raises CalledProcessError, with what it said, where it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*MEADOW, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()


def digest(folder: Path, run: str) -> str:
    """Return the beginning of the digest of a run's model."""
    result = json.loads((folder / "outputs" / run / "result.json").read_text())
    return str(result["model"]["digest"])[:16]


def trained(folder: Path, way: str, settings: list[str]) -> str:
    """Train a model in one of the ways and return its digest."""
    name = f"run.name={way}"
    if way == "launched":
        meadow(folder, "launch", "all", "backend=local", *settings, "run.rounds=3", name)
    elif way == "resumed":
        meadow(folder, "simulate", "--no-progress", *settings, "run.rounds=2", name)
        meadow(folder, "simulate", "--no-progress", "run.resume=resumed", "run.rounds=3")
    else:
        engine = f"simulation={way}"
        meadow(folder, "simulate", "--no-progress", *settings, "run.rounds=3", engine, name)
    return digest(folder, way)


def row(task: str, strategy: str, settings: list[str], ways: list[str]) -> bool:
    """Print one row of the table; return whether all is as it should be."""
    with tempfile.TemporaryDirectory(prefix="meadow-bits-") as folder:
        digests = [trained(Path(folder), way, settings) for way in ways]
    same = len(set(digests)) == 1
    recorded = RECORDED[task, strategy]
    as_before = digests[0] == recorded if ground() == GROUND else None
    verdict = {True: "as before", False: f"NOT {recorded}", None: "nothing recorded"}[as_before]
    print(f"| {task} | {strategy} | {' | '.join(digests)} | {verdict} |", flush=True)
    return same and as_before is not False


def main() -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description="The same run has the same bits.")
    parser.add_argument("--mnist", type=Path, help="the folder of MNIST's idx files")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    mnist = args.mnist
    tasks = {"digits": ["task=digits", "data.examples=400"]}
    if mnist is not None:
        root = f"data.root={mnist.absolute()}"
        tasks["mnist"] = ["task=mnist", "model=cnn", root, "data.examples=600"]
    print(f"torch {ground()[0]}, {ground()[1]}, seed {SEED}")
    print(f"| task | strategy | {' | '.join(args.ways)} | ccbe3df |")
    print("|---|---|---|" + "---|" * len(args.ways))
    good = [
        row(task, strategy, [*COMMON, *settings, *more], args.ways)
        for task, settings in tasks.items()
        for strategy, more in STRATEGIES.items()
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
