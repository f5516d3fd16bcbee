"""What a chaos run did and what was compared, as a table of Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.disturbances import SERVER, Disturbance
from tests.chaos.oracle import Judgement


@dataclass
class Report:
    """What was done, what was judged, and what was found."""

    done: list[Disturbance] = field(default_factory=list)
    left_out: list[Disturbance] = field(default_factory=list)
    """Those whose party was being disturbed already."""
    judged: dict[str, Judgement] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    """What this machine has not got."""
    starts: dict[str, int] = field(default_factory=dict)


def table(report: Report, command: str, seconds: float) -> str:
    """Return the table."""
    judged = report.judged.values()
    rounds = sum(one.rounds for one in judged)
    rows = [
        ("disturbances", f"{len(report.done)}, {len(report.left_out)} more left out: busy already"),
        *_kinds(report.done),
        ("processes started", _counted(report.starts)),
        ("runs, rounds", f"{len(report.judged)}, {rounds}"),
        ("rounds closed again after a crash", sum(one.closed_again for one in judged)),
        ("updates refused", sum(one.refused for one in judged)),
        ("rounds that have the undisturbed run's bits", sum(one.as_undisturbed for one in judged)),
        ("rounds that have the replay's bits", sum(one.replayed for one in judged)),
        ("findings", len(report.findings)),
        *(("not done here", what) for what in report.without),
    ]
    lines = [f"`{command}`, {seconds:.0f} s", "", "| what | how many |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join([*lines, *(f"FOUND: {finding}" for finding in report.findings)])


def _kinds(done: Iterable[Disturbance]) -> list[tuple[str, str]]:
    """Return a row for each kind: how often, of whom, and how long."""
    rows = []
    by_kind: dict[str, list[Disturbance]] = {}
    for one in done:
        by_kind.setdefault(one.kind, []).append(one)
    for kind, ones in sorted(by_kind.items()):
        server = sum(one.whom == (SERVER,) for one in ones)
        lengths = Counter(f"{one.seconds:g} s" for one in ones if one.seconds)
        long = ", ".join(f"{count} of {length}" for length, count in sorted(lengths.items()))
        rows.append((f"{kind}", f"{server} of the server, {len(ones) - server} of silos; {long}"))
    return rows


def _counted(starts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in starts.items())
