"""What each silo would have had alone, in a run whose data nobody can see: each trains a model of its
own, where it is, and tells the sums of its test.

Asked once, after the test at the end. It fails nothing: a silo that does not answer, or whose owner
does not allow it, is named in the log and is not in the comparison.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from client import alone
from client.tasks.base import Task
from conf.schema import Conf
from server.round.exchange import Closing
from server.round.judgement import Admitted
from server.round.phase import Phase, evaluated
from server.run.result import Baseline, FinalTest, Metrics, Scores
from server.scoring.baseline import fitted_arrays
from server.scoring.evaluation import first_weights
from server.session import Session
from strategies.wire import protocol

log = logging.getLogger(__name__)

PHASE: Final = "alone"
TIMES_THE_RUN: Final = 3.0
"""A silo's own training is waited for this many times as long as all rounds took together."""


def of_run(
    session: Session, task: Task, config: ConfigRecord, phase: Phase, test: FinalTest
) -> Baseline | None:
    """Return the run's model beside each silo's own, each of these on the silo's own test examples;
    None where the run does not ask for it, or no silo tells.

    `config` says how many rounds are trained. Nothing of the run's state changes.
    """
    conf = session.conf
    if session.state.round == 0 or not is_wanted(conf):
        return None
    names = sorted(phase.silos.values())
    session.observer.baselines_started(names)
    started = time.monotonic()
    fitted = fitted_arrays(conf, session.kept.arrays)
    first = _with_first_layer(first_weights(conf), fitted)
    phase.admission.open(phase.round, first, names)
    found = _told(task, first, config, phase, closing_of(conf, session.state.seconds))
    if not found:
        return None
    of_silos = {silo: _of_the_model(metrics) for silo, metrics in test.metrics.items()}
    federated = Scores(test.aggregate, of_silos)
    own = {silo: Scores({}, {silo: metrics}) for silo, metrics in sorted(found.items())}
    return Baseline(federated, own, seconds=time.monotonic() - started)


def is_wanted(conf: Conf) -> bool:
    """Whether a run that was launched trains silos alone for comparison."""
    wanted = conf.run.baseline
    if wanted in ("pooled", "all"):
        log.warning(
            "run.baseline=%s: nobody can pool the data of silos that keep theirs; there is no"
            " pooled model beside this run's%s",
            wanted,
            "" if wanted == "pooled" else ", only each silo's own",
        )
    # A private run tells no metric of a silo that was not made with its guarantee.
    return wanted in alone.WANTED and not conf.privacy.is_private


def closing_of(conf: Conf, seconds: float) -> Closing:
    """Return when silos that train alone are waited for no longer, after a run of so many seconds."""
    return Closing(conf.run.round_timeout + TIMES_THE_RUN * seconds)


def _told(
    task: Task, first: ArrayRecord, config: ConfigRecord, phase: Phase, closes: Closing
) -> dict[str, Metrics]:
    """Return what the silos tell of models of their own, by name."""
    content = RecordDict({protocol.ARRAYS: first, protocol.CONFIG: config})
    messages = [Message(content, node, protocol.ALONE) for node in sorted(phase.silos)]
    noted = FinalTest(phase.round, sorted(phase.silos.values()))
    found = {}
    for silo, reply, verdict in phase.judged(messages, closes, noted):
        if not isinstance(verdict, Admitted):
            continue
        said = evaluated(task, reply, verdict)
        if said.sums is not None:
            found[silo] = _of_the_model(said.metrics)
    return found


def _of_the_model(metrics: Metrics) -> Metrics:
    """Return metrics without what an evaluation says of the machine and of how much there was."""
    costs = (protocol.NUM_EXAMPLES, *protocol.OF_THE_MACHINE)
    return {name: value for name, value in metrics.items() if name not in costs}


def _with_first_layer(first: ArrayRecord, fitted: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return first weights with a first layer that was fitted to all silos' data."""
    record = ArrayRecord(dict(first.items()))
    for name, values in fitted.items():
        record[name] = Array(values)
    return record
