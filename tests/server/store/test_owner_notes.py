"""Notes in the store: the highest number counts, and what the orchestrator has seen is not undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.identity.node_key import fresh_node_key, load_node_key
from azureml_jobs.identity.owner_note import OwnerNote, written_note
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import IdentityError
from server.store.admitted_keys import AdmittedKeys
from server.store.ceilings import SECONDS, Ceilings
from server.store.owner_notes import HANDED_IN, OwnerNotes
from tests.azureml_jobs.identity.authorities import authority_in

NOW = 1_700_000_000.0


class Office:
    """North is admitted with 500 examples, which its owner may raise to 1,000."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.store = FolderStore(folder / "store")
        self.keys = AdmittedKeys(self.store, lambda: NOW, authority_in(folder / "keys"))
        self.secret, line = fresh_node_key()
        limits = {"examples_at_most": 500.0, "examples_by_note": 1000.0}
        self.key = self.keys.admit("north", line, limits=limits)
        self.notes = OwnerNotes(self.store, lambda: NOW)
        self.ceilings = Ceilings(self.keys, self.server_notes(), clock=lambda: self.now)

    def server_notes(self) -> OwnerNotes:
        return OwnerNotes(self.store, lambda: NOW)

    def note(self, number: int, most: int) -> OwnerNote:
        return written_note(load_node_key(self.secret, "north"), "test", "north", number, most)

    def ceiling(self) -> int:
        self.now += SECONDS
        return self.ceilings()["north"]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_a_running_server_follows_notes_up_and_down(office: Office) -> None:
    assert office.ceiling() == 500 and office.ceilings.facts() == {}
    office.notes.accept(office.note(1, 900), office.key)
    assert office.ceiling() == 900
    office.notes.accept(office.note(2, 100), office.key)
    assert office.ceiling() == 100
    assert office.ceilings.facts()["north"]["number"] == 2


def test_an_older_note_that_is_played_again_changes_nothing(office: Office) -> None:
    older, newer = office.note(1, 900), office.note(2, 100)
    office.notes.accept(older, office.key)
    office.notes.accept(newer, office.key)
    with pytest.raises(IdentityError, match="MDW-726"):
        office.notes.accept(older, office.key)
    office.notes.accept(newer, office.key)
    # Written by who may admit, past the verb.
    name = office.store.list(HANDED_IN)[0].replace("1.json", "9.json")
    office.store.put_if_absent(name, older.to_text().encode())
    assert office.ceiling() == 100


def test_who_takes_the_newest_note_away_does_not_bring_the_older_one_back(office: Office) -> None:
    office.notes.accept(office.note(1, 900), office.key)
    office.notes.accept(office.note(2, 100), office.key)
    assert office.ceiling() == 100
    for name in office.store.list(HANDED_IN):
        office.store.delete(name)
    assert office.ceiling() == 100
    restarted = Ceilings(office.keys, office.server_notes())
    assert restarted()["north"] == 100


def test_garbage_and_forgeries_cost_nothing_and_are_said_once(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    office.notes.accept(office.note(1, 300), office.key)
    prefix = office.store.list(HANDED_IN)[0].rpartition("-")[0]
    for number in range(7):
        office.store.put_if_absent(f"{prefix}-9{number}.json", b"x" * 5000)
    assert office.ceiling() == 300 and office.ceiling() == 300
    assert caplog.text.count("MDW-725") == 7
