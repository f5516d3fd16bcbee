"""The round loop: select -> exchange -> admit -> aggregate -> evaluate -> checkpoint -> report.

It calls the four methods of any Flower `Strategy` and replaces only `Strategy.start`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from conf.errors import RoundError
from conf.schema import Conf
from conf.seeds import seed_for
from server.observers.base import Observer
from server.round.admission import Admission, Admitted, Refused
from server.round.cohort import CohortGrid, select
from server.round.early_stop import EarlyStop
from server.round.error_text import plain_reason
from server.round.exchange import Closing, Exchange
from server.round.grid import SiloGrid
from server.run.checkpoint import Checkpoints, RunState
from server.run.ledger import Ledger, arrays_digest
from server.run.result import Metrics, RoundRecord
from strategies.state import restore, state_of
from strategies.wire import protocol, run_config

log = logging.getLogger(__name__)

Score = Callable[[ArrayRecord], Metrics]


@dataclass
class Rounds:
    """One run's rounds over a grid. `silos` maps node ids to names; `score` evaluates on a central test set."""

    conf: Conf
    run_id: str
    known_as: str  # what run.resume takes: its id, or the path of its folder
    grid: Grid
    silos: dict[int, str]
    strategy: Strategy
    checkpoints: Checkpoints
    ledger: Ledger
    observer: Observer
    score: Score | None = None
    admission: Admission = field(default_factory=Admission)
    early_stop: EarlyStop = field(init=False)

    def run(self, state: RunState) -> bool:
        """Go on from `state`, which is kept up to date, until the last round; return True if stopped early.

        Raises RoundError MDW-401 when a round cannot close with its quorum; the state then is the last closed one.
        """
        run = self.conf.run
        self.early_stop = EarlyStop(run.early_stop, **state.early_stop)
        restore(self.strategy, state.strategy)
        if state.round == 0:
            self.checkpoints.save(state)
        while state.round < run.rounds and not self.early_stop.stopped:
            started = time.monotonic()
            record, arrays = self._round(state)
            record.seconds = time.monotonic() - started
            self.early_stop.take(record.aggregate)
            self._close(state, record, arrays)
        return self.early_stop.stopped

    def _close(self, state: RunState, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Make a round part of the state: until here, whatever breaks it off leaves the one before."""
        state.round, state.arrays, state.strategy = record.round, arrays, state_of(self.strategy)
        state.records.append(record)
        state.seconds += record.seconds
        state.early_stop = {"best": self.early_stop.best, "since": self.early_stop.since}
        state.anchor = str(
            self.ledger.round_closed(record.round, arrays_digest(arrays), record.replied)
        )
        self.checkpoints.save(state)
        self.observer.round_closed(record)

    def _round(self, state: RunState) -> tuple[RoundRecord, ArrayRecord]:
        run, number = self.conf.run, state.round + 1
        here = self.grid.names() if isinstance(self.grid, SiloGrid) else self.silos
        self.silos |= here  # a silo whose key was changed has another node; an answer of the old one still has a name
        _seed_strategy(run.seed, number)
        cohort = select(list(here.values()), cohort=run.cohort, seed=run.seed, round=number)
        record = RoundRecord(number, cohort)
        self.admission.open(number, state.arrays, cohort)
        self.observer.round_started(number, cohort)
        nodes = {name: node for node, name in here.items()}
        shown = CohortGrid(self.grid, [nodes[name] for name in cohort])

        messages = self.strategy.configure_train(number, state.arrays, self._config(state), shown)
        mean, metrics = self._train(messages, record)
        arrays = state.arrays if mean is None else mean
        record.aggregate |= {f"train_{name}": value for name, value in _means(metrics).items()}

        messages = self.strategy.configure_evaluate(number, arrays, self._config(state), shown)
        record.aggregate |= _means(self._evaluate(messages, record))
        if self.score:
            record.aggregate |= {
                f"central_{name}": value for name, value in self.score(arrays).items()
            }
        return record, arrays

    def _train(
        self, messages: Iterable[Message], record: RoundRecord
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        run = self.conf.run
        quorum = run.quorum or len(record.cohort) // 2 + 1
        exchange = Exchange(
            self.grid, Closing(run.round_timeout, quorum, run.grace, run.reconnect_patience)
        )
        started = time.monotonic()
        replies = self._admitted(exchange, messages, record, "train")
        outcome: tuple[ArrayRecord | None, MetricRecord | None]
        if getattr(self.strategy, "streaming", False):
            outcome = self.strategy.aggregate_train(record.round, replies)
            for _ in replies:  # a strategy that stopped early must not leave the round half heard
                pass
        else:
            outcome = self.strategy.aggregate_train(record.round, self._in_order(replies))
        record.seconds_waiting = (
            time.monotonic() - started - max(record.seconds_training.values(), default=0.0)
        )
        self._late(exchange, record)
        record.replied.sort()
        if exchange.admitted < quorum:
            raise RoundError(
                "MDW-401",
                f"Round {record.round} has {exchange.admitted} of the {quorum} updates it needs"
                f" ({_reasons(record.failed)}).",
                f"Mend the silos, then go on with run.resume={self.known_as}; a new run may set a lower run.quorum.",
            )
        return outcome

    def _evaluate(self, messages: Iterable[Message], record: RoundRecord) -> MetricRecord | None:
        exchange = Exchange(self.grid, Closing(self.conf.run.round_timeout))
        replies = self._in_order(self._admitted(exchange, messages, record, "evaluate"))
        self._late(exchange, record)
        return self.strategy.aggregate_evaluate(record.round, replies) if replies else None

    def _admitted(
        self, exchange: Exchange, messages: Iterable[Message], record: RoundRecord, phase: str
    ) -> Iterator[Message]:
        """Yield the replies that may count, each noted in the record; the others are noted with their reason."""
        sent = list(messages)
        for message in sent:
            if phase == "train":
                record.bytes_down[self.silos[message.metadata.dst_node_id]] = protocol.size(
                    message.content
                )
        for node, reply in exchange.run(sent):
            silo = self.silos[node]
            verdict = self._judge(reply, silo, record.round, phase)
            if phase == "train":
                self.ledger.update(record.round, silo, verdict, _update_digest(reply))
            if isinstance(verdict, Refused):
                log.warning("round %d, %s: %s %s", record.round, silo, verdict.code, verdict.reason)
                record.failed[silo] = verdict.reason
                continue
            metrics = _metrics(reply)
            if phase == "train":
                exchange.admitted += 1
                record.replied.append(silo)
                record.train[silo] = metrics | (
                    {} if verdict.norm is None else {"update-norm": verdict.norm}
                )
                record.seconds_training[silo] = metrics.get(protocol.SECONDS, 0.0)
                record.bytes_up[silo] = protocol.size(reply.content)
            elif verdict.examples:
                record.metrics[silo] = metrics
            self.observer.reply(record.round, phase, silo, metrics)
            if phase == "train" or verdict.examples:
                yield reply

    def _judge(self, reply: Message, silo: str, round: int, phase: str) -> Admitted | Refused:
        if reply.has_error():
            return Refused("MDW-304", plain_reason(reply.error.reason))
        return self.admission.check(reply.content, silo=silo, round=round, phase=phase)

    def _in_order(self, replies: Iterable[Message]) -> list[Message]:
        """Return replies in the order of their silos' names: arrival must not change the model."""
        return sorted(replies, key=lambda reply: self.silos[reply.metadata.src_node_id])

    def _late(self, exchange: Exchange, record: RoundRecord) -> None:
        for message_id in exchange.late:
            silo = self.silos[exchange.waiting[message_id].metadata.dst_node_id]
            record.failed.setdefault(silo, "no reply before the round closed")

    def _config(self, state: RunState) -> ConfigRecord:
        """Return what a round's messages say beside the model: the same when the round is asked again."""
        text = run_config.pack(self.conf)
        return ConfigRecord(
            {
                protocol.PROTOCOL_KEY: protocol.PROTOCOL,
                protocol.RUN_ID: self.run_id,
                protocol.RUN_CONFIG: text,
                protocol.RUN_DIGEST: run_config.digest(text),
                protocol.LEDGER: state.anchor,
            }
        )


def _reasons(failed: dict[str, str]) -> str:
    """Return the silos' reasons, each said once."""
    silos: dict[str, list[str]] = {}
    for silo, why in sorted(failed.items()):
        silos.setdefault(why.replace(silo, "the silo"), []).append(silo)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in silos.items()) or "none failed"


def _update_digest(reply: Message) -> str:
    """Return the digest of an update's arrays; empty where there is none, or none that can be read."""
    try:
        return arrays_digest(protocol.records(reply.content, ArrayRecord)[protocol.ARRAYS])
    except (ValueError, LookupError):
        return ""


def _metrics(reply: Message) -> Metrics:
    record = protocol.records(reply.content, MetricRecord).get(protocol.METRICS, MetricRecord())
    return {name: float(value) for name, value in record.items() if isinstance(value, int | float)}


def _means(record: MetricRecord | None) -> Metrics:
    """Return a strategy's aggregate, without what has no meaning as a mean over silos."""
    no_mean = (protocol.SECONDS, protocol.SAMPLES_PER_SECOND, protocol.NUM_EXAMPLES)
    values = (record or {}).items()
    return {
        name: float(v) for name, v in values if isinstance(v, int | float) and name not in no_mean
    }


def _seed_strategy(seed: int, round: int) -> None:
    """Seed the global generators that some of Flower's strategies draw from."""
    drawn = seed_for(seed, "server", round, "strategy")
    random.seed(drawn)
    np.random.seed(drawn % 2**32)
