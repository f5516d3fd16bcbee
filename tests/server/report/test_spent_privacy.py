"""The report's section of privacy: who paid what, in numbers, in two pictures and in words."""

from __future__ import annotations

import re

import pytest

from conf.schema import SiloDpConf
from server.report.build import html
from server.report.overview import MOST_LINES, overview
from server.report.spent_privacy import SpentPrivacy, spent_privacy
from server.run.privacy_spent import told_of
from server.run.result import RoundRecord, RunResult

SHOWN = {"accuracy": "max", "loss": "min"}
MEAN = {"clip_norm": 0.5, "deviation": 0.25, "noise_norm": 17.0, "step_norm": 17.5}


def rounds(silos: int, count: int = 3, metric: str = "accuracy") -> list[RoundRecord]:
    made = []
    for number in range(1, count + 1):
        record = RoundRecord(number, [f"silo-{n}" for n in range(silos)])
        record.aggregate = {metric: 0.1 * number, "loss": 1.0 / number}
        record.privacy = {
            silo: {
                "epsilon": number + 0.01 * place,
                "epsilon_renyi": number + 1.0,
                "noise_multiplier": 1.5,
            }
            for place, silo in enumerate(record.cohort)
        }
        made.append(record)
    return made


def result_of(records: list[RoundRecord]) -> RunResult:
    silos = records[-1].cohort
    made = RunResult("run", "simulate", "digits", "fedavg", silos, shown=SHOWN)
    for record in records:
        made.privacy = told_of(SiloDpConf(name="silo_dp"), made.privacy, record, MEAN)
    return made


def section(records: list[RoundRecord]) -> SpentPrivacy:
    result = result_of(records)
    found = spent_privacy(result, overview(records, result.silos, SHOWN).points)
    assert found is not None
    return found


def test_who_paid_most_comes_first_and_all_is_named() -> None:
    found = section(rounds(3))
    assert [row[0] for row in found.rows] == ["silo-2", "silo-1", "silo-0"]
    assert found.rows[0] == ("silo-2", "3.020", "4.000", "1.500")
    facts = dict(found.facts)
    assert facts["neighbours"] == "replace-one" and facts["counted by"] == "the server"
    assert "dp-accounting" in facts["accountant"] and "17.5" in facts["noise of the last mean"]
    assert found.said[0].startswith("Silo-level")


def test_the_curves_say_in_words_what_they_show() -> None:
    (_, first), (_, second) = section(rounds(3)).pictures
    assert first == "Epsilon of the silo that paid most: 1.020 after round 1, 3.020 after round 3."
    assert "0.100 at an epsilon of 1.020, 0.300 at 3.020" in second


def test_the_task_s_own_test_set_is_taken_where_no_silo_tells_anything() -> None:
    (_, words) = section(rounds(3, metric="central_accuracy")).pictures[1]
    assert "the task's test set" in words


def test_of_many_silos_the_range_is_drawn_and_the_page_does_not_grow() -> None:
    found = section(rounds(MOST_LINES + 1))
    assert len(found.legend) == 1
    many = section(rounds(500))
    assert len(many.rows) + many.left_out == 500
    assert "and 488 more" in many.said[1]


def test_a_single_round_has_no_curve() -> None:
    assert section(rounds(3, count=1)).pictures == []


@pytest.mark.parametrize("value", [None, float("inf")])
def test_an_epsilon_without_bound_is_shown_as_such(value: float | None) -> None:
    records = rounds(2)
    for record in records:
        record.privacy["silo-0"]["epsilon"] = value  # type: ignore[assignment]  # as JSON has it
    assert section(records).rows[0][:2] == ("silo-0", "–")


def test_the_page_has_the_section_only_where_there_is_privacy() -> None:
    records = rounds(3)
    result = result_of(records)
    page = html(result, overview(records, result.silos, SHOWN))
    assert "What privacy it cost" in page and page.count("<svg") > 2
    assert re.search(r"silo-2</th><td>3.020", page)
    result.privacy = {}
    assert "What privacy it cost" not in html(result, overview(records, result.silos, SHOWN))
