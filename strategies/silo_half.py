"""The silo's half of an algorithm: hooks around the one loop that trains (`client.loop.train`).

The loop has no branch for any algorithm. What an algorithm does at a silo is a subclass of
`SiloHalf`, named by its server half (`silo_half`, `strategies.fedavg`):

    half.begin(model, state, sent)
    half.fit(run_epochs)                      # calls run_epochs, once unless it says otherwise
        model, optimizer, batches = half.wrap(model, optimizer, batches)
        for each step:
            output = half.output(task.output(model, batch), batch)
            loss = half.loss(task.loss(output, batch), model, batch)
            loss.backward()
            half.gradients(weights)           # then clipping, then the optimizer's step
    sent, state = half.end(model, steps, rates)

    MDW-146 personal layers that the model has not got

Every hook has a default that does nothing, with which the loop is plain SGD to the bit. A half is
made anew for each round: what it remembers beyond one goes through `state`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from conf.errors import ConfigError
from conf.schema_keys import nearest

if TYPE_CHECKING:
    # For annotations alone: who only asks what a half is called need not wait for torch.
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

Records = Mapping[str, Mapping[str, "Tensor"]]
"""Named arrays by the name of their record: `sent["c"]["conv1.weight"]`."""

Trains = Callable[[str], bool]
"""Whether the parameter of this name is trained."""


class Batches(Protocol):
    """What the loop goes through in each epoch; `len` is the number of batches."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


class RunEpochs(Protocol):
    """Trains: by default the round's model, for the trainer's epochs, all of its weights."""

    def __call__(
        self,
        model: nn.Module | None = None,
        *,
        epochs: int | None = None,
        trains: Trains | None = None,
    ) -> None:
        """Go through the training set `epochs` times."""


@dataclass(frozen=True)
class Local:
    """What a half may ask of the silo that it runs at."""

    forward: Callable[[nn.Module, Any], Any]
    """The task's output of any model for a batch, in the precision of the training."""
    examples: int
    """In the training set."""
    labels: NDArray[np.int64] | None = None
    """The class of each of them; None where examples have none."""


class SiloHalf:
    """The half that does nothing of its own: plain local training, as in FedAvg."""

    keeps: Sequence[str] = ()
    """Beginnings of the names of the arrays that never leave the silo, such as ("bn",).

    They are kept with the silo's state, and put back into the model at its next round. Those of
    `strategy.keeps` are added to a class's own before `begin`.
    """

    remembers: ClassVar[bool] = False
    """Whether a silo that has lost its state must not go on as if it were new (MDW-672)."""

    local: Local
    """Set before `begin`."""

    def begin(self, model: nn.Module, state: Records, sent: Records) -> None:
        """Start a round with the global model as it arrived.

        `state` is what `end` returned in the last round in which this silo took part and its
        update counted, empty at first. `sent` holds what the server half sends beside the model.
        All of it lies on the model's device.
        """

    def fit(self, run_epochs: RunEpochs) -> None:
        """Train: call `run_epochs`, several times for several passes.

        Steps, rates and the reported loss are those of the passes over the round's model; a pass
        over another model is the half's own affair.
        """
        run_epochs()

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, batches: Batches
    ) -> tuple[nn.Module, Optimizer, Batches]:
        """Return what takes the place of these three during a pass.

        The names of the model that is sent must not change: wrap it, do not rename it.
        """
        return model, optimizer, batches

    def output(self, output: Any, batch: Any) -> Any:
        """Return the output that the task's loss is taken of."""
        return output

    def loss(self, loss: Tensor, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss that is minimised, from the task's."""
        return loss

    def gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Change the gradients of a step in place.

        They are whole: accumulated over the step's batches and without fp16's scale, and not yet
        clipped. `weights` are the parameters that are trained, in the model's order; one that the
        loss does not depend on has no gradient (None).
        """

    def end(self, model: nn.Module, steps: int, rates: float) -> tuple[Records, Records]:
        """Return what is sent beside the model, and the silo's next state.

        `rates` is the sum of the learning rates of all steps, with momentum's repetitions: how far
        a gradient of one in every step would have moved a weight under SGD.
        """
        return {}, {}


def check_keeps(names: Collection[str], keeps: Iterable[str]) -> None:
    """Raise ConfigError MDW-146 where the silos would keep what a model has not got, or all of it.

    `names` are those of the model's arrays. A misspelt name would send what was meant to stay.
    """
    for one in keeps:
        if not any(belongs(name, [one]) for name in names):
            parts = {part for name in names for part in _beginnings(name)}
            what = f"strategy.keeps: the model has no array whose name begins with {one!r}."
            raise ConfigError("MDW-146", what, nearest(one, parts))
    if names and all(belongs(name, keeps) for name in names):
        what = "strategy.keeps names all of the model's arrays, so that nothing would be shared."
        raise ConfigError("MDW-146", what, "Name the personal layers alone.")


def _beginnings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def belongs(name: str, beginnings: Iterable[str]) -> bool:
    """Return whether the name of an array begins as one of these does: whole words between dots.

    "bn" is the beginning of "bn.weight" and of "bn" itself, and not of "bn1.weight".
    """
    return any(name == one or name.startswith(f"{one}.") for one in beginnings)
