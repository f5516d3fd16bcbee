"""An observer that fails is left out; the run goes on."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from server.observers.base import Observer
from server.observers.guard import Guarded
from server.run.result import RoundRecord


class Broken(Observer):
    """A display whose terminal has gone."""

    def __init__(self) -> None:
        self.told = 0
        self.closed = False

    def round_closed(self, record: RoundRecord) -> None:
        self.told += 1
        raise BrokenPipeError("token=hunter2")

    def close(self) -> None:
        self.closed = True


def test_it_is_told_of_once_without_its_text_and_closed_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Broken()
    guarded = Guarded(broken)
    with caplog.at_level(logging.WARNING):
        guarded.round_closed(RoundRecord(1, ["a"]))
        guarded.round_closed(RoundRecord(2, ["a"]))
        guarded.close()
    assert caplog.messages == [
        "Broken, which watches the run, failed (BrokenPipeError) and is left out; the run goes on"
    ]
    assert broken.told == 1
    assert broken.closed


def test_every_method_of_an_observer_is_guarded() -> None:
    methods = {name for name in vars(Observer) if not name.startswith("_")}
    assert methods <= set(vars(Guarded))


def test_ctrl_c_passes() -> None:
    class Interrupting(Observer):
        def close(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Interrupting()).close()


def test_a_display_whose_reader_has_gone_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """As rich does it: where a write breaks, its console leaves the program."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as file:

        class Display(Observer):
            def round_closed(self, record: RoundRecord) -> None:
                before, sys.stdout = sys.stdout, file
                try:
                    Console(file=file).print("round 1")
                finally:
                    sys.stdout = before

        guarded = Guarded(Display())
        with caplog.at_level(logging.WARNING), suppress(BrokenPipeError):
            guarded.round_closed(RoundRecord(1, ["a"]))
    assert "Display, which watches the run, failed" in caplog.text
