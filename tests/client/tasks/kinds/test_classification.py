"""Exclusive classes, whatever their examples are: colour images train from the file to the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from client import loop, sums
from client.models import build_model
from client.tasks.base import Contract, SumSpec
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.classification import Classification, log_odds
from client.tasks.kinds.confusion import macro_f1
from conf.errors import DataError
from conf.schema import DataConf, MlpConf, ModelConf, ResNetConf, Silo, TrainerConf
from tests.client.tasks.kinds.unions import federated

COLOURS = ("red", "green", "blue")


class Colours(Classification):
    """Which channel is the brightest, in images as CIFAR has them."""

    name = "colours"
    contract = Contract((3, 32, 32), COLOURS)

    def read(self, root: Path) -> Arrays:
        file = np.load(root / "colours.npz")
        return file["x"], file["y"]


def written(folder: Path, channels_last: bool, count: int = 96) -> DataConf:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count).astype(np.uint8)
    images = rng.integers(0, 128, (count, 3, 32, 32), dtype=np.uint8)
    images[np.arange(count), labels] += 100
    if channels_last:
        images = images.transpose(0, 2, 3, 1)
    np.savez(folder / "colours.npz", x=images, y=labels)
    return DataConf(root=str(folder))


@pytest.mark.parametrize("channels_last", [True, False], ids=["n,H,W,3", "n,3,H,W"])
@pytest.mark.parametrize(
    "conf", [ModelConf(), MlpConf(), ResNetConf(norm="group")], ids=lambda conf: conf.name
)
def test_colour_images_are_learnt_in_either_layout(
    tmp_path: Path, channels_last: bool, conf: ModelConf
) -> None:
    class Scaled(Colours):
        def scaled(self, inputs):  # type: ignore[no-untyped-def]  # as in the base
            return inputs / 255 - 0.5

    task = Scaled()
    silo = Silo("north", 1, 2, written(tmp_path, channels_last))
    data = task.data(silo)
    trainer = TrainerConf(epochs=4 if conf.name != "resnet18" else 1, lr=0.02)
    model = loop.prepare(build_model(conf, task, 0), trainer)
    loop.train(model, data.train, task, trainer, seed=0)
    metrics = sums.metrics_of(task, loop.evaluate(model, data.validation, task, trainer).sums)
    assert set(metrics) == {"accuracy", "f1", "loss"}
    if conf.name == "mlp":
        assert metrics["accuracy"] > 0.9


def test_the_two_layouts_are_the_same_examples(tmp_path: Path) -> None:
    found = []
    for channels_last in (True, False):
        folder = tmp_path / str(channels_last)
        folder.mkdir()
        data = Colours().data(Silo("north", data=written(folder, channels_last)))
        found.append(data.train[:])
    assert all((a == b).all() for a, b in zip(*found, strict=True))


class Ranked(Colours):
    ranked = True


class Ill(Ranked):
    name = "ill"
    contract = Contract((1,), ("healthy", "ill"))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_union_s_metrics_are_scikit_learns(count: int, known: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(count, 3)).astype(np.float32))
    # Some classes are nowhere, and many silos lack one.
    labels = rng.integers(0, known, count)
    rows = [(np.zeros(1), label) for label in labels]
    metrics = federated(Ranked(), list(logits), rows, rng)
    guesses = logits.argmax(1).numpy()
    assert metrics["accuracy"] == accuracy_score(labels, guesses)
    macro = f1_score(labels, guesses, average="macro", zero_division=0)
    assert metrics["f1"] == pytest.approx(macro, rel=1e-12)
    scores = log_odds(logits)
    present = [c for c in range(3) if (labels == c).any()]
    precision = np.mean([average_precision_score(labels == c, scores[:, c]) for c in present])
    assert abs(metrics["auprc"] - precision) <= metrics["auprc_error"]
    apart = [c for c in present if not (labels == c).all()]
    if apart:
        area = np.mean([roc_auc_score(labels == c, scores[:, c]) for c in apart])
        assert abs(metrics["auroc"] - area) <= metrics["auroc_error"]
    else:
        assert math.isnan(metrics["auroc"])


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_of_two_classes_the_second_is_ranked(count: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(count, 2)).astype(np.float32))
    labels = (rng.random(count) < share).astype(np.int64)
    rows = [(np.zeros(1), label) for label in labels]
    metrics = federated(Ill(), list(logits), rows, rng)
    if labels.any():
        true = average_precision_score(labels, logits[:, 1] - logits[:, 0])
        assert abs(metrics["auprc"] - true) <= metrics["auprc_error"]


class Weighted(Ill):
    """Examples with weights of their own, as a fourth column of the batch: sums that are real."""

    def sums(self, output: torch.Tensor, batch: Any) -> Mapping[str, torch.Tensor]:
        cells = torch.zeros(2, 2, dtype=torch.float64)
        for guess, label, weight in zip(output.argmax(1), batch[1], batch[2], strict=True):
            cells[label, guess] += weight.double()
        return {"confusion": cells}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        return {"confusion": SumSpec((2, 2), real=True, high=3)}

    def metrics(self, sums: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        cells = sums["confusion"]
        return {"accuracy": float(cells.diagonal().sum() / cells.sum()), "f1": macro_f1(cells)}


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_weighted_examples_give_scikit_learns_weighted_metrics(
    count: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(count, 2)).astype(np.float32))
    labels = (rng.random(count) < share).astype(np.int64)
    weights = rng.uniform(0.1, 3, count).astype(np.float32)
    rows = [(np.zeros(1), label, weight) for label, weight in zip(labels, weights, strict=True)]
    metrics = federated(Weighted(), list(logits), rows, rng)
    guesses = logits.argmax(1).numpy()
    exact = weights.astype(np.float64)
    accuracy = accuracy_score(labels, guesses, sample_weight=exact)
    macro = f1_score(labels, guesses, sample_weight=exact, average="macro", zero_division=0)
    assert metrics["accuracy"] == pytest.approx(accuracy, rel=1e-9)
    assert metrics["f1"] == pytest.approx(macro, rel=1e-9)


def test_log_odds_do_not_saturate() -> None:
    logits = torch.tensor([[0.0, 80.0], [0.0, 90.0]])
    assert logits.softmax(1)[:, 1].tolist() == [1, 1]
    assert log_odds(logits)[:, 1].tolist() == [80, 90]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros((4, 1), np.int64), "not one whole number each"),
        (np.zeros(4), "not one whole number each"),
        (np.array([0, 1, 2, 3]), "go from 0 to 3, the task's from 0 to 2"),
        (np.array([0, 1, 2, -1]), "go from -1 to 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=f"MDW-202: x .*{says}"):
        Colours().checked((np.zeros((4, 3, 32, 32)), labels), "x")
