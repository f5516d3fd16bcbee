"""Images by groups of the people in them: a column of their table, counted beside the labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import meadow
from client import loop, sums
from client.models import build_model
from client.tasks import task_of
from client.tasks.base import Task
from conf.errors import DataError
from conf.schema import DataConf, ImagesConf, MlpConf, Silo, TrainerConf
from server.scoring.details import details_of

GROUPS = ["f", "m"]
QUICK = ["tracking=off", "simulation.workers=0", "run.rounds=2", "federation.size=2", "data=iid"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright images are ill; of one in six the sex is not written down."""
    root = tmp_path_factory.mktemp("scans")
    random = np.random.default_rng(0)
    with (root / "labels.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "state", "sex"])
        for n in range(60):
            ill = n % 2
            pixels = random.normal(100 + 60 * ill, 20, (8, 8)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{n}.png")
            writer.writerow(
                [f"{n}.png", ["well", "ill"][ill], ["f", "m", "m", "f", "f", ""][n % 6]]
            )
    return root


def task(**more: Any) -> Task:
    said = {"labels_file": "labels.csv", "label": "state", "classes": ["well", "ill"]}
    shape = {"height": 8, "width": 8, "channels": 1}
    groups = {"subgroup": "sex", "subgroup_values": GROUPS}
    return task_of(ImagesConf(**{**said, **shape, **groups, **more}))


def test_each_group_is_counted_by_its_own_images(scans: Path) -> None:
    one = task()
    own = DataConf(partition="own", root=str(scans), validation=0, test=0.5)
    test: Any = one.data(Silo("north", data=own)).test
    model = build_model(MlpConf(hidden=[4]), one, seed=0)

    total = loop.evaluate(model, test, one, TrainerConf(eval_batch_size=7)).sums

    images, labels, groups = test[:]
    with torch.inference_mode():
        guesses = model(images).argmax(1)
    found = details_of(one, total, {})["subgroups"]
    assert list(found) == GROUPS
    for place, name in enumerate(GROUPS):
        mine = groups == place
        assert found[name]["examples"] == int(mine.sum()) > 0
        right = float((guesses[mine] == labels[mine]).double().mean())
        assert found[name]["accuracy"] == pytest.approx(right)
    # Whose sex is not known is in no group, and in the whole.
    assert int(total["confusion"].sum()) == len(test) > sum(f["examples"] for f in found.values())
    assert "worst_group_accuracy" in sums.metrics_of(one, total)


def test_a_run_by_configuration_tells_them_in_its_result(scans: Path, tmp_path: Path) -> None:
    run = meadow.simulate(
        [
            *QUICK,
            "task=images",
            "model=mlp",
            f"data.root={scans}",
            "data.test=0.4",
            "task.labels_file=labels.csv",
            "task.label=state",
            "task.classes=[well,ill]",
            "task.height=8",
            "task.width=8",
            "task.channels=1",
            "task.subgroup=sex",
            "task.subgroup_values=[f,m]",
            "task.balanced=true",
            f"run.output={tmp_path}",
        ]
    )
    assert run.result.test is not None
    assert run.result.test.details["subgroups"].keys() == set(GROUPS)
    assert "By group" in (run.folder / "report.html").read_text()
    assert "worst_group_accuracy" in run.result.final


def test_a_column_that_is_not_there_is_told(scans: Path) -> None:
    own = Silo("north", data=DataConf(partition="own", root=str(scans)))
    with pytest.raises(DataError, match="a column age") as caught:
        task(subgroup="age").data(own)
    assert caught.value.code == "MDW-246"
