"""Each system call of what Meadow keeps fails once, with each error of the family: what is left is
the old or the new, the cause is the true one, and the same work then does well.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.rendezvous import FolderRendezvous, Record, SignedRecord
from azureml_jobs.storage.folder_store import FolderStore
from client.node import state_store
from client.node.journal import InstructionKey, UpdateJournal
from client.node.state_store import SiloStateStore
from conf.compose import compose
from conf.errors import ConfigError, IdentityError, MeadowError
from server.run.checkpoint import Checkpoints, RunState
from server.run.history import History, Mark
from server.run.ledger import Ledger
from server.run.result import RoundRecord
from server.run.run_folder import RunFolder
from tests.faults.failing_calls import CODES, calls_of, failing

ERRNOS = (
    *(errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE),
    errno.ENOSYS,
)
CONF = compose([])
KEY = InstructionKey("run", 1, "content")
STATE = RunState(1, ArrayRecord({"w": Array(np.ones(3, np.float32))}), RecordDict(), None, Mark())
WRAPPED = {"keys": ("MDW-713", IdentityError), "run folder": ("MDW-182", ConfigError)}
WRAPPED["rendezvous"] = ("MDW-731", IdentityError)
"""Who tells the cause in an error of their own."""


def put(folder: Path) -> None:
    store = FolderStore(folder)
    store.put_if_absent("runs/a", b"new")
    store.replace("pointer", b"new")
    assert store.read("pointer") == b"new"


def lease(folder: Path) -> None:
    store = FolderStore(folder)
    held = store.acquire("live", "me", 20)
    assert held is not None
    store.replace("pointer", b"new", under=store.renew(held, 20))
    store.release(held)


def ledger(folder: Path) -> None:
    with Ledger(folder / "ledger.jsonl", "run") as lines:
        lines.append("something", value=1)
        lines.seal()


def journal(folder: Path) -> None:
    UpdateJournal(folder).keep_update(KEY, "root", {"id": b"new"})


def states(folder: Path) -> None:
    records = RecordDict({"1|run|1|c": ArrayRecord({"w": Array(np.ones(2, np.float32))})})
    silo = SiloStateStore(lambda: FolderStore(folder), "north")
    try:
        silo.keep("run", 1, records)
    finally:
        silo.close()


def keys(folder: Path) -> None:
    FolderSecrets(folder / "keys").set("node", b"new")


def rendezvous(folder: Path) -> None:
    FolderRendezvous(folder / "rendezvous").publish(SignedRecord(Record("127.0.0.1:1", 1)))


def run_folder(folder: Path) -> None:
    run = dataclasses.replace(CONF.run, output=str(folder), name="a")
    RunFolder.create(dataclasses.replace(CONF, run=run), "meadow simulate")


def checkpoint(folder: Path) -> None:
    Checkpoints(FolderStore(folder)).save(STATE)


def history(folder: Path) -> None:
    History(folder / "history.jsonl", Mark()).append(RoundRecord(1, ["north"]))


WORK: dict[str, Callable[[Path], None]] = {
    "store": put,
    "lease": lease,
    "ledger": ledger,
    "journal": journal,
    "states": states,
    "keys": keys,
    "rendezvous": rendezvous,
    "run folder": run_folder,
    "checkpoint": checkpoint,
    "history": history,
}


@pytest.mark.parametrize("name", WORK)
def test_whatever_fails_is_told_by_its_cause_and_leaves_nothing_half_done(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A lease that could not be given up is waited for.
    monkeypatch.setattr(state_store, "LEASE_SECONDS", 0.01)
    monkeypatch.setattr(state_store, "RENEW_SECONDS", 60.0)
    work = WORK[name]
    clean = tmp_path / "clean"
    clean.mkdir(mode=0o700)
    calls = calls_of(clean, lambda: work(clean))
    assert len(calls) > 5
    failed = 0
    for at, call in enumerate(calls):
        for number in ERRNOS:
            folder = tmp_path / f"{at}-{number}"
            folder.mkdir(mode=0o700)
            case = f"{name}: call {at} of {len(calls)}, {call}, {errno.errorcode[number]}"
            with failing(folder, at, number):
                try:
                    work(folder)
                except MeadowError as error:
                    failed += 1
                    code, kind = WRAPPED.get(name, (CODES[number], MeadowError))
                    if call == "flock" and number == errno.EACCES and name == "ledger":
                        # So says a share whose locks are byte ranges, where another holds one.
                        code = "MDW-521"
                    assert error.code == code and isinstance(error, kind), f"{case}: {error}"
                    told = name not in WRAPPED or any(one in str(error) for one in causes(number))
                    assert told, f"{case}: {error}"
                    assert str(folder) in str(error), f"{case}: {error}"
                except AssertionError:
                    raise
                except Exception as error:
                    raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
            # Where the tidying itself fails, it stays for a later one.
            tidying = call in ("unlink", "rmdir", "scandir", "stat", "lstat") or (
                "rename" in calls and at > calls.index("rename")
            )
            if not tidying:
                assert not list(folder.rglob(".tmp-*")), case
            try:
                work(folder)
            except ConfigError as error:
                # The folder is whole, and so it is taken.
                assert name == "run folder" and error.code == "MDW-181", case
                assert (folder / "a/config.yaml").stat().st_size > 100, case
    assert failed > len(calls)


def causes(number: int) -> tuple[str, ...]:
    return (os.strerror(number), *(["full"] if number == errno.ENOSPC else []))
