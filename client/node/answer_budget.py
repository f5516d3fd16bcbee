"""How many answers a silo gives: each tells something of its examples, so its owner may count them.

An answer is one training, one evaluation, or the statistics before a run's first round; a round is
two, the test at a run's end another one, and so are the choice of an operating point before it and
a model that is trained alone for comparison after it. Whether a silo is ready for a run tells whether
its examples keep a contract that the server has written: under a policy of version 1, which allows
any contract, that is one answer more; one of version 2 names the contracts, and it costs none.
What is counted lies in the silo's own storage and is written before an answer is made: a process that
dies over one has spent it, and no restart gives any back. An instruction that is asked again, to the
byte, is the same answer.

    MDW-352 the answers are used up     MDW-357 there is no place to count them in
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from flwr.app import ConfigRecord, Message

from client.node.state_store import SiloStateStore
from client.policy import check_run
from conf.allowed import ALLOW_LIST
from conf.errors import MeadowError, SiloError
from conf.schema import PolicyConf, Silo
from conf.versions import Format
from strategies.wire import protocol, run_config

FORMAT: Final = Format(
    "count of answers", 1, damaged="MDW-519", fix="Restore it, or delete it to begin at 0."
)
COUNTED: Final = ("train", "evaluate", protocol.STATISTICS, protocol.ALONE)
"""Kinds of instructions whose answers tell of the examples; under a policy that does not say which
contracts may be asked about, `query.ready` is another.
"""
REMEMBERED: Final = 16
"""Instructions of which a copy costs nothing: a server asks for a few at once."""


class AnswerBudget:
    """Counts one silo's answers in its storage."""

    def __init__(
        self,
        states: SiloStateStore,
        policy: PolicyConf,
        silo: str,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        """`today` is this machine's own, in UTC: no other party has a say in it."""
        assert policy.answers_at_most is not None
        self._states = states
        self._most = policy.answers_at_most
        named = policy.version == ALLOW_LIST
        self._counted = COUNTED if named else (*COUNTED, protocol.READINESS)
        self._days = policy.answers_days
        self._silo = silo
        self._today = today

    def charge(self, message: Message, instruction: str) -> None:
        """Count the answer to an instruction, whose id is the digest of all that is in it.

        Raises SiloError MDW-352 where no answer is left, CheckpointError where it can't be counted:
        what is not counted is not answered.
        """
        kind = message.metadata.message_type
        # `train.NAME` is a training; of questions only those that are listed tell of the examples.
        if kind not in self._counted and kind.split(".")[0] not in self._counted:
            return
        known = self._read()
        last: list[str] = known["last"]
        if instruction in last:
            return
        today = self._today()
        counted: dict[str, int] = known["days"]
        spent = self._spent(counted, today)
        if spent >= self._most:
            raise self._used_up(spent)
        counted[today.isoformat()] = counted.get(today.isoformat(), 0) + 1
        record = {"days": counted, "last": [*last, instruction][-REMEMBERED:]}
        self._states.write_note(_NAME, json.dumps(FORMAT.stamp | record).encode())

    def _read(self) -> dict[str, Any]:
        data = self._states.read_note(_NAME)
        if data is None:
            return {"days": {}, "last": []}
        where = f"the count of answers of {self._silo}"
        raw = FORMAT.loads(data, where)
        with FORMAT.reading(where):
            days = {date.fromisoformat(day).isoformat(): int(n) for day, n in raw["days"].items()}
            if min(days.values(), default=0) < 0:
                raise ValueError("a count below 0")
            return {"days": days, "last": [str(one) for one in raw["last"]]}

    def _spent(self, counted: dict[str, int], today: date) -> int:
        if self._days is None:
            return sum(counted.values())
        # A day after today counts: a clock that is set back gives nothing back.
        first = (today - timedelta(days=self._days - 1)).isoformat()
        return sum(count for day, count in counted.items() if day >= first)

    def _used_up(self, spent: int) -> SiloError:
        span = "" if self._days is None else f" in {self._days} days"
        return SiloError(
            "MDW-352",
            f"{self._silo} has given {spent} of the {self._most} answers{span} that its owner allows.",
            "Its owner may raise policy.answers_at_most; a round is two answers, and a run has more.",
            {"given": spent, "allowed": self._most},
        )


_NAME: Final = "answers.json"


def is_refused(message: Message, silo: Silo) -> bool:
    """Return whether a silo's owner does not allow the run of an instruction, which the app then
    refuses before it looks at any example. One that can't be read counts as allowed.
    """
    config = protocol.records(message.content, ConfigRecord).get(protocol.CONFIG, ConfigRecord())
    round = config.get(protocol.ROUND)
    try:
        scope = run_config.unpacked(str(config.get(protocol.RUN_CONFIG, "")))
        check_run(scope, silo, round if isinstance(round, int) else 1)
    except SiloError:
        return True
    except MeadowError:
        return False
    return False


def budget_of(policy: PolicyConf, states: SiloStateStore | None, silo: str) -> AnswerBudget | None:
    """Return the budget that a policy sets, None where it sets none.

    Raises SiloError MDW-357 where there is no storage to count in.
    """
    if policy.answers_at_most is None:
        return None
    if states is None:
        what = f"policy.answers_at_most of {silo} needs a place that outlives its process."
        raise SiloError("MDW-357", what, "Start it with --state or --state-store.")
    return AnswerBudget(states, policy, silo)
