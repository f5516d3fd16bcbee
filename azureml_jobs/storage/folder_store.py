"""The store in a folder: a write is a temporary file, fsync, link or rename, fsync of the folder
(`conf.files`).

MDW-510 no such name          MDW-516 the lease was lost    MDW-513 to 515, 527 to 535 the file system
MDW-511 not a valid name      MDW-517 not readable          MDW-536 two names by case alone
"""

from __future__ import annotations

import os
import stat
import time
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
from azureml_jobs.storage.lease import Leased
from azureml_jobs.storage.pointer import digest
from conf.errors import CheckpointError
from conf.files.faults import FileFault, disk_error
from conf.files.kinds import folds_case
from conf.files.locks import locked
from conf.files.plain import NotPlain, opened_plain
from conf.files.whole import (
    TEMPORARY,
    Content,
    give_mode,
    put_new,
    put_over,
    staged,
    sync_folder,
)

STALE_SECONDS: Final = 3600.0
"""A temporary file this old belongs to a process that died: no write takes so long."""


class FolderStore(Leased):
    """A store in a folder, for all processes that see it.

    Files that it makes are the owner's alone (0600 in 0700), or the group's too where the folder
    is: its mode says who may read and write. Dot files are its own or strangers' and never listed;
    a link, a pipe or a device in it is not read (MDW-517). Raises FileFault for what the file
    system says, and MDW-536 where it takes two names for one.
    """

    def __init__(
        self, path: str | Path, clock: Clock = time.monotonic, largest: int | None = None
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
            self._check_spelling(path)
            return False
        with self._written(name, data) as temporary, self._fenced(under):
            return put_new(temporary, path)

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """See `Store`."""
        path = self._file(name)
        if os.path.lexists(path):
            self._check_spelling(path)
        with self._written(name, data) as temporary, self._fenced(under):
            put_over(temporary, path)

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

    def unchanged_for(self, name: str) -> float | None:
        """See `azureml_jobs.storage.lease.Versioned`: the time of a file may be another machine's,
        and a clock may have been set since.
        """
        return None

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
        try:
            with opened_plain(path) as (file, status):
                if self._largest is not None and status.st_size > self._largest:
                    raise too_large(f"{name} in {self._path}", status.st_size, self._largest)
                if not _is_spelled_so(path):
                    raise FileNotFoundError
                return file.read()
        except NotPlain:
            raise _not_plain(path) from None

    def _check_spelling(self, path: Path) -> None:
        """Raise CheckpointError MDW-536 where the file system takes another name for this one."""
        try:
            if _is_spelled_so(path):
                return
        except OSError as error:
            raise self._failure(error, "look at", path.name) from error
        raise CheckpointError(
            "MDW-536",
            f"{path} can't be stored: the file system there takes it for a name that is stored"
            " already and differs in capital letters alone.",
            "Choose another name, or a folder on a file system that tells A from a.",
        )

    @contextmanager
    def _written(self, name: str, data: Content) -> Iterator[Path]:
        """Yield a synced temporary file beside the target.

        It is gone afterwards, and the folder is synced.
        """
        path = self._file(name)
        try:
            _make_folder(path.parent, self._path)
            mode = _mode(self._path, 0o600)
            # Whatever the umask has taken from it.
            whole = mode if mode != 0o600 else None
            with staged(path, data, mode, whole) as temporary:
                yield temporary
        except OSError as error:
            raise self._failure(error, "write", name) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, among threads and processes."""
        try:
            _make_folder(self._path, self._path)
            mode = _mode(self._path, 0o600)
        except OSError as error:
            raise self._failure(error, "lock", ".lock") from error
        with locked(self._path / ".lock", mode=mode):
            yield

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
        # What can't be swept now is swept another time.
        with suppress(OSError):
            for temporary in self._path.rglob(f"{TEMPORARY}*"):
                with suppress(OSError):
                    if temporary.stat().st_mtime < oldest:
                        temporary.unlink()

    def _unlisted(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise self._failure(error, "list", str(error.filename)) from error

    def _failure(self, error: OSError, verb: str, name: str) -> FileFault:
        return disk_error(error, verb, f"{name} in {self._path}")


def _make_folder(folder: Path, root: Path) -> None:
    """Make a folder of the store at `root`, for whom that one is."""
    if not folder.is_dir():
        _make_folder(folder.parent, root)
        mode = _mode(root, 0o700)
        with suppress(FileExistsError):
            folder.mkdir(mode=mode)
            if mode != 0o700:
                give_mode(folder, mode)
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


def _is_spelled_so(path: Path) -> bool:
    """Return whether a path that is there has this very name, and not one that the file system
    takes for the same; raises OSError.
    """
    return not folds_case(path) or path.name in os.listdir(path.parent)


def _not_plain(path: Path) -> CheckpointError:
    hint = "Remove it: Meadow makes none there."
    return CheckpointError("MDW-517", f"{path} is not a plain file or folder.", hint)
