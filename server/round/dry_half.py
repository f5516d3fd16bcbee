"""Two steps of training with an algorithm's half at the silos, before anything counts.

A mistake in a hook is then told by its file and line before the run has a folder, and not by every
silo in round 1. The second step begins with the state that the first one left.

    MDW-239 a half at the silos that can't train this model
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import nn
from torch.utils.data import Subset

from client import memory
from client.batches import length
from client.dry_round import EXAMPLES
from client.loop import train
from client.memory import Memory
from client.model_state import first_line
from client.tasks.base import Data, Task
from conf.errors import DataError, MeadowError
from conf.schema import Conf
from conf.targets.place import TREE
from strategies import silo_half_of
from strategies.algorithm import Algorithm
from strategies.silo_half import Records, SiloHalf
from strategies.wire import protocol

STEPS: Final = 2
_FEWEST: Final = 2
"""Examples without which BatchNorm can't train, and nothing is tried."""


def dry_half(conf: Conf, strategy: Algorithm, model: nn.Module, task: Task, data: Data) -> None:
    """Let an algorithm's half train a model in place for two steps, each a small batch of a silo's.

    `strategy` is its other half, which says what is sent. Plain training is left out:
    `client.dry_round` is about that. Raises DataError MDW-239 where a
    hook raises, or gives what does not fit the other half; its own MeadowError as it is.
    """
    half = silo_half_of(conf.strategy)
    count = min(EXAMPLES, length(data.train))
    if type(half) is SiloHalf or count < _FEWEST:
        return
    few = Subset(data.train, range(count))
    labels = None if data.labels is None else data.labels[:count]
    small = replace(
        conf.trainer, epochs=1, batch_size=count, loader_workers=0, keep_on_device=False
    )
    arrays = protocol.to_record(model.state_dict())
    state: Records = {}
    for step in range(STEPS):
        half = silo_half_of(conf.strategy)
        name = type(half).__name__
        try:
            sent = _on_the_way(strategy, arrays)
            trained = train(
                model, few, task, small, half, seed=step, state=state, sent=sent, labels=labels
            )
            state = _remembered(trained.state)
            answer = {n: protocol.to_wide_record(values) for n, values in trained.sent.items()}
        except MeadowError:
            raise
        except Exception as error:
            what = f"`{name}` raised {first_line(error)}{_where(error)}"
            raise _unfit(what, "Correct the half, or its arguments.") from error
        _check_sent(name, answer, strategy, arrays)


def _on_the_way(strategy: Algorithm, arrays: ArrayRecord) -> Records:
    """Return what the half at the server sends, as it arrives at a silo."""
    return {
        name: {n: torch.from_numpy(np.array(value)) for n, value in values.items()}
        for name, values in strategy.beside(arrays).items()
    }


def _remembered(state: Records) -> Records:
    """Return a half's state as it comes back from where a silo keeps it."""
    archive = RecordDict()
    memory.write(archive, Memory(state))
    return memory.read(archive).half


def _check_sent(
    name: str, answer: dict[str, ArrayRecord], strategy: Algorithm, arrays: ArrayRecord
) -> None:
    """Raise DataError MDW-239 where what is sent is not what the half at the server declares."""
    other = type(strategy).__name__
    if set(answer) != set(strategy.extra):
        declared = ", ".join(strategy.extra) or "none"
        what = f"`{name}.end` sends the records {', '.join(answer) or 'none'}"
        hint = f"Name in `{other}.extra` the records that `end` sends: it names {declared}."
        raise _unfit(what, hint)
    for record, sent in answer.items():
        found = {n: (array.dtype, tuple(array.shape)) for n, array in sent.items()}
        layout = strategy.layout(record, arrays)
        for odd in sorted(found.keys() ^ layout.keys()):
            how = "holds" if odd in found else "lacks"
            what = f"the record {record!r} that `{name}.end` sends {how} {odd!r}"
            raise _unfit(what, f"`{other}.layout` says what is in it.")
        for array, declared_as in layout.items():
            if found[array] != declared_as:
                what = (
                    f"{array!r} in the record {record!r} is {_said(found[array])}, not"
                    f" {_said(declared_as)}"
                )
                raise _unfit(what, f"`{other}.layout` says what is in it.")


def _said(layout: tuple[str, tuple[int, ...]]) -> str:
    dtype, shape = layout
    return f"{dtype} {shape}"


def _where(error: Exception) -> str:
    """Return the last line of somebody's own code that the error came through, if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    others = ("site-packages", str(TREE))
    own = [frame for frame in frames if not any(part in frame.filename for part in others)]
    if not own:
        return ""
    return f" ({own[-1].filename.rpartition('/')[2]}, line {own[-1].lineno})"


def _unfit(what: str, hint: str) -> DataError:
    return DataError("MDW-239", f"A dry round, before anything was trained: {what}.", hint)
