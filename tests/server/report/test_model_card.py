"""The card says what the model is and is not, from the result alone, whatever of it is there."""

from __future__ import annotations

import math

import pytest

from server.report.model_card import card
from server.report.overview import overview
from server.run.result import RunResult
from tests.server.sample_results import HOSTILE, Made, bare, sample, with_failures, with_nan


def card_of(made: Made) -> str:
    return card(made, overview(made.records, made.silos, made.shown))


def test_it_holds_the_data_the_metrics_and_where_the_model_comes_from() -> None:
    made = sample()
    text = card_of(made)
    assert text.startswith("# digits, trained by 3 silos\n")
    assert "| silo-2 | 400 | 100 |" in text
    assert "| federated: this model | 0.9610 | 0.0390 |" in text
    assert "| all data pooled | 0.9690 | 0.0310 |" in text
    assert f"| accuracy | {made.final['accuracy']:.4f} | higher |" in text
    for fact in (
        made.model["sha256"],
        made.config_digest,
        made.command,
        "flwr 1.39.0",
        "4,810 parameters",
    ):
        assert fact in text, fact
    for section in ("Data", "Training", "Metrics on test examples", "Limits", "Provenance"):
        assert f"\n## {section}\n" in text


def test_it_says_that_a_run_did_not_finish_and_what_failed() -> None:
    made = with_failures(sample())
    made.status = "interrupted"
    assert "was interrupted: this is the model of its last closed round" in card_of(made)
    assert "replies that failed or were refused: 2" in card_of(made)


def test_privacy_is_claimed_only_where_the_result_says_so() -> None:
    made = sample()
    assert "No privacy guarantee" in card_of(made)
    made.privacy = {
        "kind": "sample_dp",
        "guarantee": True,
        "unit": "example",
        "delta": 1e-5,
        "clip_norm": 1.0,
        "clipping": "flat",
        "silos": {"north": {"epsilon": 2.0, "epsilon_renyi": 2.4, "noise_multiplier": 1.1}},
    }
    assert "No privacy guarantee" not in card_of(made)
    assert "epsilon 2.000 at delta 1e-05 at north" in card_of(made)
    made.privacy["guarantee"] = False
    assert "no guarantee" in card_of(made)


def test_names_make_no_markup() -> None:
    text = card_of(sample(names=[HOSTILE, "a | b\n# c", "_x_"]))
    assert HOSTILE not in text
    assert r"| a \| b \# c |" in text
    assert "\n# c" not in text


@pytest.mark.parametrize(
    "made", [bare(), with_nan(sample()), sample(100, 2), sample(1, 1, baseline=False)]
)
def test_every_kind_of_run_has_a_card(made: Made) -> None:
    rounds = overview(made.records, made.silos, made.shown)
    for result in (made, RunResult.from_json(made.to_json())):
        text = card(result, rounds)
        assert result.run_id in text
        assert str(math.nan) not in text.split()
        assert "None" not in text.replace("None were measured", "")
