"""Bytes and seconds as a person reads them."""

from __future__ import annotations

from server.run.units import duration, size


def test_numbers_for_people() -> None:
    assert [size(0), size(999), size(57_700), size(2_500_000_000_000)] == [
        "0 B",
        "999 B",
        "57.7 kB",
        "2500.0 GB",
    ]
    assert [duration(59.6), duration(61), duration(3700)] == [
        "1 min 00 s",
        "1 min 01 s",
        "1 h 01 min",
    ]
