"""Four tasks of strangers, a file each outside the tree: in a simulation, in jobs, and resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine

import meadow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def wine(file: Path) -> None:
    table = load_wine()
    rows = np.column_stack([table.data, table.target])
    np.savetxt(file, rows, delimiter=",", header=",".join(table.feature_names), comments="")


def diabetes(file: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    np.savetxt(file, np.column_stack([x, y]), delimiter=",")


def tokens(file: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(200):
        words = rng.integers(1, 50, rng.integers(1, 12))
        lines += [" ".join(map(str, words)), " ".join(str(int(word > 40)) for word in words)]
    file.write_text("\n".join(lines))


def masks(file: Path) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    centres = rng.integers(4, 12, (120, 2))
    found = [(rows - r) ** 2 + (columns - c) ** 2 < 12 for r, c in centres]
    shapes = np.array(found)
    images = shapes + rng.normal(0, 0.3, shapes.shape)
    np.savez(file, images=images.astype(np.float32), masks=shapes.astype(np.uint8))


ADAM = ("trainer=adam", "trainer.lr=0.03", "trainer.batch_size=8")
TASKS: dict[str, tuple[Callable[[Path], None], str, list[str], str, Callable[[float], bool]]] = {
    "wine": (
        wine,
        "wine.csv",
        ["task.args.hidden=32", "trainer.lr=0.1"],
        "accuracy",
        lambda v: v > 0.85,
    ),
    "diabetes": (
        diabetes,
        "diabetes.csv",
        ["model=mlp", "data=iid", "trainer.lr=0.1"],
        "rmse",
        lambda v: v < 0.75,
    ),
    "tokens": (tokens, "tokens.txt", ["data=iid", *ADAM], "f1", lambda v: v > 0.9),
    "masks": (masks, "masks.npz", ["data=iid", *ADAM], "iou", lambda v: v > 0.8),
}
CLASSES = {"wine": "Wine", "diabetes": "Progression", "tokens": "Names", "masks": "Discs"}


def overrides(name: str, folder: Path) -> list[str]:
    """Put a stranger's file and data into a folder; return the overrides that name them."""
    write, data, more, _, _ = TASKS[name]
    shutil.copy(EXAMPLES / f"{name}.py", folder)
    write(folder / data)
    target = f"task.target={folder}/{name}.py:{CLASSES[name]}"
    return [target, f"data.root={folder / data}", *more, "run.name=mine"]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_stranger_s_file_is_short_and_imports_nothing_of_meadow_s_inside(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 80
    for room in ("client", "conf", "server", "strategies", "azureml_jobs"):
        assert f"import {room}" not in text and f"from {room}" not in text


@pytest.mark.parametrize("name", sorted(TASKS))
def test_it_learns_in_a_simulation_and_is_resumed_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, _, metric, good = TASKS[name]
    output = f"run.output={tmp_path / 'outputs'}"
    asked = [*overrides(name, tmp_path), output, "simulation.workers=2"]
    whole = meadow.simulate([*asked, "run.name=whole", "run.rounds=12"])
    assert good(whole.result.final[metric]), whole.result.final
    first = meadow.simulate([*asked, "run.rounds=6"])
    monkeypatch.chdir(tmp_path / "outputs")
    second = meadow.simulate([f"run.resume={first.folder}", "run.rounds=12"])
    assert second.result.model["digest"] == whole.result.model["digest"]
    assert meadow.load_model(second.folder) is not None


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "azureml_jobs.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TASKS))
def test_it_trains_in_jobs_of_this_machine_and_is_resumed_there(name: str, tmp_path: Path) -> None:
    asked = overrides(name, tmp_path)
    (tmp_path / "simulated").mkdir()
    simulated = meadow.simulate([*asked, "run.rounds=3", f"run.output={tmp_path}/simulated"])
    done = launch(tmp_path, "launch", "all", "backend=local", *asked, "run.rounds=2")
    assert done.returncode == 0, done.stdout + done.stderr
    job = tmp_path / ".meadow/federation/jobs/silo-silo-1"
    assert str(tmp_path) not in (job / "outside.json").read_text()
    resume = ["run.resume=mine", "run.rounds=3"]
    refused = launch(tmp_path, "launch", "all", "backend=local", *resume)
    assert refused.returncode == 2 and "MDW-177" in refused.stderr
    done = launch(tmp_path, "launch", "all", "backend=local", *resume, asked[0])
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "outputs/mine/result.json").read_text())
    assert result["model"]["digest"] == simulated.result.model["digest"]
