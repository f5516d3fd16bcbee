"""What an owner allows is counted in two sums, and what one can't count is not within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.storage.folder_store import FolderStore
from client.privacy import owner_bounds
from client.privacy.account import Account, Entry
from client.privacy.accountant import Release, epsilon
from conf.errors import CheckpointError, SiloError
from conf.privacy_kinds import EXAMPLE, GROUP, LOCAL_DP, RELATIONS, SAMPLE_DP, SILO, SILO_DP
from conf.schema import PolicyConf

STEPS = Release(0.1, 1.0, 10)
CHANGE = Release(1.0, 3.0, 1)
FREE = PolicyConf()


@pytest.fixture
def begun(tmp_path: Path) -> Account:
    account = Account(FolderStore(tmp_path), "north", b"secret")
    account.begin()
    return account


def spent(account: Account, unit: str) -> float:
    return owner_bounds.cost(account.entries(), unit, 1e-5)


def reserved(account: Account, kind: str, policy: PolicyConf = FREE, unit: str = "") -> list[Entry]:
    return account.reserve("run", 1, STEPS if kind == SAMPLE_DP else CHANGE, policy, kind, unit)


def test_a_local_release_counts_in_both_sums_and_the_others_in_their_own(begun: Account) -> None:
    reserved(begun, SAMPLE_DP)
    assert spent(begun, EXAMPLE) == epsilon([STEPS], 1e-5) and spent(begun, SILO) == 0
    reserved(begun, SILO_DP)
    assert spent(begun, EXAMPLE) == epsilon([STEPS], 1e-5), "nothing is added across"
    assert spent(begun, SILO) == epsilon([CHANGE], 1e-5)
    reserved(begun, LOCAL_DP)
    assert spent(begun, EXAMPLE) == epsilon([STEPS, CHANGE], 1e-5)
    assert spent(begun, SILO) == epsilon([CHANGE] * 2, 1e-5)


def test_what_groups_have_paid_is_a_sum_of_its_own_and_dearer_for_each_example(
    begun: Account,
) -> None:
    reserved(begun, SAMPLE_DP, unit=GROUP)
    assert spent(begun, GROUP) == epsilon([STEPS], 1e-5) and spent(begun, SILO) == 0
    # A group with one example more is another group, twice the norm away.
    assert spent(begun, EXAMPLE) == epsilon([], 1e-5, [STEPS]) > 1.2 * spent(begun, GROUP)
    reserved(begun, SAMPLE_DP)
    assert spent(begun, GROUP) == epsilon([STEPS], 1e-5), "an example's bound is no group's"
    halves = epsilon([STEPS], 5e-6) + epsilon([], 5e-6, [STEPS])
    assert spent(begun, EXAMPLE) == halves, "of two relations each sum has half of the delta"
    reserved(begun, LOCAL_DP)
    assert spent(begun, GROUP) == epsilon([STEPS, CHANGE], 1e-5)


def test_an_owner_s_bound_is_of_the_unit_that_the_owner_names(begun: Account) -> None:
    once = epsilon([STEPS], 1e-5) + 1e-3
    groups = PolicyConf(epsilon_at_most=once, unit_at_least="group")
    reserved(begun, SAMPLE_DP, groups, GROUP)
    with pytest.raises(SiloError, match=r"MDW-373: .*each group"):
        reserved(begun, SAMPLE_DP, groups, GROUP)
    with pytest.raises(SiloError, match=r"MDW-373: .*would make it inf"):
        reserved(begun, SAMPLE_DP, groups)
    with pytest.raises(SiloError, match=r"MDW-373: .*each example"):
        reserved(begun, SAMPLE_DP, PolicyConf(epsilon_at_most=once), GROUP)
    assert len(begun.entries()) == 1


def test_an_entry_of_a_unit_that_its_mechanism_does_not_protect_is_not_read(
    begun: Account,
) -> None:
    reserved(begun, SAMPLE_DP, unit=SILO)
    with pytest.raises(CheckpointError, match=r"MDW-540: .*what is protected is 'silo'"):
        begun.entries()


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (PolicyConf(epsilon_at_most=1000), SILO_DP),
        (PolicyConf(silo_epsilon_at_most=1000), SAMPLE_DP),
    ],
)
def test_what_has_no_cost_that_can_be_counted_is_within_no_bound(
    begun: Account, policy: PolicyConf, kind: str
) -> None:
    with pytest.raises(SiloError, match=r"MDW-373: .*would make it inf"):
        reserved(begun, kind, policy)
    assert begun.entries() == []


def test_both_bounds_hold_at_once(begun: Account) -> None:
    once = epsilon([CHANGE], 1e-5) + 1e-3
    policy = PolicyConf(epsilon_at_most=50, silo_epsilon_at_most=once)
    reserved(begun, LOCAL_DP, policy)
    with pytest.raises(SiloError, match=r"MDW-373: .*the silo as a whole"):
        reserved(begun, LOCAL_DP, policy)


def test_an_entry_of_another_relation_than_its_mechanism_s_is_not_read(
    begun: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RELATIONS, LOCAL_DP, "none")
    reserved(begun, LOCAL_DP)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="MDW-540"):
        begun.entries()
