"""Who gained by federating and who lost, on each one's own test examples."""

from __future__ import annotations

from server.report.gains import gains
from server.run.result import Baseline, Scores
from tests.server.sample_results import Made, page_of, sample


def made(federated: dict[str, float], alone: dict[str, float], metric: str = "accuracy") -> Made:
    result = sample(names=list(federated))
    result.shown = {metric: "min" if metric == "loss" else "max"}
    of_all = {silo: {metric: value} for silo, value in federated.items()}
    result.baseline = Baseline(
        Scores({metric: 0.5}, of_all),
        {silo: Scores({metric: 0.5}, {silo: {metric: value}}) for silo, value in alone.items()},
    )
    return result


def test_the_most_gained_comes_first_and_the_longest_bar_is_the_largest_change() -> None:
    result = made(
        {"north": 0.9, "south": 0.5, "<east>": 0.7}, {"north": 0.7, "south": 0.9, "<east>": 0.7}
    )

    found = gains(result)

    assert found is not None
    assert [(row.silo, row.change) for row in found.rows] == [
        ("north", "+0.200"),
        ("<east>", "0.000"),
        ("south", "−0.400"),
    ]
    assert [round(row.share, 3) for row in found.rows] == [0.5, 0, -1]
    assert (found.better, found.worse) == (1, 1)
    page = page_of(result)
    assert "&lt;east&gt;" in page and "<east>" not in page
    assert "1 of 3 silos gained, 1 lost" in page


def test_less_of_a_loss_is_a_gain() -> None:
    found = gains(made({"north": 0.2}, {"north": 0.5}, "loss"))
    assert found is not None and found.rows[0].change == "+0.300"


def test_without_silos_alone_there_is_no_picture() -> None:
    assert gains(sample(baseline=False)) is None
    assert gains(made({"north": float("nan")}, {"north": 0.5})) is None
