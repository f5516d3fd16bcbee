"""Exclusive classes, whatever their examples are: colour images train from the file to the metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client import loop, sums
from client.models import build_model
from client.tasks.base import Contract
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.classification import Classification
from conf.schema import DataConf, MlpConf, ModelConf, ResNetConf, Silo, TrainerConf

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
