"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, option II).

Each silo i has a control variate c_i, an estimate of its own gradient, and the server one of all
silos, c; both are zero at first. A silo of the round's cohort S takes K steps from y_i = x,

    y_i <- y_i - eta_l (g_i(y_i) - c_i + c)          c_i+ = c_i - c + (x - y_i) / (K eta_l)

and sends y_i and c_i+ - c_i. Over the silos of S, of the run's N,

    x <- x + eta_g mean(y_i - x)                     c <- c + |S|/N mean(c_i+ - c_i)

so that c is the mean of all c_i whoever takes part. The means are plain ones, as in the paper: each
silo counts the same, however many examples it has. Weighted ones would need every silo's share
beforehand.

Where the code says more than the paper:

- K eta_l is the sum of the learning rates of all steps, whatever the schedule, times what momentum
  repeats (`SiloHalf.end`): (x - y_i) divided by it is a mean of the corrected gradients.
- The correction comes before clipping, so what is clipped is the corrected gradient, and c_i then
  estimates clipped ones.
- Weight decay is part of the gradient, and so of c_i.
- A personal layer (`strategy.keeps`) has no control variate: the silo trains it by itself.
- Buffers (BatchNorm's running means) have no gradient: they are averaged, and not moved by eta_g.
- c_i advances only with an update that counted: a silo whose reply was lost or refused goes on from
  the c_i that the server knows (`strategies.wire.protocol.COUNTED`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor, nn

from conf.errors import WireError
from strategies.algorithm import Algorithm, Arrays
from strategies.silo_half import Records, SiloHalf, belongs

C = "c"
"""The record of control variates: c on the way to the silos, c_i+ - c_i on the way back, and c_i
in a silo's state.
"""


class ScaffoldSilo(SiloHalf):
    """The silo's half: it corrects each gradient by c - c_i."""

    remembers = True

    def begin(self, model: nn.Module, state: Records, sent: Records) -> None:
        """Take the model, c and c_i as they are before the round.

        Raises WireError MDW-673 where c is not one of this model.
        """
        self.c = sent.get(C, {})
        before = state.get(C, {})
        weights = {n: w.detach() for n, w in model.named_parameters() if w.requires_grad}
        # A personal layer is trained on its own: nothing corrects it, and nothing is said of it.
        shared = {n: w for n, w in weights.items() if not belongs(n, self.keeps)}
        for name, weight in shared.items():
            if name not in self.c or self.c[name].shape != weight.shape:
                raise WireError(
                    "MDW-673",
                    f"The server sent no control variate of the shape of {name!r}.",
                    "Run the same version of Meadow on both sides.",
                )
        self.start = {name: weight.clone() for name, weight in shared.items()}
        self.mine = {n: before.get(n, torch.zeros_like(w)) for n, w in shared.items()}
        # In the order in which `gradients` gets the weights.
        self.correction = [
            self.c[name] - self.mine[name] if name in shared else None for name in weights
        ]

    def gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Add c - c_i to the gradient of each weight."""
        gradients = []
        corrections = []
        for weight, correction in zip(weights, self.correction, strict=True):
            if correction is None:
                continue
            if weight.grad is None:
                # The loss does not depend on it: its gradient here is zero, and elsewhere not.
                weight.grad = torch.zeros_like(weight)
            gradients.append(weight.grad)
            corrections.append(correction)
        if gradients:
            # All at once: a launch on a GPU, and not one for each weight.
            torch._foreach_add_(gradients, corrections)

    def end(self, model: nn.Module, steps: int, rates: float) -> tuple[Records, Records]:
        """Return what c_i changed by, and c_i+."""
        # Zeros for what has no control variate here, such as a weight that is not trained.
        change = {name: torch.zeros_like(c) for name, c in self.c.items()}
        after: dict[str, Tensor] = {}
        weights = dict(model.named_parameters())
        for name, start in self.start.items():
            moved = (start - weights[name].detach()) / rates
            after[name] = self.mine[name] - self.c[name] + moved
            change[name] = after[name] - self.mine[name]
        return {C: change}, {C: after}


class Scaffold(Algorithm):
    """The server's half: it keeps c, and moves the model by `server_lr` (eta_g)."""

    silo_half = ScaffoldSilo
    extra = (C,)

    def __init__(self, server_lr: float = 1.0) -> None:
        self.server_lr = server_lr
        self.c: dict[str, NDArray[Any]] = {}

    def beside(self, arrays: ArrayRecord) -> Mapping[str, Arrays]:
        """Return c, zero before the first round."""
        if not self.c:
            layout = self.layout(C, arrays)
            self.c = {name: np.zeros(shape, dtype) for name, (dtype, shape) in layout.items()}
        return {C: self.c}

    def weight(self, examples: int) -> int:
        """Return 1: every silo counts the same."""
        return 1

    def after(
        self, before: Arrays, mean: Arrays, extra: Mapping[str, Arrays], replies: int
    ) -> Arrays:
        """Return the next model, and let c follow the silos that answered."""
        share = replies / self.silos
        for name, change in extra[C].items():
            self.c[name] = np.asarray(self.c[name] + share * change)
        if self.server_lr == 1.0:
            # x + (mean - x) would round once more than the mean itself.
            return mean
        moved = dict(mean)
        for name in self.c:
            moved[name] = before[name] + self.server_lr * (mean[name] - before[name])
        return moved
