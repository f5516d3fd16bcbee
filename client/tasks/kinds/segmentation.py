"""Images with a class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from client.tasks.base import LARGEST_LOSS, Better, SumSpec, broken
from client.tasks.kinds.arrays import ANY_SIDE, MADE_UP, Arrays, ArrayTask
from client.tasks.kinds.classification import check_classes
from client.tasks.kinds.confusion import accuracy, confusion, macro_f1, mean_iou


class Segmentation(ArrayTask):
    """One of `contract.classes` for each pixel: cross-entropy, mean IoU, Dice, accuracy.

    A subclass sets `contract` (with `dense=True`) and gives `read`: images, and masks (n, H, W) of
    whole numbers that count the classes from 0; and `model`, which gives logits (n, classes, H, W).
    The loss is a mean over pixels, without those whose mask is `ignored`.
    """

    loss_range: ClassVar[tuple[float, float]] = (0.0, LARGEST_LOSS)
    shown: ClassVar[Mapping[str, Better]] = {"iou": "max", "dice": "max", "loss": "min"}
    ignored: ClassVar[int] = 255

    def checked_targets(self, targets: NDArray[Any], where: object) -> NDArray[Any]:
        """Return the masks (n, H, W) in a type of torch; raises DataError MDW-202."""
        if targets.ndim != 3 or targets.dtype.kind not in "ui":
            raise broken(
                where,
                f"its masks are {targets.shape} of {targets.dtype}, not (n, H, W) whole numbers",
            )
        check_classes(targets[targets != self.ignored], len(self.contract.classes), where)
        # Bytes stay bytes: a mask is as large as its image.
        return targets if targets.dtype == np.uint8 else targets.astype(np.int64)

    def checked(self, examples: Arrays, where: object) -> Arrays:
        """Return images and masks of their size; raises DataError MDW-202."""
        images, masks = super().checked(examples, where)
        # Of one image, as the model will get it.
        one = self.contract.arranged(torch.empty(1, *images.shape[1:], device="meta"))
        sides = tuple(one.shape[2:])
        if masks.shape[1:] != sides:
            raise broken(where, f"its masks are {masks.shape[1:]}, its images {sides}")
        return images, masks

    def made_up_targets(self) -> NDArray[np.uint8]:
        """Return masks of the first class."""
        sides = [ANY_SIDE if side is None else side for side in self.contract.shape[1:]]
        return np.zeros((MADE_UP, *sides), np.uint8)

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy over the pixels that count, 0 where none does."""
        # Pixels as rows: on a GPU torch has no deterministic form of the loss over images.
        logits = output.movedim(1, -1).flatten(0, -2)
        masks = batch[1].long().flatten()
        total = functional.cross_entropy(logits, masks, ignore_index=self.ignored, reduction="sum")
        return total / max(self.size(batch), 1)

    def example_losses(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy over each image's own pixels that count (n)."""
        masks = batch[1].long()
        logits = output.movedim(1, -1).flatten(0, -2)
        each = functional.cross_entropy(
            logits, masks.flatten(), ignore_index=self.ignored, reduction="none"
        ).view_as(masks)
        counted = (masks != self.ignored).flatten(1).sum(1).clamp(min=1)
        return each.flatten(1).sum(1) / counted

    def size(self, batch: tuple[Tensor, Tensor]) -> int:
        """Return the number of pixels that count."""
        return int((batch[1] != self.ignored).sum())

    def sums(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the confusion matrix over pixels."""
        masks = batch[1].long()
        counts = masks != self.ignored
        guesses = output.argmax(1)
        classes = len(self.contract.classes)
        return {"confusion": confusion(guesses[counts], masks[counts], classes)}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the confusion matrix."""
        classes = len(self.contract.classes)
        return {"confusion": SumSpec((classes, classes), at_once=1, confusion=True)}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return the means over the classes that occur of IoU and Dice, and the share of right
        pixels.
        """
        counts = sums["confusion"]
        return {"iou": mean_iou(counts), "dice": macro_f1(counts), "accuracy": accuracy(counts)}
