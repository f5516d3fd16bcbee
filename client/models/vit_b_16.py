"""The vision transformer ViT-B/16 (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

from __future__ import annotations

from torch import nn

from client.models.base import image, unfit
from client.tasks.base import Contract
from client.vision import network

PATCH = 16


def build(contract: Contract) -> nn.Module:
    """Return torchvision's ViT-B/16 for the task's channels and outputs.

    It normalises layers, so that nothing but weights travels. Raises DataError MDW-207 for images
    that are not squares of a multiple of 16 pixels.
    """
    _, height, width = image(contract, "vit_b_16")
    if height != width or height % PATCH:
        raise unfit(
            f"model=vit_b_16 needs squares of a multiple of {PATCH} pixels, the task has"
            f" {height} x {width}",
            "Set task.height and task.width, such as 224.",
        )
    return network(contract, "vit_b_16", "batch", image_size=height)
