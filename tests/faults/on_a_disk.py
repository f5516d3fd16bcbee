"""What Meadow keeps, exercised in one folder: a line of JSON says how each part went.

python -m tests.faults.on_a_disk FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import MeadowError
from conf.files.locks import locked, try_lock
from conf.files.whole import append_durably, append_line, create, make_folder, write_atomic


def files(folder: Path) -> None:
    """Make, replace and append."""
    make_folder(folder / "a/b", 0o700)
    assert create(folder / "a/one", b"1")
    assert not create(folder / "a/one", b"2")
    write_atomic(folder / "a/one", b"3")
    append_line(folder / "a/lines", "x")
    append_durably(folder / "a/lines", b"y\n")
    assert (folder / "a/one").read_bytes() == b"3"
    assert (folder / "a/lines").read_bytes() == b"x\ny\n"


def locks(folder: Path) -> None:
    """Lock, also once more, and let go."""
    with locked(folder / ".lock"), locked(folder / ".lock"):
        assert try_lock(folder / "other") is not None


def store(folder: Path) -> None:
    """Put, replace, list, delete; take, renew and give up a lease, and write under it."""
    place = FolderStore(folder / "store")
    assert place.put_if_absent("runs/a", b"1")
    assert not place.put_if_absent("runs/a", b"2")
    place.replace("runs/a", b"3")
    lease = place.acquire("live", "me", 20)
    assert lease is not None and place.acquire("live", "you", 20) is None
    lease = place.renew(lease, 20)
    place.replace("runs/b", b"4", under=lease)
    assert place.put_if_absent("runs/c", b"5", under=lease)
    assert place.list("runs/") == ["runs/a", "runs/b", "runs/c"]
    place.delete("runs/c")
    place.release(lease)
    assert place.read("runs/a") == b"3" and place.acquire("live", "you", 20) is not None


def case(folder: Path) -> None:
    """Keep two names that differ in case apart, or say that this can't be."""
    place = FolderStore(folder / "case")
    place.put_if_absent("keys/north", b"north")
    assert "keys/North" not in place.list()
    try:
        place.read("keys/North")
    except MeadowError as error:
        assert error.code == "MDW-510", error
    else:
        raise AssertionError("another silo's entry was read")
    place.put_if_absent("keys/North", b"North")
    assert place.read("keys/north") == b"north" and place.read("keys/North") == b"North"


def keys(folder: Path) -> None:
    """Keep a secret, for this user alone."""
    secrets = FolderSecrets(folder / "keys")
    secrets.set("node", b"secret")
    assert secrets.get("node") == b"secret"


PARTS: tuple[Callable[[Path], None], ...] = (files, locks, store, case, keys)


def main(folder: Path) -> dict[str, str]:
    """Return, by part, `well` or the code of the error that a person would read."""
    said = {}
    for part in PARTS:
        try:
            part(folder)
            said[part.__name__] = "well"
        except MeadowError as error:
            said[part.__name__] = error.code
        except Exception as error:
            said[part.__name__] = f"{type(error).__name__}: {error}"
    left = [str(path) for path in folder.rglob(".tmp-*")] if folder.is_dir() else []
    return {**said, "left": " ".join(left)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
