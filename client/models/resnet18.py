"""ResNet-18 (He et al. 2016, arXiv 1512.03385) as torchvision builds it, with batch or group
normalisation.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn

from client.models.base import image
from client.tasks.base import Contract

SMALL = 64
"""Images of fewer pixels a side keep their size in the first layer."""


def build(contract: Contract, norm: Literal["batch", "group"] = "batch") -> nn.Module:
    """Return ResNet-18 for the task's channels and outputs.

    Small images get the first layer of the paper's section 4.2 (3 x 3, stride 1, no pooling).
    `norm=group` (32 groups, Wu & He 2018, arXiv 1803.08494) has no running statistics: nothing but
    weights travels. Raises DataError MDW-207 for examples that are no images.
    """
    # Seconds to import: only where it is used.
    from torchvision.models.resnet import BasicBlock, ResNet

    class Block(BasicBlock):  # type: ignore[misc]  # torchvision has no types
        """The paper's block, whose sum is a tensor of its own: hooks on its layers may look at them."""

        def forward(self, x: Tensor) -> Tensor:
            made = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(made + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]

    channels, height, width = image(contract, "resnet18")
    layer = partial(nn.GroupNorm, 32) if norm == "group" else nn.BatchNorm2d
    model: nn.Module = ResNet(Block, [2, 2, 2, 2], num_classes=contract.outputs, norm_layer=layer)
    if min(height, width) < SMALL:
        model.conv1, model.maxpool = (
            nn.Conv2d(channels, 64, 3, padding=1, bias=False),
            nn.Identity(),
        )
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        return model
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model
