"""What page and card say of how a model decides."""

from __future__ import annotations

import re

import torch

from client.tasks.base import Contract
from client.tasks.kinds.classification import Classification
from conf.schema import OperatingConf
from server.report.decisions import confusion_rows, decision_rows, decisions, interval
from server.report.model_card import card
from server.report.overview import overview
from server.run.result import RunResult
from server.scoring.details import chosen_of, details_of
from tests.server.sample_results import Made, page_of, sample


class Told(Classification):
    """Two classes or more that are ranked."""

    ranked = True
    name = "told"

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.contract = Contract((1,), classes)


def made(classes: tuple[str, ...]) -> Made:
    """Return a result whose test has details of drawn examples."""
    task = Told(classes)
    drawn = torch.Generator().manual_seed(0)
    labels = torch.randint(0, len(classes), (500,), generator=drawn)
    logits = torch.randn(500, len(classes), generator=drawn)
    logits[torch.arange(500), labels] += 1.5
    sums = dict(task.sums(logits, (labels, labels)))
    result = sample()
    assert result.test is not None
    result.classes = list(classes)
    result.test.chosen = chosen_of(task, sums, OperatingConf()) | {"silos": result.silos}
    result.test.details = details_of(task, sums, result.test.chosen)
    return result


def test_the_page_shows_curves_the_point_and_the_confusion_of_two_classes() -> None:
    result = made(("well", "ill <b>"))
    page = page_of(result)

    assert "How it decides" in page
    assert page.count("specificity of 0.9 or more") == 1
    assert "ill &lt;b&gt;" in page and "ill <b>" not in page
    assert len(re.findall(r'<div role="img" aria-label="[^"]*"><svg', page)) >= 6
    found = decisions(result)
    assert found is not None
    (row,) = found.rows
    assert float(row.chosen_specificity) >= 0.9
    assert " to " in row.sensitivity.interval
    assert [sum(n for n, _ in cells) for _, cells in found.confusion] == [
        sum(one)
        for one in result.test.details["confusion"]  # type: ignore[union-attr]
    ]


def test_each_of_several_classes_has_a_row_and_all_together_a_temperature() -> None:
    result = made(("a", "b", "c"))
    found = decisions(result)
    assert found is not None and result.test is not None
    assert [row.name for row in found.rankings] == ["a", "b", "c"]
    assert len(found.legend) == 3
    # It is of all logits, not of one class against the rest.
    assert (
        result.test.chosen["temperature"] == float(2 ** (-4 / 8)) and found.temperature == "0.707"
    )
    assert {row.calibrated for row in found.rankings} == {"–"}
    assert f"the calibration error is {found.sure}, and {found.sure_cooled} at" in page_of(result)
    text = card(result, overview(result.records, result.silos, result.shown))
    assert f"the calibration error is {found.sure}, {found.sure_cooled} at the temp" in text


def test_a_run_of_numbers_has_intervals_and_no_such_section() -> None:
    result = sample()
    assert result.test is not None
    result.test.details = {"intervals": {"rmse": [1.0, 2.0]}}
    assert decisions(result) is None
    assert interval(result.test, "rmse")
    assert "How it decides" not in page_of(result)


def test_the_card_says_by_which_rule_and_with_which_interval() -> None:
    result = made(("well", "ill"))
    text = card(result, overview(result.records, result.silos, result.shown))
    assert "## How it decides" in text
    assert "| ill | specificity of 0.9 or more |" in text
    assert interval(result.test, "accuracy") in text


def test_a_run_without_such_details_has_no_such_section() -> None:
    result = sample()
    assert decisions(result) is None
    assert "How it decides" not in page_of(result)
    assert "How it decides" not in card(result, overview(result.records, result.silos, {}))


def test_a_test_without_positives_is_drawn_without_curves() -> None:
    result = made(("well", "ill"))
    task = Told(("well", "ill"))
    labels = torch.zeros(20, dtype=torch.int64)
    sums = dict(task.sums(torch.randn(20, 2), (labels, labels)))
    assert result.test is not None
    result.test.chosen = {}
    result.test.details = details_of(task, sums, {})
    found = decisions(RunResult.from_json(result.to_json()))
    assert found is not None
    assert found.pictures == [] and decision_rows(result.test) == []
    assert confusion_rows(result.test, result.classes)[1][1] == [(0, 0.0), (0, 0.0)]
    assert "How it decides" in page_of(result)
