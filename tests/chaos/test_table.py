"""The table of a chaos run names what was done, what was compared and every finding."""

from __future__ import annotations

from tests.chaos.disturbances import KILL, PAUSE, SERVER, Disturbance
from tests.chaos.oracle import Judgement
from tests.chaos.table import Report, table


def test_the_table_has_what_was_done_and_what_was_found() -> None:
    report = Report(
        done=[
            Disturbance(1, KILL, (SERVER,), seconds=2.0),
            Disturbance(2, KILL, ("silo-1",), seconds=2.0),
            Disturbance(3, PAUSE, ("silo-1", "silo-2"), seconds=120.0),
        ],
        judged={"run": Judgement(rounds=10, as_undisturbed=4, replayed=10, refused=3)},
        findings=["something"],
    )
    said = table(report, "the command", 12.3)
    assert "| kill | 1 of the server, 1 of silos; 2 of 2 s |" in said
    assert "| pause | 0 of the server, 1 of silos; 1 of 120 s |" in said
    assert "| rounds that have the replay's bits | 10 |" in said
    assert said.startswith("`the command`, 12 s") and said.endswith("FOUND: something")
