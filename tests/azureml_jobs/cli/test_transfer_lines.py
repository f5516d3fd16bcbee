"""A slow transfer is told with its rate and what is left, on either side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azureml_jobs.cli.transfer_lines import OLD_SECONDS, own_transfer_line, transfer_line
from client.node.journal import TRANSFER, UpdateJournal

SAID = {"direction": "down", "left": 3_100_000, "rate": 61_000, "still": 0}


def test_a_transfer_is_told_with_its_rate_and_rest() -> None:
    line = transfer_line("north", SAID)
    assert line == "north receives a message: 3.1 MB left at 61.0 kB/s, 51 s"
    line = transfer_line("north", SAID | {"direction": "up", "still": 40})
    assert line == "north sends a message: 3.1 MB left, nothing moved for 40 s"
    assert transfer_line("north", SAID | {"rate": 0}) == "north receives a message: 3.1 MB left"


@pytest.mark.parametrize(
    "said",
    [{}, SAID | {"left": 0}, SAID | {"direction": "both"}, SAID | {"rate": "fast"}, {"left": 5}],
)
def test_what_says_nothing_is_left_out(said: dict[str, object]) -> None:
    assert transfer_line("north", said) is None


def test_a_silo_s_own_job_says_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    journal = UpdateJournal(tmp_path)
    journal.note_transfer("up", 1_000_000, 50_000.0)
    written = (tmp_path / TRANSFER).read_bytes()
    at = json.loads(written)["at"]
    assert own_transfer_line("north", written) == (
        "north sends a message: 1.0 MB left at 50.0 kB/s, 20 s"
    )
    assert own_transfer_line("north", written, at + 60) == (
        "north sends a message: 1.0 MB left, nothing moved for 1 min 00 s"
    )
    assert own_transfer_line("north", written, at + OLD_SECONDS + 1) is None
    assert (tmp_path / TRANSFER).stat().st_mode & 0o777 == 0o600
    journal.note_transfer("up", 0, 0.0)
    assert own_transfer_line("north", (tmp_path / TRANSFER).read_bytes()) is None


@pytest.mark.parametrize("written", [None, b"", b"{]", b"[]", b'{"at": null}', b'{"at": 1}'])
def test_a_file_that_is_damaged_or_of_long_ago_says_nothing(written: bytes | None) -> None:
    assert own_transfer_line("north", written) is None
