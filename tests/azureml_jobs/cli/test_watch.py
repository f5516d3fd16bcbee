"""What `meadow status` shows of the silos' software."""

from __future__ import annotations

from azureml_jobs.cli.watch import software_lines

FACTS = {"python": "3.11.7", "torch": "2.14.1", "cpu": "AVX2", "flwr": "1.42.0", "code": "a" * 64}


def test_silos_that_run_the_same_share_a_row() -> None:
    head, row = software_lines({"north": FACTS, "south": FACTS})
    assert head.split()[:3] == ["silos", "Python", "torch"]
    assert row.startswith("north, south")
    assert "a" * 12 in row and "a" * 13 not in row


def test_what_takes_the_promise_of_the_same_bits_back_is_named() -> None:
    lines = software_lines({"north": FACTS, "south": FACTS | {"cpu": "AVX512"}})
    assert len(lines) == 4
    assert lines[-1].startswith("The same bits are not promised: the silos differ in instructions")


def test_nothing_is_shown_before_a_silo_has_said_anything() -> None:
    assert software_lines({}) == []
