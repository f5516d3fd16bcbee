"""A dry round: a few real examples go through everything that a task says, before anything counts.

A mistake in `collate`, `output`, `loss`, `size`, `sums` or `metrics` is then told in the task's own
words, by the name of its method, and not by the round in which it would have cost a training.

    MDW-236 a method of the task that raised    MDW-238 a loss that can't be trained on
    MDW-237 a size that is no count
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from client import sums
from client.batches import Batches, length
from client.batches.stored import StoredSet
from client.device import autocast, device_of, full_precision, reproducible
from client.device_failures import is_full, is_lost, told
from client.model_state import check_state, first_line
from client.tasks.base import Task
from client.trees import map_tensors
from conf.errors import DataError, MeadowError, Told
from conf.schema import TrainerConf

EXAMPLES: Final = 4
"""In the batch: enough for BatchNorm and for tensors of several lengths, and soon done."""


def dry_round(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    conf: TrainerConf,
    *,
    discreet: bool = False,
) -> None:
    """Put one small batch through a task's methods and back through the model, and the model's
    state there and back.

    The model's weights stay as they are, as does torch's random state; its running statistics
    change. A `discreet` one says where a method raised and what kind of error it was, and leaves
    out the error's own words, which may hold an example. Raises DataError: MDW-230 to 235 for the
    state (`client.model_state`), MDW-236 to 238 here, MDW-208 and 209 for sums and metrics
    (`client.sums`), MDW-225 to 227 for a device that fails.
    """
    check_state(model)
    examples = min(EXAMPLES, length(dataset))
    if examples == 0:
        return
    small = replace(conf, loader_workers=0, keep_on_device=False)
    dry = _DryRound(model, task, conf, discreet)
    with told(examples), reproducible(device_of(model), 0, conf):
        with dry.saying("collate"):
            few = _first(dataset, examples)
            batches = Batches(few, examples, device_of(model), small, collate=task.collate)
            batch = next(iter(batches))
        dry.train(batch)
        dry.evaluate(batch)


@dataclass
class _DryRound:
    model: nn.Module
    task: Task
    conf: TrainerConf
    discreet: bool

    def train(self, batch: Any) -> None:
        """One step's worth of the loop, without the step."""
        self.model.train()
        self._size(batch)
        with autocast(device_of(self.model), self.conf):
            output = self._output(batch)
            with self.saying("loss"):
                loss = self.task.loss(output, batch)
        self._check_loss(loss)
        with self.saying("loss"):
            torch.autograd.backward(loss)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        if all(weight.grad is None for weight in trained):
            raise self._unfit("MDW-238", "`loss` depends on no weight of the model", _LOSS_HINT)
        for weight in trained:
            weight.grad = None

    def evaluate(self, batch: Any) -> None:
        """One batch's worth of an evaluation, and its metrics."""
        self.model.eval()
        with torch.inference_mode():
            with autocast(device_of(self.model), self.conf):
                output = self._output(batch)
            with self.saying("sums"):
                of_batch = sums.of_batch(self.task, output, batch)
        with self.saying("metrics"):
            metrics = sums.metrics_of(self.task, of_batch)
        if metrics:
            sums.check_shown(self.task, metrics)

    def _output(self, batch: Any) -> Any:
        with self.saying("output"):
            return map_tensors(full_precision, self.task.output(self.model, batch))

    def _size(self, batch: Any) -> None:
        with self.saying("size"):
            size = self.task.size(batch)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            what = f"`size` is a {type(size).__name__}, {size!r:.40}"
            hint = "Return a whole number: of what the loss is a mean over."
            raise self._unfit("MDW-237", what, hint)

    def _check_loss(self, loss: object) -> None:
        if not isinstance(loss, Tensor):
            what = f"`loss` is a {type(loss).__name__}, not a tensor"
            raise self._unfit("MDW-238", what, _LOSS_HINT)
        if loss.numel() != 1:
            what = f"`loss` has the shape {tuple(loss.shape)}, and is no single number"
            raise self._unfit("MDW-238", what, _LOSS_HINT)
        if not bool(torch.isfinite(loss.detach())):
            what = "`loss` is not finite with the model's first weights"
            hint = "Look for a logarithm of 0, a division by 0, or data far out of scale."
            raise self._unfit("MDW-238", what, hint)
        if not loss.requires_grad:
            raise self._unfit("MDW-238", "`loss` has no gradient", _LOSS_HINT)

    @contextlib.contextmanager
    def saying(self, method: str) -> Iterator[None]:
        """Name the task's method, and its file and line, in whatever it raises."""
        try:
            yield
        except MeadowError:
            raise
        except Exception as error:
            if is_lost(error) or is_full(error):
                # It is the device's failure, whatever the method.
                raise
            said = type(error).__name__ if self.discreet else first_line(error)
            where = self._where(error)
            what = f"`{method}` raised {said}{where}"
            told = {"method": method, "raised": type(error).__name__, "at": where.strip(" ()")}
            hint = "Correct the method, or the examples."
            raise self._unfit("MDW-236", what, hint, told) from error

    def _where(self, error: Exception) -> str:
        """Return the last line of the task's own file that the error came through."""
        own = getattr(sys.modules.get(type(self.task).__module__), "__file__", None)
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if own is not None and frame.filename == own
        ]
        return f" ({Path(own).name}, line {lines[-1]})" if own and lines else ""

    def _unfit(
        self, code: str, what: str, hint: str, told: Mapping[str, Told] | None = None
    ) -> DataError:
        name = f"The task {self.task.name}, on its first examples"
        return DataError(code, f"{name}: {what}.", hint, {"task": self.task.name, **(told or {})})


_LOSS_HINT: Final = "Return the batch's mean loss, a tensor made from `output`."


def _first(dataset: Dataset[Any], count: int) -> Dataset[Any]:
    if isinstance(dataset, StoredSet):
        return dataset.first(count)
    if isinstance(dataset, TensorDataset):
        return TensorDataset(*(tensor[:count] for tensor in dataset.tensors))
    return Subset(dataset, range(count))
