"""The store in a folder: a write is a temporary file, fsync, link or rename, fsync of the folder.

MDW-510 no such name          MDW-513 disk full             MDW-516 the lease was lost
MDW-511 not a valid name      MDW-514 may not write/read    MDW-517 not readable
                              MDW-515 the disk failed
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from azureml_jobs.storage.base import (
    Clock,
    Data,
    Lease,
    Names,
    StoreMissing,
    checked_name,
    checked_prefix,
    is_name,
    too_large,
)
from azureml_jobs.storage.disk_errors import disk_error
from azureml_jobs.storage.lease import Leased
from azureml_jobs.storage.pointer import digest
from conf.atomic_files import sync_folder
from conf.errors import CheckpointError

STALE_SECONDS: Final = 3600.0
"""A temporary file this old belongs to a process that died: no write takes so long."""

_TEMPORARY = ".tmp-"


class FolderStore(Leased):
    """A store in a folder, for all processes that see it.

    Files that it makes are the owner's alone (0600 in 0700), or the group's too where the folder
    is: its mode says who may read and write. Dot files are its own or strangers' and never listed;
    a link, a pipe or a device in it is not read (MDW-517). Raises CheckpointError where the disk is
    full (MDW-513), may not be written (MDW-514) or fails (MDW-515).
    """

    def __init__(
        self, path: str | Path, clock: Clock = time.time, largest: int | None = None
    ) -> None:
        """`largest` is how many bytes a file may have where others write; None: any number."""
        self._path = Path(path)
        self._largest = largest
        super().__init__(str(path), clock)

    def __repr__(self) -> str:
        return f"FolderStore({str(self._path)!r})"

    def list(self, prefix: str = "") -> Names:
        """See `Store`."""
        start = self._unlinked(self._path.joinpath(*checked_prefix(prefix).split("/")[:-1]))
        found = []
        for folder, folders, files in os.walk(start, onerror=self._unlisted):
            # In place: os.walk goes into those that are left.
            folders[:] = [f for f in folders if not f.startswith(".")]
            for file in files:
                name = Path(folder, file).relative_to(self._path).as_posix()
                # Others may write there too, under names that nobody can ask for.
                if name.startswith(prefix) and is_name(name):
                    found.append(name)
        return sorted(found)

    def read(self, name: str) -> bytes:
        """See `Store`."""
        path = self._file(name)
        try:
            return self._content(path, name)
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
                # A link, because a rename would put it over a file that another has put meanwhile.
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
        return super().acquire(name, owner, seconds)

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """See `azureml_jobs.storage.lease.Versioned`; the version is the digest."""
        data = self.read(name)
        return data, digest(data)

    def write_if_version(self, name: str, data: Data, version: str | None) -> bool:
        """See `azureml_jobs.storage.lease.Versioned`."""
        # A folder has no write that depends on what is there: the lock makes one of look and write.
        with self._locked():
            try:
                found = self.read_versioned(name)[1]
            except StoreMissing:
                found = None
            if found != version:
                return False
            self.replace(name, data)
            return True

    def _file(self, name: str) -> Path:
        path = self._path / checked_name(name)
        self._unlinked(path.parent)
        return path

    def _unlinked(self, folder: Path) -> Path:
        """Return a folder of the store, once none on the way to it is a link.

        Who may write to one place of a store could lead its reader into another. The store's own
        folder may be a link: its owner made that.
        """
        below = folder
        while below != self._path:
            # Where it may not be looked at, the system refuses what comes next.
            if os.path.islink(below):
                raise _not_plain(below)
            below = below.parent
        return folder

    def _content(self, path: Path, name: str) -> bytes:
        """Return the bytes of a plain file, of which it is said before how many they may be."""
        # A pipe would be waited for, and a link may lead anywhere.
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise _not_plain(path) from None
            raise
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
            if not stat.S_ISREG(status.st_mode):
                raise _not_plain(path)
            if self._largest is not None and status.st_size > self._largest:
                raise too_large(f"{name} in {self._path}", status.st_size, self._largest)
            return file.read()

    @contextmanager
    def _written(self, name: str, data: Data) -> Iterator[Path]:
        """Yield a synced temporary file beside the target.

        It is gone afterwards, and the folder is synced.
        """
        path = self._file(name)
        temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            _make_folder(path.parent, self._path)
            mode = _mode(self._path, 0o600)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(handle, "wb") as file:
                if mode != 0o600:
                    # Whatever the umask has taken from it.
                    os.fchmod(handle, mode)
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
        """Hold the folder's lock, among threads and processes.

        The system frees it when its holder dies.
        """
        try:
            _make_folder(self._path, self._path)
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
        # A lease changes under the same lock, so that nobody can take this one between the look and
        # the write.
        with self._locked():
            self._leases.check(under)
            yield

    def _sweep(self) -> None:
        # Against file times, so by the system's clock and not by the store's.
        oldest = time.time() - STALE_SECONDS
        for temporary in self._path.rglob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if temporary.stat().st_mtime < oldest:
                    temporary.unlink()

    def _unlisted(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise self._failure(error, "list", str(error.filename)) from error

    def _failure(self, error: OSError, verb: str, name: str) -> CheckpointError:
        return disk_error(error, verb, f"{name} in {self._path}")


def _make_folder(folder: Path, root: Path) -> None:
    """Make a folder of the store at `root`, for whom that one is."""
    if not folder.is_dir():
        _make_folder(folder.parent, root)
        mode = _mode(root, 0o700)
        with suppress(FileExistsError):
            folder.mkdir(mode=mode)
            if mode != 0o700:
                folder.chmod(mode)
        sync_folder(folder.parent)


def _mode(root: Path, own: int) -> int:
    """Return the mode of something new in a store: the owner's, and the group's where `root` is."""
    try:
        group = stat.S_IMODE(root.stat().st_mode) & 0o2070
    except FileNotFoundError:
        return own
    if own == 0o700:
        # The group of a new folder, and so of what is in it, is that of the folder above.
        return own | group
    return own | (group & 0o060)


def _not_plain(path: Path) -> CheckpointError:
    hint = "Remove it: Meadow makes none there."
    return CheckpointError("MDW-517", f"{path} is not a plain file or folder.", hint)
