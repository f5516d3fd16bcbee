"""Where private parts are kept: the interface, and a folder of mode 0700 with files of mode 0600.

`azureml_jobs.identity.key_vault` has the same interface for a Key Vault.

    MDW-700 missing         MDW-701 others may read it    MDW-702 not readable
    MDW-709 not a name      MDW-713 the disk failed
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Protocol

from conf.atomic_files import write_atomic
from conf.errors import IdentityError

Names = list[str]
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}"
)  # with what a vault adds it stays below its 127


class SecretStore(Protocol):
    """Where private parts are kept; names as a silo's name."""

    def get(self, name: str) -> bytes:
        """Return a secret; raises IdentityError MDW-700 where it is missing, MDW-701 where others may read it."""

    def set(self, name: str, secret: bytes) -> None:
        """Keep a secret, in the place of an older one of that name."""

    def list(self) -> Names:
        """Return the names of the secrets, sorted."""

    def delete(self, name: str) -> None:
        """Forget a secret; nothing happens where it is missing."""

    def where(self, name: str) -> str:
        """Return where a person finds that secret, for messages: never the secret."""


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
            _only_the_owner(self._folder)
            write_atomic(path, secret, mode=0o600)
        except OSError as error:
            hint = "Choose a folder that this user may write, on a disk with room."
            raise IdentityError(
                "MDW-713", f"Can't write {path}: {error.strerror}.", hint
            ) from error

    def list(self) -> Names:
        """See `SecretStore`."""
        if not self._folder.is_dir():
            return []
        return sorted(
            p.name for p in self._folder.iterdir() if p.is_file() and _NAME.fullmatch(p.name)
        )

    def delete(self, name: str) -> None:
        """See `SecretStore`."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / checked_name(name, most=80)


def checked_name(name: str, most: int = 64) -> str:
    """Return a name that is fit for a silo or (80 characters) a secret; raises IdentityError MDW-709."""
    if not _NAME.fullmatch(name) or len(name) > most:
        hint = "Use up to 64 letters, digits, '_' and '-', and begin with a letter or digit."
        raise IdentityError("MDW-709", f"{name[:120]!r} can't be a name.", hint)
    return name


def read_private(path: Path) -> bytes:
    """Return the bytes of a file that only its owner may read; raises IdentityError MDW-700, 701 or 702."""
    try:
        _only_the_owner(path.parent)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            _private(os.fstat(handle), path, "0600")
            return file.read(1 << 20)
    except FileNotFoundError:
        raise IdentityError(
            "MDW-700", f"There is no {path}.", "Make it with `meadow keys`, or name another."
        ) from None
    except OSError as error:
        raise IdentityError(
            "MDW-702", f"Can't read {path}: {error.strerror}.", "Name a readable file."
        ) from error


def _only_the_owner(folder: Path) -> None:
    _private(folder.stat(), folder, "0700")


def _private(found: os.stat_result, path: Path, mode: str) -> None:
    """A folder that others may look into but not change is fine (0755); a private file that they may read is not."""
    forbidden = 0o022 if stat.S_ISDIR(found.st_mode) else 0o077
    if found.st_mode & forbidden and not found.st_mode & stat.S_ISVTX:
        what = f"Others may use {path} (mode {stat.S_IMODE(found.st_mode):04o})."
        raise IdentityError(
            "MDW-701", what, f"Run: chmod {mode} {path} - and make a new key if it was shared."
        )
