"""Every partition is disjoint, complete and seeded; each has the skew that its name says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from client.partition import KINDS, Indices, draw, parts
from conf.errors import DataError
from conf.schema import DataConf

alphas = st.floats(0.05, 100)


def labels_of(examples: int, classes: int, seed: int = 0) -> Indices:
    return np.random.default_rng(seed).integers(0, classes, examples)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 400),
    st.integers(1, 12),
    st.integers(1, 15),
    alphas,
    st.integers(1, 12),
    st.integers(0, 2**31 - 1),
)
def test_every_example_is_at_one_silo_and_no_silo_is_empty(
    kind: str, examples: int, classes: int, of: int, alpha: float, k: int, seed: int
) -> None:
    labels, conf = (
        labels_of(examples, classes),
        DataConf(partition=kind, alpha=alpha, labels_per_silo=k, seed=seed),
    )
    try:
        found = parts(labels, of, conf)
    except DataError as e:
        assert e.code in ("MDW-203", "MDW-204") and e.hint
        assume(False)
    assert len(found) == of and all(len(part) for part in found)
    assert np.array_equal(np.sort(np.concatenate(found)), np.arange(examples))
    assert all(np.array_equal(part, np.sort(part)) for part in found)
    again = draw(labels, of, conf)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 10), st.integers(1, 20), st.data())
def test_k_labels_gives_each_silo_exactly_k(classes: int, of: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(-(-classes // of), classes))
    labels = np.repeat(np.arange(classes), 30)
    found = parts(
        labels,
        of,
        DataConf(partition="labels", labels_per_silo=k, seed=data.draw(st.integers(0, 1000))),
    )
    assert {len(np.unique(labels[part])) for part in found} == {k}


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"column"}))  # which draws nothing
def test_another_seed_gives_another_partition(kind: str) -> None:
    labels = labels_of(1000, 10)
    one, other = (parts(labels, 5, DataConf(partition=kind, seed=seed)) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_iid_parts_differ_by_one_example_at_most() -> None:
    sizes = [len(part) for part in parts(labels_of(1003, 10), 10, DataConf(partition="iid"))]
    assert max(sizes) - min(sizes) == 1


def skew(alpha: float) -> float:
    """The mean share of a silo's most frequent class."""
    labels = labels_of(5000, 10)
    found = parts(labels, 5, DataConf(partition="dirichlet", alpha=alpha))
    return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in found]))


def test_a_smaller_alpha_skews_the_labels_more() -> None:
    assert skew(100) < 0.15 < skew(1) < skew(0.1)


def test_a_smaller_alpha_skews_the_sizes_more_and_quantity_leaves_the_labels_alone() -> None:
    labels = labels_of(5000, 4)
    wide, even = (
        parts(labels, 5, DataConf(partition="quantity", alpha=alpha)) for alpha in (0.5, 1000)
    )
    assert np.std([len(p) for p in wide]) > 5 * np.std([len(p) for p in even])
    largest = labels[max(wide, key=len)]
    assert np.bincount(largest) / len(largest) == pytest.approx(np.full(4, 0.25), abs=0.05)


def test_an_empty_silo_names_the_alpha_that_caused_it() -> None:
    with pytest.raises(
        DataError,
        match=r"MDW-203: Silo \d+ of 40 .*data.alpha=0.001 leaves \d+ of 40 silos empty.*Raise",
    ):
        parts(labels_of(2000, 10), 40, DataConf(partition="dirichlet", alpha=0.001))


@pytest.mark.parametrize("kind", ["iid", "quantity", "dirichlet"])
def test_more_silos_than_examples_are_named(kind: str) -> None:
    with pytest.raises(DataError, match=r"MDW-203: Silo .* there are 3 examples for 4 silos"):
        parts(labels_of(3, 2), 4, DataConf(partition=kind))


def test_labels_that_no_silo_could_take_say_what_would_do() -> None:
    with pytest.raises(
        DataError, match=r"MDW-204: .*3 silos 2 of 10 classes.*between 4 and 10, or use more silos"
    ):
        parts(np.repeat(np.arange(10), 5), 3, DataConf(partition="labels", labels_per_silo=2))
    with pytest.raises(DataError, match=r"MDW-204: .*class 0 has 2 examples for 3 silos"):
        parts(np.repeat(np.arange(2), 2), 3, DataConf(partition="labels", labels_per_silo=2))


def test_a_process_draws_once_for_all_its_silos(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of(500, 10, seed=41)
    conf = DataConf(partition="dirichlet", alpha=0.5, seed=4)
    drawn: list[int] = []

    def counted(labels: Indices, of: int, conf: DataConf) -> list[Indices]:
        drawn.append(of)
        return draw(labels, of, conf)

    monkeypatch.setattr("client.partition.draw", counted)
    first = [parts(labels.copy(), 20, conf)[silo] for silo in range(20)]
    assert drawn == [20]
    assert all(np.array_equal(a, b) for a, b in zip(first, draw(labels, 20, conf), strict=True))
    labels[0] = (labels[0] + 1) % 10
    parts(labels, 20, conf)
    assert drawn == [20, 20], "other labels, another draw"
    for change in ({"seed": 5}, {"alpha": 0.6}, {"partition": "iid"}):
        parts(labels, 20, replace(conf, **change))
    assert len(drawn) == 5


def test_no_silo_can_change_another_s_part() -> None:
    part = parts(labels_of(100, 3), 4, DataConf(partition="iid"))[0]
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 7


def test_a_value_of_a_column_is_at_one_silo_and_neighbours_are_together() -> None:
    values = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 4])
    found = parts(values, 3, DataConf(partition="column", column="year"))
    assert [sorted(set(values[part].tolist())) for part in found] == [[0], [1, 2], [3, 4]]


def test_as_many_values_as_silos_are_a_value_a_silo_whatever_their_sizes() -> None:
    values = np.array([0] * 97 + [1, 2, 3])
    found = parts(values, 4, DataConf(partition="column", column="clinic"))
    assert [len(part) for part in found] == [97, 1, 1, 1]


def test_a_column_with_fewer_values_than_silos_is_refused() -> None:
    with pytest.raises(DataError, match="has 2 values for 3 silos") as caught:
        parts(np.array([0, 1, 1]), 3, DataConf(partition="column", column="sex"))
    assert caught.value.code == "MDW-204"
