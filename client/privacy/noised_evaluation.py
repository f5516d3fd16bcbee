"""What a silo answers an evaluation of a private run: sums with noise, within the run's epsilon and its
owner's, or nothing.

The order is the point. Whether anything is told follows from the run, the owner's policy and the
account, never from the examples: no threshold on a count has a place here, because whether it is met
would tell of a single example. So an owner who has set one tells nothing. The sums have their noise,
are kept (`client.privacy.kept_answers`) and noted in the account before anything leaves; even an empty
split gets noise. What is asked again gets the kept answer and costs nothing.

    MDW-368 a run whose unit is more than an example
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict

from client.evaluating import Bound, Evaluation
from client.privacy.account import Account, Entry
from client.privacy.clipped_round import spent
from client.privacy.kept_answers import Kept, KeptAnswers, key_of
from client.privacy.metrics_plan import is_due, next_release
from client.privacy.noise_source import Seeds
from client.privacy.noised_sums import NoisedSums
from client.privacy.private_round import begun, check_same
from client.tasks.base import Task
from client.withholding import nothing_told
from conf.errors import SiloError
from conf.privacy_kinds import EXAMPLE, NOISED_METRICS, SAMPLE_DP
from conf.schema import PolicyConf, RunScope, SampleDpConf, Silo
from strategies.wire import protocol
from strategies.wire.digests import arrays_digest

log = logging.getLogger(__name__)

MOST_EXAMPLES: Final = 2**29 - 1
"""That a silo may say it has (`server.round.reply_numbers`)."""
Evaluates = Callable[[Bound], Evaluation]
"""Evaluates the model that a message brings, each example alone."""


@dataclass(frozen=True)
class Asked:
    """One evaluation as a message asks for it."""

    run: str
    round: int
    split: str
    model: ArrayRecord
    told: Mapping[str, Any]
    """What the message says beside the model."""


def answer(
    asked: Asked, task: Task, scope: RunScope, silo: Silo, context: Context, evaluates: Evaluates
) -> RecordDict:
    """Return what leaves of an evaluation.

    Raises SiloError: MDW-367 where the task can't be told so, MDW-368 where more than an example is to
    be protected as one, MDW-373 where it costs more than the
    owner allows, MDW-375, 376, 378, 382; CheckpointError MDW-540.
    """
    privacy = scope.privacy
    assert isinstance(privacy, SampleDpConf)
    _check_unit(privacy, silo)
    form = NoisedSums(task, privacy.metrics_loss_at_most)
    if not _may_tell(silo.policy) or not is_due(
        privacy, scope.run.rounds, asked.round, asked.split
    ):
        return _nothing()
    account = begun(context, silo, asked.told)
    check_same(account, asked.run, privacy, silo)
    kept = _kept(asked, form, scope, silo, account, evaluates)
    if kept is None:
        return _nothing()
    noised, entries = kept
    examples = round(form.examples(noised.noised)[0])
    metrics = spent(entries, privacy, noised.noise)
    metrics[protocol.NUM_EXAMPLES] = min(max(examples, 1), MOST_EXAMPLES)
    return RecordDict(
        {
            protocol.SUMS: protocol.to_record(noised.noised),
            protocol.METRICS: MetricRecord({**metrics}),
            protocol.ACCOUNT: ConfigRecord({protocol.REMINDER: account.reminder()}),
        }
    )


def _kept(
    asked: Asked,
    form: NoisedSums,
    scope: RunScope,
    silo: Silo,
    account: Account,
    evaluates: Evaluates,
) -> tuple[Kept, list[Entry]] | None:
    """Return the noised sums, kept and noted, and the run's entries; None where nothing is told."""
    answers = KeptAnswers.at(silo.account, silo.name)
    key = key_of(asked.run, asked.round, asked.split, arrays_digest(asked.model))
    before = [entry for entry in account.entries() if entry.run == asked.run]
    noted = next((entry for entry in before if entry.released.startswith(f"{key}:")), None)
    try:
        kept = answers.read(key, form)
    except ValueError as error:
        log.warning("round %d: the kept answer can't be used: %s", asked.round, error)
        return None
    if noted is not None:
        if kept is None or noted.released != f"{key}:{kept.digest}":
            log.warning("round %d: what was answered is not there any more", asked.round)
            return None
        return kept, before
    made = _releases(before, NOISED_METRICS)
    release = next_release(scope, made, _releases(before, SAMPLE_DP))
    if release is None or (kept is not None and kept.noise < release.noise):
        log.info("round %d: the run has told all evaluations that it may", asked.round)
        return None
    account.check(release, silo.policy, NOISED_METRICS)
    if kept is None:
        total = evaluates(form.bounded).sums or form.nothing()
        privacy = scope.privacy
        assert isinstance(privacy, SampleDpConf)
        seeds = Seeds(privacy.test_seed, silo.name, asked.round)
        noised = form.noised(total, release.noise, seeds.generator(f"metrics of {asked.split}"))
        kept = answers.keep(key, form, noised, release.noise)
    entries = account.reserve(
        asked.run,
        asked.round,
        type(release)(release.rate, kept.noise, release.steps),
        silo.policy,
        NOISED_METRICS,
        released=f"{key}:{kept.digest}",
        made=len(made),
    )
    # Another one may have been told meanwhile: then the noise of this one is too little.
    return (kept, entries) if entries else None


def _check_unit(privacy: SampleDpConf, silo: Silo) -> None:
    """Raise SiloError MDW-368 where a group of examples is protected as one, which has no bound here."""
    if privacy.unit == EXAMPLE:
        return
    what = f"{silo.name} tells no metrics with noise where a {privacy.unit} is protected as one"
    raise SiloError(
        "MDW-368",
        f"{what}: the noise is for one example, and a {privacy.unit} has any number of them.",
        "Leave privacy.metrics_epsilon out, or protect each example (privacy.unit=example).",
    )


def _may_tell(policy: PolicyConf) -> bool:
    """Return whether an owner's policy lets noised sums out, whatever the examples are."""
    thresholds = (
        policy.evaluated_examples_at_least,
        policy.cells_at_least,
        policy.metrics_at_least or None,
    )
    return policy.reveal_counts and all(one is None for one in thresholds)


def _releases(entries: list[Entry], mechanism: str) -> list[Any]:
    return [entry.release for entry in entries if entry.mechanism == mechanism]


def _nothing() -> RecordDict:
    return RecordDict({protocol.METRICS: MetricRecord({**nothing_told().metrics})})
