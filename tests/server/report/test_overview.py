"""What a page shows of the rounds is gathered in one pass, and bounded however long the run was."""

from __future__ import annotations

import math

import pytest

from server.report.overview import binned, overview
from server.report.tables import MOST_ROWS, failures, in_words, silo_rows
from tests.server.sample_results import page_of, sample, with_failures

DRAWN = ("accuracy", "loss")


def test_each_silo_s_part_is_counted() -> None:
    made = with_failures(sample(3, 10))
    rounds = overview(iter(made.records), made.silos, made.shown)
    part = rounds.silos["silo-2"]
    assert (part.asked, part.answered, part.examples, part.validation) == (10, 8, 400.0, 100.0)
    assert rounds.failures == 2
    assert rounds.silos["silo-1"].up == sum(r.bytes_up["silo-1"] for r in made.records)
    took = sorted(r.seconds_training["silo-1"] for r in made.records)
    assert rounds.silos["silo-1"].median_seconds == pytest.approx((took[4] + took[5]) / 2)


def test_bins_hold_every_round_once_their_means_and_their_whole_range() -> None:
    made = sample(30, 10)
    points = overview(made.records, made.silos, made.shown).points
    bins = binned(points, 4, DRAWN)
    assert [(point.first, point.round) for point in bins] == [(1, 3), (4, 6), (7, 9), (10, 10)]
    first = [record.aggregate["loss"] for record in made.records[:3]]
    assert bins[0].aggregate["loss"] == pytest.approx(sum(first) / 3)
    every = [m["accuracy"] for record in made.records[:3] for m in record.metrics.values()]
    assert bins[0].spans["accuracy"] == (min(every), max(every))
    assert binned(points, 10) == points and binned([], 5) == []


def test_a_round_without_a_metric_leaves_its_bin_the_others() -> None:
    made = sample(3, 4)
    made.records[0].aggregate["loss"] = math.nan
    point = binned(overview(made.records, made.silos, made.shown).points, 1, DRAWN)[0]
    others = [record.aggregate["loss"] for record in made.records[1:]]
    assert point.aggregate["loss"] == pytest.approx(sum(others) / 3)


def test_rounds_are_named_as_ranges_and_cut_where_they_are_many() -> None:
    assert in_words([1, 2, 3, 7, 9, 10]) == "1 to 3, 7, 9 to 10"
    assert in_words([]) == ""
    many = in_words(range(1, 1001, 2))
    assert many.endswith("21, 23, … 500 in all") and len(many) < 100


def test_tables_are_bounded_and_those_that_missed_most_come_first() -> None:
    made = sample(150, 2)
    for record in made.records:
        record.replied.remove("silo-149")
        record.failed["silo-149"] = "gone " * 1000
    rounds = overview(made.records, made.silos, made.shown)
    rows = silo_rows(rounds.silos, made.shown)
    assert len(rows) == MOST_ROWS and rows[0][:2] == ["silo-149", "0 of 2"]
    assert len(failures(rounds, None)[0]["reason"]) <= 300
    page = page_of(made)
    assert "50 more are left out here; history.jsonl holds them." in page
    assert "50 more are left out here; result.json holds them." in page


def test_a_page_does_not_grow_with_the_rounds() -> None:
    short = len(page_of(sample(20, 250)))
    long = len(page_of(sample(20, 1000)))
    assert long < 1.2 * short < 500_000


def test_the_code_that_a_silo_gave_itself_is_told_rather_than_the_server_s() -> None:
    made = sample(3, 1)
    (record,) = made.records
    record.failed = {
        "silo-1": "RefusedError: MDW-330 the owner's policy has no such task",
        "silo-2": "gone",
        "silo-3": "out of memory",
    }
    record.codes = {"silo-1": "MDW-304", "silo-2": "MDW-304"}
    failed = overview(made.records, made.silos, made.shown).failed
    assert [failure.code for failure in failed] == ["MDW-330", "MDW-304", ""]
