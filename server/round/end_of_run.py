"""The end of a run: the model that it keeps, evaluated once on every silo's test split.

The test chooses nothing: no round looks at it, and neither does early stopping or `run.keep`. Its
messages are the run's own, not the strategy's, so that a strategy that samples silos for evaluation
leaves none out, and no state of it moves. A run that is stopped before has no test; one that is
resumed after its last round has it then, and one that is resumed for more rounds has it again at
its new end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from client import sums
from client.tasks.base import Task
from server.round.counted import say_what_counted
from server.round.exchange import Closing
from server.round.judgement import Admitted
from server.round.phase import Phase, evaluated, metrics_of_union
from server.run.result import FinalTest, Metrics
from strategies.wire import protocol

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
) -> FinalTest:
    """Evaluate a model on the test splits of all silos of a phase; who does not answer is named.

    `config` is what each message says beside the model (`test_config`), and `counted` the round of
    each silo's state (`server.round.counted`).
    """
    started = time.monotonic()
    names = sorted(phase.silos.values())
    phase.admission.open(phase.round, arrays, names)
    test = FinalTest(phase.round, names)
    union = sums.Union()
    without: list[frozenset[str]] = []
    messages = _messages(arrays, config, sorted(phase.silos))
    say_what_counted(messages, phase.silos, counted)
    for silo, reply, verdict in phase.judged(messages, closes, test):
        if not isinstance(verdict, Admitted):
            continue
        said = evaluated(task, reply, verdict)
        heard(silo, said.metrics)
        if said.withheld:
            test.partial.append(silo)
        if said.sums is not None:
            union.add(silo, said.sums)
            without.append(said.without)
            test.metrics[silo] = said.metrics
    test.partial.sort()
    test.metrics = dict(sorted(test.metrics.items()))
    test.aggregate = metrics_of_union(task, union, without)
    test.seconds = time.monotonic() - started
    return test


def test_config(config: ConfigRecord, round: int) -> ConfigRecord:
    """Return the config record of a test's messages: that of a round's, of the round of the model,
    with the split.
    """
    config[protocol.ROUND] = round
    config[protocol.SPLIT] = protocol.TEST
    return config


def _messages(arrays: ArrayRecord, config: ConfigRecord, nodes: list[int]) -> list[Message]:
    content = RecordDict({protocol.ARRAYS: arrays, protocol.CONFIG: config})
    return [Message(content, node, MessageType.EVALUATE) for node in nodes]
