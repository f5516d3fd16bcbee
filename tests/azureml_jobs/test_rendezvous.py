"""What an orchestrator publishes is what silos see; who wrote it is theirs to check."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.rendezvous import (
    MOST_RECORDS,
    FolderRendezvous,
    MlflowRendezvous,
    Record,
    Rendezvous,
    SignedRecord,
    StaticRendezvous,
    checked_address,
)
from conf.errors import IdentityError

NOW = 1_700_000_000.0
SERVER = Record("10.0.0.4:9092", epoch=2, heartbeat=NOW)


SIGNED = SignedRecord(SERVER, "clinics", "certificate", "signature")


def signed(**changes: Any) -> SignedRecord:
    """Return a record of the server with other values; the rendezvous itself checks no signature."""
    return replace(SIGNED, record=replace(SERVER, **changes))


def records(place: Rendezvous) -> list[Record]:
    return [one.record for one in place.seen()]


def raises(pattern: str) -> Any:
    return pytest.raises(IdentityError, match=pattern)


@pytest.mark.parametrize(
    "good", ["10.0.0.4:9092", "localhost:1", "a.b-c.example:65535", "[::1]:9092", "x:080"]
)
def test_an_address_has_a_host_and_a_port(good: str) -> None:
    assert checked_address(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", "host", ":9092", "host:", "host:0", "host:65536", "a:9e1", "https://a:1", "a b:1", "::1:9", "a:1\n", "-:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(bad: str) -> None:
    with raises("MDW-732"):
        checked_address(bad)


def test_a_static_address_is_all_that_is_seen() -> None:
    place: Rendezvous = StaticRendezvous("server.example:9092")
    place.publish(SIGNED)
    assert [signed.record.address for signed in place.seen()] == ["server.example:9092"]
    with raises("MDW-732"):
        StaticRendezvous("server.example")


# ---- the folder


def test_what_one_side_publishes_the_other_sees(tmp_path: Path) -> None:
    server = FolderRendezvous(tmp_path / "place")
    silo = FolderRendezvous(tmp_path / "place")
    assert silo.seen() == []
    server.publish(SIGNED)
    assert silo.seen() == [SIGNED]
    moved = signed(address="10.0.0.9:9092", epoch=3)
    server.publish(moved)
    assert silo.seen() == [moved] and len(list((tmp_path / "place").iterdir())) == 1


def test_a_server_that_was_thought_dead_does_not_hide_its_successor(tmp_path: Path) -> None:
    place = FolderRendezvous(tmp_path)
    place.publish(signed(address="10.0.0.9:9092", epoch=3))
    place.publish(signed(epoch=2, beat=70))
    assert {record.epoch for record in records(place)} == {2, 3}


PLAIN = asdict(SERVER) | {"federation": "f", "certificate": "c", "signature": "s"}


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"[]", b"\xff", b"null", b"[" * 4000, b" " * 20_000,
     *(json.dumps(PLAIN | change).encode() for change in (
        {"state": "x"}, {"address": "no"}, {"epoch": "?"}, {"beat": None}, {"epoch": 1e999}))],
)  # fmt: skip
def test_what_is_no_record_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    place = FolderRendezvous(tmp_path)
    place.publish(SIGNED)
    (tmp_path / "server-000000009.json").write_bytes(garbage)
    assert place.seen() == [SIGNED]


def test_what_is_no_plain_file_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    place = FolderRendezvous(tmp_path / "place")
    place.publish(SIGNED)
    (tmp_path / "other.json").write_text(json.dumps(PLAIN))
    (tmp_path / "place" / "server-000000010.json").symlink_to(tmp_path / "other.json")
    (tmp_path / "place" / "server-000000011.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "place" / "server-000000012.json")
    (tmp_path / "place" / "server-000000013.json").mkdir()
    assert place.seen() == [SIGNED]


def test_thousands_of_records_are_not_all_read(tmp_path: Path) -> None:
    place = FolderRendezvous(tmp_path)
    place.publish(SIGNED)
    for epoch in range(MOST_RECORDS + 50):
        (tmp_path / f"server-{10**18 + epoch}.json").write_text(json.dumps(PLAIN))
    assert len(place.seen()) == MOST_RECORDS
    assert SIGNED in place.seen()


def test_a_place_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises("MDW-731: Can't write"):
        FolderRendezvous(tmp_path / "file").publish(SIGNED)
    with raises("MDW-732"):
        FolderRendezvous(tmp_path).publish(signed(address="nowhere"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    place = FolderRendezvous(tmp_path)
    place.publish(SIGNED)

    def beat() -> None:
        for second in range(60):
            place.publish(signed(beat=second, address=f"{'x' * (second + 1)}:9092"))

    beating = threading.Thread(target=beat)
    beating.start()
    while beating.is_alive():
        (found,) = records(place)
        assert found == SERVER or len(found.address) == found.beat + 6
    beating.join()


# ---- MLflow


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    client.create_experiment("meadow")
    yield uri, client


def start_run(client: Any) -> str:
    run = client.create_run(client.get_experiment_by_name("meadow").experiment_id)
    return str(run.info.run_id)


def at(uri: str, federation: str, run_id: str | None = None) -> MlflowRendezvous:
    return MlflowRendezvous(uri, "meadow", federation, run_id)


def test_silos_see_the_server_by_its_tags(tracking: tuple[str, Any]) -> None:
    uri, client = tracking
    silo = at(uri, "clinics")
    assert silo.seen() == []
    at(uri, "clinics", start_run(client)).publish(signed(epoch=1))
    second = at(uri, "clinics", start_run(client))
    second.publish(SIGNED)
    assert SIGNED in silo.seen() and len(silo.seen()) == 2
    second.publish(signed(beat=30))
    assert signed(beat=30) in silo.seen()
    assert at(uri, "banks").seen() == []


def test_a_run_that_is_named_is_the_only_one_looked_at(tracking: tuple[str, Any]) -> None:
    uri, client = tracking
    first = start_run(client)
    second = start_run(client)
    empty = start_run(client)
    at(uri, "labs", first).publish(signed(epoch=1))
    at(uri, "labs", second).publish(SIGNED)
    assert records(at(uri, "labs", first)) == [replace(SERVER, epoch=1)]
    assert records(at(uri, "labs", second)) == [SERVER]
    assert at(uri, "labs", empty).seen() == []
    # It is another federation's.
    assert at(uri, "banks", second).seen() == []
    with raises("MDW-731: Can't look in MLflow"):
        at(uri, "labs", "0" * 32).seen()


def test_tags_that_are_no_record_are_passed_over(tracking: tuple[str, Any]) -> None:
    uri, client = tracking
    run_id = start_run(client)
    at(uri, "forged", run_id).publish(SIGNED)
    client.set_tag(run_id, "meadow_server_address", "not an address")
    assert at(uri, "forged").seen() == []
    client.delete_tag(run_id, "meadow_server_address")
    assert at(uri, "forged").seen() == []


def test_an_experiment_that_is_not_there_yet_is_nobody(tracking: tuple[str, Any]) -> None:
    assert MlflowRendezvous(tracking[0], "absent", "clinics").seen() == []


def test_what_mlflow_can_not_do_says_so(
    tracking: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = tracking
    with raises("MDW-731.*Only an orchestrator publishes"):
        at(uri, "clinics").publish(SIGNED)
    with raises("MDW-731: Can't publish in MLflow"):
        at(uri, "clinics", "0" * 32).publish(SIGNED)
    with raises("MDW-731"):
        at(uri, "x' OR tags.`y` = 'z")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with raises("MDW-731: Can't look in MLflow"):
        at("http://127.0.0.1:9", "clinics").seen()
