"""A folder for sockets and tokens is short, closed to others, and gone with its process, however that ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from conf.errors import SiloError
from server.engines import private_folder
from server.engines.private_folder import JUST_MADE_SECONDS, make_private_folder, remove

ROOT = Path(__file__).parents[3]
BELOW = 68


def test_it_is_closed_to_others_and_short_enough_for_a_socket_under_a_long_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = make_private_folder(BELOW)
    try:
        assert len(str(folder)) + BELOW <= 103
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        remove(folder)
    assert not folder.exists()


def test_a_file_system_that_forgets_modes_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def open_to_all(prefix: str, dir: str) -> str:
        folder = Path(dir) / f"{prefix}{len(made):08}"
        folder.mkdir()
        folder.chmod(0o777)
        made.append(folder)
        return str(folder)

    monkeypatch.setattr(private_folder, "_parents", lambda: [str(tmp_path)])
    monkeypatch.setattr(tempfile, "mkdtemp", open_to_all)
    with pytest.raises(SiloError, match=r"MDW-312.*others may enter"):
        make_private_folder(-1000)
    assert made and not made[0].exists()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_folder, "_parents", lambda: [str(tmp_path)])
    mine = make_private_folder(-1000)
    script = (
        "import os, sys\n"
        "from server.engines import private_folder\n"
        "private_folder._parents = lambda: [sys.argv[1]]\n"
        "folder = private_folder.make_private_folder(-1000)\n"
        "(folder / 'token').write_text('secret')\n"
        "print(folder, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    left = Path(killed.stdout.strip())
    assert (left / "token").exists()
    link = tmp_path / f"{private_folder.PREFIX}linklink"
    link.symlink_to(ROOT)
    for folder in (mine, left):
        long_ago = folder.stat().st_mtime - 2 * JUST_MADE_SECONDS
        os.utime(folder, (long_ago, long_ago))
    another = make_private_folder(-1000)
    assert mine.exists() and not left.exists() and link.exists()
    remove(mine)
    remove(another)
