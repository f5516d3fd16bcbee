"""The evaluation of one round's model: the metrics of all silos' validation examples together.

It is as patient as training: silos that were lost are asked again until the quorum has answered.

    MDW-411 a round that can't be judged
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp.strategy import Strategy

from client.tasks.base import Task
from conf.errors import MeadowError, RoundError
from server.round.choice import Choice
from server.round.error_text import reasons_of
from server.round.evaluations import Gathered
from server.round.judgement import Admitted
from server.round.means import means
from server.round.patience import closing_of
from server.round.phase import Phase, evaluated
from server.round.replies import in_order
from server.run.privacy_spent import note_evaluation
from server.run.result import Metrics, RoundRecord
from server.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatePhase:
    """How one round's evaluations become metrics; `choice` says whether they decide anything."""

    session: Session
    strategy: Strategy
    phase: Phase
    task: Task
    choice: Choice | None

    def run(self, record: RoundRecord, messages: list[Message]) -> Metrics:
        """Return the metrics of the union of the silos' validation examples; empty without any.

        Made of the silos' sums by the task's own function, not as means of the silos' metrics. What
        the strategy itself makes of the replies is added under names that the task does not use.
        Raises RoundError MDW-411 where fewer than the quorum answered and the metrics decide when
        the run ends, or with which model.
        """
        replies: list[tuple[str, Message]] = []
        noised = self.phase.admission.noised
        gathered = Gathered(self.task, noised)
        closes = closing_of(self.session.conf.run, len(record.cohort), len(messages))
        for silo, reply, verdict in self.phase.judged(messages, closes, record):
            if not isinstance(verdict, Admitted):
                record.unevaluated.append(silo)
                continue
            record.evaluated.append(silo)
            said = evaluated(self.task, reply, verdict, noised)
            if said.withheld:
                record.partial.append(silo)
            gathered.add(silo, said)
            note_evaluation(record, silo, said.spent)
            if said.account:
                self.session.reminders.keep(silo, said.account)
            if said.sums is not None:
                record.metrics[silo] = said.metrics
                replies.append((silo, reply))
            self.session.observer.reply(record.round, "evaluate", silo, said.metrics)
        for names in (record.partial, record.evaluated, record.unevaluated):
            names.sort()
        if len(record.evaluated) < closes.quorum:
            self._told(record, closes.quorum)
        if not replies:
            return {}
        return self._others(record.round, replies) | gathered.metrics()

    def _others(self, number: int, replies: list[tuple[str, Message]]) -> Metrics:
        """Return what the strategy makes of the evaluations; nothing where it raises.

        It raises for values that the silos' sums gave: that costs a line of the record, not the run.
        """
        try:
            return means(self.strategy.aggregate_evaluate(number, in_order(replies)))
        except MeadowError:
            raise
        except Exception:
            name = type(self.strategy).__name__
            log.exception("round %d: %s.aggregate_evaluate raised and is left out", number, name)
            return {}

    def _told(self, record: RoundRecord, quorum: int) -> None:
        """Say that fewer than the quorum have evaluated; raises RoundError where that decides."""
        why = {silo: record.failed[silo] for silo in record.unevaluated}
        what = (
            f"Round {record.round} was evaluated by {len(record.evaluated)} of the {quorum} silos"
            f" it needs ({reasons_of(why)})"
        )
        if self.choice is None or not self.choice.is_evaluated:
            log.warning("%s", what)
            return
        resume = f"run.resume={self.session.folder.known_as}"
        raise RoundError(
            "MDW-411",
            f"{what}, and {self.choice.metric} decides when the run ends or which model it keeps.",
            f"Fix the silos, then resume with {resume}; the silos that trained this round answer"
            " with the update that they kept.",
        )
