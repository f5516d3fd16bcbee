"""What a run's silos are held to, put together from its configuration, task and strategy.

MDW-409 a median of the round's own updates, of which the strategy holds one at a time
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from flwr.serverapp.strategy import Strategy

from client import sums
from client.model_parts import model_parts
from client.privacy.noised_sums import NoisedSums
from client.tasks.base import SumSpec, Task
from conf.errors import RoundError
from conf.schema import RUN_SCOPE, Conf, RunConf, RunScope, SampleDpConf
from conf.seeds import seed_for
from server.round.admission import Admission, Limits
from server.round.decoding import Decoding
from server.round.reply_numbers import MAX_EXAMPLES
from server.round.sketch import Sketcher
from strategies.algorithm import Algorithm
from strategies.compression.form import form_of
from strategies.streaming import Streaming

COHORT: Final = "cohort"
"""The `run.admission.norm_median` that is of a round's own updates."""


def admission_of(conf: Conf, task: Task, strategy: Strategy) -> Admission:
    """Return the admission of a run."""
    asked = conf.run.admission
    of_last_round = asked.norm_median != COHORT
    limits = Limits(
        norm_at_most=asked.norm_at_most,
        norm_times_median=asked.norm_times_median if of_last_round else None,
        examples_at_most=asked.examples_at_most or MAX_EXAMPLES,
        # A task that says nothing else of its size counts examples.
        counts_examples=type(task).size is Task.size,
        # Only ours are known to make nothing of a loss but a mean that leaves it out.
        finite_loss=not isinstance(strategy, Algorithm),
        loss_at_most=asked.loss_at_most,
    )
    return Admission(
        _sums_of(task, asked.loss_at_most),
        partial(sums.metrics_of, task),
        conf.strategy.weighting,
        limits,
        Sketcher(seed_for(conf.run.seed, "server", 0, "sketch")),
        decoding_of(conf, task, strategy),
        noised_of(conf, task),
    )


def noised_of(conf: Conf, task: Task) -> NoisedSums | None:
    """Return the form in which the sums of a private run's evaluations have noise; None of any other.

    Raises SiloError MDW-367.
    """
    asked = conf.privacy
    if not isinstance(asked, SampleDpConf) or not asked.noises_metrics:
        return None
    return NoisedSums(task, asked.metrics_loss_at_most)


def decoding_of(conf: Conf, task: Task, strategy: Strategy) -> Decoding | None:
    """Return how the updates of a run are made whole; None where they are."""
    parts = model_parts(conf.model, conf.task, task)
    keeps = strategy.keeps if isinstance(strategy, Algorithm) else ()
    scope = RunScope(**{name: getattr(conf, name) for name in RUN_SCOPE})
    form = form_of(scope, parts.trained, parts.frozen, keeps)
    return None if form is None else Decoding(form)


def _sums_of(task: Task, loss_at_most: float | None) -> dict[str, SumSpec]:
    """Return what an evaluation's sums may be: as the task declares them, and a run's own bound."""
    specs = sums.specs_of(task)
    if loss_at_most is not None:
        declared = specs[sums.LOSS]
        low = max(declared.low, -loss_at_most)
        specs[sums.LOSS] = replace(declared, low=low, high=min(declared.high, loss_at_most))
    return specs


def check_bounds(run: RunConf, strategy: Strategy) -> None:
    """Raise RoundError MDW-409 where a run asks for a median that its strategy can't have."""
    asked = run.admission
    if asked.norm_times_median is None or asked.norm_median != COHORT:
        return
    if isinstance(strategy, Streaming):
        raise RoundError(
            "MDW-409",
            f"run.admission.norm_median=cohort: {type(strategy).__name__} folds each update in as"
            " it arrives, before the others are known.",
            "Set run.admission.norm_median=last_round, or choose a strategy that holds a list.",
        )
