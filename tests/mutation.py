"""Does a test notice a change in the modules that everything rests on? A sample, within a budget.

    make mutation                       # ten minutes
    make mutation ARGS="--seconds 3600"

Cosmic Ray makes the mutants, in a copy of the tree; each is a mistake that somebody could make (a
comparison turned round, a constant changed, a branch left out). The module's own tests run against
it, and should fail. Drawn by `--seed`, so that the same sample comes again; a survivor is printed
with its diff: a test is missing, or the line says the same without the change.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import TestOutcome, WorkItem

ROOT: Final = Path(__file__).resolve().parents[1]
TARGETS: Final = {
    "server/round/rounds.py": "tests/server/round/test_rounds.py",
    "server/round/exchange.py": "tests/server/round/test_exchange.py",
    "server/round/admission.py": "tests/server/round/test_admission.py",
    "strategies/average.py": "tests/strategies/test_average.py",
    "server/run/checkpoint.py": "tests/server/run/test_checkpoint.py",
}
"""Each module of the core, and the tests that must notice."""
ALSO: Final = {
    "strategies/fedavg.py": "tests/strategies/test_fedavg.py",
    "strategies/wire/packing.py": "tests/strategies/wire/test_packing.py",
    "client/loop.py": "tests/client/test_loop.py",
    "client/batches.py": "tests/client/test_batches.py",
}
"""Others, tried when they are named."""
EQUIVALENT_BY_NATURE: Final = ("core/RemoveDecorator", "core/NumberReplacer")
"""Left out: `@dataclass` gone is no mistake that a test has to find, and a number in a message or
a chunk's size changes nothing that anybody could see."""


def copy_of_tree(folder: Path) -> None:
    """Copy what git tracks, so that a mutant never stands in the tree that people work on."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)


def mutants(module: str, sample: random.Random) -> list[WorkItem]:
    """Return a module's mutants in a random order."""
    with use_db(":memory:") as session:
        init([Path(module)], session, {})
        items = [
            item
            for item in session.work_items
            if item.mutations[0].operator_name not in EQUIVALENT_BY_NATURE
        ]
    items.sort(key=lambda item: (item.mutations[0].operator_name, item.mutations[0].occurrence))
    sample.shuffle(items)
    return items


def measure(module: str, tests: str, python: str, seconds: float, sample: random.Random) -> None:
    """Run a module's tests against as many of its mutants as the seconds allow; print the score."""
    command = f"{python} -m pytest -q -x -p no:cacheprovider -p no:xdist {tests}"
    started = time.monotonic()
    subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)
    alone = time.monotonic() - started
    items = mutants(module, sample)
    outcomes: Counter[str] = Counter()
    survivors = []
    for item in items:
        if time.monotonic() - started > seconds:
            break
        # A mutant that waits for ever is noticed, too: three times as long as the tests take alone.
        result = mutate_and_test(item.mutations, command, 3 * alone + 10)
        outcomes[str(result.test_outcome)] += 1
        if result.test_outcome == TestOutcome.SURVIVED:
            survivors.append(result.diff or str(item.mutations[0]))
    tried = sum(outcomes.values())
    killed = tried - len(survivors)
    share = killed / tried if tried else 0.0
    print(
        f"{module:30} {killed:4} of {tried:4} tried ({len(items)} in all)  {share:.0%}", flush=True
    )
    for diff in survivors:
        print(_changed_lines(diff), flush=True)


def _changed_lines(diff: str) -> str:
    changed = [line for line in diff.splitlines() if line[:1] in "+-@" and line[:3] not in _HEADS]
    return "\n".join(f"      {line}" for line in changed)


_HEADS: Final = ("---", "+++")


def main() -> None:
    """Print the score of each module."""
    parser = argparse.ArgumentParser(description="Do the tests notice a change?")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all modules together")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the tests")
    parser.add_argument("module", nargs="*", help="without one, the five of the core")
    arguments = parser.parse_args()
    known = TARGETS | ALSO
    targets = {module: known[module] for module in arguments.module or TARGETS}
    python = str(Path(arguments.python).absolute())
    with tempfile.TemporaryDirectory(prefix="meadow-mutation-") as folder:
        copy_of_tree(Path(folder))
        os.chdir(folder)
        # The copy first, wherever the interpreter's own installation of the tree is.
        os.environ["PYTHONPATH"] = folder
        print(f"seed {arguments.seed}, {arguments.seconds:.0f} s")
        for module, tests in targets.items():
            sample = random.Random(f"{arguments.seed} {module}")
            measure(module, tests, python, arguments.seconds / len(targets), sample)


if __name__ == "__main__":
    main()
