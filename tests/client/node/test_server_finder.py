"""A silo follows the server that runs: no dead, forged or repeated record takes its place for good."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from azureml_jobs.identity.authority import make_ca, server_credentials
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signatures import HeadSigner, authorities_in
from azureml_jobs.rendezvous import (
    OVER,
    Record,
    RecordSigner,
    SignedRecord,
    StaticRendezvous,
)
from client.node.server_finder import AVOID_SECONDS, FRESH_SECONDS, ServerFinder

SERVER = Record("10.0.0.4:9092", epoch=2, heartbeat=1_700_000_000.0, beat=5)
OLD = Record("10.0.0.1:9092", epoch=1, heartbeat=1_600_000_000.0, beat=900)


class Time:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Board:
    """A rendezvous in memory that anybody may write to."""

    def __init__(self) -> None:
        self.records: list[SignedRecord] = []

    def publish(self, signed: SignedRecord) -> None:
        self.records.append(signed)

    def seen(self) -> list[SignedRecord]:
        return list(self.records)

    def publish_admission(self, key: str, certificate: str) -> None:
        raise NotImplementedError

    def admission(self, key: str) -> bytes | None:
        return None


class Owner:
    """A federation's CA, and an orchestrator that it vouches for."""

    def __init__(self, folder: Path, name: str = "clinics", days_ago: int = 0) -> None:
        folder.mkdir(mode=0o700)
        secrets = FolderSecrets(folder)
        made = datetime.now(UTC) - timedelta(days=days_ago)
        make_ca(secrets, name, made)
        credentials = server_credentials(secrets, ["127.0.0.1"], made)
        self.authorities = authorities_in(credentials.ca)
        self.signer = RecordSigner(HeadSigner.of(credentials), name)

    def says(self, record: Record) -> SignedRecord:
        return self.signer.signed(record)


class Silo:
    """A finder, what it looks at, and its clock."""

    def __init__(self, owner: Owner, federation: str | None = "clinics") -> None:
        self.owner = owner
        self.board = Board()
        self.time = Time()
        self.find = ServerFinder(self.board, lambda: owner.authorities, federation, self.time)

    def shows(self, *records: Record) -> None:
        self.board.records = [self.owner.says(record) for record in records]

    def after(self, seconds: float, *records: Record) -> str | None:
        self.time.now += seconds
        self.shows(*records)
        return self.find()


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return Owner(tmp_path_factory.mktemp("owner") / "keys")


@pytest.fixture
def silo(owner: Owner) -> Silo:
    return Silo(owner)


def test_at_the_first_look_the_highest_epoch_is_dialled_at_once(silo: Silo) -> None:
    assert silo.find() is None
    assert silo.after(0, OLD, SERVER) == SERVER.address


def test_the_server_s_clock_plays_no_part(silo: Silo) -> None:
    for heartbeat in (0.0, 1e12, -1e12):
        assert silo.after(1, replace(SERVER, heartbeat=heartbeat)) == SERVER.address


def test_a_record_that_does_not_rise_while_it_is_watched_is_of_a_server_that_is_gone(
    silo: Silo,
) -> None:
    assert silo.after(0, SERVER) == SERVER.address
    for _ in range(9):
        assert silo.after(FRESH_SECONDS / 9, SERVER) == SERVER.address
    assert silo.after(1, SERVER) is None
    assert silo.after(1, replace(SERVER, beat=6)) == SERVER.address


def test_one_that_rises_comes_before_a_higher_epoch_that_does_not(silo: Silo) -> None:
    played_again = replace(SERVER, epoch=77, address="10.9.9.9:1")
    assert silo.after(0, SERVER, played_again) == "10.9.9.9:1"
    assert silo.after(2, replace(SERVER, beat=6), played_again) == SERVER.address


def test_what_rose_before_the_node_watched_says_nothing_about_now(silo: Silo) -> None:
    assert silo.after(0, SERVER) == SERVER.address
    later = replace(SERVER, beat=5000)
    assert silo.after(86400, later, replace(OLD, epoch=3)) == OLD.address


def test_an_address_that_failed_is_left_for_the_next_one_and_tried_again_later(
    silo: Silo,
) -> None:
    assert silo.after(0, OLD, SERVER) == SERVER.address
    assert silo.find.failed(SERVER.address)
    assert silo.after(1, OLD, SERVER) == OLD.address
    assert silo.find.failed(OLD.address)
    assert silo.after(1, OLD, SERVER) == SERVER.address
    assert silo.after(AVOID_SECONDS, OLD, SERVER) == SERVER.address


def test_a_busy_server_that_is_alone_in_rising_is_not_left_for_a_dead_one(silo: Silo) -> None:
    silo.after(0, OLD, SERVER)
    assert silo.after(2, OLD, replace(SERVER, beat=6)) == SERVER.address
    silo.find.failed(SERVER.address)
    assert silo.after(1, OLD, replace(SERVER, beat=7)) == SERVER.address


def test_a_record_that_says_over_sends_nobody_home_and_is_followed_last(silo: Silo) -> None:
    over = replace(SERVER, epoch=9, state=OVER, address="10.9.9.9:1")
    assert silo.after(0, over) == "10.9.9.9:1"
    assert silo.after(1, over, SERVER) == SERVER.address
    assert "says that the federation is over" in str(silo.find.not_found(60))


def test_a_fixed_address_is_always_found_and_there_is_no_other(owner: Owner) -> None:
    find = ServerFinder(StaticRendezvous("server.example:9092"), lambda: owner.authorities)
    assert find() == "server.example:9092"
    assert not find.failed("server.example:9092")
    assert find() == "server.example:9092"
    assert "nobody answers at server.example:9092" in str(find.not_found(60))


def test_who_finds_nobody_is_told_what_was_seen(silo: Silo) -> None:
    assert "No server found in 60 s: nothing was published" in str(silo.find.not_found(60))
    silo.after(0, SERVER)
    told = str(silo.find.not_found(60))
    assert "MDW-730" in told
    assert "10.0.0.4:9092, epoch 2, 2023-11-14 22:13 UTC by its clock" in told
