"""`meadow keys note` and `meadow keys accept`: a silo's owner changes how many examples count.

The owner signs a note where the silo's key is and hands the file over, as they did with the public
key; the orchestrator's owner puts it where the running orchestrator reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.key_places import KeyPlaces, places_of
from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.node_key import read_node_key
from azureml_jobs.identity.owner_note import (
    EXAMPLES,
    MOST_BYTES,
    MOST_EXAMPLES,
    ceiling_of,
    read_note,
    written_note,
)
from conf.errors import IdentityError
from conf.files.whole import write_atomic

Clock = Callable[[], float]


def note(arguments: Arguments, clock: Clock = time.time) -> int:
    """Sign a note with a silo's key and write it to a file; raises MeadowError."""
    places = places_of(arguments)
    if not arguments.has(EXAMPLES):
        raise arguments.wrong(f"{EXAMPLES}= is missing")
    most = int(arguments.number(EXAMPLES, 0.0, MOST_EXAMPLES))
    federation = places.conf.federation.name
    key = read_node_key(places.secrets, federation, places.name)
    path = _file(places)
    made = written_note(key, federation, places.name, _number(path, clock), max(most, 1))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, made.to_text() + "\n")
    except OSError as error:
        hint = "Make room for it, and write it again."
        raise IdentityError("MDW-713", f"Can't write {path}: {error.strerror}.", hint) from error
    print(f"Note of {places.name}: {path}  (public: at most {made.examples_at_most} examples)")
    print(
        f"Give that file to the orchestrator's owner: meadow keys accept {places.name} {path.name}"
    )
    return 0


def accept(arguments: Arguments, clock: Clock = time.time) -> int:
    """Hand in a note that a silo's owner has written; raises MeadowError."""
    from server.store.admitted_keys import AdmittedKeys
    from server.store.owner_notes import OwnerNotes

    places = places_of(arguments)
    store = places.open_store()
    file = Path(arguments.get("FILE"))
    given = read_note(_content(file), str(file))
    keys = AdmittedKeys(store, clock, ca=places.authority.certificate()).current_keys()
    key = _signer(keys, places.name, given.key)
    OwnerNotes(store, clock).accept(given, key)
    print(f"{places.name}: an update of it counts {ceiling_of(key, given)} examples at most.")
    if ceiling_of(key, given) != given.examples_at_most:
        print(
            f"Its owner asks for {given.examples_at_most}, more than the admission allows:"
            f" meadow keys renew {places.name} {EXAMPLES}=N"
        )
    return 0


def _signer(keys: list[AdmittedKey], silo: str, line: str) -> AdmittedKey:
    for key in keys:
        if key.silo == silo and key.line == line:
            return key
    hint = "Look at meadow keys list: a note is good with the key that has signed it."
    raise IdentityError("MDW-725", f"The note is of no key that {silo} may connect with.", hint)


def _number(path: Path, clock: Clock) -> int:
    """Return a number above that of the note before, also where the clock went back."""
    now = int(clock() * 1000)
    try:
        return max(now, read_note(_content(path), str(path)).number + 1)
    except IdentityError:
        return now


def _file(places: KeyPlaces) -> Path:
    if not places.vault:
        return places.folder / f"note-{places.name}.json"
    return Path(f"{places.name}.note.json")


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except OSError as error:
        what = f"Can't read {file}: {error.strerror}."
        raise IdentityError("MDW-702", what, "Name the note that its owner wrote.") from None
