"""What a failed system call means: its code, its true cause, and the path of its owner."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path

import pytest

from conf.border import across
from conf.errors import CheckpointError, ConfigError
from conf.files.faults import FAMILY, FileFault, disk, disk_error, foreseen, shown


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "MDW-513: The disk is full: can't write /a/b."),
        (errno.EDQUOT, "MDW-513: This user's quota is used up: can't write /a/b."),
        (errno.EACCES, "MDW-514: May not write /a/b (Permission denied)."),
        (errno.EROFS, "MDW-514: May not write /a/b (Read-only file system)."),
        (errno.EIO, "MDW-515: Can't write /a/b: Input/output error."),
        (errno.ENAMETOOLONG, "MDW-527: Can't write /a/b: the file system there can't hold such"),
        (errno.ENOTSUP, "MDW-528: Can't write /a/b: the file system there is not able to"),
        (errno.ESTALE, "MDW-529: Can't write /a/b: the file system there has gone away"),
        (errno.ENOTCONN, "MDW-529"),
        (errno.EMFILE, "MDW-530: Can't write /a/b: too many files are open"),
        (errno.ENOTDIR, "MDW-531: Can't write /a/b: something of another kind is in its place"),
        (errno.ENOENT, "MDW-532: Can't write /a/b: it is not there"),
        (errno.EFBIG, "MDW-533"),
        (errno.EBUSY, "MDW-534"),
        (9999, "MDW-515"),
    ],
)
def test_each_errno_of_the_family_has_its_cause(number: int, said: str) -> None:
    fault = disk_error(OSError(number, os.strerror(number), "/a/b"), "write", "/a/b")
    assert str(fault).startswith(said)
    assert (fault.errno, fault.filename, fault.exit_status) == (number, "/a/b", 6)
    assert isinstance(fault, CheckpointError) and isinstance(fault, OSError)


def test_every_kind_says_what_to_do_next() -> None:
    assert all(kind.hint and "{doing}" in kind.text for kind in FAMILY.values())


def test_a_fault_is_told_once_and_by_the_innermost_that_knows() -> None:
    with pytest.raises(FileFault, match="can't sync /a"), disk("write", "/b"):  # noqa: SIM117
        with disk("sync", "/a"):
            raise OSError(errno.ENOSPC, "full", "/a/file")


def test_a_fault_crosses_between_processes_as_it_is() -> None:
    fault = disk_error(OSError(errno.EROFS, "read-only", "/a"), "write", "/a")
    again = copy.copy(fault)
    assert (str(again), again.errno, again.filename) == (str(fault), fault.errno, "/a")


def test_what_nobody_handled_is_told_by_its_cause_and_a_fault_of_ours_stays_one() -> None:
    full = foreseen(OSError(errno.ENOSPC, "No space left on device"))
    assert full is not None and full.code == "MDW-513"
    gone = foreseen(FileNotFoundError(errno.ENOENT, "No such file", "/there"))
    assert gone is not None and "can't use /there" not in str(gone) and "/there" in str(gone)
    assert foreseen(ValueError("x")) is None
    assert foreseen(OSError("no errno")) is None
    assert foreseen(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) is None
    assert foreseen(TimeoutError(errno.ETIMEDOUT, "a socket's, without a path")) is None
    assert foreseen(ConfigError("MDW-100", "x")) is None


def test_no_path_crosses_to_another_party() -> None:
    secret = "/data/patients/mueller.npz"
    line = across(OSError(errno.EIO, "Input/output error", secret))
    assert line.startswith("MDW-515 ") and "mueller" not in line and "OSError" in line
    assert across(disk_error(OSError(errno.EIO, "x", secret), "read", secret)) == "MDW-515"


def test_a_path_of_any_bytes_can_be_said() -> None:
    odd = os.fsdecode(b"lat\xe4")
    assert shown(odd) == "lat?" and shown(Path(odd)) == "lat?"
    str(disk_error(OSError(errno.EIO, "x", odd), "read", shown(odd))).encode()
