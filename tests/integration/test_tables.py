"""A table by configuration alone: drafted, fitted to all silos, the same bits in every engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import meadow
from client.tasks import task_of
from conf.resume import stored
from conf.schema import TableConf
from conf.silos import silos

FAST = ["run.rounds=2", "tracking=off", "federation.size=3"]


def patients(folder: Path) -> Path:
    """Three files, a hospital each: another age, some values missing, a label that depends on two."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number, mean in enumerate((30, 50, 70)):
        age = rng.normal(mean, 8, 120).clip(18, 95)
        sex = rng.choice(["f", "m"], 120)
        dose = rng.uniform(0, 5, 120)
        ill = (dose + (sex == "m") + rng.normal(0, 0.4, 120) > 3).astype(int)
        lines = ["age,sex,dose,ill"]
        for a, s, d, i in zip(age, sex, dose, ill, strict=True):
            lines.append(f"{'' if rng.random() < 0.1 else f'{a:.1f}'},{s},{d:.3f},{i}")
        (folder / f"hospital-{number}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_of_ones_own_train_without_code_or_contract(here: Path) -> None:
    root = patients(here / "patients")
    own = ["task=table", f"data.root={root}", "task.label=ill", "data=column", "data.column=file"]

    run = meadow.simulate([*FAST, *own, "simulation.workers=0", "run.rounds=6"])

    conf = stored(run.folder)
    assert isinstance(conf.task, TableConf)
    assert [column["name"] for column in conf.task.columns] == ["age", "sex", "dose", "ill"]
    assert run.result.final["accuracy"] > 0.8
    # A file a silo: each silo's mean age is its own, and the model's is that of all training rows.
    task = task_of(conf.task)
    ages = [task.data(silo).train[:][0][:, 0].numpy() for silo in silos(conf)]
    assert [round(float(np.nanmean(part)) / 10) for part in ages] == [3, 5, 7]
    model = meadow.load_model(run.folder)
    assert float(model.input.mean[0]) == pytest.approx(
        float(np.nanmean(np.concatenate(ages), dtype=np.float64)), rel=1e-6
    )


def test_pool_without_workers_has_the_bits_of_pool_with_two(here: Path) -> None:
    digests = []
    for workers in (0, 2):
        run = meadow.simulate(
            [*FAST, "task=breast_cancer", f"simulation.workers={workers}", f"run.name=w{workers}"]
        )
        digests.append(run.result.model["digest"])

    assert digests[0] == digests[1]


def test_baselines_and_evaluation_use_the_same_first_layer(here: Path) -> None:
    run = meadow.simulate(
        [*FAST, "task=breast_cancer", "simulation.workers=0", "run.baseline=pooled"]
    )

    assert run.result.task == "breast cancer"
    assert run.result.baseline is not None
    # With numbers that were not scaled, logistic regression would be at chance level.
    assert run.result.baseline.centralised.union["accuracy"] > 0.8
    assert run.result.baseline.federated.union["accuracy"] == run.result.final["accuracy"]


def test_a_resumed_run_keeps_what_it_was_fitted_to(here: Path) -> None:
    whole = meadow.simulate([*FAST, "task=breast_cancer", "simulation.workers=0", "run.name=whole"])
    meadow.simulate(
        [*FAST, "task=breast_cancer", "simulation.workers=0", "run.name=cut", "run.rounds=1"]
    )

    resumed = meadow.simulate(["run.resume=cut", "run.rounds=2"])

    assert resumed.result.model["digest"] == whole.result.model["digest"]


@pytest.mark.parametrize("strategy", ["scaffold", "fedprox"])
def test_what_is_fitted_stays_as_it_is_with_other_algorithms(here: Path, strategy: str) -> None:
    fitted = meadow.simulate([*FAST, "task=breast_cancer", "simulation.workers=0", "run.rounds=1"])
    other = meadow.simulate(
        [*FAST, "task=breast_cancer", "simulation.workers=0", f"strategy={strategy}"]
    )

    before = dict(meadow.load_model(fitted.folder).input.named_buffers())
    after = dict(meadow.load_model(other.folder).input.named_buffers())
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value.numpy(), after[name].numpy()), name
