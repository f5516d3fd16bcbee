"""What the silos ran, for the report and the card: a row for all silos that say the same, and what
differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from server.report.tables import MOST_ROWS
from strategies.wire.software import differences

AllSoftware = Mapping[str, Mapping[str, str]]
"""By silo, what it said that it runs (`Software.to_json`)."""

COLUMNS: Final = {
    "python": "Python",
    "torch": "torch",
    "cuda": "CUDA",
    "driver": "driver",
    "cpu": "instructions",
    "machine": "processor",
    "device": "device",
    "card": "GPU",
    "precision": "precision",
    "compiled": "compiled",
    "deterministic": "same bits",
    "irreproducible": "other bits each time",
    "meadow": "Meadow",
    "flwr": "Flower",
    "code": "code",
    "run_code": "run's code",
}
"""Titles by the names of `strategies.wire.software.Software`."""
MOST_NAMES: Final = 5
"""Silos that are named in a row or a sentence; of more, their number is said."""
NOT_SAID: Final = "–"
DIGEST_SHOWN: Final = 12
"""Characters of a digest, as in messages."""


def software_rows(software: AllSoftware) -> list[list[str]]:
    """Return a row for each set of facts: the silos that said it, then a cell for each of
    `COLUMNS`.
    """
    silos: dict[tuple[str, ...], list[str]] = {}
    for silo, facts in sorted(software.items()):
        silos.setdefault(tuple(_cells(facts)), []).append(silo)
    return [[_named(names), *cells] for cells, names in silos.items()][:MOST_ROWS]


def software_table(software: AllSoftware) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows without the columns that no silo fills (those of a GPU, often)."""
    rows = software_rows(software)
    titles = list(COLUMNS.values())
    filled = [n for n in range(len(titles)) if any(row[n + 1] != NOT_SAID for row in rows)]
    kept = [[row[0], *(row[n + 1] for n in filled)] for row in rows]
    return [titles[n] for n in filled], kept


def mixed_software(software: AllSoftware) -> str:
    """Return a sentence that names what differs of what the same bits depend on, empty where
    nothing does.
    """
    parts = []
    for name, silos in differences(software).items():
        values = [f"{_shown(name, value)} at {_named(names)}" for value, names in silos.items()]
        # Each silo may say something else: of many values, a few are told.
        told = values[:MOST_NAMES]
        if len(values) > len(told):
            told.append(f"{len(values) - len(told)} more")
        parts.append(f"{COLUMNS[name]} ({', '.join(told)})")
    if not parts:
        return ""
    return f"The same bits are not promised: the silos differ in {'; '.join(parts)}."


def _cells(facts: Mapping[str, str]) -> list[str]:
    return [_shown(name, facts.get(name, "")) for name in COLUMNS]


def _shown(name: str, value: str) -> str:
    if not value:
        return NOT_SAID
    return value[:DIGEST_SHOWN] if name in ("code", "run_code") else value


def _named(names: Sequence[str]) -> str:
    few = ", ".join(names[:MOST_NAMES])
    left = len(names) - MOST_NAMES
    return f"{few} and {left} more" if left > 0 else few
