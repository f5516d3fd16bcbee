"""Examples of one patient, account or document stay together: in one split, and in one silo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from client.groups import by_pattern, groups_by, members, most_frequent, numbered
from client.partition import KINDS
from client.splits import Splits
from client.tasks import task_named
from client.tasks.base import splits_of
from conf.errors import DataError
from conf.schema import DataConf, Silo
from tests.client.test_splits import sizes


def silo(name: str = "north", index: int = 0, of: int = 1, **data: Any) -> Silo:
    return Silo(name, index, of, DataConf(**{"group": "patient", "partition": "own", **data}))


def in_groups(groups: list[int], **data: Any) -> Splits:
    return splits_of(silo(**data), len(groups), groups=numbered(np.array(groups)))


# ---- which examples belong together


def test_equal_values_are_one_group_whatever_their_type() -> None:
    assert numbered(np.array(["b", "a", "b"])).tolist() == [1, 0, 1]
    assert numbered(np.array([7, 7, -1])).tolist() == [1, 1, 0]
    assert [part.tolist() for part in members(np.array([1, 0, 1, 2]))] == [[1], [0, 2], [3]]


def test_a_group_s_class_is_its_most_frequent_one_of_equal_ones_the_smallest() -> None:
    labels = np.array([3, 3, 1, 2, 5, 4])
    assert most_frequent(labels, [np.array([0, 1, 2]), np.array([3, 4, 5])]).tolist() == [3, 2]


def test_a_column_groups_by_its_values() -> None:
    columns = {"patient": np.array(["x", "y", "x", "z"])}
    assert groups_by("patient", columns, 4, "scans").tolist() == [0, 1, 0, 2]
    assert groups_by("patient", columns, 3, "scans").tolist() == [0, 1, 0]


def test_a_pattern_groups_files_by_what_its_first_group_finds() -> None:
    names = ["p1_a.png", "p2_a.png", "p1_b.png"]
    assert by_pattern(names, r"^(p\d+)_").tolist() == [0, 1, 0]
    assert by_pattern(names, r"p\d+").tolist() == [0, 1, 0]
    assert groups_by(r"_(.)\.", {"file": np.array(names)}, 3, "scans").tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("by", "columns", "error"),
    [
        ("patiend", {"patient": np.arange(4)}, r"MDW-220.*Did you mean 'patient'"),
        ("patient", {}, r"MDW-220.*scans.*`columns`"),
        ("patient", {"patient": np.arange(3)}, r"MDW-221.*\(3,\).*4 examples"),
        ("patient", {"patient": np.zeros((4, 2))}, "MDW-221"),
        ("(", {"file": np.array(["a", "b", "c", "d"])}, r"MDW-222.*no regular expression"),
        (r"p(\d)", {"file": np.array(["p1", "p2", "x", "p3"])}, "MDW-222.*finds nothing in 'x'"),
        (r"p(\d)?", {"file": np.array(["p1", "p2", "p", "p3"])}, "MDW-222.*'p'"),
    ],
)
def test_what_can_not_group_is_refused(by: str, columns: Any, error: str) -> None:
    with pytest.raises(DataError, match=error):
        groups_by(by, columns, 4, "scans")


# ---- splits


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=300),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 9),
)
def test_no_group_crosses_splits_and_nothing_is_lost(
    groups: list[int], validation: float, test: float, seed: int
) -> None:
    if len(set(groups)) == 1:
        groups[0] = 31
    one = in_groups(groups, validation=validation, test=test, seed=seed)
    whole = np.concatenate([one.train, one.validation, one.test])
    assert np.array_equal(np.sort(whole), np.arange(len(groups)))
    of = np.array(groups)
    seen = [set(of[part].tolist()) for part in (one.train, one.validation, one.test)]
    assert seen[0]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=60, max_size=120), st.integers(0, 9))
def test_shares_are_met_to_about_half_a_group(sizes_of_groups: list[int], seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes_of_groups)), sizes_of_groups)
    one = in_groups(groups.tolist(), validation=0.1, test=0.2, seed=seed)
    assert abs(len(one.validation) - 0.1 * len(groups)) <= 4.5
    assert abs(len(one.test) - 0.2 * len(groups)) <= 4.5


def test_of_few_large_groups_each_split_still_has_one() -> None:
    assert sizes(in_groups([0] * 50 + [1] * 30 + [2] * 40)) == (50, 40, 30)
    assert sizes(in_groups([0] * 50 + [1] * 30)) == (50, 0, 30)
    assert sizes(in_groups([0] * 50 + [1] * 30, test=0)) == (50, 30, 0)
    assert sizes(in_groups([0] * 50 + [1] * 30, validation=0, test=0)) == (80, 0, 0)


def test_the_draw_is_the_seed_s_and_the_silo_s_own() -> None:
    groups = [number // 5 for number in range(200)]
    same = in_groups(groups).test.tolist()
    assert in_groups(groups).test.tolist() == same
    assert in_groups(groups, seed=1).test.tolist() != same
    assert in_groups(groups, name="south").test.tolist() != same


def test_one_group_that_is_all_the_data_is_refused_where_some_should_be_held_out() -> None:
    with pytest.raises(DataError, match=r"MDW-223.*north.*patient"):
        in_groups([4] * 20)
    assert sizes(in_groups([4] * 20, validation=0, test=0)) == (20, 0, 0)


def test_a_task_that_says_no_groups_is_told() -> None:
    with pytest.raises(DataError, match="MDW-220"):
        splits_of(silo(), 20)


# ---- silos


@pytest.mark.parametrize("partition", sorted(KINDS))
def test_a_group_of_a_public_set_is_in_one_silo(partition: str) -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 120, 900)
    labels = rng.integers(0, 4, 900)
    data = {"partition": partition, "alpha": 1.0, "labels_per_silo": 2}
    found: list[set[int]] = []
    rows = 0
    for index in range(3):
        here = silo(f"s{index}", index, 3, **data)
        one = splits_of(here, 900, labels, groups, by=labels)
        whole = np.concatenate([one.train, one.validation, one.test])
        rows += len(whole)
        found.append(set(groups[whole].tolist()))
    assert rows == 900
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]


# ---- a task


def test_digits_group_by_another_array_of_the_silo_s_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Each writer's digits have a brightness of their own, by which they are known again.
    writer = np.repeat(np.arange(12), 10)
    x = np.repeat(writer[:, None] + 1, 64, axis=1).reshape(-1, 8, 8).astype(float)
    np.savez_compressed(
        tmp_path / "digits.npz", x=x, y=rng.integers(0, 10, 120), writer=writer.astype(str)
    )
    digits = task_named("digits")
    own = silo(root=str(tmp_path), group="writer")
    data = digits.data(own)
    writers = []
    for part in (data.train, data.validation, data.test):
        assert isinstance(part, TensorDataset)
        writers.append({round(float(image.max()) * 16) for image in part.tensors[0]})
    assert [len(found) for found in writers] == [10, 1, 1]
    assert len(set.union(*writers)) == 12
    labels = digits.train_labels(own)
    assert labels is not None
    assert len(labels) == 100


def test_a_public_set_without_columns_says_so() -> None:
    with pytest.raises(DataError, match=r"MDW-220.*data\.group=writer.*digits"):
        task_named("digits").data(silo(partition="iid", group="writer"))
