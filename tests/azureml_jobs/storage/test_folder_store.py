"""What is stored is whole or absent, names stay in the folder, one owner at a time holds a lease."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from azureml_jobs.storage.base import LeaseLost, Store, StoreMissing
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import CheckpointError
from conf.files import whole
from tests.azureml_jobs.storage.watching import Clock, taken_over

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "state")


def failing(error: int) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def raises(code: str) -> Any:
    return pytest.raises(CheckpointError, match=code)


def everything(folder: Path) -> list[str]:
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    )


def test_what_was_put_is_read_back_by_another_store(store: FolderStore, tmp_path: Path) -> None:
    assert store.put_if_absent("checkpoints/round-1.bin", b"one")
    assert FolderStore(tmp_path / "state").read("checkpoints/round-1.bin") == b"one"


def test_a_name_is_put_once(store: FolderStore) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.read("a") == b"first"


def test_replace_takes_the_place_of_the_old(store: FolderStore) -> None:
    store.replace("a", b"first")
    store.replace("a", memoryview(b"second"))
    assert store.read("a") == b"second"


def test_missing_is_a_key_error_and_a_checkpoint_error(store: FolderStore) -> None:
    for name in ("nothing", "no/folder/either"):
        with pytest.raises(KeyError):
            store.read(name)
    store.put_if_absent("folder/file", b"")
    with pytest.raises(StoreMissing, match=r"MDW-510.*folder in"):
        store.read("folder")
    with pytest.raises(StoreMissing):
        store.read("folder/file/below")


def test_list_takes_a_prefix_of_the_name_and_not_only_folders(store: FolderStore) -> None:
    for name in ("runs/a/1", "runs/a/2", "runs/ab/1", "other"):
        store.put_if_absent(name, b"")
    assert store.list() == ["other", "runs/a/1", "runs/a/2", "runs/ab/1"]
    assert store.list("runs/a") == ["runs/a/1", "runs/a/2", "runs/ab/1"]
    assert store.list("runs/a/") == ["runs/a/1", "runs/a/2"]
    assert store.list("none/") == []


def test_list_of_a_store_that_was_never_written_is_empty(
    store: FolderStore, tmp_path: Path
) -> None:
    assert store.list() == [] and not (tmp_path / "state").exists()


def test_dot_files_are_not_listed(store: FolderStore, tmp_path: Path) -> None:
    store.put_if_absent("a/b", b"")
    (tmp_path / "state" / "a" / ".tmp-1").write_bytes(b"torn")
    (tmp_path / "state" / ".git").mkdir()
    (tmp_path / "state" / ".git" / "config").write_bytes(b"")
    assert store.list() == ["a/b"]


def test_delete_is_quiet_about_the_absent(store: FolderStore) -> None:
    store.put_if_absent("a/b", b"")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")
    assert store.list() == []


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "..", "../a", "a/../b", "a//b", "a/", "./a", "a/.hidden", ".lock", "a\\b", "a b", "a\0", "a\n",
     "é", "a.", "a./b", "x" * 513, "C:a"],
)  # fmt: skip
def test_a_name_that_could_leave_the_folder_or_not_be_a_blob_is_refused(
    store: FolderStore, name: str
) -> None:
    for act in (
        store.read,
        store.delete,
        lambda n: store.put_if_absent(n, b""),
        lambda n: store.replace(n, b""),
    ):
        with raises("MDW-511"):
            act(name)


@pytest.mark.parametrize("prefix", ["..", "../", "/etc", "a/../b"])
def test_a_prefix_can_not_leave_the_folder(store: FolderStore, prefix: str) -> None:
    with raises("MDW-511"):
        store.list(prefix)


@given(st.text(max_size=40))
@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_name_stays_in_the_folder_or_is_refused(
    store: FolderStore, tmp_path: Path, name: str
) -> None:
    try:
        store.replace(name, b"x")
    except CheckpointError as error:
        assert error.code in ("MDW-511", "MDW-531", "MDW-527")  # a part of the name is a file
    else:
        assert store.read(name) == b"x" and name in store.list()
    assert [p.name for p in tmp_path.iterdir()] in ([], ["state"])


def test_files_and_folders_are_the_owner_s_alone(store: FolderStore, tmp_path: Path) -> None:
    store.put_if_absent("a/b", b"")
    assert stat.S_IMODE((tmp_path / "state" / "a" / "b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state" / "a").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENOSPC, "MDW-513"),
        (errno.EROFS, "MDW-514"),
        (errno.EACCES, "MDW-514"),
        (errno.EIO, "MDW-515"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "open", "link", "mkdir"])
def test_a_write_that_fails_leaves_nothing(
    store: FolderStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    code: str,
    call: str,
) -> None:
    store.put_if_absent("a/old", b"old")
    before = everything(tmp_path)
    monkeypatch.setattr(os, call, failing(error))
    with raises(code):
        store.put_if_absent("b/new" if call == "mkdir" else "a/new", b"new")
    monkeypatch.undo()
    assert everything(tmp_path) == before and store.read("a/old") == b"old"
    assert store.put_if_absent("a/new", b"new")


def test_a_replace_that_fails_leaves_the_old(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.replace("pointer", b"old")
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    with raises("MDW-513"):
        store.replace("pointer", b"new")
    monkeypatch.undo()
    assert store.read("pointer") == b"old" and everything(tmp_path) == ["state/pointer"]


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """A real limit of the system on file size stands in for the disk: the write fails half way."""
    code = (
        "import resource, signal, sys; from azureml_jobs.storage.folder_store import FolderStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "FolderStore(sys.argv[1]).put_if_absent('big', bytes(1 << 20))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "MDW-533: Can't write big" in done.stderr
    assert everything(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with raises("MDW-514"):
        FolderStore(tmp_path / "state").put_if_absent("a", b"")


def test_a_path_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises("MDW-531"):
        FolderStore(tmp_path / "file").put_if_absent("a", b"")


RACE = """
import sys; from azureml_jobs.storage.folder_store import FolderStore
store = FolderStore(sys.argv[1]); print("ready", flush=True); sys.stdin.readline()
print(sum(store.put_if_absent(f"n/{i}", sys.argv[2].encode() * 1000) for i in range(200)))
"""


def test_two_processes_that_put_the_same_names_share_them_out(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", RACE, str(tmp_path), who] for who in "AB"]
    racers = [
        subprocess.Popen(c, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for c in commands
    ]
    for racer in racers:
        assert racer.stdout and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    won = [int(racer.communicate()[0]) for racer in racers]
    store = FolderStore(tmp_path)
    contents = [store.read(f"n/{i}") for i in range(200)]
    assert sum(won) == 200
    assert [contents.count(b"A" * 1000), contents.count(b"B" * 1000)] == won


def test_a_reader_never_sees_a_mixture(store: FolderStore) -> None:
    store.replace("x", b"a" * 50_000)

    def write() -> None:
        for content in (b"b", b"a") * 50:
            store.replace("x", content * 50_000)

    writing = threading.Thread(target=write)
    writing.start()
    seen = set()
    while writing.is_alive():
        data = store.read("x")
        seen.add(data[:1])
        assert len(data) == 50_000 and len(set(data)) == 1
    writing.join()
    assert seen <= {b"a", b"b"}


def test_a_lease_is_held_by_one_until_it_expires(tmp_path: Path) -> None:
    clock = Clock()
    store = FolderStore(tmp_path, clock)
    first = store.acquire("live", "job-1", 30)
    assert first and (first.epoch, first.beat) == (1, 0)
    other = FolderStore(tmp_path, clock)
    for _ in range(100):
        assert other.acquire("live", "job-2", 30) is None
        clock.now += 1
        first = store.renew(first, 30)
    began = clock.now
    second = taken_over(other, "live", "job-2", 30, clock)
    assert second.epoch == 2 and clock.now - began == 30
    with pytest.raises(LeaseLost, match=r"MDW-516.*job-1.*held by job-2"):
        store.renew(first, 30)
    store.release(first)  # too late to matter
    assert store.acquire("live", "job-3", 30) is None


def test_an_owner_that_restarts_gets_its_lease_at_once_and_fences_its_former_self(
    tmp_path: Path,
) -> None:
    store = FolderStore(tmp_path, Clock())
    before, after = store.acquire("live", "job-1", 30), store.acquire("live", "job-1", 30)
    assert before and after and after.epoch == before.epoch + 1
    with pytest.raises(LeaseLost):
        store.renew(before, 30)


def test_a_released_lease_is_free_and_its_epoch_goes_on(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, Clock())
    first = store.acquire("live", "job-1", 30)
    assert first
    store.release(first)
    with pytest.raises(LeaseLost, match="held by nobody"):
        store.renew(first, 30)
    second = store.acquire("live", "job-2", 30)
    assert second and second.epoch == 2


def test_who_lost_the_lease_writes_no_more(tmp_path: Path) -> None:
    clock = Clock()
    store = FolderStore(tmp_path, clock)
    old = store.acquire("live", "job-1", 30)
    assert old
    store.replace("pointer", b"old", under=old)
    new = taken_over(store, "live", "job-2", 30, clock)
    with pytest.raises(LeaseLost):
        store.replace("pointer", b"from the dead", under=old)
    assert store.read("pointer") == b"old"
    store.replace("pointer", b"new", under=new)
    assert store.read("pointer") == b"new"


GRAB = """
import sys; from azureml_jobs.storage.folder_store import FolderStore
print(FolderStore(sys.argv[1]).acquire("live", sys.argv[2], 60), flush=True)
sys.stdin.readline()  # the lease of a process that has ended is free
"""


def test_of_processes_that_want_the_lease_one_gets_it(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", GRAB, str(tmp_path), f"job-{i}"] for i in range(3)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(c, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) for c in commands]
    answers = sorted(process.stdout.readline().strip() for process in started if process.stdout)
    for process in started:
        process.communicate()
    assert answers[1:] == ["None", "None"] or answers[:2] == ["None", "None"], answers
    assert sum("epoch=1" in answer for answer in answers) == 1


def test_what_killed_writers_left_is_swept_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    store.put_if_absent("a/b", b"")
    old, young = tmp_path / "a" / ".tmp-old", tmp_path / "a" / ".tmp-young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.acquire("live", "me", 30)
    assert not old.exists() and young.exists()


def test_what_is_written_is_synced_before_it_has_its_name(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            calls.append(name)
            real(*args)

        return call

    for name in ("fsync", "link"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    monkeypatch.setattr(whole, "sync_folder", lambda folder: calls.append("folder"))
    store.put_if_absent("a", b"")
    assert calls[-3:] == ["fsync", "link", "folder"]


def test_the_folder_store_is_a_store(store: FolderStore) -> None:
    as_store: Store = store
    assert as_store.list() == []


class AgainstADictionary(RuleBasedStateMachine):
    """Any sequence of operations gives what a dictionary would."""

    names = Bundle("names")

    @initialize(target=names)
    def begin(self) -> str:
        self.folder = tempfile.TemporaryDirectory()
        self.store, self.twin = FolderStore(self.folder.name), dict[str, bytes]()
        return "x/0"

    @rule(target=names, folder=st.sampled_from("xyz"), number=st.integers(0, 5))
    def name(self, folder: str, number: int) -> str:
        return f"{folder}/{number}"

    @rule(name=names, data=st.binary(max_size=8))
    def put(self, name: str, data: bytes) -> None:
        assert self.store.put_if_absent(name, data) == (name not in self.twin)
        self.twin.setdefault(name, data)

    @rule(name=names, data=st.binary(max_size=8))
    def replace(self, name: str, data: bytes) -> None:
        self.store.replace(name, data)
        self.twin[name] = data

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.store.delete(name)
        self.twin.pop(name, None)

    @rule(prefix=st.sampled_from(["", "x", "x/", "y/1", "z/"]))
    def same(self, prefix: str) -> None:
        assert self.store.list(prefix) == sorted(n for n in self.twin if n.startswith(prefix))
        assert all(self.store.read(n) == data for n, data in self.twin.items())

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


AgainstADictionary.TestCase.settings = settings(
    max_examples=20, stateful_step_count=15, deadline=None
)
test_any_history_is_that_of_a_dictionary = AgainstADictionary.TestCase


def as_user(number: int, group: int, work: Callable[[], object]) -> int:
    """Do something in a fork, as another user of a group; return 0 where it went well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.umask(0o022)
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(number, number, number)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("kind", ["flock", "file"])
def test_two_users_of_a_group_take_the_lease_of_a_folder_that_is_theirs_in_turn(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    if kind == "file":

        def none(*args: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", none)
    group = 4242
    with tempfile.TemporaryDirectory(prefix="meadow-test-") as name:
        os.chmod(name, 0o755)
        folder = Path(name, "store")
        folder.mkdir()
        os.chown(folder, 0, group)
        folder.chmod(0o2770)

        def hold() -> None:
            store = FolderStore(folder)
            lease = store.acquire("live", f"user {os.geteuid()}", 20)
            assert lease is not None
            store.replace("pointer", b"here", under=lease)
            store.release(lease)

        assert [as_user(user, group, hold) for user in (11111, 22222, 11111)] == [0, 0, 0]
        lock = folder / ".lock"
        assert not lock.exists() or stat.S_IMODE(lock.stat().st_mode) == 0o660
