"""What a person sees while a run goes on: a live table on a terminal, one plain line a round
anywhere else.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.observers.base import Observer
from server.observers.summary import summary
from server.run.result import Metrics, RoundRecord, RunResult
from strategies.wire import protocol

BARS = "▁▂▃▄▅▆▇█"
FIXED_ROWS = 9
"""Lines of the display beside the silos': title, bar, header, curve and margins."""
MOST_ROUNDS = 30
"""Rounds that the curve shows: the last ones."""
WIDE = 76
"""Columns of a terminal from which all of the table fits."""


def progress(live: bool, console: Console | None = None) -> Observer:
    """Return a display: live where asked for and the console is a terminal, plain lines otherwise."""
    console = console or Console(highlight=False)
    return LiveProgress(console) if live and console.is_terminal else PlainProgress(console)


class PlainProgress(Observer):
    """A line a round, without control characters, for logs and notebooks."""

    def __init__(self, console: Console) -> None:
        self._console, self._rounds = console, 0

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Say what runs, and after which round it was resumed."""
        self._rounds = rounds
        after = f", resumed after round {result.rounds}" if result.rounds else ""
        self._print(
            f"run {result.run_id}: {result.task}, {result.strategy}, {len(result.silos)} silos{after}"
        )

    def round_closed(self, record: RoundRecord) -> None:
        """Say what the round gave."""
        values = "  ".join(f"{name} {value:.4f}" for name, value in shown(record.aggregate).items())
        replied = f"{len(record.replied)}/{len(record.cohort)} silos"
        up = sum(record.bytes_up.values())
        self._print(
            f"round {record.round}/{self._rounds}  {values}  {replied}  {record.seconds:.1f} s  {size(up)} up"
        )
        for silo, why in sorted(record.failed.items()):
            self._print(f"round {record.round}/{self._rounds}  {silo} failed: {one_line(why)}")

    def baselines_started(self, models: list[str]) -> None:
        """Say what takes its time now."""
        self._print(f"training {len(models)} models without a federation, for comparison")

    def run_finished(self, result: RunResult) -> None:
        """Say how the run ended and what it was worth."""
        summary(result, self._console)

    def _print(self, line: str) -> None:
        self._console.print(
            Text(line), soft_wrap=True
        )  # a line a round, however narrow the terminal


@dataclass
class _Row:
    state: str = "training"
    train: Metrics = field(default_factory=dict)
    evaluate: Metrics = field(default_factory=dict)  # of the last round in which it was evaluated
    sent: int | None = None  # bytes, of the last closed round


class LiveProgress(Observer):
    """A table of the round in progress, the curve so far, a bar with the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._result: RunResult | None = None
        self._rounds = self._round = 0
        self._rows: dict[str, _Row] = {}
        # Of the rounds of this process, a bounded number: enough for the curve.
        self._records: deque[RoundRecord] = deque(maxlen=MOST_ROUNDS)
        self._done = 0
        self._now = ""  # what goes on after the rounds
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=8, transient=True
        )

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Begin to draw."""
        self._result = result
        self._rounds = rounds
        self._done = result.rounds
        self._live.start()

    def round_started(self, round: int, cohort: list[str]) -> None:
        """Show the cohort as training."""
        last = self._rows
        self._round = round
        self._rows = {silo: _Row() for silo in cohort}
        for silo, row in self._rows.items():
            if silo in last:
                row.evaluate, row.sent = last[silo].evaluate, last[silo].sent

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """Show what a silo answered."""
        row = self._rows.setdefault(silo, _Row())
        if phase == "train":
            row.state, row.train = "trained", metrics
        else:
            row.state, row.evaluate = "evaluated", metrics

    def round_closed(self, record: RoundRecord) -> None:
        """Add the round to the curve, which begins where this process did."""
        self._records.append(record)
        self._done = record.round
        for silo, count in record.bytes_up.items():
            self._rows.setdefault(silo, _Row()).sent = count
        for silo, why in record.failed.items():
            self._rows.setdefault(silo, _Row()).state = f"failed: {one_line(why)}"

    def baselines_started(self, models: list[str]) -> None:
        """Show what takes its time now."""
        self._now = f"training {len(models)} models without a federation, for comparison"

    def run_finished(self, result: RunResult) -> None:
        """Stop drawing, give the terminal back, say what the run was worth."""
        self._live.stop()
        summary(result, self._console)

    def _render(self) -> RenderableType:
        if self._result is None:
            return Text("")
        done = self._done
        title = Text.assemble(
            (self._result.run_id, "bold"), f"   round {self._round}/{self._rounds}"
        )
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=self._rounds, completed=done, width=40),
            Text(self._left(done), style="dim"),
        )
        return Group(title, bar, self._silos(), self._curve())

    def _left(self, done: int) -> str:
        if self._now or done >= self._rounds:
            return self._now
        recent = [record.seconds for record in self._records][-5:]
        if not recent:
            return "starting"
        return f"about {duration(statistics.median(recent) * (self._rounds - done))} left"

    def _silos(self) -> Table:
        columns = (
            COLUMNS
            if self._console.width >= WIDE
            else [c for c in COLUMNS if c[0] not in ("examples", "sent")]
        )
        table = Table.grid(padding=(0, 2), pad_edge=False, expand=True)
        table.add_column(max_width=24, no_wrap=True, overflow="ellipsis")
        for _ in columns:
            table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # takes what the numbers leave
        table.add_row("silo", *(name for name, _ in columns), "state", style="dim")
        fits = max(3, self._console.size.height - FIXED_ROWS)
        rows = list(self._rows.items())
        if len(rows) > fits:  # what went wrong stays in sight
            rows.sort(key=lambda pair: not pair[1].state.startswith("failed"))
        for silo, row in rows[:fits]:
            style = (
                "red"
                if row.state.startswith("failed")
                else "green"
                if row.state == "evaluated"
                else ""
            )
            table.add_row(
                Text(silo), *(cell(row) for _, cell in columns), Text(row.state, style=style)
            )
        if len(rows) > fits:
            table.add_row(Text(f"and {len(rows) - fits} more", style="dim"))
        return table

    def _curve(self) -> Text:
        if not self._records:
            return Text("")
        parts = []
        for name in ("accuracy", "loss"):
            values = [value for r in self._records if (value := r.aggregate.get(name)) is not None]
            if values:
                parts.append(f"{name} {values[-1]:.4f} {sparkline(values)}")
        return Text("   ".join(parts), style="cyan")


def one_line(text: str) -> str:
    """Return others' text without line breaks and control characters, which a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shown(aggregate: Metrics) -> Metrics:
    """Return the few aggregate metrics that a line has room for."""
    names = ("loss", "accuracy", "central_accuracy", "train_loss")
    return {name: aggregate[name] for name in names if aggregate.get(name) is not None}


def sparkline(values: list[float], most: int = MOST_ROUNDS) -> str:
    """Return the last values as bars of one character."""
    finite = [value for value in values[-most:] if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    span = high - low or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in finite)


def size(count: int) -> str:
    """Return bytes for people: 1.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Return seconds for people: 2 min 05 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _cell(metrics: Metrics, name: str, form: str) -> str:
    return form.format(metrics[name]) if metrics.get(name) is not None else ""


COLUMNS: list[tuple[str, Callable[[_Row], str]]] = [
    ("examples", lambda row: _cell(row.train, protocol.NUM_EXAMPLES, "{:.0f}")),
    ("train loss", lambda row: _cell(row.train, protocol.LOSS, "{:.4f}")),
    ("accuracy", lambda row: _cell(row.evaluate, "accuracy", "{:.4f}")),
    ("seconds", lambda row: _cell(row.train, protocol.SECONDS, "{:.1f}")),
    ("sent", lambda row: "" if row.sent is None else size(row.sent)),
]
"""What the live table shows of a silo between its name and its state."""
