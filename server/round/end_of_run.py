"""The end of a run: the model that it keeps, evaluated once on every silo's test split.

The test chooses nothing: no round looks at it, and neither does early stopping or `run.keep`. Its
messages are the run's own, not the strategy's, so that a strategy that samples silos for evaluation
leaves none out, and no state of it moves. A run that is stopped before has no test; one that is
resumed after its last round has it then, and one that is resumed for more rounds has it again at
its new end.

Before it, where the task ranks classes, the validation examples of all silos choose from which score
on the model says yes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from client import sums
from client.tasks.base import Task
from conf.errors import Interrupted
from conf.schema import OperatingConf
from server.round.counted import nothing, say_what_counted
from server.round.evaluations import Gathered
from server.round.exchange import Closing
from server.round.judgement import Admitted
from server.round.phase import Phase, evaluated
from server.run.result import FinalTest, Metrics
from server.scoring.details import Details, chosen_of, details_of
from server.store.account_reminders import AccountReminders
from strategies.wire import protocol

log = logging.getLogger(__name__)

Heard = Callable[[str, Metrics], None]
"""Told of each silo's own metrics as they arrive."""


def final_test(
    task: Task,
    arrays: ArrayRecord,
    config: ConfigRecord,
    phase: Phase,
    closes: Closing,
    heard: Heard,
    counted: Mapping[str, int],
    chosen: Details | None = None,
    reminders: AccountReminders | None = None,
) -> FinalTest:
    """Evaluate a model on the test splits of all silos of a phase; who does not answer is named.

    `config` is what each message says beside the model (`config_of`), `counted` the round of each
    silo's state (`server.round.counted`), and `chosen` what the validation examples chose. `reminders`
    are those of the silos' accounts, where the test costs them something.
    """
    started = time.monotonic()
    names = sorted(phase.silos.values())
    phase.admission.open(phase.round, arrays, names)
    test = FinalTest(phase.round, names)
    noised = phase.admission.noised
    gathered = Gathered(task, noised)
    messages = _messages(arrays, config, sorted(phase.silos))
    reminder = nothing if noised is None or reminders is None else reminders.of
    say_what_counted(messages, phase.silos, counted, reminder)
    for silo, reply, verdict in phase.judged(messages, closes, test):
        if not isinstance(verdict, Admitted):
            continue
        said = evaluated(task, reply, verdict, noised)
        heard(silo, said.metrics)
        gathered.add(silo, said)
        if said.spent:
            test.privacy[silo] = said.spent
        if said.account and reminders is not None:
            reminders.keep(silo, said.account)
        if said.withheld:
            test.partial.append(silo)
        if said.sums is not None:
            test.metrics[silo] = said.metrics
    test.partial.sort()
    test.metrics = dict(sorted(test.metrics.items()))
    test.privacy = dict(sorted(test.privacy.items()))
    test.aggregate = gathered.metrics()
    test.chosen = chosen or {}
    if noised is None:
        test.details = _known(task, lambda: details_of(task, gathered.union.total(), test.chosen))
    test.seconds = time.monotonic() - started
    return test


def choose(
    task: Task,
    arrays: ArrayRecord,
    config: ConfigRecord,
    phase: Phase,
    closes: Closing,
    counted: Mapping[str, int],
    conf: OperatingConf,
) -> Details:
    """Return what the validation examples of all silos choose for a finished model: from which score
    on it says yes. Empty where the task ranks nothing, and nobody is asked.

    A silo that does not answer has no part in it, and fails nothing.
    """
    if not ranks(task) or phase.admission.noised is not None:
        # Scores do not leave with noise.
        return {}
    phase.admission.open(phase.round, arrays, sorted(phase.silos.values()))
    union = sums.Union()
    messages = _messages(arrays, config, sorted(phase.silos))
    say_what_counted(messages, phase.silos, counted)
    heard = []
    for silo, reply, verdict in phase.judged(messages, closes, FinalTest(phase.round, [])):
        if isinstance(verdict, Admitted):
            said = evaluated(task, reply, verdict)
            if said.sums is not None:
                union.add(silo, said.sums)
                heard.append(silo)
    found = _known(task, lambda: chosen_of(task, union.total(), conf))
    return found | {"silos": sorted(heard)} if found else {}


def central_details(task: Task, total: sums.Sums, chosen: Details) -> Details:
    """Return what the sums of a task's own test set tell beside metrics, where no silo has a test."""
    found = _known(task, lambda: details_of(task, total, chosen))
    return found | {"central": True} if found else {}


def ranks(task: Task) -> bool:
    """Whether a task ranks classes, so that there is something to choose."""
    nothing = {
        name: torch.zeros(spec.shape, dtype=torch.float64 if spec.real else torch.int64)
        for name, spec in task.sum_specs().items()
    }
    return bool(_known(task, lambda: dict(task.scores_of(nothing))))


def config_of(config: ConfigRecord, round: int, split: str) -> ConfigRecord:
    """Return the config record of the messages after the last round: that of a round's, of the round
    of the model, with the split.
    """
    config[protocol.ROUND] = round
    config[protocol.SPLIT] = split
    return config


def _known(task: Task, made: Callable[[], Details]) -> Details:
    """Return what is made of sums beside metrics; nothing where a task's own code raises."""
    try:
        return made()
    except Interrupted:
        raise
    except Exception:
        log.exception(
            "what the scores of the task %s tell beside its metrics is left out", task.name
        )
        return {}


def _messages(arrays: ArrayRecord, config: ConfigRecord, nodes: list[int]) -> list[Message]:
    content = RecordDict({protocol.ARRAYS: arrays, protocol.CONFIG: config})
    return [Message(content, node, MessageType.EVALUATE) for node in nodes]
