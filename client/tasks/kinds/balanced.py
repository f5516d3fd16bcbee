"""Classification whose classes may count alike in the loss, however few examples one has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from client.tasks.kinds.classification import Classification


class Weighted(NamedTuple):
    """Logits (n, classes), and what an example of each class weighs in the loss."""

    logits: Tensor
    weights: Tensor


class BalancedClassification(Classification):
    """One of several classes, behind a first layer with a buffer `class_weights`.

    The weights are those of all silos' counts (`client.tables.column_sums.class_weights`): fixed
    before the first round, the same at all silos.
    """

    balanced: bool = False

    def output(self, model: nn.Module, batch: Any) -> Tensor | Weighted:
        """Return logits, with the classes' weights where they are balanced."""
        logits: Tensor = model(batch[0])
        if not self.balanced:
            return logits
        weights = dict(model.named_buffers())["input.class_weights"]
        return Weighted(logits, weights)

    def loss(self, output: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean over the examples of their cross-entropy, each by its class's weight."""
        if not isinstance(output, Weighted):
            return super().loss(output, batch)
        each = functional.cross_entropy(output.logits, batch[1], reduction="none")
        return (each * output.weights[batch[1]]).mean()

    def example_losses(self, output: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cross-entropy of each example (n), by its class's weight."""
        if not isinstance(output, Weighted):
            return super().example_losses(output, batch)
        # The weights are a buffer of the model, the same for every batch.
        each = functional.cross_entropy(output.logits, batch[1], reduction="none")
        return each * output.weights[batch[1]]

    def sums(self, output: Any, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the counts of `Classification`."""
        return super().sums(output.logits if isinstance(output, Weighted) else output, batch)
