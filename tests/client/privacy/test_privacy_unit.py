"""What one unit is at a silo: an example, or what its owner has named by `data.group`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from client.privacy import privacy_unit
from client.tasks.base import Data
from conf.errors import SiloError
from conf.schema import DataConf, LocalDpConf, PrivacyConf, SampleDpConf, Silo

GROUPS = SampleDpConf(name="sample_dp", unit="group", examples_per_unit=4)
EXAMPLES = SampleDpConf(name="sample_dp")
NORTH = Silo("north", data=DataConf(group="patient"))
NONE = TensorDataset(torch.zeros(0))
THREE = TensorDataset(torch.zeros(3))
OF = np.array([3, 3, 1])


def test_groups_are_the_units_where_a_run_asks_for_it() -> None:
    data = Data(THREE, NONE, NONE, groups=OF)
    assert privacy_unit.units_of(GROUPS, data, NORTH).tolist() == [1, 1, 0]  # type: ignore[union-attr]
    assert privacy_unit.units_of(EXAMPLES, data, NORTH) is None
    assert privacy_unit.count_of(OF) == 2
    privacy_unit.check(GROUPS, NORTH)


@pytest.mark.parametrize("privacy", [PrivacyConf(), EXAMPLES, LocalDpConf(name="local_dp")])
def test_a_silo_without_groups_takes_part_in_any_other_run(privacy: PrivacyConf) -> None:
    privacy_unit.check(privacy, Silo("north", batch_size_at_most=1))


def test_a_silo_whose_owner_or_task_names_no_groups_is_told_so() -> None:
    with pytest.raises(SiloError, match=r"MDW-364: .*its owner has not said"):
        privacy_unit.check(GROUPS, Silo("north"))
    with pytest.raises(SiloError, match=r"MDW-364: .*the task does not say"):
        privacy_unit.units_of(GROUPS, Data(NONE, NONE, NONE), NORTH)
    for wrong in (OF[:2], OF.reshape(3, 1), np.array(3)):
        with pytest.raises(SiloError, match=r"MDW-364: .*for 3 examples"):
            privacy_unit.units_of(GROUPS, Data(THREE, NONE, NONE, groups=wrong), NORTH)


def test_no_more_of_a_group_is_looked_at_than_the_machine_takes() -> None:
    privacy_unit.check(GROUPS, replace(NORTH, batch_size_at_most=4))
    with pytest.raises(SiloError, match=r"MDW-340: .*at most 3 examples at once, not 4") as caught:
        privacy_unit.check(GROUPS, replace(NORTH, batch_size_at_most=3))
    assert caught.value.told == {"refused": "privacy.examples_per_unit=4 (allowed: at most 3)"}
