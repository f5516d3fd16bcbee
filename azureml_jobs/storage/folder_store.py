"""The store in a folder: a write is a temporary file, fsync, link or rename, fsync of the folder.

MDW-510 no such name          MDW-513 disk full             MDW-516 the lease was lost
MDW-511 not a valid name      MDW-514 may not write/read    MDW-517 not readable
                              MDW-515 the disk failed
"""

from __future__ import annotations

import fcntl
import os
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

    Files that it makes are the owner's alone (0600 in 0700). Dot files are its own or strangers'
    and never listed. Raises CheckpointError where the disk is full (MDW-513), may not be written
    (MDW-514) or fails (MDW-515).
    """

    def __init__(self, path: str | Path, clock: Clock = time.time) -> None:
        self._path = Path(path)
        super().__init__(str(path), clock)

    def __repr__(self) -> str:
        return f"FolderStore({str(self._path)!r})"

    def list(self, prefix: str = "") -> Names:
        """See `Store`."""
        start = self._path.joinpath(*checked_prefix(prefix).split("/")[:-1])
        found = []
        for folder, folders, files in os.walk(start, onerror=self._unlisted):
            # In place: os.walk goes into those that are left.
            folders[:] = [f for f in folders if not f.startswith(".")]
            for file in files:
                name = Path(folder, file).relative_to(self._path).as_posix()
                if name.startswith(prefix) and not file.startswith("."):
                    found.append(name)
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
        return self._path / checked_name(name)

    @contextmanager
    def _written(self, name: str, data: Data) -> Iterator[Path]:
        """Yield a synced temporary file beside the target.

        It is gone afterwards, and the folder is synced.
        """
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
        """Hold the folder's lock, among threads and processes.

        The system frees it when its holder dies.
        """
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


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
