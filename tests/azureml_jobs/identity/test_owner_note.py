"""A silo's owner changes how many examples count; nobody else can, and no note counts elsewhere or later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.node_key import NodeKey, fresh_node_key, load_node_key
from azureml_jobs.identity.owner_note import (
    BY_NOTE,
    EXAMPLES,
    PURPOSE,
    OwnerNote,
    ceiling_of,
    check_note,
    read_note,
    written_note,
)
from azureml_jobs.identity.signatures import RECEIPT, sign
from azureml_jobs.identity.signed_admission import Admission
from conf.errors import IdentityError
from tests.azureml_jobs.identity.authorities import authority_in

NOW = 1_700_000_000.0
NUMBER = int(NOW * 1000)
TEN_MINUTES = 600_000


class Silo:
    """A silo's key and its admission."""

    def __init__(self, folder: Path, name: str = "north", **limits: float) -> None:
        secret, line = fresh_node_key()
        self.key: NodeKey = load_node_key(secret, name)
        admission = Admission("test", name, line, NOW, NOW + 86400, limits)
        self.admitted = AdmittedKey.of(authority_in(folder).sign(admission), name)

    def note(self, most: int = 800, number: int = NUMBER, federation: str = "test") -> OwnerNote:
        return written_note(self.key, federation, self.admitted.silo, number, most)


@pytest.fixture
def north(tmp_path: Path) -> Silo:
    return Silo(tmp_path / "keys", **{EXAMPLES: 500.0, BY_NOTE: 1000.0})


def test_what_is_written_is_read_and_counts(north: Silo) -> None:
    note = north.note()
    again = read_note(note.to_text().encode(), "it")
    check_note(again, north.admitted, NOW, "it")
    assert again == note and ceiling_of(north.admitted, again) == 800


@pytest.mark.parametrize("off", [-TEN_MINUTES, TEN_MINUTES])
def test_a_clock_that_is_ten_minutes_off_writes_a_note_that_counts(north: Silo, off: int) -> None:
    check_note(north.note(number=NUMBER + off), north.admitted, NOW, "it")


@pytest.mark.parametrize(
    ("limits", "asked", "gets"),
    [
        ({EXAMPLES: 500.0, BY_NOTE: 1000.0}, 5000, 1000),
        ({EXAMPLES: 500.0, BY_NOTE: 1000.0}, 20, 20),
        ({EXAMPLES: 500.0}, 501, 500),
        ({EXAMPLES: 500.0}, 20, 20),
        ({}, 5000, 5000),
    ],
)
def test_a_note_raises_as_far_as_the_ca_s_owner_allows_and_lowers_always(
    tmp_path: Path, limits: dict[str, float], asked: int, gets: int
) -> None:
    silo = Silo(tmp_path, **limits)
    assert ceiling_of(silo.admitted, silo.note(asked)) == gets
    signed = limits.get(EXAMPLES)
    assert ceiling_of(silo.admitted, None) == (None if signed is None else int(signed))


def by_the_server(note: OwnerNote, folder: Path) -> OwnerNote:
    """The orchestrator raises what the silo's owner said, and signs with a key of its own."""
    raised = replace(note, examples_at_most=999)
    key = load_node_key(fresh_node_key()[0], "its own")
    return replace(raised, signature=sign(key, PURPOSE, raised.statement()))


Forger = Callable[[Silo, Path], OwnerNote]
FORGERS: dict[str, Forger] = {
    "changed afterwards": lambda silo, folder: replace(silo.note(), examples_at_most=999),
    "with a higher number": lambda silo, folder: replace(silo.note(), number=NUMBER + 1),
    "signed by the server": lambda silo, folder: by_the_server(silo.note(), folder),
    "for another federation": lambda silo, folder: silo.note(federation="other"),
    "of another silo": lambda silo, folder: Silo(folder, "south").note(),
    "of another key": lambda silo, folder: Silo(folder, "north").note(),
    "from the far future": lambda silo, folder: silo.note(number=NUMBER * 2),
    "of no examples": lambda silo, folder: silo.note(0),
    "of more than there are": lambda silo, folder: silo.note(2**50),
    "signed for another purpose": lambda silo, folder: replace(
        silo.note(), signature=sign(silo.key, RECEIPT, silo.note().statement())
    ),
}


@pytest.mark.parametrize("how", FORGERS)
def test_a_note_that_is_not_the_owner_s_for_this_federation_does_not_count(
    north: Silo, tmp_path: Path, how: str
) -> None:
    with pytest.raises(IdentityError, match="MDW-725"):
        check_note(FORGERS[how](north, tmp_path / "others"), north.admitted, NOW, "it")


GOOD = '{"federation": "f", "silo": "s", "key": "k", "signature": "x", "number": 1, '


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "x" * 5000,
        "[" * 4000,
        GOOD + '"examples_at_most": true}',
        GOOD + '"examples_at_most": 1.5}',
        GOOD + '"examples_at_most": 1' + "0" * 40 + "}",
        GOOD.replace('"x"', "7") + '"examples_at_most": 1}',
    ],
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(IdentityError, match="MDW-725"):
        read_note(text.encode(), "it")
