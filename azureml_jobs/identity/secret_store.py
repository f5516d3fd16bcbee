"""Where private parts are kept: the interface, and a folder of mode 0700 with files of mode 0600.

`azureml_jobs.identity.key_vault` has the same interface for a Key Vault.

    MDW-700 missing         MDW-701 others may read it    MDW-702 not readable
    MDW-709 not a name      MDW-713 the disk failed        MDW-776 no modes on this file system
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Protocol

from conf.errors import IdentityError
from conf.files.faults import kind_of
from conf.files.kinds import keeps_modes
from conf.files.whole import write_atomic

Names = list[str]
# A vault allows 127 characters; `key_vault.vault_name` adds up to 22 to these 80.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


class SecretStore(Protocol):
    """Where private parts are kept; the rule for names is that of `checked_name`."""

    def get(self, name: str) -> bytes:
        """Return a secret.

        Raises IdentityError MDW-700 where it is missing, MDW-701 where others may read it.
        """

    def set(self, name: str, secret: bytes) -> None:
        """Store a secret; it replaces an older one of that name."""

    def list(self) -> Names:
        """Return the names of the secrets, sorted."""

    def delete(self, name: str) -> None:
        """Delete a secret; nothing happens where it is missing."""

    def where(self, name: str) -> str:
        """Return where a person finds that secret, for messages; never the secret itself."""


class FolderSecrets:
    """Secrets as files of mode 0600 in a folder of mode 0700; written whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def where(self, name: str) -> str:
        """See `SecretStore`."""
        return str(self._file(name))

    def get(self, name: str) -> bytes:
        """See `SecretStore`."""
        return read_private(self._file(name))

    def set(self, name: str, secret: bytes) -> None:
        """See `SecretStore`."""
        path = self._file(name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_modes_are_kept(self._folder)
            _check_folder(self._folder)
            write_atomic(path, secret, mode=0o600)
        except OSError as error:
            raise IdentityError(
                "MDW-713", f"Can't write {path}: {error.strerror}.", kind_of(error).hint
            ) from error

    def list(self) -> Names:
        """See `SecretStore`."""
        if not self._folder.is_dir():
            return []
        files = [path for path in self._folder.iterdir() if path.is_file()]
        return sorted(path.name for path in files if _NAME.fullmatch(path.name))

    def delete(self, name: str) -> None:
        """See `SecretStore`."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / checked_name(name, most=80)


def checked_name(name: str, most: int = 64) -> str:
    """Return a name that a silo or (with 80 characters) a secret may have.

    Raises IdentityError MDW-709 for any other.
    """
    if not _NAME.fullmatch(name) or len(name) > most:
        hint = "Use up to 64 letters, digits, '_' and '-', and begin with a letter or digit."
        raise IdentityError("MDW-709", f"{name[:120]!r} can't be a name.", hint)
    return name


def read_private(path: Path) -> bytes:
    """Return the bytes of a file that only its owner may read.

    Raises IdentityError MDW-700, 701 or 702.
    """
    try:
        _check_folder(path.parent)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            # The mode of the open file, not of the path: nobody can swap the file in between.
            _check_mode(os.fstat(handle), path, "0600")
            return file.read(1 << 20)
    except FileNotFoundError:
        raise IdentityError(
            "MDW-700", f"There is no {path}.", "Make it with `meadow keys`, or name another."
        ) from None
    except OSError as error:
        raise IdentityError(
            "MDW-702", f"Can't read {path}: {error.strerror}.", "Name a readable file."
        ) from error


def _check_modes_are_kept(folder: Path) -> None:
    """Raise IdentityError MDW-776 where what is made in a folder is everybody's, whatever its mode:
    on a share that is mounted for all (Azure Files), on exFAT.
    """
    if not keeps_modes(folder):
        message = f"The file system of {folder} keeps no modes: what is made there is everybody's."
        hint = "Name a folder on a local disk (keys=FOLDER), or a Key Vault (key_vault=NAME)."
        raise IdentityError("MDW-776", message, hint)


def _check_folder(folder: Path) -> None:
    _check_mode(folder.stat(), folder, "0700")


def _check_mode(status: os.stat_result, path: Path, wanted: str) -> None:
    """Raise IdentityError MDW-701 where others may read a file, or change a folder.

    Others may look into a folder (0755), and may write into one with the sticky bit, as /tmp: there
    nobody can replace another user's files. On a file that bit means nothing.
    """
    if stat.S_ISDIR(status.st_mode):
        sticky = status.st_mode & stat.S_ISVTX
        forbidden = 0 if sticky else 0o022
    else:
        forbidden = 0o077
    if status.st_mode & forbidden:
        message = f"Others may use {path} (mode {stat.S_IMODE(status.st_mode):04o})."
        hint = (
            f"Run: chmod {wanted} {path} - and make a new key if it was shared. Where that changes "
            "nothing, its file system keeps no modes: name a folder elsewhere."
        )
        raise IdentityError("MDW-701", message, hint)
    _check_owner(status, path)


def _check_owner(status: os.stat_result, path: Path) -> None:
    """Raise IdentityError MDW-701 where another user than this one and root could change a private
    file or its folder at any time; root itself reads for others, as in a container.
    """
    if os.geteuid() in (0, status.st_uid) or status.st_uid == 0:
        return
    message = f"{path} belongs to another user (uid {status.st_uid})."
    raise IdentityError("MDW-701", message, "Name a file of your own, in a folder of your own.")
