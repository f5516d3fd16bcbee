"""Who may write: epochs and expiries, and two that want the same lease in the same moment."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from azureml_jobs.storage.base import Data, Lease, LeaseLost, StoreMissing
from azureml_jobs.storage.lease import TRIES, Leases
from conf.errors import CheckpointError


class Memory:
    """A versioned store in a dictionary.

    `meanwhile` happens between a look and the write that follows it.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.writes = 0

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        if name not in self.files:
            raise StoreMissing("MDW-510", "nothing")
        return self.files[name], str(self.versions[name])

    def write_if_version(self, name: str, data: Data, version: str | None) -> bool:
        self.writes += 1
        self.meanwhile()
        found = str(self.versions[name]) if name in self.files else None
        if found != version:
            return False
        self.put(name, bytes(data))
        return True

    def put(self, name: str, data: bytes) -> None:
        self.files[name] = data
        self.versions[name] = self.versions.get(name, 0) + 1

    def touch(self) -> None:
        """Write what is there again: the same record, another version."""
        self.put("live.lease", self.files.get("live.lease", b"{}"))


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def leases(memory: Memory, clock: Clock) -> Leases:
    return Leases(memory, "the store", clock)


def held(leases: Leases, owner: str = "one") -> Lease:
    lease = leases.acquire("live", owner, 30)
    assert lease is not None
    return lease


def test_a_lease_that_nobody_had_begins_with_the_first_epoch(
    leases: Leases, memory: Memory
) -> None:
    assert held(leases) == Lease("live", "one", 1, 1030.0)
    record = {"version": 1, "name": "live", "owner": "one", "epoch": 1, "expires": 1030.0}
    assert json.loads(memory.files["live.lease"]) == record


def test_it_is_another_s_from_the_moment_of_its_expiry_and_not_before(
    leases: Leases, clock: Clock
) -> None:
    first = held(leases)
    clock.now = 1029.9
    assert leases.acquire("live", "two", 30) is None
    clock.now = 1030.0
    assert held(leases, "two").epoch == first.epoch + 1


def test_an_owner_that_starts_again_need_not_wait_and_fences_its_former_self(
    leases: Leases,
) -> None:
    former = held(leases)
    now = held(leases)
    assert (now.epoch, now.owner) == (former.epoch + 1, former.owner)
    leases.check(now)
    with pytest.raises(LeaseLost, match=r"MDW-516.*one lost .*epoch 1.*held by one \(epoch 2\)"):
        leases.check(former)


def test_the_same_epoch_of_another_owner_is_lost_too(leases: Leases, memory: Memory) -> None:
    lease = held(leases)
    memory.put(
        "live.lease",
        json.dumps({"version": 1, "owner": "two", "epoch": 1, "expires": 9e9}).encode(),
    )
    with pytest.raises(LeaseLost, match="held by two"):
        leases.check(lease)


def test_a_lease_whose_record_is_gone_is_held_by_nobody(leases: Leases, memory: Memory) -> None:
    lease = held(leases)
    del memory.files["live.lease"]
    with pytest.raises(LeaseLost, match="held by nobody"):
        leases.check(lease)


def test_of_two_that_find_it_free_the_slower_one_looks_again_and_gets_none(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    def overtaken() -> None:
        memory.meanwhile = lambda: None
        held(Leases(memory, "the store", clock), "two")

    memory.meanwhile = overtaken
    assert leases.acquire("live", "one", 30) is None
    assert json.loads(memory.files["live.lease"])["owner"] == "two"


def test_one_that_is_overtaken_by_an_owner_that_gives_up_again_gets_the_next_epoch(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    other = Leases(memory, "the store", clock)

    def overtaken() -> None:
        memory.meanwhile = lambda: None
        other.release(held(other, "two"))

    memory.meanwhile = overtaken
    assert held(leases).epoch == 2


def test_one_that_is_overtaken_each_time_gives_up(leases: Leases, memory: Memory) -> None:
    memory.put(
        "live.lease", json.dumps({"version": 1, "owner": "", "epoch": 4, "expires": 0.0}).encode()
    )
    memory.meanwhile = memory.touch
    assert leases.acquire("live", "one", 30) is None
    assert memory.writes == TRIES


def test_a_renewal_keeps_the_epoch_and_moves_the_expiry(leases: Leases, clock: Clock) -> None:
    lease = held(leases)
    clock.now = 1010.0
    assert leases.renew(lease, 60) == Lease("live", "one", 1, 1070.0)
    clock.now = 1069.0
    assert leases.acquire("live", "two", 30) is None


def test_a_lease_that_expired_and_that_nobody_took_is_renewed(leases: Leases, clock: Clock) -> None:
    lease = held(leases)
    clock.now = 5000.0
    assert leases.renew(lease, 30).expires == 5030.0


def test_a_lease_that_was_taken_is_not_renewed_and_stays_the_other_s(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    lease = held(leases)
    clock.now = 1030.0
    held(leases, "two")
    with pytest.raises(LeaseLost):
        leases.renew(lease, 30)
    assert json.loads(memory.files["live.lease"])["owner"] == "two"


def test_a_lease_that_is_taken_while_it_is_renewed_is_lost(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    lease = held(leases)
    clock.now = 1030.0

    def overtaken() -> None:
        memory.meanwhile = lambda: None
        held(Leases(memory, "the store", clock), "two")

    memory.meanwhile = overtaken
    with pytest.raises(LeaseLost, match="held by two"):
        leases.renew(lease, 30)


def test_a_renewal_beside_another_of_the_same_holder_is_tried_again(
    leases: Leases, memory: Memory
) -> None:
    lease = held(leases)

    def once() -> None:
        memory.meanwhile = lambda: None
        memory.touch()

    memory.meanwhile = once
    assert leases.renew(lease, 60).epoch == 1
    memory.meanwhile = memory.touch
    memory.writes = 0
    with pytest.raises(CheckpointError, match=r"MDW-515.*changed while"):
        leases.renew(lease, 60)
    assert memory.writes == TRIES


def test_a_lease_given_up_is_free_at_once_and_its_epochs_go_on(leases: Leases) -> None:
    first = held(leases)
    leases.release(first)
    with pytest.raises(LeaseLost, match="held by nobody"):
        leases.check(first)
    assert held(leases, "two").epoch == 2


def test_giving_up_what_was_lost_changes_nothing(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    first = held(leases)
    clock.now = 1030.0
    held(leases, "two")
    before = dict(memory.files)
    leases.release(first)
    assert memory.files == before


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b'{"owner": "a"}', b"\xff\xfe"])
def test_a_lease_that_can_not_be_read_is_not_taken_for_a_free_one(
    leases: Leases, memory: Memory, garbage: bytes
) -> None:
    memory.put("live.lease", garbage)
    with pytest.raises(CheckpointError, match=r"MDW-517.*live in the store.*store/live\.lease"):
        leases.acquire("live", "one", 30)
