"""Who may write: epochs and expiries, and two that want the same lease in the same moment."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from azureml_jobs.storage.base import Data, Lease, LeaseLost, StoreMissing
from azureml_jobs.storage.lease import BETWEEN_LOOKS, TRIES, Leased, Leases
from azureml_jobs.storage.lease_wait import waited_for
from conf.errors import CheckpointError
from conf.process_birth import this_process
from tests.azureml_jobs.storage.watching import Clock, taken_over


class Memory:
    """A versioned store in a dictionary.

    `meanwhile` happens between a look and the write that follows it.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.writes = 0
        self.age: float | None = None

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

    def unchanged_for(self, name: str) -> float | None:
        return self.age

    def touch(self) -> None:
        """Write what is there again: the same record, another version."""
        self.put("live.lease", self.files.get("live.lease", b"{}"))


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
    assert held(leases) == Lease("live", "one", 1, 0, 30.0, this_process())
    record = {"version": 2, "name": "live", "owner": "one", "epoch": 1, "beat": 0}
    record |= {"seconds": 30.0, "process": this_process()}
    assert json.loads(memory.files["live.lease"]) == record


def test_it_is_another_s_once_it_was_watched_for_as_long_as_it_lasts_and_not_before(
    leases: Leases, clock: Clock
) -> None:
    first = held(leases)
    clock.now = 5000.0
    began = clock.now
    assert taken_over(leases, "live", "two", 30, clock).epoch == first.epoch + 1
    assert clock.now - began == 30


@pytest.mark.parametrize("ahead", [-600.0, 0.0, 20.0, 600.0, 1e9])
def test_no_clock_that_is_ahead_or_behind_takes_a_live_lease_or_leaves_a_dead_one(
    memory: Memory, clock: Clock, ahead: float
) -> None:
    """The clock of the taker is another machine's: it starts anywhere, and is set in between."""
    leases = Leases(memory, "the store", clock)
    lease = held(leases)
    other = Clock(clock.now + ahead)
    taker = Leases(memory, "the store", other)
    for second in range(100):
        assert taker.acquire("live", "two", 30) is None, "it is renewed"
        other.now += 1
        if second % 10 == 9:
            lease = leases.renew(lease, 30)
        if second == 50:
            other.now += ahead
    began = other.now
    taken_over(taker, "live", "two", 30, other)
    assert other.now - began <= 30


def test_a_watcher_that_stood_still_counts_no_more_than_one_look(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    """A machine that was suspended with both on it: the holder renews in the next moment."""
    lease = held(leases)
    taker = Leases(memory, "the store", clock)
    assert taker.acquire("live", "two", 30) is None
    clock.now += 3600
    assert taker.acquire("live", "two", 30) is None
    leases.renew(lease, 30)
    clock.now += BETWEEN_LOOKS
    assert taker.acquire("live", "two", 30) is None


def test_a_holder_whose_process_has_certainly_ended_is_followed_at_once(
    leases: Leases, memory: Memory
) -> None:
    head, _, ticks = this_process().rpartition(":")
    for process, free in (
        (f"{head}:{int(ticks) + 1}", True),
        (f"another-boot:1:{ticks}:1", False),
        ("", False),
        (this_process(), False),
    ):
        record = {"version": 2, "name": "live", "owner": "one", "epoch": 1, "beat": 0}
        record |= {"seconds": 30.0, "process": process}
        memory.put("live.lease", json.dumps(record).encode())
        assert (leases.acquire("live", "two", 30) is not None) == free, process


def test_a_store_with_a_clock_for_all_says_how_long_nobody_wrote(
    leases: Leases, memory: Memory
) -> None:
    held(leases)
    memory.age = 29.0
    assert leases.acquire("live", "two", 30) is None
    memory.age = 30.0
    assert held(leases, "two").epoch == 2


def test_a_lease_of_the_release_before_is_judged_by_its_changes_too(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    def renewed(expires: float) -> None:
        record = {"version": 1, "name": "live", "owner": "one", "epoch": 4, "expires": expires}
        memory.put("live.lease", json.dumps(record).encode())

    for second in range(60):
        renewed(0.0 + second)
        assert leases.acquire("live", "two", 20) is None, "long expired, by whatever clock"
        clock.now += 1
    renewed(9e9)
    assert taken_over(leases, "live", "two", 20, clock).epoch == 5


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_lease_that_lasts_no_time_that_there_is_can_not_be_read(
    leases: Leases, memory: Memory, seconds: float
) -> None:
    record = {"version": 2, "name": "live", "owner": "one", "epoch": 1, "beat": 0}
    memory.put("live.lease", json.dumps(record | {"seconds": seconds, "process": ""}).encode())
    with pytest.raises(CheckpointError, match="MDW-517"):
        leases.acquire("live", "two", 30)


# ---- waiting


class Waiting(Memory, Leased):
    """A store of leases in a dictionary."""

    def __init__(self, clock: Clock) -> None:
        Memory.__init__(self)
        Leased.__init__(self, "the store", clock)


def wait(store: Waiting, clock: Clock, each: Callable[[float], object]) -> Lease | None:
    def sleep(seconds: float) -> None:
        clock.now += seconds
        each(clock.now)

    return waited_for(store, "live", "two", 20, 22, sleep, clock)  # type: ignore[arg-type]


def test_waiting_ends_with_the_lease_of_one_that_died(clock: Clock) -> None:
    store = Waiting(clock)
    assert store.acquire("live", "one", 20) is not None
    lease = wait(store, clock, lambda now: None)
    assert lease is not None and lease.epoch == 2 and 1020 <= clock.now <= 1021


def test_waiting_ends_at_a_sign_of_life_after_the_patience_and_not_before(clock: Clock) -> None:
    store = Waiting(clock)
    live = [store.acquire("live", "one", 20)]

    def renew(now: float) -> None:
        assert live[0] is not None
        live[0] = store.renew(live[0], 20)

    assert wait(store, clock, renew) is None and 1022 <= clock.now <= 1023


def test_one_that_dies_while_it_is_waited_for_is_followed(clock: Clock) -> None:
    store = Waiting(clock)
    first = store.acquire("live", "one", 20)
    assert first is not None

    def last_beat(now: float) -> None:
        if now == 1015:
            store.renew(first, 20)

    lease = wait(store, clock, last_beat)
    assert lease is not None and lease.owner == "two" and 1035 <= clock.now <= 1036


def test_one_that_gives_up_while_it_is_waited_for_is_followed_at_once(clock: Clock) -> None:
    store = Waiting(clock)
    first = store.acquire("live", "one", 20)
    assert first is not None
    lease = wait(store, clock, lambda now: store.release(first) if now == 1003 else None)
    assert lease is not None and clock.now == 1003


# ---- the rest of the rules


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
        json.dumps({"version": 1, "owner": "two", "epoch": 1, "expires": 9e8}).encode(),
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


def test_a_renewal_keeps_the_epoch_and_is_counted(leases: Leases) -> None:
    lease = held(leases)
    assert leases.renew(lease, 60) == Lease("live", "one", 1, 1, 60.0, this_process())
    assert leases.holder("live") == Lease("live", "one", 1, 1, 60.0, this_process())
    leases.release(lease)
    assert leases.holder("live") is None


def test_a_holder_that_stood_still_goes_on_where_nobody_took_its_lease(
    leases: Leases, clock: Clock
) -> None:
    lease = held(leases)
    clock.now = 5000.0
    assert leases.renew(lease, 30).beat == 1


def test_a_lease_that_was_taken_is_not_renewed_and_stays_the_other_s(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    lease = held(leases)
    taken_over(leases, "live", "two", 30, clock)
    with pytest.raises(LeaseLost):
        leases.renew(lease, 30)
    assert json.loads(memory.files["live.lease"])["owner"] == "two"


def test_a_lease_that_is_taken_while_it_is_renewed_is_lost(
    leases: Leases, memory: Memory, clock: Clock
) -> None:
    lease = held(leases)

    def overtaken() -> None:
        memory.meanwhile = lambda: None
        taken_over(Leases(memory, "the store", clock), "live", "two", 30, clock)

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
    taken_over(leases, "live", "two", 30, clock)
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
