"""Images by configuration alone: phantoms in the layout of the pneumonia set, from JPEG to report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import meadow


def phantoms(root: Path) -> Path:
    """Chests as children draw them: a bright patch in one lung is pneumonia. Two images a patient."""
    rng = np.random.default_rng(0)
    for part, patients in (("train", 24), ("test", 8)):
        for number in range(patients):
            ill = number % 2
            name = "PNEUMONIA" if ill else "NORMAL"
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for view in range(2):
                pixels = rng.normal(90, 12, (40, 40))
                pixels[8:32, 6:17] -= 60
                pixels[8:32, 23:34] -= 60
                if ill:
                    row = rng.integers(10, 24)
                    pixels[row : row + 7, 24:33] += 110
                file = folder / f"person{number}_{view}.jpeg"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ["task.height=32", "task.width=32", "federation.size=2", "tracking=off", "data=iid"]


def test_the_pneumonia_set_trains_and_its_test_set_is_kept_apart(here: Path) -> None:
    root = phantoms(here / "chest_xray")

    run = meadow.simulate(
        [
            *SMALL,
            "task=pneumonia",
            f"data.root={root}",
            "run.rounds=6",
            "trainer.batch_size=8",
            "simulation.workers=0",
            "task.augment=[{name: RandomAffine, degrees: 5}]",
        ]
    )

    assert run.result.classes == ["NORMAL", "PNEUMONIA"]
    # 48 images of 24 patients train, validate and test at the silos; 16 are the set's own test.
    assert sum(map(sum, run.result.partition.values())) < 48
    assert run.result.final["central_accuracy"] > 0.8
    layer = meadow.load_model(run.folder).input
    assert 0.1 < float(layer.mean[0]) < 0.5
    assert float(layer.class_weights.mean()) == pytest.approx(1, abs=0.3)


def test_classes_are_those_of_the_folders_where_a_simulation_names_none(here: Path) -> None:
    root = phantoms(here / "xray") / "train"

    run = meadow.simulate(
        [*SMALL, "task=images", f"data.root={root}", "run.rounds=1", "simulation.workers=0"]
    )

    assert run.result.classes == ["NORMAL", "PNEUMONIA"]


def test_an_image_that_is_broken_is_told_or_left_out(here: Path) -> None:
    root = phantoms(here / "xray") / "train"
    (root / "NORMAL" / "person0_0.jpeg").write_bytes(b"no image")
    base = [*SMALL, "task=images", f"data.root={root}", "run.rounds=1", "simulation.workers=0"]

    with pytest.raises(meadow.DataError, match="MDW-245"):
        meadow.simulate(base)

    run = meadow.simulate([*base, "data.on_error=skip"])
    assert run.result.status == "finished"
