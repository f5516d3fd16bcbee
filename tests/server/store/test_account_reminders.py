"""A reminder of a silo's account is kept beyond a run, and nothing else that a silo may send as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.storage.folder_store import FolderStore
from server.store.account_reminders import AccountReminders

FIRST = f"{'a' * 64}:{'0' * 64}"
SECOND = f"{'b' * 64}:{'1' * 64}"


def test_the_last_one_outlives_the_process(tmp_path: Path) -> None:
    reminders = AccountReminders(FolderStore(tmp_path))
    assert reminders.of("north") == ""
    reminders.keep("north", FIRST)
    reminders.keep("north", SECOND)
    assert reminders.of("north") == SECOND
    again = AccountReminders(FolderStore(tmp_path))
    assert again.of("north") == SECOND
    assert again.of("south") == ""


def test_without_a_store_it_lasts_as_long_as_a_run() -> None:
    reminders = AccountReminders()
    reminders.keep("north", FIRST)
    assert reminders.of("north") == FIRST
    assert AccountReminders().of("north") == ""


@pytest.mark.parametrize("said", ["", "a:b", FIRST + "0", FIRST.upper(), "x" * 10**6, f"{FIRST}\n"])
def test_what_is_no_reminder_is_not_kept(tmp_path: Path, said: str) -> None:
    reminders = AccountReminders(FolderStore(tmp_path))
    reminders.keep("north", FIRST)
    reminders.keep("north", said)
    assert reminders.of("north") == FIRST
