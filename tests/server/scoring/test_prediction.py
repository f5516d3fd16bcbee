"""Predictions of a finished run's model are what its evaluation counted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import meadow
from conf.errors import DataError
from conf.schema import DataConf
from server.scoring.prediction import predict

QUICK = ["tracking=off", "simulation.workers=0", "federation.size=2", "data=iid", "run.rounds=2"]


def lines(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_without_a_label_are_predicted_in_their_order(here: Path) -> None:
    x = np.linspace(-1, 1, 200)
    rows = "\n".join(f"{value:.3f},{int(value > 0)}" for value in x)
    (here / "rows.csv").write_text(f"x,y\n{rows}\n")
    (here / "new.csv").write_text("note,x\na,0.9\nb,-0.9\nc,0.5\n")
    run = meadow.simulate([*QUICK, "task=table", "task.label=y", "data.root=rows.csv"])

    count = predict(str(run.folder), DataConf(root="new.csv"), here / "made.csv")

    made = lines(here / "made.csv")
    assert count == 3
    assert [line["place"] for line in made] == ["1", "2", "3"]
    assert [line["prediction"] for line in made] == ["1", "0", "1"]
    for line in made:
        assert float(line["p_0"]) + float(line["p_1"]) == pytest.approx(1, abs=1e-5)


def test_a_number_is_predicted_in_its_own_units(here: Path) -> None:
    rows = "\n".join(f"{n / 200},{1000 + n}" for n in range(200))
    (here / "rows.csv").write_text(f"x,price\n{rows}\n")
    run = meadow.simulate(
        [*QUICK, "task=table", "task.label=price", "data.root=rows.csv", "model=linear"]
    )

    predict(str(run.folder), DataConf(root="rows.csv"), here / "made.csv")

    said = [float(line["prediction"]) for line in lines(here / "made.csv")]
    assert np.abs(np.array(said) - np.arange(1000, 1200)).mean() < 30


def test_images_are_predicted_by_their_names(here: Path) -> None:
    for name, grey in (("dark", 20), ("light", 220)):
        (here / "set" / name).mkdir(parents=True)
        for n in range(12):
            pixels = np.full((16, 16), grey + n, np.uint8)
            Image.fromarray(pixels).save(here / "set" / name / f"{n}.png")
    size = ["task.height=16", "task.width=16", "task.channels=1", "trainer.batch_size=4"]
    run = meadow.simulate([*QUICK, *size, "task=images", "data.root=set", "run.rounds=4"])

    predict(str(run.folder), DataConf(root="set"), here / "made.csv")

    made = {line["place"]: line["prediction"] for line in lines(here / "made.csv")}
    assert made["dark/3.png"] == "dark"
    assert made["light/7.png"] == "light"


def test_a_task_that_reads_labels_alone_says_so(here: Path) -> None:
    run = meadow.simulate([*QUICK, "run.rounds=1"])

    with pytest.raises(DataError, match="reads no examples without labels") as caught:
        predict(str(run.folder), DataConf(root="."), here / "made.csv")

    assert caught.value.code == "MDW-251"
