"""The first layer of a model over images: bytes as they were read become what a model learns from.

Scaling is the model's own, on whatever device it is, so that a set stays in memory as bytes, and a
model file predicts on images as they are. What is drawn anew of an image (`task.augment`) is drawn
here too, in training alone, from torch's generator, which the loop seeds: the same whatever loads
the batches.

    examples  int64 float64  as `size` counts them
    mean      float64 (channels)   of each image's mean over its pixels, 0 to 1
    squares   float64 (channels)   of each image's mean square
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from client.images.augmentation import Transform
from client.sums import SIZE
from client.tables.column_sums import class_weights
from client.tasks.base import SumSpec

FULL: Final = 255.0
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation by channel of the images that torchvision's weights were trained on."""
STANDARD: Final = "standard"
_AT_ONCE: Final = 64
"""Images whose statistics are made at a time: memory that does not grow with the set."""


class PixelLayer(nn.Module):
    """Images (n, channels, height, width) of bytes become float32 of the same shape."""

    mean: Tensor
    scale: Tensor
    class_weights: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        scale: str = STANDARD,
        augment: Transform | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self._fitted = scale == STANDARD
        self._augment = augment
        channels = shape[0]
        mean = torch.full((channels,), 0.5)
        deviation = torch.full((channels,), 0.5)
        if scale == "imagenet":
            of_channels = torch.tensor(IMAGENET)
            # Of grey images the mean over the channels.
            mean, deviation = of_channels if channels == 3 else of_channels.mean(1, keepdim=True)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", deviation)
        self.register_buffer("class_weights", torch.ones(classes))

    def fit(self, sums: Mapping[str, Tensor]) -> None:
        """Take the statistics of all silos' images into the buffers."""
        count = max(int(sums[SIZE]), 1)
        if self._fitted:
            mean = sums["mean"] / count
            variance = sums["squares"] / count - mean.square()
            self.mean.copy_(mean)
            # Of images that are all alike nothing is to be scaled.
            self.scale.copy_(torch.where(variance > 1e-12, variance.clamp(min=0).sqrt(), 1.0))
        if len(self.class_weights):
            self.class_weights.copy_(class_weights(sums))

    def forward(self, images: Tensor) -> Tensor:
        """Return images of float32."""
        if self.training and self._augment is not None:
            # One by one: a transform draws once for all that it is given.
            images = torch.stack([self._augment(image) for image in images])
        scaled = images.float() / FULL
        return (scaled - self.mean[:, None, None]) / self.scale[:, None, None]


def sums_of(images: Tensor, labels: Tensor | None, classes: int) -> dict[str, Tensor]:
    """Return the sums of some images (n, channels, height, width), and of their classes (n)."""
    channels = images.shape[1]
    mean = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for part in images.split(_AT_ONCE):
        values = part.double() / FULL
        mean += values.mean((2, 3)).sum(0)
        squares += values.square().mean((2, 3)).sum(0)
    sums = {"mean": mean, "squares": squares}
    if classes:
        assert labels is not None
        sums["classes"] = torch.bincount(labels, minlength=classes)
    return sums


def specs_of(channels: int, classes: int) -> dict[str, SumSpec]:
    """Return the form of these sums, and what an image may add to each."""
    specs = {"mean": SumSpec((channels,), real=True), "squares": SumSpec((channels,), real=True)}
    if classes:
        specs["classes"] = SumSpec((classes,))
    return specs
