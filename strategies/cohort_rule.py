"""The server's half of a rule that looks at all updates of a round at once, and not at their mean.

Replies are written to private files as they arrive (`strategies.held_updates`), one of them in
memory at a time, and read by columns when the round has all of them (`strategies.spill`). A rule
derives from `CohortRule` and says what it makes of the rows:

    combine(rows, sent)      # the next model's floats, and how much each row counted

The same bits come out in any order of arrival: rows are in the order of the silos' names, and every
sum over rows adds them one after another.

With `bucket` s > 1 a row is the mean of s updates, dealt at random (Karimireddy et al. 2022,
arXiv 2006.09365, algorithm 1): rows then differ less than updates do, and a liar spoils only its own
bucket. The permutation comes from the run's seed and the round.
"""

from __future__ import annotations

import logging
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from conf.errors import WireError
from conf.fewest import check_enough, fewest_updates
from conf.seeds import seed_for
from strategies.algorithm import Algorithm
from strategies.combined import Combined
from strategies.held_updates import HeldUpdates, layout_of
from strategies.spill import Flat, FloatLayout, Rows, check_room, clear
from strategies.streaming import Replies
from strategies.wire import protocol
from strategies.wire.half_types import Numbers

log = logging.getLogger(__name__)


class CohortRule(Algorithm):
    """Holds a round's updates on disk and combines them when all are there: derive from it."""

    rule: ClassVar[str]
    """Its name in `conf.fewest`, which has its breakdown point."""
    renewed = (*Algorithm.renewed, "seed", "held_in", "shares")
    weighting = protocol.EQUAL

    def __init__(self, f: int = 1, bucket: int = 1) -> None:
        self.f = f
        self.bucket = bucket
        self.seed = 0
        self.held_in: Path | None = None
        """Where updates are held; None = in a temporary folder of each round's own."""
        self.shares: dict[str, float] = {}
        """How much each silo counted in the last round, by name; all together 1."""

    @property
    def fewest(self) -> int:
        """How many updates it makes a model of."""
        return fewest_updates(self.rule, self.f, self.bucket)

    def begin(self, held_in: Path, seed: int) -> None:
        """Learn where updates may be held and what is drawn from, before the first round."""
        self.held_in = held_in
        self.seed = seed

    @abstractmethod
    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return what it makes of the rows; `sent()` is the model that was sent, as they lie."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each node, once there is room for what they will send.

        Raises FileFault MDW-513 where there is not, ConfigError MDW-105 for too small a cohort.
        """
        nodes = len(list(grid.get_node_ids()))
        check_enough(self.rule, self.f, self.bucket, nodes, "the round's cohort")
        layout = FloatLayout(layout_of(self.travelling(arrays)))
        check_room(self.held_in or Path(tempfile.gettempdir()), nodes, layout.nbytes)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model, and the means of the metrics that all replies have.

        Both are None for fewer replies than `fewest`: the model stays as it is. A reply that does
        not fit is refused where the replies can be (`Replies`); elsewhere WireError (MDW-660 to
        665) is raised for it. Raises FileFault where a disk fails.
        """
        self.shares = {}
        with self._holding() as held:
            for reply in replies:
                if not reply.has_error():
                    _take(held, reply, replies)
                # The iterator may free it before it waits for the next one.
                del reply
            if len(held.weights) < self.fewest:
                self._say_too_few(server_round, len(held.weights))
                return None, None
            values = self._combined(server_round, held)
        before = Numbers(self.travelling(self._sent))
        result = self.after(before, values, {}, len(held.weights))
        metrics = MetricRecord({protocol.NUM_EXAMPLES: held.metrics.weight})
        metrics.update(held.metrics.result())
        return self._in_order(dict(result)), metrics

    def summary(self) -> None:
        """Log what the strategy is."""
        made = f" of means of {self.bucket}" if self.bucket > 1 else ""
        what = "%s%s: for f=%d of at least %d updates, which are held on disk"
        log.info(what, self.rule, made, self.f, self.fewest)

    @contextmanager
    def _holding(self) -> Iterator[HeldUpdates]:
        """Yield what holds a round's updates; nothing of it is on disk afterwards."""
        folder = self.held_in
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="meadow-updates-"))
        try:
            yield HeldUpdates(folder, self.travelling(self._sent), self.weighting)
        finally:
            clear(folder)

    def _combined(self, round: int, held: HeldUpdates) -> dict[str, NDArray[np.generic]]:
        """Return the next model's arrays by name, and note how much each silo counted."""
        names = held.spill.names
        weights = [held.weights[name] for name in names]
        buckets = dealt(len(names), self.bucket, seed_for(self.seed, "server", round, "buckets"))
        rows = held.spill.rows(buckets, weights)
        layout = held.spill.layout

        def sent() -> Flat:
            return layout.flat(Numbers(self.travelling(self._sent)))

        combined = self.combine(rows, sent)
        total = float(combined.counted.sum())
        for row, bucket in enumerate(buckets):
            whole = rows.weights[row] * total
            for update in bucket:
                part = combined.counted[row] * weights[update]
                self.shares[names[update]] = float(part / whole) if whole else 0.0
        return layout.named(combined.values) | held.counters

    def _say_too_few(self, round: int, updates: int) -> None:
        what = "round %d: %s with f=%d needs %d updates and has %d: the model stays as it is"
        log.warning(what, round, self.rule, self.f, self.fewest, updates)


def dealt(updates: int, bucket: int, seed: int) -> Sequence[Sequence[int]]:
    """Return which updates make each row: one each, or as many as `bucket` says, dealt at random."""
    if bucket == 1:
        return [[update] for update in range(updates)]
    order = np.random.default_rng(seed).permutation(updates).tolist()
    # Sorted within a bucket: its sum then is of the same order whatever was drawn.
    return [sorted(order[start : start + bucket]) for start in range(0, updates, bucket)]


def _take(held: HeldUpdates, reply: Message, replies: Iterable[Message]) -> None:
    """Hold a reply, or refuse it where that costs its silo alone."""
    if not isinstance(replies, Replies):
        held.take(f"{reply.metadata.src_node_id:020d}", reply, {})
        return
    try:
        held.take(replies.silo(), reply, replies.largest())
    except WireError as why:
        replies.refuse(why)
