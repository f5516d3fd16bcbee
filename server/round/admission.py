"""Which replies may become part of the model: each is checked before anything reads its values.

Pure: no clock, no disk, no Flower runtime. One pass over each array (`server.round.sent_model`), or
none where the pool's worker has made it. The
first fault found is the reason; the silo is named in it, and the round goes on without the update.
What comes after must not raise for one silo's sake: its limits are checked here. Changes are judged
against the model that was sent, so that what the model itself holds is never a silo's fault.

    MDW-342 what it says that it runs    MDW-379 a change beyond the norm that it was to be clipped to
    MDW-610 record missing or too many   MDW-614 not finite          MDW-619 not asked in this round
    MDW-611 names of the arrays          MDW-616 count of examples   MDW-621 too large to average
    MDW-612 shape or dtype               MDW-617 another round       MDW-623 a metric
    MDW-613 size or header of an array   MDW-618 a second answer     MDW-624 can't be checked
    MDW-625 a norm above the run's bound, or above so many times the last round's median
    MDW-630 sums of an evaluation        MDW-674 arrays of an algorithm's extra record
    MDW-684 other arrays than the run's compression has     MDW-685 what can't be decoded
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client import sums as task_sums
from client.privacy.accountant import MOST_NOISE
from client.privacy.noised_sums import NoisedSums
from client.tasks.base import SumSpec
from conf.errors import Interrupted
from server.round.array_layout import ArrayLayout, few
from server.round.decoding import Decoding
from server.round.judgement import AdmissionFault, Admitted, Rejected, Verdict
from server.round.reply_numbers import (
    MAX_EXAMPLES,
    OF_EVALUATION,
    OF_PRIVACY,
    OF_TRAINING,
    check_loss,
    check_names,
    check_numbers,
    check_round,
    examples_in,
    weight_of,
)
from server.round.reply_sums import check_noised, check_sums
from server.round.sent_model import Known, Largest, Measured, SentModel, Values
from server.round.sketch import Sketcher
from strategies.algorithm import Layout
from strategies.average import largest_reach
from strategies.wire import protocol
from strategies.wire.digests import update_digest
from strategies.wire.software import Software

log = logging.getLogger(__name__)

T = TypeVar("T")

ROUNDING: Final = 1e-6
"""By which two sums of the same squares may differ, as a share."""
DIGEST_BESIDE: Final = 1 << 20
"""Bytes of an update from which its digest is worth a thread of its own."""


@dataclass(frozen=True)
class Limits:
    """What a run holds its silos to, beyond what can be averaged.

    `norm_at_most` bounds the L2 norm of a change, and `norm_times_median` that norm as a multiple
    of the median of the last closed round. `examples_at_most` are those that any silo may say it
    has, and `loss_at_most` the mean loss that it may report. With `counts_examples` a task's size is
    a number of examples, so it is bounded too. With `finite_loss` a strategy may make anything of
    the loss that a silo reports.
    """

    norm_at_most: float | None = None
    norm_times_median: float | None = None
    examples_at_most: int = MAX_EXAMPLES
    counts_examples: bool = False
    finite_loss: bool = False
    loss_at_most: float | None = None


class Admission:
    """Checks the replies of one run, round after round.

    `sums` is what an evaluation may hold (`client.sums.specs_of`), `metrics` what makes metrics of
    it (the task's own code), `weighting` what an update weighs by (`strategy.weighting`). With a
    `sketcher` each admitted update comes with a sketch of its change, and with a `decoding` it is
    made whole first: what is judged is what it says, and not how that travelled. With `noised` the sums
    of evaluations have noise, in that form.
    """

    def __init__(
        self,
        sums: Mapping[str, SumSpec],
        metrics: Callable[[task_sums.Sums], Mapping[str, object]] = dict,
        weighting: str = protocol.BY_EXAMPLES,
        limits: Limits | None = None,
        sketcher: Sketcher | None = None,
        decoding: Decoding | None = None,
        noised: NoisedSums | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.ceilings: Mapping[str, int] = {}
        """The examples that each silo was admitted with, where its admission says a number."""
        self.clip_norm: float | None = None
        """The norm to which silos were to clip their changes; None where they were to clip nothing."""
        self._sums = sums
        self._metrics = metrics
        self._weighting = weighting
        self._sketcher = sketcher
        self.decoding = decoding
        self.noised = noised
        self._round = 0
        self._cohort: frozenset[str] = frozenset()
        self._reach = 0.0
        """How far weight * |value| of one update may go."""
        self._model = SentModel(ArrayRecord())
        self._beside = ThreadPoolExecutor(1, "meadow digest")
        self._median: float | None = None
        self._extra: dict[str, dict[str, ArrayLayout]] = {}
        self._answered: set[tuple[str, str]] = set()

    @property
    def sketch_seed(self) -> int | None:
        """The seed of the sketches, None without any."""
        return self._sketcher.seed if self._sketcher else None

    def open(
        self,
        round: int,
        reference: ArrayRecord,
        cohort: Collection[str],
        extra: Mapping[str, Layout] | None = None,
        median: float | None = None,
    ) -> None:
        """Begin a round.

        `reference` is the global model as it was sent, without what the silos keep, and `extra` the
        layout of each record that an update holds beside the model. `median` is that of the norms
        of the last closed round, None before there is one.
        """
        self._round = round
        self._cohort = frozenset(cohort)
        # An equal share for each silo, not what the others have left: whether an update is admitted
        # must not depend on who came first, nor may one silo take the room of all.
        self._reach = largest_reach(len(cohort))
        self._model = SentModel(reference)
        self._median = median
        self._extra = {
            record: {name: ArrayLayout(dtype, shape) for name, (dtype, shape) in layout.items()}
            for record, layout in (extra or {}).items()
        }
        self._answered.clear()

    def check(
        self,
        content: RecordDict,
        *,
        silo: str,
        round: int,
        phase: str,
        known: Known | None = None,
    ) -> Verdict:
        """Judge a reply of `phase` (train or evaluate); never raises for what is in it.

        An update that is admitted holds the whole model from then on, however it travelled. A
        silo's first answer to a phase counts, whatever became of it. `known` is what an engine's
        own worker has measured of it.
        """
        where = f"{silo}, round {round}, {phase}"
        try:
            self._once(silo, round, phase)
            values = _numbers(content)
            check_round(values, self._round)
            if phase == "train":
                return self._update(content, values, self._examples_of(silo), known)
            return self._evaluation(content, values, self._examples_of(silo))
        except AdmissionFault as fault:
            code, reason = fault.code, fault.reason
        except Interrupted:
            # SIGTERM raises it wherever this thread happens to be.
            raise
        except Exception as error:
            # What nobody has thought of is the silo's fault and not the run's: it sent it.
            log.exception("the reply of %s could not be checked", where)
            code, reason = "MDW-624", f"it can't be checked ({type(error).__name__})"
        digest = update_digest(content) if phase == "train" else ""
        return Rejected(code, f"{where}: {reason}.", digest)

    def _examples_of(self, silo: str) -> int:
        """Return how many examples a silo may say that it has."""
        most = self.limits.examples_at_most
        return min(self.ceilings.get(silo, most), most, MAX_EXAMPLES)

    def _once(self, silo: str, round: int, phase: str) -> None:
        if round != self._round:
            raise AdmissionFault(
                "MDW-617", f"it answers round {round}, the open one is {self._round}"
            )
        if silo not in self._cohort:
            raise AdmissionFault("MDW-619", "the silo was not asked in this round")
        if (silo, phase) in self._answered:
            raise AdmissionFault("MDW-618", "the silo has already answered")
        self._answered.add((silo, phase))

    def _evaluation(self, content: RecordDict, values: dict[str, Any], most: int) -> Admitted:
        # A silo that holds nothing out says so: it has no metrics, and did not fail. A number with
        # noise may be beyond any that the silo has.
        examples = examples_in(values, 0, most if self.noised is None else MAX_EXAMPLES)
        names = set(OF_EVALUATION)
        if examples and self.noised is not None:
            return self._noised_evaluation(content, values, examples, most)
        if examples:
            sums = _array_records(content, [protocol.SUMS])[protocol.SUMS]
            most_size = most if self.limits.counts_examples else task_sums.LARGEST_SIZE - 1
            check_sums(sums, self._sums, most_size)
            made = self._metrics_of(sums)
            names.update(made)
            names.update(f"{protocol.WITHHELD_METRIC}{name}" for name in made)
        # Any number: what it says of the task's metrics is made anew of its sums.
        check_names(values, names)
        check_numbers(values)
        withheld = values.get(protocol.WITHHELD) == 1
        return Admitted(examples, withheld=withheld, without=_withheld_in(values))

    def _noised_evaluation(
        self, content: RecordDict, values: dict[str, Any], examples: int, most: int
    ) -> Admitted:
        form = self.noised
        assert form is not None
        check_names(values, {protocol.NUM_EXAMPLES, protocol.ROUND, *OF_PRIVACY})
        check_numbers(values, [protocol.NOISE])
        noise = float(values[protocol.NOISE])
        if not 0 < noise <= MOST_NOISE:
            raise AdmissionFault("MDW-623", f"its noise is {noise:.6g}, which is none that counts")
        record = _array_records(content, [protocol.SUMS])[protocol.SUMS]
        found = check_noised(record, form, noise, most)
        try:
            form.metrics(found, noise)
        except Interrupted:
            raise
        except Exception as error:
            what = f"the task's metrics raise {type(error).__name__} for its sums"
            raise AdmissionFault("MDW-630", what) from None
        return Admitted(examples)

    def _update(
        self, content: RecordDict, values: dict[str, Any], most: int, known: Known | None
    ) -> Admitted:
        software_of(content)
        travelled = [protocol.ARRAYS] if self.decoding is None else self.decoding.records
        records = _array_records(content, [*travelled, *self._extra])
        examples = examples_in(values, 1, most)
        weight = weight_of(values, self._weighting, most)
        check_names(values, OF_TRAINING)
        check_numbers(values, [protocol.LOSS] if self.limits.finite_loss else [])
        check_loss(values, self.limits.loss_at_most)
        whole = self._model.whole(self.decoding, records, self._round)
        arrays = self._model.values_of(whole, self._extra)
        measured = self._trusted(known, arrays) or self._measured(content, arrays)
        self._check_reach(measured.largest, weight)
        norm = math.sqrt(measured.squares)
        self._check_norm(norm)
        size = protocol.size(content)
        if self.decoding is not None:
            # Flower's record warns of a key that is given a record of another class.
            for name in self.decoding.records:
                del content[name]
            content[protocol.ARRAYS] = whole[protocol.ARRAYS]
        return Admitted(
            examples,
            norm,
            weight=weight,
            sketch=measured.sketch,
            largest=measured.largest,
            digest=measured.digest,
            size=size,
        )

    def _trusted(self, known: Known | None, arrays: Values) -> Measured | None:
        """Return what the engine measured, where it is of this round's model and of all arrays."""
        if known is None or not self._model.is_of(known.sent):
            return None
        measured = known.measured
        whole = {record: of.keys() for record, of in arrays.items()}
        if {record: of.keys() for record, of in measured.largest.items()} != whole:
            return None
        return measured if measured.sketched == self.sketch_seed else None

    def _measured(self, content: RecordDict, arrays: Values) -> Measured:
        """Measure an update; its digest, which takes as long again, is taken beside that."""
        size = sum(array.nbytes for of in arrays.values() for array in of.values())
        if size < DIGEST_BESIDE:
            measured = self._model.measured(arrays, self._extra, self._sketcher)
            return replace(measured, digest=update_digest(content))
        digest = self._beside.submit(update_digest, content)
        measured = self._model.measured(arrays, self._extra, self._sketcher)
        return replace(measured, digest=digest.result())

    def _metrics_of(self, sums: ArrayRecord) -> Mapping[str, object]:
        """Sums may be in range and belong to no predictions; the task's metrics then may raise."""
        try:
            return self._metrics(protocol.to_state(sums))
        except Interrupted:
            raise
        except Exception as error:
            raise AdmissionFault(
                "MDW-630", f"the task's metrics raise {type(error).__name__} for its sums"
            ) from None

    def _check_reach(self, largest: Largest, weight: int) -> None:
        for record, of in largest.items():
            for name, far in of.items():
                reach = weight * far
                if reach > self._reach:
                    raise self._too_large(record, name, reach)

    def _too_large(self, record: str, name: str, reach: float) -> AdmissionFault:
        called = f"{name!r:.80}"
        what = "values"
        if record != protocol.ARRAYS:
            called += f" of {record!r:.40}"
        elif name in self._model.as_change:
            what = "changes"
        return AdmissionFault(
            "MDW-621",
            f"{called} is too large for an average: weight times {what}"
            f" reach {reach:.3g}, and may reach {self._reach:.3g}",
        )

    def _check_norm(self, norm: float) -> None:
        # It is summed up in another order than at the silo.
        if self.clip_norm is not None and norm > self.clip_norm * (1 + ROUNDING):
            raise AdmissionFault(
                "MDW-379",
                f"its change has the norm {norm:.4g}, and was to be clipped to {self.clip_norm:.4g}",
            )
        limits = self.limits
        if limits.norm_at_most is not None and norm > limits.norm_at_most:
            raise AdmissionFault(
                "MDW-625",
                f"its change has the norm {norm:.4g}, and run.admission.norm_at_most="
                f"{limits.norm_at_most:.4g}",
            )
        if limits.norm_times_median is None or self._median is None:
            return
        most = limits.norm_times_median * self._median
        if norm > most:
            raise AdmissionFault(
                "MDW-625",
                f"its change has the norm {norm:.4g}, more than {limits.norm_times_median:.4g} times"
                f" {self._median:.4g}, the median of the last closed round",
            )


def _withheld_in(values: Mapping[str, Any]) -> frozenset[str]:
    """Return the metrics that an evaluation says its owner withholds."""
    mark = protocol.WITHHELD_METRIC
    said = [name for name, value in values.items() if name.startswith(mark) and value == 1]
    return frozenset(name.removeprefix(mark) for name in said)


def software_of(content: RecordDict) -> Software | None:
    """Return what a silo says that it runs, None where it says nothing.

    Raises AdmissionFault MDW-342.
    """
    record = protocol.records(content, ConfigRecord).get(protocol.SOFTWARE)
    if record is None:
        return None
    try:
        return Software.from_record(record)
    except ValueError as error:
        raise AdmissionFault(
            "MDW-342", f"what it says that it runs can't be read: {error}"
        ) from None


def _array_records(content: RecordDict, names: Collection[str]) -> dict[str, ArrayRecord]:
    """Return the array records of a reply, which must be these and no other."""
    return _exactly(protocol.records(content, ArrayRecord), names, "array")


def _numbers(content: RecordDict) -> dict[str, Any]:
    found = _exactly(protocol.records(content, MetricRecord), [protocol.METRICS], "metric")
    return dict(found[protocol.METRICS])


def _exactly(records: dict[str, T], names: Collection[str], kind: str) -> dict[str, T]:
    # Flower's strategies skip a whole round for one reply with two records of a kind.
    if set(records) != set(names):
        wanted = f"one {kind} record" if len(names) == 1 else f"{len(names)} {kind} records"
        raise AdmissionFault(
            "MDW-610", f"it should hold {wanted}, {few(names)}, and holds {few(records)}"
        )
    return records
