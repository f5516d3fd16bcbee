"""The round loop: cohort -> train -> aggregate -> evaluate -> close, until the last round.

It calls the four methods of any Flower `Strategy` and replaces only `Strategy.start`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from client import smoke_answer
from client.model_parts import model_parts
from client.tasks import task_of
from client.tasks.base import Task
from conf.errors import RoundError
from conf.seeds import seed_for
from server.round import silos_alone, smoke_table
from server.round.admission import Admission
from server.round.choice import CENTRAL, Choice, choice_of
from server.round.cohort import CohortGrid, select
from server.round.counted import nothing, say_what_counted
from server.round.downlink import Downlink
from server.round.early_stop import EarlyStop
from server.round.end_of_run import central_details, choose, config_of, final_test
from server.round.evaluate_phase import EvaluatePhase
from server.round.exchange import Step, exchange
from server.round.gate import admission_of
from server.round.influence import median_norm, warn_of_owner
from server.round.mapped_replies import HELD
from server.round.means import means
from server.round.patience import closing_of
from server.round.phase import Phase
from server.round.readiness import ask_silos
from server.round.receipt_check import Farewell, Receipts
from server.round.roster import silo_names
from server.round.scored import Score, Scored
from server.round.silo_grid import SiloGrid
from server.round.silo_noise import SiloNoise, silo_noise_of
from server.round.statistics import fitted
from server.round.train_phase import TrainPhase
from server.run.checkpoint import Kept
from server.run.movement import owner_of
from server.run.privacy_spent import spent_in, told_by_silos, told_of
from server.run.result import TEST_PHASE, Baseline, FinalTest, Metrics, RoundRecord
from server.session import Session
from strategies.algorithm import Algorithm
from strategies.cohort_rule import CohortRule
from strategies.spill import clear
from strategies.state import restore, state_of
from strategies.wire import protocol, run_config
from strategies.wire.digests import arrays_digest

log = logging.getLogger(__name__)


@dataclass
class Rounds:
    """The rounds of one session over a grid, by one strategy.

    `score` evaluates a model on a central test set, if there is one: at the end, or each round too
    (`run.test`). `step` is how the messages of
    a phase become judged answers.
    """

    session: Session
    grid: Grid
    strategy: Strategy
    score: Score | None = None
    step: Step = exchange
    clock: Callable[[], float] = time.monotonic
    task: Task = field(init=False)
    admission: Admission = field(init=False)
    choice: Choice | None = field(init=False)
    receipts: Receipts = field(init=False)
    noise: SiloNoise | None = field(default=None, init=False)
    """Of silo-level privacy; None of any other run."""
    silos: dict[int, str] = field(default_factory=dict, init=False)
    """The silos' names by node id, of the round in progress."""
    _new: RecordDict = field(default_factory=RecordDict, init=False)
    """The state of a strategy that has seen no round."""
    _owner: str | None = field(default=None, init=False)
    """The silo that was said to own the model, which is said once."""
    _down: Downlink | None = field(default=None, init=False)
    _run: str = field(default="", init=False)
    """The run's configuration as it travels, the same in all rounds."""

    def __post_init__(self) -> None:
        self.task = task_of(self.session.conf.task)
        self.admission = admission_of(self.session.conf, self.task, self.strategy)
        self.choice = choice_of(self.session.conf.run, self.task)
        self._run = run_config.pack(self.session.conf)
        self.receipts = Receipts(
            self.session.ledger,
            self.session.folder.run_id,
            run_config.digest(self._run),
            self.session.admission_of,
        )

    def run(self) -> bool:
        """Continue from the session's state and keep it up to date; return True if stopped early.

        Raises RoundError MDW-401 when a round cannot close with its quorum, MDW-411 when one cannot
        be judged, MDW-402 when too few silos start, MDW-406 where too few are ready, MDW-403 and
        404 for what a strategy may not do; the state then is that of the last closed round.
        """
        conf = self.session.conf
        state = self.session.state
        self.silos = silo_names(self.grid, conf, len(self.session.members), state.round)
        early_stop = EarlyStop(conf.run.early_stop, self.choice, **state.early_stop)
        parts = model_parts(conf.model, conf.task, self.task)
        self._down = Downlink.of(conf.compression, parts.trained, conf.run.seed)
        self.noise = silo_noise_of(
            conf,
            self.strategy,
            len(self.session.members),
            parts.parameters,
            self.session.ledger,
        )
        # What a strategy that is tried again begins with, before there is a checkpoint.
        self._new = state_of(self.strategy)
        restore(self.strategy, state.strategy)
        if isinstance(self.grid, SiloGrid):
            self.grid.measure(self.admission.sketch_seed, self.admission.decoding)
        if isinstance(self.strategy, Algorithm):
            members = len(self.session.members)
            self.strategy.open(members, parts.parameters)
            # Not who is connected now: a round that is tried again, with fewer, has the same bits.
            self.strategy.cohort = min(conf.run.cohort or members, members)
        # What a killed process left there, whichever strategy goes on.
        clear(self.session.folder.path / HELD)
        if isinstance(self.strategy, CohortRule):
            self.strategy.begin(self.session.folder.path / HELD, conf.run.seed)
        if state.round == 0:
            if conf.task.name == smoke_answer.TASK:
                self._try_silos()
            if self.session.result.mode != "simulate":
                ask_silos(self.grid, self.silos, conf.run, self._config())
            state.arrays = fitted(
                conf, self.task, self.grid, self.silos, self._config(), state.arrays
            )
            self.session.checkpoints.save(state)
        while state.round < conf.run.rounds and not early_stop.stopped:
            started = self.clock()
            record, arrays = self._round(state.round + 1)
            record.seconds = self.clock() - started
            # Before the round is closed: a metric that is not there must not count a round that
            # can't be judged.
            early_stop.take(record.aggregate)
            self._close(record, arrays, early_stop)
        return early_stop.stopped

    def _try_silos(self) -> None:
        tried = smoke_table.try_silos(self.session.conf, self.grid, self.silos, self._config())
        smoke_table.keep(tried, self.session.folder)
        self.session.observer.silos_tried(smoke_table.table(tried))

    def farewell(self) -> Farewell | None:
        """Return who tells the silos of the end; None where nobody signs heads."""
        if not self.session.ledger.signs or not isinstance(self.grid, SiloGrid):
            return None
        return Farewell(self.grid, self.receipts)

    def test(self) -> FinalTest:
        """Evaluate the model that the run keeps on all silos' test splits, and on the task's own
        test set, if there is one.

        Noted in the ledger; the caller puts it into the result. Nothing of the run's state changes.
        """
        session = self.session
        kept = session.kept
        if isinstance(self.grid, SiloGrid):
            self.silos = self.grid.names()
        # Whoever is idle does that while the silos do theirs.
        central = Scored(self.score, kept.arrays)
        run = session.conf.run
        closes = closing_of(run, len(self.silos))
        chosen = choose(
            self.task,
            kept.arrays,
            config_of(self._config(), kept.round, protocol.VALIDATION),
            self._phase("evaluate", kept.round),
            closes,
            session.state.counted,
            run.operating,
        )
        test = final_test(
            self.task,
            kept.arrays,
            config_of(self._config(), kept.round, protocol.TEST),
            self._phase(TEST_PHASE, kept.round),
            closes,
            lambda silo, metrics: session.observer.reply(kept.round, TEST_PHASE, silo, metrics),
            session.state.counted,
            chosen,
            session.reminders,
        )
        test.central = central.metrics(kept.round)
        test.unscored = central.why
        if not test.details and central.sums is not None:
            test.details = central_details(self.task, central.sums, chosen)
        session.ledger.model_tested(kept.round, arrays_digest(kept.arrays), test.digest)
        session.observer.model_tested(test)
        return test

    def alone(self, test: FinalTest) -> Baseline | None:
        """Return what each silo would have had alone, where the run asks for it (`run.baseline`).

        The silos train as many rounds as this run had; nothing of its state changes.
        """
        config = self._config()
        config[protocol.ROUND] = self.session.state.round
        phase = self._phase(silos_alone.PHASE, self.session.state.round)
        return silos_alone.of_run(self.session, self.task, config, phase, test)

    def _round(self, number: int) -> tuple[RoundRecord, ArrayRecord]:
        """Go through one round; return what happened and the next model.

        The session's state is only read.
        """
        arrays = self.session.state.arrays

        # 1. The cohort: from here on the strategy sees these nodes and no other.
        _seed_strategy(self.session.conf.run.seed, number)
        nodes = self._cohort(number)
        record = RoundRecord(number, list(nodes))
        config = self._config()
        if self.noise is not None:
            self.noise.begin(number, record.cohort)
            config.update(self.noise.told())
        cohort = CohortGrid(self.grid, list(nodes.values()))
        self._open_admission(record, arrays)
        if self._down is not None and isinstance(self.grid, SiloGrid):
            self.grid.offer(self._down.sent(arrays))
        self.session.observer.round_started(number, record.cohort)

        # 2. Train, and aggregate: a streaming strategy does the second while the first goes on.
        asked = self.strategy.configure_train(number, arrays, config, cohort)
        private = self.session.conf.privacy.is_private
        reminder = self.session.reminders.of if private else nothing
        messages = self._to_cohort(asked, nodes, self.session.state.counted, reminder)
        rewind = partial(self._rewind, number, cohort)
        phase = self._phase("train", number)
        training = TrainPhase(
            self.session, self.strategy, phase, self.receipts, rewind, self.noise, self.clock
        )
        mean, metrics = training.run(record, messages)
        self._warn_of_owner(record)
        if mean is not None:
            arrays = self._as_silos_get_it(number, arrays, mean)
        record.aggregate |= {f"train_{name}": value for name, value in means(metrics).items()}

        # 3. Only where a curve of it was asked for: score the new model on the central test set.
        #    Whoever is idle does that while the silos evaluate.
        each_round = self.session.conf.run.test == "rounds"
        central = Scored(self.score if each_round else None, arrays)

        # 4. Evaluate it at the silos.
        config = self._config()
        config[protocol.SPLIT] = protocol.VALIDATION
        asked = self.strategy.configure_evaluate(number, arrays, config, cohort)
        shown = reminder if self.admission.noised is not None else nothing
        messages = self._to_cohort(asked, nodes, self._counted(record), shown)
        evaluation = EvaluatePhase(
            self.session, self.strategy, self._phase("evaluate", number), self.task, self.choice
        )
        record.aggregate |= evaluation.run(record, messages)

        # A score that fails is a warning in the record: all silos of this round have trained.
        scores = central.metrics(number)
        record.aggregate |= {f"{CENTRAL}{name}": value for name, value in scores.items()}
        record.unscored = central.why
        record.privacy = self._spent(record)
        if isinstance(self.grid, SiloGrid):
            record.twins = sorted(set(self.grid.twins()).intersection(record.cohort))
        return record, arrays

    def _close(self, record: RoundRecord, arrays: ArrayRecord, early_stop: EarlyStop) -> None:
        """Make a round part of the state.

        Until here, whatever breaks it off leaves the one before.
        """
        session = self.session
        # The order of docs/results.md: the round's line, the ledger's lines, the checkpoint, and
        # last the pointer to
        # it, with which the round counts. A crash before that leaves lines that the next start cuts
        # off, or keeps as
        # what was tried; nothing that counts ever names what is not on disk.
        history = session.history.append(record)
        anchor = session.ledger.round_closed(
            record.round,
            arrays_digest(arrays),
            record.replied,
            history=history.head,
            privacy=spent_in(record),
        )
        mean = None if self.noise is None else self.noise.facts()
        session.result.privacy = told_of(
            session.conf.privacy, session.result.privacy, record, mean, session.conf.run.rounds
        )
        states = session.silo_states
        marked = session.state.silo_states
        if states is not None:
            marked = states.keep(record.round, record.replied)
        closed = replace(
            session.state,
            round=record.round,
            arrays=arrays,
            strategy=state_of(self.strategy),
            seconds=session.state.seconds + record.seconds,
            early_stop={"best": early_stop.best, "since": early_stop.since},
            best=self._best(record, arrays),
            counted=self._counted(record),
            history=history,
            silo_states=marked,
            anchor=str(anchor),
            norm_median=median_norm(record.train),
        )
        session.observer.round_closing(record)
        session.checkpoints.save(closed)
        session.state.become(closed)
        if states is not None:
            states.tidy()
        # The observers' turn comes last: what they tell a person must be what a resumed run starts from.
        session.observer.round_closed(record)

    def _best(self, record: RoundRecord, arrays: ArrayRecord) -> Kept | None:
        """Return the best model so far where it is to be kept: of equal ones the first."""
        if self.session.conf.run.keep == "last" or self.choice is None:
            return None
        best = self.session.state.best
        value = self.choice.value(record.aggregate)
        if self.choice.better(value, None if best is None else best.value):
            return Kept(record.round, arrays, value)
        return best

    def _cohort(self, number: int) -> dict[str, int]:
        """Return the round's nodes by their silos' names, sorted by name."""
        run = self.session.conf.run
        if isinstance(self.grid, SiloGrid):
            # Anew each round: a silo whose key was changed has another node since.
            self.silos = self.grid.names()
        nodes = {name: node for node, name in self.silos.items()}
        names = select(list(nodes), cohort=run.cohort, seed=run.seed, round=number)
        return {name: nodes[name] for name in names}

    def _as_silos_get_it(self, number: int, sent: ArrayRecord, mean: ArrayRecord) -> ArrayRecord:
        """Return the next model: a round's mean, or what silos decode of it (`compression.down`)."""
        if self._down is None:
            return mean
        offer = self._down.next(sent, mean, number)
        if isinstance(self.grid, SiloGrid):
            self.grid.offer(offer)
        return offer.model

    def _rewind(self, number: int, cohort: CohortGrid) -> None:
        """Put the strategy back to where it was when this round's messages were sent.

        By the way on which a resumed run gets there.
        """
        state = self.session.state
        restore(self.strategy, state.strategy or self._new)
        _seed_strategy(self.session.conf.run.seed, number)
        list(self.strategy.configure_train(number, state.arrays, self._config(), cohort))

    def _warn_of_owner(self, record: RoundRecord) -> None:
        owner = owner_of(record.train)
        if owner is not None and owner != self._owner:
            warn_of_owner(record.round, record.train)
        self._owner = owner

    def _phase(self, name: str, round: int) -> Phase:
        return Phase(name, round, self.grid, self.step, self.admission, self.silos)

    def _open_admission(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Say what updates of this round must be: the model, and what the algorithm declares."""
        strategy = self.strategy
        median = self.session.state.norm_median
        # Anew each round: an admission that was signed again holds at once.
        self.admission.ceilings = self.session.ceilings()
        self.admission.clip_norm = None if self.noise is None else self.noise.clip_norm
        for silo, note in sorted(self.session.owner_notes().items()):
            if silo in record.cohort:
                self.session.ledger.owner_note(record.round, silo, note)
        if not isinstance(strategy, Algorithm):
            self.admission.open(record.round, arrays, record.cohort, median=median)
            return
        extra = {name: strategy.layout(name, arrays) for name in strategy.extra}
        travelling = strategy.travelling(arrays)
        self.admission.open(record.round, travelling, record.cohort, extra, median)

    def _spent(self, record: RoundRecord) -> dict[str, Metrics]:
        """Return by silo what the run has cost so far: as the server counts it where the noise is
        its own, else as each silo that answered does.
        """
        if self.noise is not None:
            return self.noise.spent()
        return told_by_silos(record)

    def _counted(self, record: RoundRecord) -> dict[str, int]:
        """Return the last round that counted of each silo, with the one that is about to close."""
        return self.session.state.counted | dict.fromkeys(record.replied, record.round)

    def _to_cohort(
        self,
        messages: Iterable[Message],
        nodes: dict[str, int],
        counted: Mapping[str, int],
        reminder: Callable[[str], str] = nothing,
    ) -> list[Message]:
        """Return a strategy's messages, each with the round of its silo that counted last.

        Raises RoundError MDW-404 where one is for a node outside the cohort.
        """
        sent = list(messages)
        strangers = {message.metadata.dst_node_id for message in sent} - set(nodes.values())
        if strangers:
            name = type(self.strategy).__name__
            raise RoundError(
                "MDW-404",
                f"The strategy {name} asks nodes that are not in the cohort: {sorted(strangers)}.",
                "It may ask those that grid.get_node_ids() returns in its configure methods.",
            )
        say_what_counted(sent, self.silos, counted, reminder)
        return sent

    def _config(self) -> ConfigRecord:
        """Return what a round's messages say beside the model.

        The same when the round is asked again.
        """
        return ConfigRecord(
            {
                protocol.PROTOCOL_KEY: protocol.PROTOCOL,
                protocol.RUN_ID: self.session.folder.run_id,
                protocol.RUN_CONFIG: self._run,
                protocol.RUN_DIGEST: run_config.digest(self._run),
                **self.session.ledger.signed(self.session.state.anchor).to_config(),
            }
        )


def _seed_strategy(seed: int, round: int) -> None:
    """Seed the global generators that some of Flower's strategies draw from."""
    drawn = seed_for(seed, "server", round, "strategy")
    random.seed(drawn)
    np.random.seed(drawn % 2**32)
