"""The updates of one round as record, ledger and observers hear of them: admitted, and some refused
after all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flwr.app import ConfigRecord, Message, MetricRecord

from conf.errors import MeadowError
from server.round.admission import software_of
from server.round.influence import Influence
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.phase import metrics_in
from server.round.reply_numbers import OF_PRIVACY
from server.round.sent_model import Largest
from server.round.silo_noise import SiloNoise
from server.run.movement import NORM
from server.run.result import RoundRecord
from server.session import Session
from strategies.wire import protocol

log = logging.getLogger(__name__)


@dataclass
class Updates:
    """Notes what becomes of each update of a round."""

    session: Session
    record: RoundRecord
    noise: SiloNoise | None = None
    """Under silo-level privacy: what a silo says for the noised count alone goes to it."""
    influence: Influence = field(default_factory=Influence)
    _digests: dict[str, str] = field(default_factory=dict)

    def note(self, silo: str, verdict: Verdict) -> None:
        """Note what admission said of a reply."""
        self._digests[silo] = verdict.digest
        if isinstance(verdict, Admitted) and not self._shows_norms:
            verdict = replace(verdict, norm=None)
        self.session.ledger.update(self.record.round, silo, verdict, verdict.digest)

    @property
    def _shows_norms(self) -> bool:
        """Whether anybody may know how long each silo's change is, and where it points: not of one
        that has no noise in it yet.
        """
        return self.noise is None or not self.noise.asked.guarantees

    def largest(self, silo: str) -> Largest:
        """Return how large admission found an admitted update to be."""
        return self.influence.admitted(silo).largest

    def refuse(self, silo: str, why: MeadowError) -> None:
        """Take an admitted update out of the round again."""
        record = self.record
        reason = f"{silo}, round {record.round}, train: {why.message}"
        log.warning("round %d, %s: %s %s", record.round, silo, why.code, reason)
        record.replied.remove(silo)
        record.train.pop(silo, None)
        record.failed[silo] = reason
        record.codes[silo] = why.code
        self.influence.remove(silo)
        if self.noise is not None:
            self.noise.refuse(silo)
        # A second line about the same update: what counts is in the line of the round.
        refused = Rejected(why.code, reason)
        self.session.ledger.update(record.round, silo, refused, self._digests[silo])

    def close(self, shares: Mapping[str, float] | None = None) -> None:
        """Say of each update that counts what it is of the round: by its weight, or by what the
        strategy's rule made of it.
        """
        self.record.replied.sort()
        if not self._shows_norms:
            return
        for silo, metrics in self.influence.metrics(shares).items():
            self.record.train[silo] |= metrics

    def note_admitted(self, silo: str, reply: Message, verdict: Admitted) -> None:
        """Note what an update says beside its arrays, and take out of it what is said to us alone."""
        record = self.record
        metrics = metrics_in(reply)
        if self.noise is not None:
            self.noise.take(silo, metrics)
        record.replied.append(silo)
        record.train[silo] = dict(metrics)
        if verdict.norm is not None and self._shows_norms:
            record.train[silo][NORM] = verdict.norm
        self.influence.add(silo, verdict)
        self._note_software(silo, reply)
        self._keep_reminder(silo, reply)
        record.seconds_training[silo] = metrics.get(protocol.SECONDS, 0.0)
        record.bytes_up[silo] = verdict.size
        self.session.observer.reply(record.round, "train", silo, metrics)
        _leave_what_has_a_mean(reply)

    def _note_software(self, silo: str, reply: Message) -> None:
        """Note what a silo says that it runs, at first and where it has changed."""
        said = software_of(reply.content)
        if said is None:
            return
        # The strategy gets what Flower's own silos send.
        del reply.content[protocol.SOFTWARE]
        facts = said.to_json()
        known = self.session.result.software
        if known.get(silo) == facts:
            return
        self._say_what_changed(silo, known.get(silo, {}).get("data"), facts.get("data"))
        known[silo] = facts
        self.record.software[silo] = facts
        self.session.ledger.software(self.record.round, silo, facts)

    def _keep_reminder(self, silo: str, reply: Message) -> None:
        """Keep what a silo's account is now, for the silo to be shown."""
        account = protocol.records(reply.content, ConfigRecord).get(protocol.ACCOUNT)
        if account is None:
            return
        del reply.content[protocol.ACCOUNT]
        self.session.reminders.keep(silo, str(account.get(protocol.REMINDER, "")))

    def _say_what_changed(self, silo: str, before: str | None, now: str | None) -> None:
        """Tell that a silo's data is another than in its round before; what of it, nobody says."""
        # The first part names the silo's key: with another one nothing can be compared.
        if before and now and before != now and before.partition("-")[0] == now.partition("-")[0]:
            what = "round %d, %s: its data has changed since the round in which it answered before"
            log.warning(what, self.record.round, silo)


def _leave_what_has_a_mean(reply: Message) -> None:
    """Take out of an update's numbers what a strategy makes nothing of.

    Flower's strategies give up on a whole round whose replies do not have the same numbers, and a
    silo may leave these out.
    """
    numbers = protocol.records(reply.content, MetricRecord)[protocol.METRICS]
    for name in (*protocol.OF_THE_MACHINE, *OF_PRIVACY, protocol.ROUND):
        numbers.pop(name, None)
