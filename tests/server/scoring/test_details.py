"""What a run keeps of its test beside metrics, from a whole run over silos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import confusion_matrix, roc_auc_score

import meadow
from client.tasks import task_of
from conf.resume import stored
from conf.silos import silos
from server.run.finished import FinishedRun
from server.scoring.evaluation import load_model

QUICK = ["tracking=off", "simulation.workers=0", "run.rounds=2", "data=iid"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("runs")
    rule = ["run.operating.rule=sensitivity", "run.operating.at=0.9"]
    return meadow.simulate([*QUICK, *rule, "task=breast_cancer", f"run.output={folder}"])


def split(run: FinishedRun, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores and labels of all silos' examples of a split, pooled as nobody could."""
    conf = stored(run.folder)
    task = task_of(conf.task)
    model = load_model(run.folder)
    scores, labels = [], []
    for silo in silos(conf):
        rows, targets = getattr(task.data(silo), name)[:]
        with torch.inference_mode():
            made = model(rows)
        scores.append(made[:, 1] - made[:, 0])
        labels.append(targets)
    return torch.cat(scores), torch.cat(labels)


def test_the_operating_point_is_chosen_on_validation_and_counted_on_the_test(
    run: FinishedRun,
) -> None:
    test = run.result.test
    assert test is not None
    point = test.chosen["points"]["malignant"]
    for name, told in (
        ("validation", point["outcome"]),
        ("test", test.details["classes"]["malignant"]["outcome"]),
    ):
        scores, labels = split(run, name)
        called = scores >= point["threshold"]
        assert told["true_positives"] == int((called & (labels == 1)).sum())
        assert told["false_positives"] == int((called & (labels == 0)).sum())
    assert point["outcome"]["true_positives"] >= 0.9 * point["outcome"]["positives"]
    assert test.chosen["silos"] == run.result.silos


def test_confusion_and_ranking_are_scikit_learns_on_the_pooled_scores(run: FinishedRun) -> None:
    test = run.result.test
    assert test is not None
    scores, labels = split(run, "test")
    found = test.details["classes"]["malignant"]
    assert test.details["confusion"] == confusion_matrix(labels, scores > 0).tolist()
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)
    low, high = test.details["intervals"]["accuracy"]
    assert low <= run.result.final["accuracy"] <= high


def test_it_is_plain_json_and_part_of_the_test_s_digest(run: FinishedRun) -> None:
    kept: dict[str, Any] = json.loads((run.folder / "result.json").read_text())["test"]
    test = run.result.test
    assert test is not None
    assert kept["chosen"] == test.chosen and kept["details"] == test.details
    before = test.digest
    test.chosen["temperature"] = 9.0
    assert test.digest != before


def test_a_task_that_ranks_nothing_asks_nobody_and_keeps_its_digest(tmp_path: Path) -> None:
    run = meadow.simulate([*QUICK, "run.rounds=1", f"run.output={tmp_path}", "federation.size=2"])
    test = run.result.test
    assert test is not None
    assert test.chosen == {}
    assert list(test.details) == ["confusion", "intervals"]
