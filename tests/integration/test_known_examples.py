"""The known examples are files of configuration: each is trained here on what is small and generated,
in the layout in which its set unpacks; the sets themselves are too large, or not free, for a test.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import meadow
from tests.client.images.test_packed_files import write_cifar, write_fashion

ROOT = Path(__file__).parents[2]
QUICK = ["tracking=off", "simulation.workers=0", "run.rounds=2", "federation.size=2"]


def columns_of(task: str) -> list[dict[str, Any]]:
    raw = yaml.safe_load((ROOT / f"conf/task/{task}.yaml").read_text())
    columns: list[dict[str, Any]] = raw["task"]["columns"]
    return columns


def cell(column: dict[str, Any], row: int, draw: np.random.Generator) -> object:
    if column.get("type") == "category":
        return column["values"][row % len(column["values"])]
    if column.get("type") == "flag":
        return int(row % 10 == 0)
    if column["name"] == "Time":
        return row
    return round(float(draw.uniform(column["low"], column["high"])), 3)


def write_table(task: str, file: Path, rows: int) -> None:
    """Write rows of a task's schema with values that are drawn."""
    draw = np.random.default_rng(0)
    columns = columns_of(task)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow([column["name"] for column in columns])
        for row in range(rows):
            writer.writerow([cell(column, row, draw) for column in columns])


def test_card_fraud_is_split_by_time_and_its_last_fifth_is_at_no_silo(tmp_path: Path) -> None:
    write_table("ccfraud", tmp_path / "cards.csv", 300)
    where = [f"data.root={tmp_path / 'cards.csv'}", f"run.output={tmp_path}"]

    run = meadow.simulate([*QUICK, *where, "task=ccfraud"])

    assert run.result.task == "card fraud"
    assert next(iter(run.result.shown)) == "auprc"
    assert "central_auprc" in run.result.final
    # 300 rows, 60 of them held out; of each silo's 120 a tenth chooses and a tenth tests.
    assert [sum(counts) for counts in run.result.partition.values()] == [96, 96]


def test_adult_income_is_divided_by_occupation(tmp_path: Path) -> None:
    write_table("adult", tmp_path / "adult.csv", 280)
    where = [f"data.root={tmp_path / 'adult.csv'}", f"run.output={tmp_path}"]
    by = ["data=column", "data.column=occupation"]

    run = meadow.simulate([*QUICK, *where, *by, "task=adult"])

    assert run.result.status == "finished"


def write_cells(root: Path, count: int) -> None:
    """Write cells as the elpv-dataset has them: a table without names, and blanks between cells."""
    (root / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = []
    for n in range(count):
        bad = n % 3 == 0
        pixels = draw.integers(100, 200, (40, 40)).astype(np.uint8)
        pixels[10:20, 5:35] -= np.uint8(90 * bad)
        Image.fromarray(pixels).save(root / f"images/cell{n:04}.png")
        probability = ["1.0", "0.6666666666666666"] if bad else ["0.0", "0.3333333333333333"]
        kind = "mono" if n < count // 2 else "poly"
        lines.append(f"images/cell{n:04}.png  {probability[n % 2]:<22}{kind}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def test_solar_cells_are_divided_by_their_kind(tmp_path: Path) -> None:
    write_cells(tmp_path / "cells", 60)
    where = [f"data.root={tmp_path / 'cells'}", f"run.output={tmp_path}"]
    small = ["task.height=24", "task.width=24", "trainer.batch_size=8"]

    run = meadow.simulate([*QUICK[:-1], *where, *small, "task=elpv"])

    assert [sum(counts) for counts in run.result.partition.values()] == [24, 24]
    assert run.result.classes == ["functional", "defective"]


@pytest.mark.parametrize("task", ["fashion_mnist", "cifar10"])
def test_packed_sets_train_and_are_tested_on_their_own_test_set(task: str, tmp_path: Path) -> None:
    write = write_fashion if task == "fashion_mnist" else write_cifar
    write(tmp_path / "set", 200 if task == "fashion_mnist" else 40)
    where = [f"data.root={tmp_path / 'set'}", f"run.output={tmp_path}"]

    run = meadow.simulate(
        [*QUICK, *where, f"task={task}", "data=iid", "run.rounds=6", "trainer.batch_size=4"]
    )

    assert run.result.final["central_accuracy"] > 0.6
    assert len(run.result.classes) == 10
