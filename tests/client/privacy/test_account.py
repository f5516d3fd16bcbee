"""A silo's account: spent before it is used, never given back, and noticed when it was changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from azureml_jobs.storage.base import Data, Lease
from azureml_jobs.storage.folder_store import FolderStore
from client.privacy import account as accounts
from client.privacy.account import Account
from client.privacy.accountant import Release, epsilon
from conf.canonical import canonical
from conf.errors import CheckpointError, SiloError
from conf.schema import PolicyConf

ROUND = Release(0.1, 1.0, 10)
FREE = PolicyConf()


def account(folder: Path, key: bytes = b"secret") -> Account:
    """Return an account as a process that has just started sees it."""
    return Account(FolderStore(folder), "north", key)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    assert account(tmp_path).begin()
    return tmp_path


def files(folder: Path) -> Path:
    return folder / "north" / "account"


def test_what_is_reserved_is_there_for_the_next_process_and_of_all_runs(begun: Path) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    of_run = account(begun).reserve("b", 1, ROUND, FREE)
    assert [entry.run for entry in of_run] == ["b"]
    assert [entry.run for entry in account(begun).entries()] == ["a", "b"]
    assert not account(begun).begin(), "it does not begin anew"


def test_a_round_that_would_cost_more_than_is_left_is_refused_and_not_noted(begun: Path) -> None:
    most = epsilon([ROUND] * 2, 1e-5)
    policy = PolicyConf(epsilon_at_most=most + 1e-6)
    for run in ("a", "b"):
        account(begun).reserve(run, 1, ROUND, policy)
    with pytest.raises(SiloError) as caught:
        account(begun).reserve("c", 1, ROUND, policy)
    assert caught.value.code == "MDW-373"
    assert len(account(begun).entries()) == 2
    account(begun).reserve("c", 1, ROUND, FREE)


def test_an_account_that_was_never_begun_does_not_begin_at_zero(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        account(tmp_path).reserve("a", 1, ROUND, PolicyConf(epsilon_at_most=100))
    assert caught.value.code == "MDW-540"
    with pytest.raises(SiloError) as nowhere:
        Account.at("", "north", b"")
    assert nowhere.value.code == "MDW-376"


def test_an_account_of_the_first_version_goes_on(begun: Path) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    for path in files(begun).iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    assert [entry.unit for entry in account(begun).entries()] == ["example"]
    account(begun).reserve("a", 2, ROUND, FREE, unit="group")
    assert [entry.unit for entry in account(begun).entries()] == ["example", "group"]
    assert json.loads((files(begun) / "000003.json").read_text())["version"] == 2


def _cheaper(folder: Path) -> None:
    path = files(folder) / "000003.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"steps": 1}))


def _swapped(folder: Path) -> None:
    second, third = files(folder) / "000002.json", files(folder) / "000003.json"
    text = second.read_text()
    second.write_text(third.read_text())
    third.write_text(text)


def _cut_to_its_beginning(folder: Path) -> None:
    for name in ("000002.json", "000003.json", "000004.json", "head.json"):
        (files(folder) / name).unlink()


def _cut_with_a_head_to_match(folder: Path) -> None:
    """What somebody without the key can write: the digests are of what anybody may read."""
    (files(folder) / "000004.json").unlink()
    last = json.loads((files(folder) / "000003.json").read_text())
    facts = {name: value for name, value in last.items() if name not in ("version", "signature")}
    head = json.loads((files(folder) / "head.json").read_text())
    head |= {"number": 3, "digest": hashlib.sha256(canonical(facts)).hexdigest()}
    (files(folder) / "head.json").write_text(json.dumps(head))


CHANGES: dict[str, Callable[[Path], object]] = {
    "an entry was changed": _cheaper,
    "two were swapped": _swapped,
    "one is missing in the middle": lambda folder: (files(folder) / "000002.json").unlink(),
    "the last one is missing": lambda folder: (files(folder) / "000004.json").unlink(),
    "it is missing all but its beginning, and the head": _cut_to_its_beginning,
    "the last is missing, and the head says so": _cut_with_a_head_to_match,
    "the head is missing": lambda folder: (files(folder) / "head.json").unlink(),
    "the head is empty": lambda folder: (files(folder) / "head.json").write_text(""),
    "an entry is no JSON": lambda folder: (files(folder) / "000003.json").write_text("{"),
    "all of it is gone": lambda folder: shutil.rmtree(files(folder)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_account_that_was_changed_releases_nothing(begun: Path, change: str) -> None:
    mine = account(begun)
    for round in (1, 2, 3):
        mine.reserve("a", round, ROUND, FREE)
    CHANGES[change](begun)
    for process in (account(begun), mine):
        with pytest.raises(CheckpointError) as caught:
            process.reserve("a", 4, ROUND, FREE)
            # What it has read it does not read again; what is missing it sees.
            if process is mine and "missing" not in change and "gone" not in change:
                raise CheckpointError("MDW-540", "")
        assert caught.value.code == "MDW-540"


def test_another_key_reads_nothing(begun: Path) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    with pytest.raises(CheckpointError):
        account(begun, b"of another silo").entries()


def test_a_process_that_died_before_the_head_has_spent_it(begun: Path) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    head = (files(begun) / "head.json").read_bytes()
    account(begun).reserve("a", 2, ROUND, FREE)
    (files(begun) / "head.json").write_bytes(head)
    assert len(account(begun).entries()) == 2
    account(begun).reserve("a", 3, ROUND, FREE)
    assert len(account(begun).entries()) == 3


def test_two_processes_of_one_silo_spend_from_one_account(begun: Path) -> None:
    most = epsilon([ROUND] * 6, 1e-5)
    policy = PolicyConf(epsilon_at_most=most + 1e-6)

    def spend(process: int) -> int:
        mine, done = account(begun), 0
        for round in range(1, 6):
            try:
                mine.reserve(f"run-{process}", round, ROUND, policy)
            except SiloError:
                return done
            done += 1
        return done

    with ThreadPoolExecutor(2) as both:
        counts = list(both.map(spend, (1, 2)))
    assert sum(counts) == 6
    assert len(account(begun).entries()) == 6


def test_an_owner_with_a_new_key_goes_on_with_what_was_spent(begun: Path) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    renewed = account(begun, b"a new one")
    with pytest.raises(CheckpointError):
        renewed.entries()
    assert renewed.go_on()
    assert not account(begun, b"a new one").go_on(), "once is enough"
    account(begun, b"a new one").reserve("a", 2, ROUND, FREE)
    assert [one.round for one in account(begun, b"a new one").entries()] == [1, 2]
    with pytest.raises(CheckpointError):
        account(begun).entries()
    _cheaper_first(begun)
    with pytest.raises(CheckpointError):
        account(begun, b"a new one").entries()


def _cheaper_first(folder: Path) -> None:
    path = files(folder) / "000002.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 1}))


class Killed(BaseException):
    """The end of a process, which no handler sees."""


class Dying(FolderStore):
    """A store whose process is killed before or after its n-th write."""

    def __init__(self, path: Path, at: int, *, after: bool) -> None:
        super().__init__(path)
        self.left = at
        self.after = after

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        return bool(self._or_die(lambda: super(Dying, self).put_if_absent(name, data, under=under)))

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        self._or_die(lambda: super(Dying, self).replace(name, data, under=under))

    def _or_die(self, write: Callable[[], object]) -> object:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        done = write()
        if self.left == 0:
            raise Killed
        return done


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_a_process_killed_while_it_reserves_has_spent_it_or_has_released_nothing(
    begun: Path, at: int, after: bool
) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    with pytest.raises(Killed):
        Account(Dying(begun, at, after=after), "north", b"secret").reserve("a", 2, ROUND, FREE)
    # Whoever reserved it never got to train; what is noted of it stays noted.
    noted = 1 if (at, after) == (1, False) else 2
    assert len(account(begun).entries()) == noted
    account(begun).reserve("a", 3, ROUND, FREE)
    assert [one.round for one in account(begun).entries()][-1] == 3


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_a_process_killed_while_it_begins_leaves_what_can_be_begun_or_is(
    tmp_path: Path, at: int, after: bool
) -> None:
    with pytest.raises(Killed):
        Account(Dying(tmp_path, at, after=after), "north", b"secret").begin()
    account(tmp_path).begin()
    account(tmp_path).reserve("a", 1, ROUND, FREE)
    assert len(account(tmp_path).entries()) == 1


SPENDS = """
import sys
from azureml_jobs.storage.base import Data, Lease
from azureml_jobs.storage.folder_store import FolderStore
from client.privacy import account as accounts
from client.privacy.account import Account
from client.privacy.accountant import Release
from conf.schema import PolicyConf
mine = Account(FolderStore(sys.argv[1]), "north", b"secret")
for number in range(1, 10_000):
    mine.reserve("a", number, Release(0.1, 1.0, 10), PolicyConf())
    print(number, flush=True)
"""


def test_what_a_killed_process_had_reserved_is_in_the_account(begun: Path) -> None:
    spending = subprocess.Popen(
        [sys.executable, "-c", SPENDS, str(begun)], stdout=subprocess.PIPE, text=True
    )
    assert spending.stdout is not None
    with spending:
        told = [int(spending.stdout.readline()) for _ in range(20)]
        spending.kill()
        told += [int(line) for line in spending.stdout if line.strip()]
    noted = [one.round for one in account(begun).entries()]
    assert noted[: len(told)] == told and len(noted) <= len(told) + 1


class Full(FolderStore):
    """A store on a disk that is full."""

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        raise CheckpointError("MDW-513", "The disk is full.", "Free some space.")


def test_a_release_that_can_not_be_noted_is_not_made(begun: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        Account(Full(begun), "north", b"secret").reserve("a", 1, ROUND, FREE)
    assert caught.value.code == "MDW-513"
    assert account(begun).entries() == []


def test_an_entry_that_is_replayed_is_noticed(begun: Path) -> None:
    for round in (1, 2):
        account(begun).reserve("a", round, ROUND, FREE)
    old = (files(begun) / "000002.json").read_bytes()
    (files(begun) / "000004.json").write_bytes(old)
    with pytest.raises(CheckpointError, match="does not follow"):
        account(begun).reserve("a", 3, ROUND, FREE)


def test_a_clock_that_is_set_back_forgets_nothing(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    monkeypatch.setattr(accounts, "_now", lambda: "1970-01-01T00:00:00+00:00")
    policy = PolicyConf(epsilon_at_most=epsilon([ROUND] * 2, 1e-5) + 1e-6)
    account(begun).reserve("a", 2, ROUND, policy)
    with pytest.raises(SiloError, match="MDW-373"):
        account(begun).reserve("a", 3, ROUND, policy)
    assert [one.round for one in account(begun).entries()] == [1, 2]


def test_an_account_that_was_put_back_from_an_old_copy_is_refused_once_it_is_reminded(
    begun: Path, tmp_path: Path
) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    old = tmp_path / "copy"
    shutil.copytree(files(begun), old)
    account(begun).reserve("a", 2, ROUND, FREE)
    reminder = account(begun).reminder()
    account(begun).check_reminder(reminder)

    shutil.rmtree(files(begun))
    shutil.copytree(old, files(begun))
    assert len(account(begun).entries()) == 1, "by itself it looks whole"
    with pytest.raises(CheckpointError, match="put back from an old copy") as caught:
        account(begun).check_reminder(reminder)
    assert caught.value.code == "MDW-540"

    # Another history of the same length is not what was there either.
    account(begun).reserve("b", 1, ROUND, FREE)
    with pytest.raises(CheckpointError, match="put back from an old copy"):
        account(begun).check_reminder(reminder)


def test_an_older_reminder_and_one_of_another_key_say_nothing(begun: Path) -> None:
    account(begun).reserve("a", 1, ROUND, FREE)
    older = account(begun).reminder()
    account(begun).reserve("a", 2, ROUND, FREE)
    account(begun).check_reminder(older)
    digest, _, code = older.partition(":")
    for said in ("", ":", digest, f"{'0' * 64}:{code}", f"{digest}:{'0' * 64}", "\u20ac:\u20ac"):
        account(begun).check_reminder(said)


def test_a_reminder_does_not_say_how_much_was_spent(begun: Path) -> None:
    lengths = set()
    for round in range(1, 4):
        account(begun).reserve("a", round, ROUND, FREE)
        lengths.add(len(account(begun).reminder()))
    assert lengths == {129}
