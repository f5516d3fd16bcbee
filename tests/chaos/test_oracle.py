"""The oracle finds what must never be, and nothing in a ledger that is as it should be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

from tests.chaos.oracle import Closed, Judgement, judge, rounds_of


def update(silo: str, round: int) -> str:
    return f"update of {silo} in {round}"


def model(round: int, silos: Collection[str]) -> str:
    return f"model {round} of {sorted(silos)}"


def replayed(admitted: Sequence[Collection[str]]) -> list[Closed]:
    return [
        Closed(model(round, silos), {silo: update(silo, round) for silo in silos})
        for round, silos in enumerate(admitted, 1)
    ]


def line(event: str, **facts: Any) -> dict[str, Any]:
    return {"event": event, **facts}


def admitted(round: int, silo: str) -> dict[str, Any]:
    return line(
        "update admitted", round=round, silo=silo, phase="train", update=update(silo, round)
    )


def closed(round: int, *silos: str) -> list[dict[str, Any]]:
    end = line("round closed", round=round, model=model(round, silos), admitted=list(silos))
    return [*(admitted(round, silo) for silo in silos), end]


def judged(*lines: dict[str, Any], rounds: int = 2) -> Judgement:
    undisturbed = replayed([["a", "b"]] * rounds)
    return judge(lines, rounds, undisturbed, replayed, "liar", lambda silo, round: round == 2)


START = line("run started")


def test_a_ledger_as_it_should_be_has_no_finding() -> None:
    found = judged(START, *closed(1, "a", "b"), *closed(2, "b"))
    assert found.findings == []
    assert (found.rounds, found.as_undisturbed, found.replayed) == (2, 1, 2)


def test_a_crash_in_the_middle_of_a_round_is_no_second_admission() -> None:
    again = line("run resumed")
    lines = [START, *closed(1, "a", "b"), admitted(2, "a"), again, *closed(2, "a", "b")]
    assert judged(*lines).findings == []


def test_an_update_admitted_twice_in_one_round_is_found() -> None:
    found = judged(START, admitted(1, "a"), *closed(1, "a", "b"), *closed(2, "a", "b"))
    assert any("admitted twice" in one for one in found.findings)


def test_a_round_that_closes_with_another_than_was_admitted_is_found() -> None:
    lines = closed(1, "a", "b")
    lines[-1]["admitted"] = ["a", "b", "c"]
    assert any("closed with" in one for one in judged(START, *lines, *closed(2, "a")).findings)


@pytest.mark.parametrize("rounds", [(1,), (1, 3), (2,)])
def test_a_round_that_is_not_there_is_found(rounds: tuple[int, ...]) -> None:
    lines = [one for round in rounds for one in closed(round, "a", "b")]
    assert any("the rounds are" in one for one in judged(START, *lines).findings)


def test_a_round_closed_again_has_the_last_word_and_must_make_the_same_of_the_same() -> None:
    again = line("run resumed")
    others = [*closed(1, "a", "b"), *closed(2, "b"), again, *closed(2, "a", "b")]
    found = judged(START, *others)
    assert (found.findings, found.closed_again, found.as_undisturbed) == ([], 1, 2)
    other = closed(2, "a", "b")
    other[-1]["model"] = "another"
    lines = [*closed(1, "a", "b"), *closed(2, "a", "b"), again, *other]
    assert any("two models" in one for one in judged(START, *lines).findings)


def test_a_lie_that_was_admitted_is_found() -> None:
    found = judged(START, *closed(1, "a", "liar"), *closed(2, "a", "liar"))
    assert found.findings == ["round 2: a lie of liar was admitted"]


def test_other_bits_than_the_undisturbed_run_or_the_replay_are_found() -> None:
    lines = closed(1, "a", "b")
    lines[-1]["model"] = "another"
    found = judged(START, *lines, *closed(2, "a", "b"))
    assert found.findings == [
        "round 1: other bits than the undisturbed run's",
        "round 1: a replay makes another model",
    ]
    lines = closed(1, "a", "b")
    lines[0]["update"] = "another"
    found = judged(START, *lines, *closed(2, "a", "b"))
    assert "round 1: a replay makes another updates" in found.findings


def test_evaluations_are_not_updates() -> None:
    evaluated = {**admitted(1, "a"), "phase": "evaluate"}
    rounds, wrong = rounds_of([START, admitted(1, "a"), evaluated, *closed(1, "b")[1:]])
    assert len(wrong) == 1 and rounds[1][0].updates == {"a": update("a", 1)}
