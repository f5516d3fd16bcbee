"""A step of DP-SGD by each of Opacus' ways to the gradients of single examples, without Meadow.

hooks      rules for layers, by hooks; a layer without one by functorch: what privacy.gradients=hooks takes
functorch  all layers by vmap over grad
ghost      norms first, then a second backward pass of the weighted loss: no gradient of an example
           is held (Li et al. 2021, arXiv 2110.05679); privacy.gradients=ghost is written anew, with one
           pass (`client.privacy.ghost_gradients`)
ew         torch's expanded weights
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

from opacus.grad_sample.utils import prepare_module
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn, optim

MODES = ("hooks", "functorch", "ghost", "ew")
CLIP = 1.0
NOISE = 1.0

Step = Callable[[Tensor, Tensor], None]


def step_of(mode: str, model: nn.Module, batch: int, lr: float) -> Step:
    """Return a function that takes a step of a copy of a model on a batch of images and labels."""
    net = copy.deepcopy(model)
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    # A batch needs no gradient itself, as its hooks warn at each step.
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
    more = {"max_grad_norm": CLIP, "use_ghost_clipping": True} if mode == "ghost" else {}
    wrapped = prepare_module(net, mode, True, **more)
    plain = optim.SGD(wrapped.parameters(), lr=lr, momentum=0.9)
    kind = DPOptimizerFastGradientClipping if mode == "ghost" else DPOptimizer
    stepping = kind(plain, noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=batch)
    loss = nn.CrossEntropyLoss()
    criterion = DPLossFastGradientClipping(wrapped, stepping, loss) if mode == "ghost" else loss

    def step(images: Tensor, labels: Tensor) -> None:
        stepping.zero_grad()
        criterion(wrapped(images), labels).backward()
        stepping.step()

    return step
