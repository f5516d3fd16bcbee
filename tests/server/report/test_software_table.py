"""The report and the card say what the silos ran, and name what differs where the same bits are promised."""

from __future__ import annotations

import pytest

from server.report.model_card import card
from server.report.overview import overview
from server.report.software_table import (
    COLUMNS,
    MOST_NAMES,
    mixed_software,
    software_rows,
    software_table,
)
from server.report.tables import MOST_ROWS
from tests.server.sample_results import Made, page_of, sample

OURS = {"python": "3.11.7", "torch": "2.9.0", "cpu": "AVX2", "code": "a" * 64, "run_code": "b" * 64}


def ran(**others: dict[str, str]) -> Made:
    made = sample()
    made.software = {silo: dict(OURS) for silo in made.silos}
    for silo, facts in others.items():
        made.software[silo.replace("_", "-")] = OURS | facts
    return made


def pages(made: Made) -> list[str]:
    return [page_of(made), card(made, overview(made.records, made.silos, made.shown))]


def test_silos_that_ran_the_same_share_a_row_and_nothing_is_taken_back() -> None:
    made = ran()
    assert mixed_software(made.software) == ""
    (row,) = software_rows(made.software)
    assert row[0] == "silo-1, silo-2, silo-3" and len(row) == 1 + len(COLUMNS)
    for page in pages(made):
        assert "2.9.0" in page and "a" * 12 in page and "not promised" not in page


def test_what_differs_is_named_with_its_silos() -> None:
    made = ran(silo_2={"cpu": "AVX512", "python": "3.13.0"})
    said = "the silos differ in instructions (AVX2 at silo-1, silo-3, AVX512 at silo-2)."
    assert mixed_software(made.software) == f"The same bits are not promised: {said}"
    assert len(software_rows(made.software)) == 2
    for page in pages(made):
        assert said in page and "3.13.0" in page


def test_what_the_run_does_not_use_takes_no_promise_back() -> None:
    assert mixed_software(ran(silo_2={"python": "3.13.0", "code": "c" * 64}).software) == ""
    said = mixed_software(ran(silo_2={"run_code": "d" * 64}).software)
    assert "differ in run's code (bbbbbbbbbbbb at silo-1, silo-3, dddddddddddd at silo-2)" in said


def test_a_run_whose_silos_say_nothing_has_no_such_table() -> None:
    for page in pages(sample()):
        assert "What the silos" not in page


def test_what_a_silo_says_is_text_and_no_markup() -> None:
    made = ran(silo_2={"torch": "<script>alert(1)</script>|**x**"})
    page, written = pages(made)
    assert "<script>alert" not in page
    assert "\\<script\\>" in written and "\\*\\*x" in written


@pytest.mark.parametrize("silos", [10, 1000])
def test_the_table_and_the_sentence_are_bounded(silos: int) -> None:
    made = sample()
    made.software = {f"silo-{i:04d}": OURS | {"torch": f"2.{i}"} for i in range(silos)}
    assert len(software_rows(made.software)) == min(silos, MOST_ROWS)
    assert len(mixed_software(made.software)) < 400
    assert f"{silos - MOST_NAMES} more" in mixed_software(made.software)


def test_columns_that_no_silo_fills_are_left_out() -> None:
    titles, rows = software_table({"north": {"python": "3.11.7"}, "south": {"flwr": "1.42.0"}})
    assert titles == ["Python", "Flower"]
    assert rows == [["north", "3.11.7", "–"], ["south", "–", "1.42.0"]]
