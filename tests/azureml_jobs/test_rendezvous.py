"""A silo finds the live server, and no dead, frozen or forged record in its stead."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azureml_jobs.rendezvous import (
    FRESH_SECONDS,
    OVER,
    FolderRendezvous,
    MlflowRendezvous,
    Record,
    Rendezvous,
    StaticRendezvous,
    checked_address,
    choose,
    no_server_found,
)
from conf.errors import IdentityError

NOW = 1_700_000_000.0
SERVER = Record("10.0.0.4:9092", epoch=2, heartbeat=NOW)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


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


def test_the_highest_fresh_epoch_wins() -> None:
    older, newer = replace(SERVER, epoch=1, heartbeat=NOW + 5), SERVER
    assert choose([older, newer], NOW) == newer
    assert choose([older, replace(newer, heartbeat=NOW - FRESH_SECONDS - 1)], NOW) == older
    assert choose([newer, replace(newer, heartbeat=NOW - 50, address="x:1")], NOW) == newer
    assert choose([], NOW) is None


@pytest.mark.parametrize(
    ("age", "found"), [(0, True), (90, True), (91, False), (-90, True), (-91, False)]
)
def test_a_heartbeat_long_past_or_in_the_future_is_no_sign_of_life(age: float, found: bool) -> None:
    assert (choose([replace(SERVER, heartbeat=NOW - age)], NOW) is not None) == found


def test_a_federation_that_is_over_stays_over_until_a_later_server_starts() -> None:
    over = replace(SERVER, state=OVER, heartbeat=NOW - 10_000)
    zombie = replace(SERVER, epoch=1)
    assert choose([over, zombie], NOW) == over
    later = replace(SERVER, epoch=3)
    assert choose([over, later], NOW) == later
    assert (
        choose([over, replace(later, heartbeat=NOW - 1000)], NOW) is None
    )  # crashed, not over: wait for it


@settings(deadline=None)
@given(
    st.lists(st.builds(Record, st.just("a:1"), st.integers(0, 4), st.floats(NOW - 200, NOW + 200)))
)
def test_choose_never_prefers_a_lower_epoch_to_a_fresh_higher_one(records: list[Record]) -> None:
    fresh = [r for r in records if abs(NOW - r.heartbeat) <= FRESH_SECONDS]
    found = choose(records, NOW)
    assert (found is None) == (not fresh)
    assert found is None or found.epoch == max(r.epoch for r in fresh)


def test_a_static_address_is_always_found() -> None:
    place: Rendezvous = StaticRendezvous("server.example:9092")
    place.publish(SERVER)
    found = place.find()
    assert found is not None and found.address == "server.example:9092"
    with raises("MDW-732"):
        StaticRendezvous("server.example")


# ---- the folder


def test_what_one_side_publishes_the_other_finds(tmp_path: Path) -> None:
    server, silo = (FolderRendezvous(tmp_path / "place", lambda: NOW) for _ in range(2))
    assert silo.find() is None
    server.publish(SERVER)
    assert silo.find() == SERVER
    moved = replace(SERVER, address="10.0.0.9:9092", epoch=3)
    server.publish(moved)
    assert silo.find() == moved and len(list((tmp_path / "place").iterdir())) == 1


def test_a_server_that_was_thought_dead_does_not_hide_its_successor(tmp_path: Path) -> None:
    place = FolderRendezvous(tmp_path, lambda: NOW)
    place.publish(replace(SERVER, address="10.0.0.9:9092", epoch=3))
    place.publish(replace(SERVER, epoch=2, heartbeat=NOW + 30))
    found = place.find()
    assert found is not None and found.epoch == 3


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"[]", b"\xff", b"null", b"[" * 4000, b" " * 5000, json.dumps(asdict(SERVER) | {"state": "x"}).encode(),
     json.dumps(asdict(SERVER) | {"address": "no"}).encode(), json.dumps(asdict(SERVER) | {"epoch": "?"}).encode()],
)  # fmt: skip
def test_what_is_no_record_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    place = FolderRendezvous(tmp_path, lambda: NOW)
    place.publish(SERVER)
    (tmp_path / "server-000000009.json").write_bytes(garbage)
    assert place.find() == SERVER


def test_a_place_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises("MDW-731: Can't write"):
        FolderRendezvous(tmp_path / "file").publish(SERVER)
    with raises("MDW-732"):
        FolderRendezvous(tmp_path).publish(replace(SERVER, address="nowhere"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    place = FolderRendezvous(tmp_path, lambda: NOW)
    place.publish(SERVER)

    def beat() -> None:
        for second in range(60):
            place.publish(
                replace(SERVER, heartbeat=NOW + second, address=f"{'x' * (second + 1)}:9092")
            )

    beating = threading.Thread(target=beat)
    beating.start()
    while beating.is_alive():
        found = place.find()
        assert found is not None and (
            found == SERVER or len(found.address) == found.heartbeat - NOW + 6
        )
    beating.join()


def test_who_finds_nobody_is_told_what_was_seen(tmp_path: Path) -> None:
    place = FolderRendezvous(tmp_path)
    assert "No server found in 60 s: nothing was published" in str(no_server_found(place, 60, NOW))
    place.publish(replace(SERVER, heartbeat=NOW - 310))
    told = str(no_server_found(place, 60, NOW))
    assert (
        "MDW-730" in told
        and "10.0.0.4:9092, epoch 2, 310 s ago" in told
        and "Start it again" in told
    )
    place.publish(replace(SERVER, heartbeat=NOW + 299))
    told = str(no_server_found(place, 60, NOW))
    assert "299 s in the future" in told and "compare the clocks" in told
    assert "nobody answers at 10.0.0.4:9092" in str(
        no_server_found(StaticRendezvous("10.0.0.4:9092"), 60, NOW)
    )


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
    return MlflowRendezvous(uri, "meadow", federation, run_id, clock=lambda: NOW)


def test_silos_find_the_server_by_its_tags(tracking: tuple[str, Any]) -> None:
    uri, client = tracking
    silo = at(uri, "clinics")
    assert silo.find() is None
    at(uri, "clinics", start_run(client)).publish(replace(SERVER, epoch=1))
    second = at(uri, "clinics", start_run(client))
    second.publish(SERVER)
    assert silo.find() == SERVER and len(silo.seen()) == 2
    second.publish(replace(SERVER, heartbeat=NOW + 30))
    assert silo.find() == replace(SERVER, heartbeat=NOW + 30)
    assert at(uri, "banks").find() is None


def test_the_server_of_an_earlier_run_is_not_taken_for_the_live_one(
    tracking: tuple[str, Any],
) -> None:
    """Its MLflow run may well say RUNNING still: a job that was killed closes nothing."""
    uri, client = tracking
    old, new = start_run(client), start_run(client)
    at(uri, "wards", old).publish(
        replace(SERVER, address="10.0.0.1:9092", epoch=1, heartbeat=NOW - 3600)
    )
    assert client.get_run(old).info.status == "RUNNING"
    silo = at(uri, "wards")
    assert silo.find() is None and len(silo.seen()) == 1
    at(uri, "wards", new).publish(SERVER)
    assert silo.find() == SERVER
    at(uri, "wards", old).publish(
        replace(SERVER, address="10.0.0.1:9092", epoch=1, heartbeat=NOW + 1)
    )
    assert silo.find() == SERVER  # thought dead, back again, and of an epoch that is over


def test_a_run_that_is_named_is_the_only_one_looked_at(tracking: tuple[str, Any]) -> None:
    uri, client = tracking
    first, second, empty = start_run(client), start_run(client), start_run(client)
    at(uri, "labs", first).publish(replace(SERVER, epoch=1))
    at(uri, "labs", second).publish(SERVER)
    assert at(uri, "labs", first).find() == replace(SERVER, epoch=1)
    assert at(uri, "labs", second).find() == SERVER
    assert at(uri, "labs", empty).find() is None
    assert at(uri, "banks", second).find() is None  # it is another federation's
    at(uri, "labs", first).publish(replace(SERVER, epoch=1, heartbeat=NOW - 3600))
    assert at(uri, "labs", first).find() is None
    with raises("MDW-731: Can't look in MLflow"):
        at(uri, "labs", "0" * 32).find()


def test_tags_that_are_no_record_are_passed_over(tracking: tuple[str, Any]) -> None:
    uri, client = tracking
    run_id = start_run(client)
    at(uri, "forged", run_id).publish(SERVER)
    client.set_tag(run_id, "meadow_server_address", "not an address")
    assert at(uri, "forged").find() is None
    client.delete_tag(run_id, "meadow_server_address")
    assert at(uri, "forged").find() is None


def test_an_experiment_that_is_not_there_yet_is_nobody(tracking: tuple[str, Any]) -> None:
    assert MlflowRendezvous(tracking[0], "absent", "clinics").find() is None


def test_what_mlflow_can_not_do_says_so(
    tracking: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = tracking
    with raises("MDW-731.*Only an orchestrator publishes"):
        at(uri, "clinics").publish(SERVER)
    with raises("MDW-731: Can't publish in MLflow"):
        at(uri, "clinics", "0" * 32).publish(SERVER)
    with raises("MDW-731"):
        at(uri, "x' OR tags.`y` = 'z")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with raises("MDW-731: Can't look in MLflow"):
        at("http://127.0.0.1:9", "clinics").find()
