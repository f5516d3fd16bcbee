"""What a private federation leaves holds no example, no exact count and no metric of a silo's: planted
ones are looked for in every byte of it.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import meadow

RARE = (731.8264, 58.90713, 613.0479)
"""Numbers of single rows that nobody has a second time."""
NAME = "Zwyxandra Quibblethorpe"
DIAGNOSIS = "porphyria-QX7"
ROWS = 4513
"""Of a silo: 3,611 to train on, 451 each to choose and to test."""
COUNTS = ("4513", "3611", "3610", "4,513", "3,611")
TOLD = {"num-examples", "seconds", "epsilon", "epsilon-renyi", "noise-multiplier"}
COLUMNS = (
    "{name: age, type: number, low: 0, high: 120}",
    "{name: dose, type: number, low: 0, high: 1000}",
    "{name: kind, type: category, values: [common, rare], other: true}",
    "{name: outcome, type: flag}",
)
"""The contract that all silos know."""
PRIVATE = [
    "task=table",
    "task.label=outcome",
    f"task.columns=[{', '.join(COLUMNS)}]",
    "model=mlp",
    "privacy=sample_dp",
    "privacy.epsilon=8",
    "strategy.weighting=equal",
    "trainer.batch_size=512",
    "run.rounds=2",
    "run.name=told",
]


def write(folder: Path, rows: int = ROWS) -> None:
    """Write a silo's table with the canaries in it."""
    draws = np.random.default_rng(len(folder.name))
    lines = ["name,age,dose,kind,outcome"]
    for row in range(rows):
        dose = round(float(draws.uniform(0, 900)), 4)
        lines.append(f"P{row},{draws.integers(18, 95)},{dose},common,{int(dose > 450)}")
    for place, rare in enumerate(RARE, 1):
        lines[place * 97] = f"{NAME},44,{rare},{DIAGNOSIS},1"
    folder.mkdir(parents=True)
    (folder / "patients.csv").write_text("\n".join(lines) + "\n")


def files(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                yield path, gzip.decompress(data) if path.suffix == ".gz" else data


def forms(number: float) -> list[bytes]:
    """Return how a number may stand in a file: as text, and as a float of either size."""
    text = [f"{number}", f"{number:.2f}", repr(float(np.float32(number)))]
    return [*(one.encode() for one in text), struct.pack("<f", number), struct.pack("<d", number)]


def check_no_example(*folders: Path) -> int:
    """Fail where a canary stands in a file; return how many files were looked at."""
    planted = [NAME.encode(), DIAGNOSIS.encode(), *(one for rare in RARE for one in forms(rare))]
    seen = 0
    for path, data in files(*folders):
        found = [one for one in planted if one in data]
        assert not found, f"{path} holds {found}"
        seen += 1
    return seen


def test_the_search_finds_what_was_planted(tmp_path: Path) -> None:
    write(tmp_path / "north", 400)
    with pytest.raises(AssertionError, match=r"patients\.csv"):
        check_no_example(tmp_path)
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary/x").write_bytes(b"..." + np.float32(RARE[1]).tobytes())
    with pytest.raises(AssertionError, match=r"binary/x"):
        check_no_example(tmp_path / "binary")


def test_no_example_is_in_what_a_private_simulation_leaves(tmp_path: Path) -> None:
    write(tmp_path / "data", 600)
    done = meadow.simulate(
        [
            *PRIVATE,
            "federation.size=2",
            f"data.root={tmp_path / 'data'}",
            f"run.output={tmp_path / 'outputs'}",
            "tracking=off",
            "simulation.workers=0",
        ]
    )
    assert check_no_example(done.folder) > 10
    for record in done.rounds:
        for told in record.train.values():
            assert "loss" not in told and told["num-examples"] == 1
        assert not record.metrics and not record.aggregate
    assert done.result.final == {}
    weights = load_file(done.folder / done.result.model["path"])
    assert all(np.isfinite(array).all() for array in weights.values())


def meadow_says(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "azureml_jobs.cli.main", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_neither_examples_nor_counts_nor_metrics_are_in_what_a_private_federation_leaves(
    tmp_path: Path,
) -> None:
    here = tmp_path
    for silo in ("north", "south"):
        write(tmp_path / "data" / silo)
    silos = "\n".join(
        f"  {silo}: {{data: {{partition: own, root: data/{silo}}}}}" for silo in ("north", "south")
    )
    (here / "federation.yaml").write_text(f"silos:\n{silos}\n")
    words = ["backend=local", "federation.file=federation.yaml"]
    told = meadow_says(here, "launch", "all", *words, *PRIVATE, "tracking=local")
    (here / "terminal").mkdir()
    (here / "terminal/launch.txt").write_text(told)
    jobs = here / ".meadow/federation/jobs"
    left = [here / "outputs", here / "terminal", *(p for p in here.glob("mlruns*"))]
    left += [path for path in jobs.iterdir() if not path.name.startswith("silo-")]
    assert check_no_example(*left) > 20
    # A silo's own log is its owner's; no example has a place there either.
    for log in jobs.glob("silo-*/*.txt"):
        assert NAME not in log.read_text() and DIAGNOSIS not in log.read_text()
    counted = re.compile(rf"(?<![\w.,-])(?:{'|'.join(map(re.escape, COUNTS))})(?![\w.-])")
    for path, data in files(*left):
        if path.suffix in (".json", ".jsonl", ".txt", ".md", ".html", ".yaml", ".csv", ".log", ""):
            text = data.decode(errors="replace")
            assert not counted.search(text), f"{path} tells a count"
    result = json.loads((here / "outputs/told/result.json").read_text())
    assert result["partition"] == {} and result["final"] == {} and result["test"]["metrics"] == {}
    for line in (here / "outputs/told/history.jsonl").read_text().splitlines():
        record = json.loads(line)
        for metrics in record.get("train", {}).values():
            # What the server measures of the noised update is no other release.
            told_itself = {name for name in metrics if not name.startswith("update-")}
            assert told_itself == TOLD and metrics["num-examples"] == 1
