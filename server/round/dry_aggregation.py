"""One aggregation before anything is trained: what a strategy does to a model's arrays, tried on
copies.

A strategy of somebody's own that drops an array, changes a shape or raises is then told before the
run has a folder, and not after its silos have trained a round for it.

    MDW-405 a strategy that can't aggregate this model
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from conf.errors import MeadowError, RoundError
from server.engines.server_identity import give_identity_back, take_identity
from server.round.imagined_grid import ImaginedGrid
from strategies.algorithm import Algorithm, Layout
from strategies.cohort_rule import CohortRule
from strategies.streaming import Streaming
from strategies.wire import protocol
from strategies.wire.half_types import numbers
from strategies.wire.objects import as_declared, elements

ROUND: Final = 1
FEW_VALUES: Final = 256
"""Of each array, for a strategy that holds updates on disk."""


def dry_aggregation(
    strategy: Strategy,
    arrays: ArrayRecord,
    silos: int,
    parameters: Collection[str] | None = None,
) -> None:
    """Let a newly built strategy, which is used for nothing else, aggregate `silos` updates that
    equal the model.

    A streaming strategy gets two of them, or as many as its rule needs: it takes one as it takes a
    thousand. `parameters` are the
    names of the arrays that are no buffers, where the caller knows them. Raises RoundError
    MDW-405 where it raises, gives no model, or one with other names, shapes or values that are not
    finite; its own MeadowError as it is.
    """
    count = min(silos, 2) if isinstance(strategy, Streaming) else silos
    if isinstance(strategy, CohortRule):
        count = min(silos, max(count, strategy.fewest))
        # It holds updates on disk, and the run has no place there yet.
        arrays = _first_values(arrays)
    grid = ImaginedGrid(count)
    # Of one that Meadow hosts, the name that its user knows.
    name = type(getattr(strategy, "inner", strategy)).__name__
    if isinstance(strategy, Algorithm) and parameters is not None:
        strategy.open(silos, parameters)
    with _undisturbed():
        with _saying(name, "configure_train"):
            messages = list(strategy.configure_train(ROUND, arrays, ConfigRecord(), grid))
        replies = [_reply(message, arrays, strategy) for message in messages]
        given: Iterable[Message] = iter(replies) if isinstance(strategy, Streaming) else replies
        with _saying(name, "aggregate_train"):
            mean, _ = strategy.aggregate_train(ROUND, given)
    if mean is None:
        raise _unfit(f"`{name}.aggregate_train` gave no model for {len(replies)} updates")
    for fault in faults_of(arrays, mean):
        raise _unfit(f"`{name}.aggregate_train` changed the model: {fault}")


def _reply(message: Message, arrays: ArrayRecord, strategy: Strategy) -> Message:
    """Answer as a silo that trained and changed nothing; zeros in what an algorithm adds."""
    beside: dict[str, ArrayRecord] = {}
    if isinstance(strategy, Algorithm):
        beside = {name: _zeros(strategy.layout(name, arrays)) for name in strategy.extra}
        arrays = strategy.travelling(arrays)
    # A record of its own: a strategy may change what it gets.
    update = ArrayRecord(dict(arrays))
    metrics = MetricRecord(
        {
            protocol.NUM_EXAMPLES: 1,
            protocol.SIZE: 1,
            protocol.LOSS: 1.0,
            protocol.SECONDS: 1.0,
            protocol.SAMPLES_PER_SECOND: 1.0,
        }
    )
    content = RecordDict({protocol.ARRAYS: update, protocol.METRICS: metrics, **beside})
    return Message(content, reply_to=message)


def _first_values(arrays: ArrayRecord) -> ArrayRecord:
    """Return some values of each array: a rule over columns knows no shapes."""
    made = ArrayRecord()
    for name, array in arrays.items():
        made[name] = as_declared(array.dtype, elements(array).reshape(-1)[:FEW_VALUES])
    return made


def _zeros(layout: Layout) -> ArrayRecord:
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in layout.items()}
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def faults_of(sent: ArrayRecord, mean: ArrayRecord) -> Iterator[str]:
    """Yield in words what keeps a strategy's model from being sent in the place of another one."""
    for name in sorted(sent.keys() ^ mean.keys()):
        what = "is missing" if name in sent else "is new"
        yield f"{name!r} {what}"
    for name, array in mean.items():
        before = sent.get(name)
        if before is None:
            continue
        if tuple(array.shape) != tuple(before.shape):
            yield f"{name!r} has the shape {tuple(array.shape)}, not {tuple(before.shape)}"
        elif not _is_finite(array):
            yield f"{name!r} is not finite, made of finite updates"


def _is_finite(array: Array) -> bool:
    values = numbers(array)
    if values.dtype.kind != "f" or not values.size:
        return True
    # Two passes without an array of truth values; a NaN comes out of both.
    return math.isfinite(float(values.max())) and math.isfinite(float(values.min()))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the global generators, Flower's log and its idea of this process as if nothing had been
    tried.
    """
    log = logging.getLogger("flwr")
    disabled = log.disabled
    drawn = random.getstate()
    # The legacy generator is what Flower's strategies draw from.
    drawn_by_numpy = np.random.get_state()
    # Messages can be made only in the name of some run; this one is nobody's.
    identity = take_identity(0)
    log.disabled = True
    try:
        yield
    finally:
        give_identity_back(identity)
        log.disabled = disabled
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)


@contextlib.contextmanager
def _saying(strategy: str, method: str) -> Iterator[None]:
    try:
        yield
    except MeadowError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        what = f"`{strategy}.{method}` raised {type(error).__name__}: {said.rstrip('.')}"
        raise _unfit(what) from error


def _unfit(what: str) -> RoundError:
    hint = "Correct the strategy or its arguments, or choose another one."
    return RoundError("MDW-405", f"A dry round, before anything was trained: {what}.", hint)
