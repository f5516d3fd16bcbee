"""The rendezvous in a container: what one side publishes the other sees, and no more is asked than need be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.rendezvous import MAX_BYTES, MOST_RECORDS, Record, Rendezvous, SignedRecord
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.store_rendezvous import StoreRendezvous
from conf.errors import AzureError, CheckpointError, IdentityError

SERVER = Record("10.0.0.4:9092", epoch=2, heartbeat=1_700_000_000.0, beat=1)
SIGNED = SignedRecord(SERVER, "clinics", "certificate", "signature")


def signed(**changes: Any) -> SignedRecord:
    return replace(SIGNED, record=replace(SERVER, **changes))


def test_what_one_side_publishes_the_other_sees(tmp_path: Path) -> None:
    server: Rendezvous = StoreRendezvous(FolderStore(tmp_path))
    silo: Rendezvous = StoreRendezvous(FolderStore(tmp_path))
    assert (silo.seen(), silo.admission("ab"), silo.successions()) == ([], None, [])
    server.publish(SIGNED)
    server.publish_admission("ab", "PEM")
    server.publish_succession("one", "text")
    assert (silo.seen(), silo.admission("ab"), silo.successions()) == ([SIGNED], b"PEM", ["text"])
    server.publish(signed(beat=7))
    assert silo.seen() == [signed(beat=7)]


def test_a_new_start_takes_the_place_of_the_older_ones(tmp_path: Path) -> None:
    place = StoreRendezvous(FolderStore(tmp_path))
    place.publish(SIGNED)
    place.publish(signed(epoch=3))
    assert [one.record.epoch for one in place.seen()] == [3]
    place.publish(signed(beat=70))
    assert {one.record.epoch for one in place.seen()} == {2, 3}, "one that was thought dead"


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b"\xff", b"[" * 4000, b" " * (MAX_BYTES + 9)]
)
def test_what_is_no_record_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    store = FolderStore(tmp_path)
    place = StoreRendezvous(store)
    place.publish(SIGNED)
    store.replace("server-000000009.json", garbage)
    store.replace("admission-ab.pem", b"x" * 10_000)
    assert place.seen() == [SIGNED] and place.admission("ab") is None


def test_thousands_of_records_are_not_all_read(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    place = StoreRendezvous(store)
    place.publish(SIGNED)
    for epoch in range(MOST_RECORDS + 20):
        store.replace(f"server-{10**18 + epoch}.json", b"{}")
    assert place.seen() == [SIGNED]


class Counting(FolderStore):
    """A folder that counts how often it is asked."""

    asked = 0

    def list(self, prefix: str = "") -> list[str]:
        self.asked += 1
        return super().list(prefix)

    def read(self, name: str) -> bytes:
        self.asked += 1
        return super().read(name)


def test_a_silo_that_waits_asks_a_few_times_a_minute(tmp_path: Path) -> None:
    StoreRendezvous(FolderStore(tmp_path)).publish(SIGNED)
    store = Counting(tmp_path)
    now = [0.0]
    silo = StoreRendezvous(store, look_seconds=5.0, clock=lambda: now[0])
    for second in range(60):
        now[0] = float(second)
        assert silo.seen() == [SIGNED] and silo.admission("ab") is None
        assert silo.successions() == []
    assert store.asked == 24, "a listing and a record, every five seconds"


class Refusing(FolderStore):
    error: Exception = CheckpointError("MDW-514", "Can't list. This identity may not.", "Grant it.")

    def list(self, prefix: str = "") -> list[str]:
        raise self.error


def test_what_can_not_be_read_says_why_and_what_to_do(tmp_path: Path) -> None:
    store = Refusing(tmp_path)
    with pytest.raises(IdentityError, match=r"MDW-731: .*may not\. \(MDW-514\) Grant it\."):
        StoreRendezvous(store).seen()
    store.error = AzureError("MDW-806", "A firewall.", "Ask its owner.")
    with pytest.raises(IdentityError, match=r"MDW-731: .*MDW-806"):
        StoreRendezvous(store).admission("ab")
