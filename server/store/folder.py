"""What must outlive the orchestrator's process: a small store of named bytes, a folder now, blobs on Azure.

Everything goes through four operations that a blob container has too: list a prefix, read, put if absent
(`If-None-Match: *`), replace whole. Large files are immutable and written once; a pointer, a few bytes of JSON
replaced whole, names the current one and its digest. A lease decides which of two orchestrators is the live one.

    MDW-510 no such name          MDW-513 disk full             MDW-516 the lease was lost
    MDW-511 not a valid name      MDW-514 may not write/read    MDW-517 not what was written (digest, JSON)
                                  MDW-515 the disk failed
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from conf.atomic_files import sync_folder
from conf.errors import CheckpointError

Data = bytes | bytearray | memoryview
Names = list[str]
Clock = Callable[[], float]

STALE_SECONDS: Final = 3600.0
"""A temporary file this old belongs to a process that died: no write takes so long."""

NAME = re.compile(r"(?!.*\.(/|$))[A-Za-z0-9_][A-Za-z0-9_.=-]*(/[A-Za-z0-9_][A-Za-z0-9_.=-]*)*")
"""What names are made of: parts of letters, digits and `_ . = -`, none of which begins or ends with a dot."""
_TEMPORARY = ".tmp-"


class StoreMissing(CheckpointError, KeyError):
    """Nothing is stored under that name (MDW-510)."""


class LeaseLost(CheckpointError):
    """Another owner took the lease over, so this one must write no more (MDW-516)."""


@dataclass(frozen=True)
class Lease:
    """The right to be the one live writer until `expires` (seconds since 1970); `epoch` counts the acquisitions."""

    name: str
    owner: str
    epoch: int
    expires: float


class Store(Protocol):
    """Named bytes that last. Names are `/`-separated, of letters, digits and `_ . = -`; no part starts with a dot."""

    def list(self, prefix: str = "") -> Names:
        """Return the names that start with `prefix`, sorted."""

    def read(self, name: str) -> bytes:
        """Return the bytes under a name; raises StoreMissing."""

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """Store under a new name and return True; return False, and change nothing, where the name is taken.

        With `under`, raises LeaseLost and writes nothing unless that lease is still held.
        """

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """Store under a name, new or not; a reader sees the old bytes or the new ones, never a mixture.

        With `under`, raises LeaseLost and writes nothing unless that lease is still held.
        """

    def delete(self, name: str) -> None:
        """Remove a name; nothing happens where it is absent."""

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """Take a lease that is free, expired or already `owner`'s, with the next epoch; None where another holds it."""

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Return the lease with a later expiry and the same epoch; raises LeaseLost where it was taken over."""

    def release(self, lease: Lease) -> None:
        """Give the lease up, so that the next `acquire` need not wait; nothing happens where it was lost."""


def digest(data: Data) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def point(
    store: Store, pointer: str, target: str, sha256: str, *, under: Lease | None = None
) -> None:
    """Make `pointer` name the stored, immutable file `target` and its digest."""
    store.replace(pointer, json.dumps({"target": target, "sha256": sha256}).encode(), under=under)


def follow(store: Store, pointer: str) -> tuple[str, bytes]:
    """Return the name and the bytes that a pointer names.

    Raises StoreMissing where either is absent, CheckpointError (MDW-517) where the bytes are not those pointed at.
    """
    try:
        record = json.loads(store.read(pointer))
        target, sha256 = str(record["target"]), str(record["sha256"])
    except (ValueError, TypeError, LookupError) as error:
        if isinstance(error, StoreMissing):
            raise
        raise CheckpointError(
            "MDW-517", f"The pointer {pointer} is not readable.", "Restore or delete it."
        ) from None
    data = store.read(target)
    if digest(data) != sha256:
        hint = "The file was damaged after it was written; use an earlier one."
        raise CheckpointError(
            "MDW-517", f"{target} does not have the digest that {pointer} records.", hint
        )
    return target, data


class FolderStore:
    """A store in a folder: each write is a temporary file, fsync, then a link or rename, then fsync of the folder.

    Files that it makes are the owner's alone (0600 in 0700). Dot files are its own or strangers' and never listed.
    Raises CheckpointError where the disk is full (MDW-513), may not be written (MDW-514) or fails (MDW-515).
    """

    def __init__(self, path: str | Path, clock: Clock = time.time) -> None:
        self._path, self._clock = Path(path), clock

    def __repr__(self) -> str:
        return f"FolderStore({str(self._path)!r})"

    def list(self, prefix: str = "") -> Names:
        """See `Store`."""
        if prefix and not NAME.fullmatch(prefix.rstrip("/.")):
            raise _invalid(prefix)
        start = self._path.joinpath(*prefix.split("/")[:-1])
        found = []
        for folder, folders, files in os.walk(start, onerror=self._unlisted):
            folders[:] = [f for f in folders if not f.startswith(".")]
            names = (
                Path(folder, f).relative_to(self._path).as_posix()
                for f in files
                if not f.startswith(".")
            )
            found += [name for name in names if name.startswith(prefix)]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """See `Store`."""
        path = self._file(name)
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise StoreMissing(
                "MDW-510", f"Nothing is stored under {name} in {self._path}."
            ) from None
        except OSError as error:
            raise self._failure(error, "read", name) from error

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """See `Store`."""
        path = self._file(name)
        if os.path.lexists(path):
            return False
        with self._written(name, data) as temporary, self._fenced(under):
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        return True

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """See `Store`."""
        path = self._file(name)
        with self._written(name, data) as temporary, self._fenced(under):
            temporary.replace(path)

    def delete(self, name: str) -> None:
        """See `Store`."""
        path = self._file(name)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)
        except OSError as error:
            raise self._failure(error, "delete", name) from error

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`; also removes what writers that were killed left behind."""
        self._sweep()
        with self._locked():
            last = self._lease(name)
            now = self._clock()
            if last and last.owner not in ("", owner) and last.expires > now:
                return None
            lease = Lease(name, owner, (last.epoch if last else 0) + 1, now + seconds)
            self._keep(lease)
        return lease

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`; a lease that expired and that nobody took is renewed."""
        with self._locked():
            self._held(lease)
            renewed = Lease(lease.name, lease.owner, lease.epoch, self._clock() + seconds)
            self._keep(renewed)
        return renewed

    def release(self, lease: Lease) -> None:
        """See `Store`; the epoch stays on record."""
        with self._locked(), suppress(LeaseLost):
            self._held(lease)
            self._keep(Lease(lease.name, "", lease.epoch, 0.0))

    def _lease(self, name: str) -> Lease | None:
        try:
            raw = json.loads(self.read(f"{name}.lease"))
            return Lease(name, str(raw["owner"]), int(raw["epoch"]), float(raw["expires"]))
        except StoreMissing:
            return None
        except (ValueError, TypeError, LookupError):
            hint = f"Make sure that no orchestrator runs, then delete {self._path / name}.lease."
            raise CheckpointError(
                "MDW-517", f"The lease {name} in {self._path} is not readable.", hint
            ) from None

    def _keep(self, lease: Lease) -> None:
        self.replace(f"{lease.name}.lease", json.dumps(asdict(lease)).encode())

    def _held(self, lease: Lease) -> None:
        now = self._lease(lease.name)
        if now is None or (now.owner, now.epoch) != (lease.owner, lease.epoch):
            by = f"{now.owner} (epoch {now.epoch})" if now and now.owner else "nobody"
            what = f"{lease.owner} lost the lease {lease.name} (epoch {lease.epoch}); it is held by {by}."
            raise LeaseLost(
                "MDW-516", what, "Only one orchestrator may write to a store: stop this one."
            )

    def _file(self, name: str) -> Path:
        if not NAME.fullmatch(name) or len(name) > 512:
            raise _invalid(name)
        return self._path / name

    @contextmanager
    def _written(self, name: str, data: Data) -> Iterator[Path]:
        """Yield a synced temporary file beside the target; it is gone afterwards, and the folder is synced."""
        path = self._file(name)
        temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            _make_folder(path.parent)
            with open(
                os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            sync_folder(path.parent)
        except OSError as error:
            raise self._failure(error, "write", name) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, among threads and processes; the system frees it when its holder dies."""
        try:
            _make_folder(self._path)
            lock = os.open(self._path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failure(error, "lock", ".lock") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise self._failure(error, "lock", ".lock") from error
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _fenced(self, under: Lease | None) -> Iterator[None]:
        """Hold the folder's lock for a block that may run only under a lease that is still held."""
        if under is None:
            yield
            return
        with self._locked():
            self._held(under)
            yield

    def _sweep(self) -> None:
        oldest = time.time() - STALE_SECONDS  # against file times, so by the system's clock
        for temporary in self._path.rglob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if temporary.stat().st_mtime < oldest:
                    temporary.unlink()

    def _unlisted(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise self._failure(error, "list", str(error.filename)) from error

    def _failure(self, error: OSError, verb: str, name: str) -> CheckpointError:
        return disk_error(error, verb, f"{name} in {self._path}")


def disk_error(error: OSError, verb: str, where: str) -> CheckpointError:
    """Return what a failed system call means to a person: full, forbidden or broken."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            "MDW-513", f"The disk is full: can't {verb} {where}.", "Free some space, then resume."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "Make the folder writable for this user, on a file system with hard links, or choose another."
        return CheckpointError("MDW-514", f"May not {verb} {where} ({error.strerror}).", hint)
    return CheckpointError(
        "MDW-515", f"Can't {verb} {where}: {error.strerror or error}.", "Check the disk."
    )


@contextmanager
def disk(verb: str, where: str | Path) -> Iterator[None]:
    """Raise what a failed system call in this block means to a person: CheckpointError MDW-513 to 515."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, verb, str(where)) from error


def _invalid(name: str) -> CheckpointError:
    hint = (
        "Use letters, digits and _ . = - in parts separated by /, none of which starts with a dot."
    )
    return CheckpointError("MDW-511", f"{name!r} can't name a stored file.", hint)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        sync_folder(folder.parent)


@dataclass(frozen=True)
class Below:
    """The part of a store under a prefix, as the store of one run; leases belong to the whole.

    With `lease`, all that is written through it is written under that lease: nothing, once another has taken it.
    """

    whole: Store
    prefix: str = ""  # ends with a slash, or is empty: the whole
    lease: Lease | None = None

    def list(self, prefix: str = "") -> Names:
        """See `Store`."""
        return [name.removeprefix(self.prefix) for name in self.whole.list(self.prefix + prefix)]

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return self.whole.read(self.prefix + name)

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """See `Store`."""
        return self.whole.put_if_absent(self.prefix + name, data, under=under or self.lease)

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """See `Store`."""
        self.whole.replace(self.prefix + name, data, under=under or self.lease)

    def delete(self, name: str) -> None:
        """See `Store`."""
        self.whole.delete(self.prefix + name)

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        return self.whole.acquire(name, owner, seconds)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`."""
        return self.whole.renew(lease, seconds)

    def release(self, lease: Lease) -> None:
        """See `Store`."""
        self.whole.release(lease)
