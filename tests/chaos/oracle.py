"""Judges what a run has left, from its ledger and what is known of an undisturbed one.

Pure. What it looks for:

- in a round each silo's update is admitted once, and what the round closed with is what was admitted;
- a round that was closed again, after a crash, has the last word, and no other model where the same
  updates were admitted;
- all rounds are there, in order; the liar's lies are in none;
- the digests of the undisturbed run, as long as the same updates were admitted; those of a replay of
  the admissions, in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]
Lies = Callable[[str, int], bool]


@dataclass(frozen=True)
class Closed:
    """A round as it closed: the model's digest, and by silo that of each admitted update."""

    model: str
    updates: Mapping[str, str]


@dataclass
class Judgement:
    """What was found of one run, and how much was compared."""

    findings: list[str] = field(default_factory=list)
    rounds: int = 0
    as_undisturbed: int = 0
    """Rounds from the first on that are the undisturbed run's."""
    replayed: int = 0
    closed_again: int = 0
    refused: int = 0


def rounds_of(lines: Sequence[Line]) -> tuple[dict[int, list[Closed]], list[str]]:
    """Return each round as often as it was closed, and what is wrong with the order of events."""
    closed: dict[int, list[Closed]] = {}
    wrong: list[str] = []
    admitted: dict[tuple[int, str], str] = {}
    for line in lines:
        event = line["event"]
        if event in ("run started", "run resumed"):
            # What the process before had admitted of an open round came to nothing.
            admitted.clear()
        elif event == "update admitted" and line["phase"] == "train":
            key = (line["round"], line["silo"])
            if key in admitted:
                wrong.append(f"round {key[0]}: an update of {key[1]} was admitted twice")
            admitted[key] = line["update"]
        elif event == "round closed":
            number = line["round"]
            updates = {silo: one for (at, silo), one in admitted.items() if at == number}
            if sorted(updates) != sorted(line["admitted"]):
                wrong.append(f"round {number}: closed with {line['admitted']}, not {list(updates)}")
            closed.setdefault(number, []).append(Closed(line["model"], updates))
            admitted.clear()
    return closed, wrong


def judge(
    lines: Sequence[Line],
    rounds: int,
    undisturbed: Sequence[Closed],
    replay: Callable[[Sequence[Collection[str]]], Sequence[Closed]],
    liar: str,
    lies: Lies,
) -> Judgement:
    """Judge a run that was to have so many rounds; `replay` makes its rounds again from who was
    admitted in each.
    """
    closed, wrong = rounds_of(lines)
    found = Judgement(wrong, len(closed))
    found.refused = sum(line["event"] == "update refused" for line in lines)
    if sorted(closed) != list(range(1, rounds + 1)):
        found.findings.append(f"the rounds are {sorted(closed)}, not 1 to {rounds}")
        return found
    for number, times in closed.items():
        found.closed_again += len(times) > 1
        models = {tuple(sorted(one.updates.items())): one.model for one in times}
        if any(models[tuple(sorted(one.updates.items()))] != one.model for one in times):
            found.findings.append(f"round {number}: the same updates made two models")
        if any(liar in one.updates for one in times) and lies(liar, number):
            found.findings.append(f"round {number}: a lie of {liar} was admitted")
    last = [closed[number][-1] for number in sorted(closed)]
    found.as_undisturbed = _same_from_the_start(last, undisturbed, found.findings)
    found.replayed = _as_replayed(last, replay([sorted(one.updates) for one in last]), found)
    return found


def _same_from_the_start(
    last: Sequence[Closed], undisturbed: Sequence[Closed], findings: list[str]
) -> int:
    """Compare with the undisturbed run, as long as the same silos' updates were admitted."""
    for number, (one, other) in enumerate(zip(last, undisturbed, strict=False), 1):
        if sorted(one.updates) != sorted(other.updates):
            return number - 1
        if one != other:
            findings.append(f"round {number}: other bits than the undisturbed run's")
            return number - 1
    return min(len(last), len(undisturbed))


def _as_replayed(last: Sequence[Closed], again: Sequence[Closed], found: Judgement) -> int:
    for number, (one, other) in enumerate(zip(last, again, strict=True), 1):
        if one != other:
            what = "model" if one.updates == other.updates else "updates"
            found.findings.append(f"round {number}: a replay makes another {what}")
            return number - 1
    return len(last)
