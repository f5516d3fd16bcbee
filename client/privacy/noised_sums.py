"""The sums of an evaluation in the form in which they leave with Gaussian noise, and the metrics that
noised ones give.

Of one example all that leaves is a vector, and the noise must cover how long that can be. So each
example is evaluated alone, and its part of every sum is held to what the task declares
(`client.tasks.base.SumSpec`): each element to its range, all of them to the norm that so many elements
of that size have. A task that declares too little loses precision and no guarantee. The loss counts as
`privacy.metrics_loss_at_most` at most.

A sum has noise in each of its elements. What is made of many is then mostly noise, so a large sum
(scores in bins) stays at the silo, and of a confusion matrix of more than two classes only two numbers
leave: how many examples are right, and how many wrong. Which metrics these leave undefined is found
out by trying: a metric that differs between two sets of sums of which the same would leave can't be
told of what leaves.

The parts share the privacy: the squares of what an example moves them by, in units of their noise, add
up to that of one release. How many examples there are is among the parts.

    MDW-367 a task of which no metric can be told so
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from client import sums
from client.sums import Metrics, Sums
from client.tasks.base import SumSpec, Task
from conf.errors import MeadowError, SiloError

MOST_ELEMENTS: Final = 256
"""Of a sum that leaves."""
FEW_CLASSES: Final = 2
"""Of a confusion matrix that leaves as it is."""
LOSS_SHARE: Final = 0.2
"""Of the privacy, that of the loss; the other parts have the same each."""
SPREAD: Final = "_noise"
"""Suffix of the standard deviation that the noise gives a metric."""
EXAMPLES: Final = "noised_examples"
"""The metric that says how many examples there are."""
DRAWS: Final = 100
"""Of the noise, to see what it does to the metrics: a standard deviation within 7 %."""
SEED: Final = 20_060_304
"""The same noised sums give the same metrics, whoever makes them."""
TRIES: Final = 4


@dataclass(frozen=True)
class Part:
    """One sum as it leaves: so many elements, each of one example within a range, all within a norm."""

    name: str
    spec: SumSpec
    elements: int
    low: float
    high: float
    norm: float
    folded: bool = False
    """Whether only right and wrong are left of a confusion matrix."""
    share: float = 0.0

    def bounded(self, of_example: Tensor) -> Tensor:
        """Return what one example adds, as a row in float64, within the range and the norm."""
        row = self._row(of_example)
        row = torch.nan_to_num(row, nan=self.high, posinf=self.high, neginf=self.low)
        row = row.clamp(self.low, self.high)
        length = float(torch.linalg.vector_norm(row))
        return row * (self.norm / length) if length > self.norm else row

    def deviation(self, noise: float) -> float:
        """Return the standard deviation of the noise in each element, for a noise multiplier."""
        return noise * self.norm / math.sqrt(self.share)

    def _row(self, given: Tensor) -> Tensor:
        if not self.folded:
            return given.double().reshape(-1)
        right = given.diagonal().sum()
        return torch.stack([right, given.sum() - right]).double()


class NoisedSums:
    """The parts of a task's sums that leave with noise; `unknown` are the metrics that they leave
    undefined.

    Raises SiloError MDW-367 where these are all of them, or where an example has no bound.
    """

    def __init__(self, task: Task, loss_at_most: float) -> None:
        self._task = task
        self._specs = sums.specs_of(task)
        self._check_size()
        self._zeros = {name: _zeros(spec) for name, spec in self._specs.items()}
        self.parts = self._shared(self._leaving(loss_at_most))
        self.unknown = self._undefined()
        # What no metric that is known is made of would only take privacy from the others.
        self.parts = self._shared([part for part in self.parts if self._is_useful(part)])

    def bounded(self, of_example: Sums) -> Sums:
        """Return what leaves of one example's sums, each a row in float64."""
        return {part.name: part.bounded(of_example[part.name]) for part in self.parts}

    def nothing(self) -> Sums:
        """Return what leaves of no example, before the noise."""
        return {part.name: torch.zeros(part.elements, dtype=torch.float64) for part in self.parts}

    def noised(self, total: Sums, noise: float, generator: torch.Generator) -> Sums:
        """Return these sums with noise in each element; `noise` is in units of what one example moves
        all of them by.
        """
        drawn = {}
        for part in self.parts:
            normal = torch.randn(part.elements, dtype=torch.float64, generator=generator)
            drawn[part.name] = total[part.name] + part.deviation(noise) * normal
        return drawn

    def examples(self, noised: Sums) -> tuple[float, float]:
        """Return how many examples noised sums are of, and that number's deviation at noise 1."""
        part = self._counting
        return float(noised[part.name].sum()), math.sqrt(part.elements) * part.deviation(1.0)

    def metrics(self, noised: Sums, noise: float) -> Metrics:
        """Return the metrics of noised sums, each with the standard deviation that the noise gives it
        (`SPREAD`), by drawing the noise again; NaN for those that are not known.

        Raises whatever the task's `metrics` raises.
        """
        made = self._metrics_of(noised)
        generator = torch.Generator().manual_seed(SEED)
        drawn = [self._metrics_of(self.noised(noised, noise, generator)) for _ in range(DRAWS)]
        known = made.keys() - self.unknown
        spreads = {f"{name}{SPREAD}": _spread(drawn, name) for name in sorted(known)}
        count, deviation = self.examples(noised)
        return {
            **made,
            **spreads,
            EXAMPLES: max(count, 0.0),
            f"{EXAMPLES}{SPREAD}": deviation * noise,
        }

    def largest(self, examples: int, noise: float) -> Iterator[tuple[Part, float]]:
        """Yield with each part what no element of it can honestly be beyond, for so many examples."""
        for part in self.parts:
            most = max(abs(part.low), abs(part.high)) * examples
            yield part, most + _IMPROBABLE * part.deviation(noise)

    def _metrics_of(self, noised: Sums) -> Metrics:
        made = sums.metrics_of(self._task, self._restored(noised))
        return made | {name: math.nan for name in self.unknown if name in made}

    def _restored(self, noised: Sums) -> Sums:
        """Return noised sums in the task's own form: counts are whole and not below 0, and what did
        not leave is 0.
        """
        size = max(round(self.examples(noised)[0]), 1)
        found = dict(self._zeros)
        for part in self.parts:
            row = noised[part.name]
            if part.spec.real:
                low, high = min(part.low, 0.0) * size, max(part.high, 0.0) * size
                found[part.name] = row.clamp(low, high).reshape(part.spec.shape)
                continue
            counts = row.round().clamp(min=0).long()
            found[part.name] = (
                _unfolded(counts, part.spec) if part.folded else counts.reshape(part.spec.shape)
            )
        if self._counting.spec.confusion:
            size = max(int(found[self._counting.name].sum()), 1)
        found[sums.SIZE] = torch.tensor(size)
        return found

    def _check_size(self) -> None:
        if type(self._task).size is Task.size:
            return
        raise self._refused("its loss is a mean over more than examples, of which one may have any")

    def _leaving(self, loss_at_most: float) -> list[Part]:
        parts = []
        for name, spec in self._specs.items():
            low, high = spec.low, spec.high
            if name == sums.LOSS:
                low, high = max(low, -loss_at_most), min(high, loss_at_most)
            elements = math.prod(spec.shape)
            folded = spec.confusion and spec.shape[0] > FEW_CLASSES
            if folded:
                elements = 2
            if elements > MOST_ELEMENTS or not math.isfinite(low) or not math.isfinite(high):
                continue
            at_once = elements if spec.at_once is None else min(spec.at_once, elements)
            norm = max(abs(low), abs(high)) * math.sqrt(at_once)
            if norm > 0:
                parts.append(Part(name, spec, elements, low, high, norm, folded))
        if any(part.spec.confusion for part in parts):
            # Its elements add up to the number of examples.
            parts = [part for part in parts if part.name != sums.SIZE]
        return parts

    def _shared(self, parts: list[Part]) -> tuple[Part, ...]:
        others = sum(part.name != sums.LOSS for part in parts)
        each = (1.0 - LOSS_SHARE) / others
        return tuple(
            Part(**{**vars(part), "share": LOSS_SHARE if part.name == sums.LOSS else each})
            for part in parts
        )

    @property
    def _counting(self) -> Part:
        """The part that says how many examples there are."""
        counting = [part for part in self.parts if part.spec.confusion]
        return counting[0] if counting else next(p for p in self.parts if p.name == sums.SIZE)

    def _undefined(self) -> frozenset[str]:
        generator = torch.Generator().manual_seed(SEED)
        differ: set[str] = set()
        names: set[str] = set()
        for _ in range(TRIES):
            first = self._made_up(generator)
            try:
                plain = sums.metrics_of(self._task, self._restored(self._of(first)))
                other = sums.metrics_of(self._task, first)
            except MeadowError:
                raise
            except Exception as error:
                raise self._refused(f"its `metrics` raise {type(error).__name__}") from error
            names |= set(plain) - {sums.LOSS}
            differ |= {name for name in plain if not _same(plain[name], other.get(name))}
        unbounded = [n for n, s in self._specs.items() if n != sums.LOSS and not _is_bounded(s)]
        if not names - differ:
            why = "all of its metrics are made of more than what can leave"
            if unbounded:
                why = f"one example may add any number to its sums {', '.join(unbounded[:4])}"
            raise self._refused(why)
        return frozenset(differ)

    def _is_useful(self, part: Part) -> bool:
        """Return whether a part counts examples, or a metric that is known is made of it."""
        if part.name == sums.LOSS or part is self._counting:
            return True
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(TRIES):
            whole = self._made_up(generator)
            without = whole | {part.name: self._zeros[part.name]}
            with_it = sums.metrics_of(self._task, whole)
            other = sums.metrics_of(self._task, without)
            known = with_it.keys() - self.unknown
            if any(not _same(with_it[name], other.get(name)) for name in known):
                return True
        return False

    def _made_up(self, generator: torch.Generator) -> Sums:
        """Return sums of made-up examples, in the task's form, that agree on their number."""
        found = {}
        for name, spec in self._specs.items():
            of = torch.rand(spec.shape, dtype=torch.float64, generator=generator)
            if spec.real:
                low = spec.low if math.isfinite(spec.low) else -1.0
                high = spec.high if math.isfinite(spec.high) else max(low, 0.0) + 1.0
                found[name] = 20 * (low + of * (min(high, low + 1.0) - low))
            else:
                found[name] = (20 * of).long() + 1
        counted = [name for name, spec in self._specs.items() if spec.confusion]
        size = int(found[counted[0]].sum()) if counted else 1000
        found[sums.SIZE] = torch.tensor(size)
        found[sums.LOSS] = torch.tensor(0.0, dtype=torch.float64)
        return found

    def _of(self, whole: Sums) -> Sums:
        return {part.name: part._row(whole[part.name]) for part in self.parts}

    def _refused(self, why: str) -> SiloError:
        return SiloError(
            "MDW-367",
            f"The task {self._task.name} can't tell its metrics with noise: {why}.",
            "Leave privacy.metrics_epsilon=0, or have its `sum_specs` bound what an example adds.",
        )


_IMPROBABLE: Final = 40.0
"""Standard deviations beyond which no noise lies, nor that of a run that was asked again often."""


def _zeros(spec: SumSpec) -> Tensor:
    return torch.zeros(spec.shape, dtype=torch.float64 if spec.real else torch.int64)


def _is_bounded(spec: SumSpec) -> bool:
    return math.isfinite(spec.low) and math.isfinite(spec.high)


def _unfolded(counts: Tensor, spec: SumSpec) -> Tensor:
    """Return a confusion matrix with so many right and wrong, each spread evenly over its elements."""
    classes = spec.shape[0]
    right, wrong = (int(count) for count in counts)
    matrix = torch.zeros(spec.shape, dtype=torch.int64)
    diagonal = torch.eye(classes, dtype=torch.bool)
    for count, where in ((right, diagonal), (wrong, ~diagonal)):
        elements = int(where.sum())
        each = torch.full((elements,), count // elements)
        each[: count % elements] += 1
        matrix[where] = each
    return matrix


def _spread(drawn: list[Metrics], name: str) -> float:
    values = torch.tensor([one.get(name, math.nan) for one in drawn], dtype=torch.float64)
    known = values[values.isfinite()]
    return float(known.std()) if 2 * len(known) > len(values) else math.nan


def _same(one: float, other: float | None) -> bool:
    if other is None or math.isnan(one) or math.isnan(other):
        return other is not None and math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def by_name(noised: Sums) -> Mapping[str, list[float]]:
    """Return noised sums as plain numbers."""
    return {name: [float(value) for value in row] for name, row in noised.items()}
