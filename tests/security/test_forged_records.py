"""Who can write to the rendezvous costs a silo a moment: it sends none home and leads none astray."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.identity.signatures import HeadSigner, authorities_in, sign
from azureml_jobs.rendezvous import (
    OVER,
    FolderRendezvous,
    Record,
    RecordSigner,
    SignedRecord,
)
from client.node.connection import Connection
from client.node.server_finder import ServerFinder
from conf.errors import IdentityError
from server.orchestrator.service import Orchestrator
from tests.client.node.test_server_finder import SERVER, Board, Owner, Silo
from tests.faults.federation import Federation

HIGHEST = replace(SERVER, epoch=10**18, beat=10**18, address="10.6.6.6:9")


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return Owner(tmp_path_factory.mktemp("owner") / "keys")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    """Somebody with a CA of their own, of a federation that bears the same name."""
    return Owner(tmp_path_factory.mktemp("stranger") / "keys")


def forgeries(owner: Owner, stranger: Owner) -> dict[str, SignedRecord]:
    good = owner.says(SERVER)
    theirs = stranger.says(HIGHEST)
    signer = owner.signer.signer
    other_purpose = sign(signer.key, "ledger head", HIGHEST.statement("clinics"))
    return {
        "unsigned": SignedRecord(HIGHEST, "clinics"),
        "of another CA": theirs,
        "another's signature under the certificate": replace(theirs, certificate=good.certificate),
        "the signature of another record": replace(good, record=HIGHEST),
        "a higher epoch": replace(good, record=replace(SERVER, epoch=10**18)),
        "over": replace(good, record=replace(SERVER, state=OVER)),
        "another address": replace(good, record=replace(SERVER, address="10.6.6.6:9")),
        "another federation's": replace(good, federation="banks"),
        "signed for another federation": RecordSigner(signer, "banks").signed(HIGHEST),
        "signed for another purpose": replace(good, record=HIGHEST, signature=other_purpose),
        "no certificate": replace(good, certificate="", record=HIGHEST),
        "a long certificate": replace(good, certificate="x" * 20_000, record=HIGHEST),
        "the CA's own certificate": replace(good, certificate=signer.ca, record=HIGHEST),
        "a signature that is none": replace(good, signature="=", record=HIGHEST),
    }


@pytest.mark.parametrize(
    "case",
    [
        "unsigned",
        "of another CA",
        "another's signature under the certificate",
        "the signature of another record",
        "a higher epoch",
        "over",
        "another address",
        "another federation's",
        "signed for another federation",
        "signed for another purpose",
        "no certificate",
        "a long certificate",
        "the CA's own certificate",
        "a signature that is none",
    ],
)
def test_a_record_that_this_federation_s_orchestrator_did_not_sign_is_passed_over(
    owner: Owner, stranger: Owner, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    silo = Silo(owner)
    forged = forgeries(owner, stranger)[case]
    silo.board.records = [forged]
    assert silo.find() is None
    assert "MDW-720" in caplog.text
    assert "is passed over" in str(silo.find.not_found(60))
    silo.board.records = [forged, owner.says(SERVER)]
    assert silo.find() == SERVER.address
    with pytest.raises(IdentityError, match="MDW-720"):
        forged.checked(owner.authorities, "clinics", datetime.now(UTC))


def test_a_record_of_a_certificate_that_has_ended_is_passed_over(tmp_path: Path) -> None:
    """Whoever recorded what an orchestrator published can play it for two weeks and no longer."""
    owner = Owner(tmp_path / "keys", days_ago=60)
    silo = Silo(owner)
    silo.shows(SERVER)
    assert silo.find() is None
    assert "not valid now" in str(silo.find.not_found(60))


def test_a_flood_of_forgeries_is_told_once_each_and_no_more_than_a_hundred_times(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    silo = Silo(owner)
    silo.board.records = [SignedRecord(replace(SERVER, epoch=i)) for i in range(300)]
    for _ in range(3):
        assert silo.find() is None
    assert caplog.text.count("MDW-720") == 100


@contextmanager
def _connected(federation: Federation, place: FolderRendezvous | Board) -> Iterator[Connection]:
    authorities = authorities_in(federation.authority)
    finder = ServerFinder(place, lambda: authorities)
    connection = federation.connection("", "silo-1", elsewhere=finder.failed)
    connection._rendezvous = finder
    try:
        yield connection
    finally:
        connection.close()


def _publish(place: FolderRendezvous, signer: RecordSigner, address: str, epoch: int) -> None:
    place.publish(signer.signed(Record(address, epoch, time.time(), beat=epoch)))


def test_a_wrong_certificate_at_one_address_makes_a_silo_try_the_next_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An old record, played again, names an address at which another machine answers by now."""
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder in folders:
        folder.mkdir(mode=0o700)
    ours = Federation(folders[0])
    theirs = Federation(folders[1])
    place = FolderRendezvous(tmp_path / "place")
    signer = RecordSigner(HeadSigner.of(ours.credentials()), "test")
    with theirs.orchestrator() as trap, ours.orchestrator() as server:
        _publish(place, signer, server.address, 1)
        _publish(place, signer, trap.address, 2)
        # Publishing a later epoch removes the earlier file: the server publishes again.
        _publish(place, signer, server.address, 1)
        with _connected(ours, place) as connection:
            connection.open(connection.clock() + 30)
            assert connection._address == server.address
    assert f"the server at {trap.address} can't be trusted" in caplog.text


def test_no_record_ends_a_silo_and_the_server_s_own_word_does(tmp_path: Path) -> None:
    """A stranger's, another federation's and an old true one say that the federation is over."""
    federation = Federation(tmp_path)
    place = FolderRendezvous(tmp_path / "place")
    signer = RecordSigner(HeadSigner.of(federation.credentials()), "test")
    over = Record("127.0.0.1:1", 10**18, time.time(), OVER, 10**18)
    place.publish(signer.signed(over))
    stranger = asdict(over) | {"federation": "test", "certificate": "", "signature": ""}
    (tmp_path / "place" / f"server-{10**19}.json").write_text(json.dumps(stranger))
    server = Orchestrator("127.0.0.1:0", federation.credentials(), federation.public)
    with _connected(federation, place) as connection:
        found: list[int] = []
        waiting = threading.Thread(
            target=lambda: found.append(connection.open(connection.clock() + 30))
        )
        waiting.start()
        server.start()
        try:
            _publish(place, signer, server.address, 3)
            waiting.join(30)
            assert len(found) == 1
            assert server.connected() == ["silo-1"]
        finally:
            server.stop(over=False)
