"""Labels that do not exclude each other: scikit-learn's metrics of the union, whatever silo lacks which."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from client.dry_round import dry_round
from client.models import build_model
from client.tasks.base import Contract
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.multi_label import MultiLabel
from conf.errors import DataError
from conf.schema import MlpConf, TrainerConf
from tests.client.tasks.kinds.unions import federated


class Findings(MultiLabel):
    """Three findings."""

    name = "findings"
    contract = Contract((2,), ("a", "b", "c"))

    def read(self, root: Path) -> Arrays:
        raise NotImplementedError


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 0.6), st.integers(0, 2**32 - 1))
def test_the_union_s_metrics_are_scikit_learns(count: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(count, 3)).astype(np.float32))
    truth = (rng.random((count, 3)) < share * np.array([1, 0.3, 0])).astype(np.float32)
    rows = [(np.zeros(2, np.float32), row) for row in truth]
    metrics = federated(Findings(), list(logits), rows, rng)
    guesses = (logits > 0).numpy()
    for name, average in (("f1", "macro"), ("f1_micro", "micro")):
        true = f1_score(truth, guesses, average=average, zero_division=0)
        if name == "f1_micro" and not (truth.any() or guesses.any()):
            assert math.isnan(metrics[name])
        else:
            assert metrics[name] == pytest.approx(true, rel=1e-12)
    assert metrics["subset_accuracy"] == accuracy_score(truth, guesses)
    pooled = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.double(), torch.from_numpy(truth).double()
    )
    assert metrics["loss"] == pytest.approx(float(pooled), rel=1e-5)
    present = [c for c in range(3) if truth[:, c].any()]
    if present:
        precision = np.mean([average_precision_score(truth[:, c], logits[:, c]) for c in present])
        assert abs(metrics["auprc"] - precision) <= metrics["auprc_error"]
    apart = [c for c in present if not truth[:, c].all()]
    if apart:
        area = np.mean([roc_auc_score(truth[:, c], logits[:, c]) for c in apart])
        assert abs(metrics["auroc"] - area) <= metrics["auroc_error"]


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (np.zeros(4), "not 3 of 0 or 1 each"),
        (np.zeros((4, 2)), "not 3 of 0 or 1 each"),
        (np.full((4, 3), 0.5), "other values than 0 and 1"),
        (np.full((4, 3), "1"), "not 3 of 0 or 1 each"),
    ],
)
def test_targets_that_are_no_labels_are_refused(targets: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=f"MDW-202: x .*{says}"):
        Findings().checked((np.zeros((4, 2)), targets), "x")


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float64])
def test_zeros_and_ones_of_any_type_are_labels(kind: type) -> None:
    targets: np.ndarray = np.eye(3).astype(kind)
    _, found = Findings().checked((np.zeros((3, 2)), targets), "x")
    assert found.dtype == np.float32 and np.array_equal(found, np.eye(3))


def test_without_ranking_nothing_is_counted_by_score() -> None:
    class Plain(Findings):
        ranked = False

    metrics = federated(
        Plain(),
        list(torch.ones(4, 3)),
        [(np.zeros(2), np.ones(3, np.float32))] * 4,
        np.random.default_rng(0),
    )
    assert set(metrics) == {"loss", "f1", "f1_micro", "subset_accuracy"}
    assert "scores" not in Plain().sum_specs()


def test_examples_made_up_from_the_contract_pass_a_dry_round() -> None:
    task = Findings()
    dry_round(build_model(MlpConf(), task, 0), task.made_up(), task, TrainerConf(device="cpu"))
