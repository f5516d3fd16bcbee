"""One phase of a round, or of the end of a run: messages out, judged answers in, each with its silo's
name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from client import sums
from client.privacy.noised_sums import NoisedSums
from client.tasks.base import Task
from conf.errors import Interrupted
from server.round.admission import Admission
from server.round.exchange import Closing, Step, without_error
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.silo_grid import SiloGrid
from server.run.result import FinalTest, Metrics, RoundRecord
from strategies.wire import protocol

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """How the messages of one phase become answers; `silos` holds the names by node id."""

    name: str
    round: int
    grid: Grid
    step: Step
    admission: Admission
    silos: dict[int, str]

    def judged(
        self, messages: list[Message], closes: Closing, noted: RoundRecord | FinalTest
    ) -> Iterator[tuple[str, Message, Verdict]]:
        """Send the messages and yield (silo, reply, verdict) of each; why one is rejected is noted,
        with its code.
        """

        def judge(node: int, reply: Message) -> Verdict:
            if reply.has_error():
                return without_error(node, reply)
            known = self.grid.measured(reply) if isinstance(self.grid, SiloGrid) else None
            return self.admission.check(
                reply.content,
                silo=self.silos[node],
                round=self.round,
                phase=self.name,
                known=known,
            )

        for node, reply, verdict in self.step(self.grid, messages, closes, judge):
            silo = self.silos[node]
            if isinstance(verdict, Rejected):
                log.warning("round %d, %s: %s %s", self.round, silo, verdict.code, verdict.reason)
                # The first reason stays: what fails after it most often fails because of it.
                noted.failed.setdefault(silo, verdict.reason)
                noted.codes.setdefault(silo, verdict.code)
            yield silo, reply, verdict
            del reply


@dataclass(frozen=True)
class Evaluated:
    """What an admitted evaluation says: metrics made here of its sums, which are None where the silo
    has no examples in that split.
    """

    metrics: Metrics
    sums: sums.Sums | None
    withheld: bool = False
    """Whether the silo's owner keeps something back, so that the union's metrics lack it."""
    without: frozenset[str] = frozenset()
    """The metrics that the owner does not let out."""
    noise: float = 0.0
    """The noise multiplier of the sums; 0 where they have none."""
    spent: Metrics = field(default_factory=dict)
    """What the run has cost each of the silo's examples so far, where the answer had noise."""
    account: str = ""
    """A reminder of the silo's account then."""


def evaluated(
    task: Task, reply: Message, verdict: Admitted, noised: NoisedSums | None = None
) -> Evaluated:
    """Return what a silo's evaluation says, and leave in the reply what is for a strategy.

    The metrics are made here of the sums: what the silo itself calls its loss is not looked at. With
    `noised` the sums have noise, in that form.
    """
    if noised is not None:
        return _noised(noised, reply, verdict)
    cost = {
        name: value
        for name, value in metrics_in(reply).items()
        if name in (protocol.NUM_EXAMPLES, protocol.SECONDS, protocol.SAMPLES_PER_SECOND)
    }
    if not verdict.examples:
        # It has answered, but its metrics are those of nothing.
        return Evaluated(cost, None, verdict.withheld)
    of_silo = protocol.to_state(protocol.records(reply.content, ArrayRecord)[protocol.SUMS])
    made = sums.metrics_of(task, of_silo)
    made |= {name: math.nan for name in verdict.without if name in made}
    # A strategy of Flower's gets replies in Flower's own form, all of the same names.
    del reply.content[protocol.SUMS]
    reply.content[protocol.METRICS] = MetricRecord(
        {protocol.NUM_EXAMPLES: verdict.examples, **made}
    )
    return Evaluated(cost | made, of_silo, verdict.withheld, verdict.without)


def _noised(form: NoisedSums, reply: Message, verdict: Admitted) -> Evaluated:
    """Return what an evaluation says whose sums have noise."""
    if not verdict.examples:
        return Evaluated({}, None, verdict.withheld)
    said = metrics_in(reply)
    noise = said[protocol.NOISE]
    values = protocol.to_state(protocol.records(reply.content, ArrayRecord)[protocol.SUMS])
    made = form.metrics(values, noise)
    account = protocol.records(reply.content, ConfigRecord).get(protocol.ACCOUNT)
    reminder = "" if account is None else str(account.get(protocol.REMINDER, ""))
    for record in (protocol.SUMS, protocol.ACCOUNT):
        if record in reply.content:
            del reply.content[record]
    reply.content[protocol.METRICS] = MetricRecord(
        {protocol.NUM_EXAMPLES: verdict.examples, **made}
    )
    spent = {
        name: said[key]
        for name, key in (("epsilon", protocol.EPSILON), ("epsilon_renyi", protocol.RENYI_EPSILON))
        if key in said
    }
    return Evaluated(made, values, verdict.withheld, noise=noise, spent=spent, account=reminder)


def metrics_of_union(
    task: Task, union: sums.Union, without: Sequence[Collection[str]] = ()
) -> Metrics:
    """Return the metrics of all silos' sums together; the loss alone where the task's `metrics`
    raises for them.

    `without` are the metrics that each of these silos withholds: what none lets out is undefined.

    Each silo's own were taken at admission, so no one of them is to be named.
    """
    total = union.total()
    nobody = frozenset.intersection(*map(frozenset, without)) if without else frozenset()

    def made() -> Metrics:
        metrics = sums.metrics_of(task, total)
        return metrics | {name: math.nan for name in nobody if name in metrics}

    return only_loss(
        task, made, lambda: {sums.LOSS: float(total[sums.LOSS]) / int(total[sums.SIZE])}
    )


def only_loss(task: Task, made: Callable[[], Metrics], otherwise: Callable[[], Metrics]) -> Metrics:
    """Return the metrics of a union; what there is `otherwise` where the task's own code raises."""
    try:
        return made()
    except Interrupted:
        raise
    except Exception as error:
        log.exception(
            "MDW-628: the metrics of the task %s raise %s for the sums of all silos together;"
            " only the loss is known",
            task.name,
            type(error).__name__,
        )
        return otherwise()


def metrics_in(reply: Message) -> Metrics:
    """Return the numbers that a silo reports."""
    record = protocol.records(reply.content, MetricRecord).get(protocol.METRICS, MetricRecord())
    return {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
