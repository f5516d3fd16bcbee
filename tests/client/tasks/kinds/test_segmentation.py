"""A class for each pixel: counts over pixels of the union, exactly, without those that are ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from torch import nn

from client import loop, sums
from client.dry_round import dry_round
from client.models import build_model
from client.tasks.base import Contract
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.segmentation import Segmentation
from conf.errors import DataError
from conf.schema import DataConf, ModelConf, Silo, TaskModelConf, TrainerConf
from tests.client.tasks.kinds.unions import federated


class Cells(Segmentation):
    """Background, cell, border, in images of any size."""

    name = "cells"
    contract = Contract((1, None, None), ("background", "cell", "border"), dense=True)

    def model(self, conf: ModelConf) -> nn.Module:
        return nn.Conv2d(1, 3, 3, padding=1)

    def read(self, root: Path) -> Arrays:
        file = np.load(root)
        return file["x"], file["y"]


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_union_s_metrics_are_scikit_learns_over_pixels(
    count: int, known: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(count, 3, 4, 5)).astype(np.float32))
    masks = rng.integers(0, known, (count, 4, 5)).astype(np.uint8)
    masks[rng.random(masks.shape) < 0.2] = 255
    if (masks == 255).all():
        masks[0, 0, 0] = 0
    rows = [(np.zeros((1, 4, 5), np.float32), mask) for mask in masks]
    metrics = federated(Cells(), list(logits), rows, rng)
    counts = masks != 255
    truth = masks[counts]
    guesses = logits.argmax(1).numpy()[counts]
    assert metrics["accuracy"] == accuracy_score(truth, guesses)
    iou = jaccard_score(truth, guesses, average="macro", zero_division=0)
    assert metrics["iou"] == pytest.approx(iou, rel=1e-12)
    dice = f1_score(truth, guesses, average="macro", zero_division=0)
    assert metrics["dice"] == pytest.approx(dice, rel=1e-12)
    masks_as_long = torch.from_numpy(masks).long()
    pooled = nn.functional.cross_entropy(logits.double(), masks_as_long, ignore_index=255)
    assert metrics["loss"] == pytest.approx(float(pooled), rel=1e-5)


def test_masks_are_learnt_from_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((40, 8, 8)).astype(np.float32)
    masks = (images > 0.5).astype(np.uint8)
    masks[:, 0] = 255
    np.savez(tmp_path / "cells.npz", x=images, y=masks)
    task = Cells()
    data = task.data(
        Silo("north", 0, 2, DataConf(root=str(tmp_path / "cells.npz"), partition="iid"))
    )
    trainer = TrainerConf(epochs=40, batch_size=4, lr=0.5)
    model = loop.prepare(build_model(TaskModelConf(), task, 0), trainer)
    first = sums.metrics_of(task, loop.evaluate(model, data.validation, task, trainer).sums)
    loop.train(model, data.train, task, trainer, seed=0)
    evaluation = loop.evaluate(model, data.validation, task, trainer)
    assert int(evaluation.sums["size"]) == evaluation.examples * 7 * 8
    assert sums.metrics_of(task, evaluation.sums)["accuracy"] > max(0.9, first["accuracy"])


def test_a_batch_without_a_pixel_that_counts_has_no_loss() -> None:
    batch = (torch.zeros(2, 1, 3, 3), torch.full((2, 3, 3), 255, dtype=torch.uint8))
    logits = torch.zeros(2, 3, 3, 3, requires_grad=True)
    loss = Cells().loss(logits, batch)
    loss.backward()
    assert float(loss.detach()) == 0 and Cells().size(batch) == 0
    assert logits.grad is not None and not logits.grad.any()


def test_masks_stay_bytes() -> None:
    _, masks = Cells().checked((np.zeros((2, 4, 4)), np.zeros((2, 4, 4), np.uint8)), "x")
    assert masks.dtype == np.uint8
    _, masks = Cells().checked((np.zeros((2, 4, 4)), np.zeros((2, 4, 4), np.uint16)), "x")
    assert masks.dtype == np.int64


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (np.zeros((2, 4), np.uint8), r"not \(n, H, W\)"),
        (np.zeros((2, 4, 4)), r"not \(n, H, W\)"),
        (np.full((2, 4, 4), 3, np.uint8), "go from 3 to 3, the task's from 0 to 2"),
        (np.zeros((2, 4, 5), np.uint8), r"its masks are \(4, 5\), its images \(4, 4\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=f"MDW-202: x .*{says}"):
        Cells().checked((np.zeros((2, 4, 4)), masks), "x")


def test_examples_made_up_from_the_contract_pass_a_dry_round() -> None:
    task = Cells()
    dry_round(
        build_model(TaskModelConf(), task, 0), task.made_up(), task, TrainerConf(device="cpu")
    )
