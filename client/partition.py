"""How a public set is partitioned among silos, for simulation, teaching and benchmarks.

The four kinds are those of NIID-Bench (Li et al. 2022, arXiv 2102.02079, section IV). Each draw
comes from `data.seed` alone, so that every silo finds its own part without asking the others. A
process that has several silos draws once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf.errors import DataError
from conf.schema import DataConf
from conf.seeds import seed_for

Indices = NDArray[np.int64]

DRAWS = 20
"""How often a skewed partition is drawn again while it leaves a silo empty (NIID-Bench draws
without end).
"""


KEPT = 4
"""Partitions that a process keeps: a run has one, or a few where silos have settings of their own.
"""

BY_COLUMN = "column"


@dataclass(frozen=True)
class _Drawn:
    """A partition, and what it was drawn from."""

    labels: Indices
    """A copy: a task may change its own in place."""
    settings: tuple[int, str, int, float, int]
    parts: list[Indices]


_drawn: list[_Drawn] = []


def parts(labels: Indices, of: int, conf: DataConf) -> list[Indices]:
    """Return each silo's examples as sorted indices that can't be written to: disjoint, complete,
    none empty.

    `labels` holds the class of each example, or the rank of its value in `data.column`; `of` counts
    the silos. Drawn once for the same labels
    and settings. Raises DataError: MDW-203 where a silo is left without examples, MDW-204 where
    `labels` can't be met.
    """
    settings = (of, conf.partition, conf.seed, conf.alpha, conf.labels_per_silo)
    for known in _drawn:
        # By content, not by identity: a task may return new arrays at each call. To compare takes a
        # tenth of a digest's time, and it is done for every silo.
        if known.settings == settings and np.array_equal(known.labels, labels):
            return known.parts
    drawn = draw(labels, of, conf)
    _drawn[KEPT - 1 :] = []
    _drawn.insert(0, _Drawn(labels.copy(), settings, drawn))
    return drawn


def draw(labels: Indices, of: int, conf: DataConf) -> list[Indices]:
    """Draw what `parts` returns; raises as it does."""
    kind = KINDS[conf.partition]
    rng = np.random.default_rng(seed_for(conf.seed, "", 0, "partition"))
    for _ in range(DRAWS):
        drawn = kind(labels, of, conf, rng)
        if min(len(part) for part in drawn) > 0:
            return [_sorted(part) for part in drawn]
        if len(labels) < of:
            break
    raise _empty(drawn, len(labels), of, conf)


def _sorted(part: Indices) -> Indices:
    ordered = np.sort(part)
    # Shared by all silos of a process, so that none can change another's.
    ordered.flags.writeable = False
    return ordered


def iid(labels: Indices, of: int, conf: DataConf, rng: np.random.Generator) -> list[Indices]:
    """Equal parts at random."""
    return np.array_split(rng.permutation(len(labels)), of)


def quantity(labels: Indices, of: int, conf: DataConf, rng: np.random.Generator) -> list[Indices]:
    """Parts at random whose sizes are drawn from Dirichlet(alpha)."""
    return _cut(rng.permutation(len(labels)), rng.dirichlet(np.full(of, conf.alpha)))


def dirichlet(labels: Indices, of: int, conf: DataConf, rng: np.random.Generator) -> list[Indices]:
    """Each class shared out in proportions from Dirichlet(alpha); a silo with its even share gets
    no more.
    """
    held: list[list[Indices]] = [[] for _ in range(of)]
    for label in np.unique(labels):
        wanting = np.array([sum(map(len, silo)) < len(labels) / of for silo in held])
        shares = rng.dirichlet(np.full(of, conf.alpha)) * wanting
        if (
            not shares.sum() > 0
        ):  # a very small alpha gave all of the class to silos that have enough
            shares = wanting.astype(float)
        cut = _cut(rng.permutation(np.flatnonzero(labels == label)), shares / shares.sum())
        for silo, part in zip(held, cut, strict=True):
            silo.append(part)
    return [np.concatenate(silo) for silo in held]


def k_labels(labels: Indices, of: int, conf: DataConf, rng: np.random.Generator) -> list[Indices]:
    """Exactly `labels_per_silo` classes at each silo; the holders of a class share it equally."""
    classes, k = np.unique(labels), conf.labels_per_silo
    if not len(classes) / of <= k <= len(classes):
        least = -(-len(classes) // of)
        raise DataError(
            "MDW-204",
            f"data.partition=labels can't give {of} silos {k} of {len(classes)} classes each and leave none over.",
            f"Set data.labels_per_silo between {least} and {len(classes)}, or use more silos.",
        )
    chosen = _choose(len(classes), of, k, rng)
    held: list[list[Indices]] = [[] for _ in range(of)]
    for c, label in enumerate(classes):
        holders = [silo for silo in range(of) if c in chosen[silo]]
        examples = rng.permutation(np.flatnonzero(labels == label))
        if len(examples) < len(holders):
            raise DataError(
                "MDW-204",
                f"data.partition=labels: class {label} has {len(examples)} examples for {len(holders)} silos.",
                "Use more examples or fewer silos, or lower data.labels_per_silo.",
            )
        for silo, part in zip(holders, np.array_split(examples, len(holders)), strict=True):
            held[silo].append(part)
    return [np.concatenate(silo) for silo in held]


def by_column(labels: Indices, of: int, conf: DataConf, rng: np.random.Generator) -> list[Indices]:
    """Each value of a column at one silo, neighbours in the order of the values together: as natural
    a skew as the data has. As many values as silos are a value a silo.
    """
    values, counts = np.unique(labels, return_counts=True)
    if len(values) < of:
        raise DataError(
            "MDW-204",
            f"data.partition=column: {conf.column} has {len(values)} values for {of} silos.",
            "Use fewer silos, or another column.",
        )
    # Where a value begins and ends among all examples: its middle says in which silo's part it is.
    ends = np.cumsum(counts)
    share = (ends - counts / 2) / ends[-1]
    silo_of = np.minimum((share * of).astype(int), of - 1)
    if len(np.unique(silo_of)) < of:
        # A few large values would leave silos empty: then as many values a silo, whatever their size.
        silo_of = np.arange(len(values)) * of // len(values)
    silo = silo_of[np.searchsorted(values, labels)]
    return [np.flatnonzero(silo == one) for one in range(of)]


Kind = Callable[[Indices, int, DataConf, np.random.Generator], list[Indices]]

KINDS: dict[str, Kind] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "labels": k_labels,
    "quantity": quantity,
    "column": by_column,
}
"""The partitions by the names that `data.partition` takes."""

BY_LABEL = ("dirichlet", "labels")
"""Those that go by the class of each example."""


def _choose(classes: int, of: int, k: int, rng: np.random.Generator) -> list[set[int]]:
    """NIID-Bench's choice, its classes shuffled first: silo i holds class i modulo their number and
    k - 1 others.

    With fewer silos than classes the others are first those that nobody holds yet, so that none is
    left over.
    """
    order = rng.permutation(classes).tolist()
    unheld = order[of:]
    chosen = []
    for silo in range(of):
        mine = {order[silo % classes], *unheld[: k - 1]}
        unheld = unheld[k - 1 :]
        others = [c for c in rng.permutation(classes).tolist() if c not in mine]
        chosen.append(mine | set(others[: k - len(mine)]))
    return chosen


def _cut(order: Indices, shares: NDArray[np.float64]) -> list[Indices]:
    return np.split(order, (np.cumsum(shares) * len(order)).astype(int)[:-1])


def _empty(drawn: list[Indices], examples: int, of: int, conf: DataConf) -> DataError:
    empty = [place for place, part in enumerate(drawn, 1) if len(part) == 0]
    first = empty[0]
    count = len(empty)
    if examples < of:
        why = f"there are {examples} examples for {of} silos"
        hint = "Use more examples or fewer silos."
    else:
        why = f"data.partition={conf.partition} with data.alpha={conf.alpha} leaves {count} of {of} silos empty"
        hint = "Raise data.alpha, use fewer silos, or try another data.seed."
    return DataError("MDW-203", f"Silo {first} of {of} got no examples: {why}.", hint)
