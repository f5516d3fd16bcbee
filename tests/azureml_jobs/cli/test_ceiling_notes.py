"""`meadow keys note` at the silo, `meadow keys accept` at the orchestrator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azureml_jobs.cli.arguments import parse
from azureml_jobs.cli.ceiling_notes import accept, note
from azureml_jobs.cli.keys import keys
from azureml_jobs.cli.verbs import KEYS, find
from conf.errors import MeadowError

START = 1_700_000_000.0


class Desk:
    """One machine that holds both parts' keys; what each prints."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.now = START
        self._capsys = capsys

    def do(self, word: str, *argv: str) -> str:
        where = [f"keys={self.folder / 'keys'}"]
        if word in ("admit", "accept", "revoke"):
            where.append(f"store={self.folder / 'store'}")
        if word == "revoke":
            where = where[1:]
        verb, rest = find(["keys", word, *argv, *where])
        assert not isinstance(verb, str)
        run = {"note": note, "accept": accept}.get(word, keys)
        try:
            run(parse(verb, rest, KEYS), lambda: self.now)
        except MeadowError as error:
            return str(error)
        return self._capsys.readouterr().out

    @property
    def note(self) -> Path:
        return self.folder / "keys" / "note-north.json"


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    made.do("init")
    made.do("silo", "north")
    public = str(tmp_path / "keys" / "node-north.pub")
    made.do("admit", "north", public, "examples_at_most=500", "examples_by_note=1000")
    return made


def test_an_owner_writes_a_note_and_the_orchestrator_s_owner_hands_it_in(desk: Desk) -> None:
    said = desk.do("note", "north", "examples_at_most=800")
    assert "meadow keys accept north note-north.json" in said and "PRIVATE" not in said
    assert "counts 800 examples at most" in desk.do("accept", "north", str(desk.note))
    desk.do("note", "north", "examples_at_most=4000")
    said = desk.do("accept", "north", str(desk.note))
    assert "counts 1000 examples at most" in said and "asks for 4000" in said


def test_numbers_rise_also_where_the_clock_went_back(desk: Desk) -> None:
    desk.do("note", "north", "examples_at_most=800")
    first = json.loads(desk.note.read_text())["number"]
    desk.now -= 600
    desk.do("note", "north", "examples_at_most=700")
    assert json.loads(desk.note.read_text())["number"] == first + 1


def test_a_changed_note_a_stranger_s_and_a_revoked_key_s_are_refused(desk: Desk) -> None:
    desk.do("note", "north", "examples_at_most=800")
    good = desk.note.read_text()
    desk.note.write_text(good.replace("800", "900"))
    assert desk.do("accept", "north", str(desk.note)).startswith("MDW-725")
    desk.note.write_text("{}")
    assert desk.do("accept", "north", str(desk.note)).startswith("MDW-725")
    assert desk.do("accept", "north", str(desk.folder / "none")).startswith("MDW-702")
    desk.note.write_text(good)
    desk.do("revoke", "north")
    assert desk.do("accept", "north", str(desk.note)).startswith("MDW-725")


def test_a_note_says_a_number(desk: Desk) -> None:
    assert desk.do("note", "north").startswith("MDW-111")
    assert desk.do("note", "north", "examples_at_most=-3").startswith("MDW-111")
    assert desk.do("note", "south", "examples_at_most=3").startswith("MDW-700")
