"""What an owner allows is counted in two sums, and what one can't count is not within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.storage.folder_store import FolderStore
from client.privacy import owner_bounds
from client.privacy.account import Account, Entry
from client.privacy.accountant import Release, epsilon
from conf.errors import CheckpointError, SiloError
from conf.privacy_kinds import LOCAL_DP, OF_EXAMPLES, OF_SILOS, RELATIONS, SAMPLE_DP, SILO_DP
from conf.schema import PolicyConf

STEPS = Release(0.1, 1.0, 10)
CHANGE = Release(1.0, 3.0, 1)
FREE = PolicyConf()


@pytest.fixture
def begun(tmp_path: Path) -> Account:
    account = Account(FolderStore(tmp_path), "north", b"secret")
    account.begin()
    return account


def spent(account: Account, kinds: tuple[str, ...]) -> float:
    return epsilon(owner_bounds.releases_of(account.entries(), kinds), 1e-5)


def reserved(account: Account, kind: str, policy: PolicyConf = FREE) -> list[Entry]:
    return account.reserve("run", 1, STEPS if kind == SAMPLE_DP else CHANGE, policy, kind)


def test_a_local_release_counts_in_both_sums_and_the_others_in_their_own(begun: Account) -> None:
    reserved(begun, SAMPLE_DP)
    assert spent(begun, OF_EXAMPLES) == epsilon([STEPS], 1e-5) and spent(begun, OF_SILOS) == 0
    reserved(begun, SILO_DP)
    assert spent(begun, OF_EXAMPLES) == epsilon([STEPS], 1e-5), "nothing is added across"
    assert spent(begun, OF_SILOS) == epsilon([CHANGE], 1e-5)
    reserved(begun, LOCAL_DP)
    assert spent(begun, OF_EXAMPLES) == epsilon([STEPS, CHANGE], 1e-5)
    assert spent(begun, OF_SILOS) == epsilon([CHANGE] * 2, 1e-5)


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
