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

from conf.border import one_line
from server.observers.base import Observer
from server.observers.summary import DIGITS, summary
from server.run.result import TEST_PHASE, FinalTest, Metrics, RoundRecord, RunResult
from server.run.shown import (
    CENTRAL,
    LOSS_ALONE,
    Shown,
    headline_of,
    known,
    partial_note,
    present,
    score,
    value_of,
)
from server.run.units import duration, size
from strategies.wire import protocol
from strategies.wire.software import by_device, computed_on

BARS = "▁▂▃▄▅▆▇█"
FIXED_ROWS = 9
"""Lines of the display beside the silos': title, bar, header, curve and margins."""
MOST_ROUNDS = 30
"""Rounds that the curve shows: the last ones."""
MOST_METRICS = 3
"""Of the shown metrics, so many are in a line or a table of the terminal."""
MOST_CURVES = 2
"""Metrics whose curve is drawn below the table."""
GAP = 2
"""Spaces between columns."""
LONGEST_TITLE = 12
"""Characters of a metric's name above its column."""
TRAIN_LOSS = "train_loss"
"""The mean over the silos of their loss in training."""
NAME_WIDTH = 24
"""Characters of a silo's name in the table."""
ON_WIDTH = 11
"""Characters for where a silo trains, such as `cuda:0 bf16`."""
MOST_NAMES = 5
"""Silos that are named in one line."""
STATE_WIDTH = 11
"""Characters that the table keeps for what a silo is doing, at least."""


def progress(live: bool, console: Console | None = None) -> Observer:
    """Return a display: live where asked for and the console is a terminal, plain lines otherwise."""
    console = console or Console(highlight=False)
    return LiveProgress(console) if live and console.is_terminal else PlainProgress(console)


class PlainProgress(Observer):
    """A line a round, without control characters, for logs and notebooks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rounds = 0
        self._shown: Shown = LOSS_ALONE

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Say what runs, and after which round it was resumed."""
        self._rounds = rounds
        self._shown = result.shown
        after = f", resumed after round {result.rounds}" if result.rounds else ""
        self._print(
            f"run {result.run_id}: {result.task}, {result.strategy}, {len(result.silos)} silos{after}"
        )

    def round_closed(self, record: RoundRecord) -> None:
        """Say what the round gave."""
        names = in_a_line(self._shown, record.aggregate)
        values = "  ".join(f"{name} {score(record.aggregate, name, DIGITS)}" for name in names)
        if record.partial:
            values += f"  ({partial_note(record.partial)})"
        replied = f"{len(record.replied)}/{len(record.cohort)} silos"
        up = sum(record.bytes_up.values())
        self._print(
            f"round {record.round}/{self._rounds}  {values}  {replied}  {record.seconds:.1f} s  {size(up)} up"
        )
        # At first, and where it has changed.
        for on, silos in by_device(record.software).items():
            self._print(f"round {record.round}/{self._rounds}  {in_few(silos)} trained on {on}")
        for silo, why in sorted(record.failed.items()):
            self._print(f"round {record.round}/{self._rounds}  {silo} failed: {one_line(why)}")
        if record.unscored:
            self._print(f"round {record.round}/{self._rounds}  {one_line(record.unscored)}")

    def model_tested(self, test: FinalTest) -> None:
        """Say who failed to test the model; what it is worth comes with the summary."""
        for silo, why in sorted(test.failed.items()):
            self._print(f"test  {silo} failed: {one_line(why)}")
        if test.unscored:
            self._print(f"test  {one_line(test.unscored)}")

    def silos_tried(self, table: list[str]) -> None:
        """Say what works at each silo."""
        for line in table:
            self._print(line)

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
    on: str = ""  # device and precision, as it said last


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
                row.on = last[silo].on

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """Show what a silo answered."""
        row = self._rows.setdefault(silo, _Row())
        if phase == "train":
            row.state, row.train = "trained", metrics
        elif phase == TEST_PHASE:
            # What it shows stays that of the last round: the summary has the test's.
            row.state = "tested"
        else:
            row.state, row.evaluate = "evaluated", metrics

    def round_closed(self, record: RoundRecord) -> None:
        """Add the round to the curve, which begins where this process did."""
        self._records.append(record)
        self._done = record.round
        for silo, count in record.bytes_up.items():
            self._rows.setdefault(silo, _Row()).sent = count
        for silo, facts in record.software.items():
            self._rows.setdefault(silo, _Row()).on = computed_on(facts)
        for silo, why in record.failed.items():
            self._rows.setdefault(silo, _Row()).state = f"failed: {one_line(why)}"

    def silos_tried(self, table: list[str]) -> None:
        """Say above the table of rounds what works at each silo."""
        for line in table:
            self._live.console.print(Text(line), soft_wrap=True)

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
        table = Table.grid(padding=(0, GAP), pad_edge=False, expand=True)
        table.add_column(max_width=NAME_WIDTH, no_wrap=True, overflow="ellipsis")
        columns = self._columns()
        for _ in columns:
            table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # takes what the numbers leave
        table.add_row("silo", *(column.title for column in columns), "state", style="dim")
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
                Text(silo), *(column.cell(row) for column in columns), Text(row.state, style=style)
            )
        if len(rows) > fits:
            table.add_row(Text(f"and {len(rows) - fits} more", style="dim"))
        return table

    def _columns(self) -> list[_Column]:
        """Return the columns for which the terminal is wide enough, the most telling ones first
        chosen.
        """
        assert self._result is not None
        all_columns = table_columns(self._result.shown)
        longest = max(map(len, [*self._rows, "silo"]))
        left = self._console.width - min(longest, NAME_WIDTH) - STATE_WIDTH - GAP
        chosen = []
        for column in sorted(all_columns, key=lambda column: column.rank):
            left -= column.width + GAP
            if left < 0:
                break
            chosen.append(column)
        return [column for column in all_columns if column in chosen]

    def _curve(self) -> Text:
        if not self._records:
            return Text("")
        assert self._result is not None
        aggregates = [record.aggregate for record in self._records]
        names = [name for name in self._result.shown if known(aggregates, name)][:MOST_CURVES]
        room = self._console.width // max(len(names), 1) - GAP
        parts = []
        for name in names:
            values = known(aggregates, name)
            label = f"{name} {score({name: values[-1]}, name, DIGITS)} "
            parts.append(label + sparkline(values, min(MOST_ROUNDS, max(room - len(label), 0))))
        return Text("   ".join(parts), style="cyan", no_wrap=True, overflow="ellipsis")


def in_few(silos: list[str]) -> str:
    """Return the names of some silos; of many, the first ones and how many more there are."""
    few = ", ".join(silos[:MOST_NAMES])
    left = len(silos) - MOST_NAMES
    return f"{few} and {left} more" if left > 0 else few


def in_a_line(shown: Shown, aggregate: Metrics) -> list[str]:
    """Return the few aggregate metrics that a line has room for: the first of those that the task
    shows, the headline on the task's own test set, and the loss in training.
    """
    names = present(shown, aggregate)[:MOST_METRICS]
    central = {name: value_of(aggregate, f"{CENTRAL}{name}") for name in shown}
    headline = headline_of(shown, central)
    if headline is not None:
        names.append(f"{CENTRAL}{headline}")
    if value_of(aggregate, TRAIN_LOSS) is not None:
        names.append(TRAIN_LOSS)
    return names


def sparkline(values: list[float], most: int = MOST_ROUNDS) -> str:
    """Return the last values as bars of one character."""
    finite = [value for value in values if math.isfinite(value)][-most:] if most > 0 else []
    if len(finite) < 2:
        return ""
    low = min(finite)
    high = max(finite)
    span = high - low or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in finite)


@dataclass(frozen=True)
class _Column:
    """A column of the live table; those of a low `rank` stay where a terminal is narrow."""

    title: str
    width: int
    rank: int
    cell: Callable[[_Row], str]


def table_columns(shown: Shown) -> list[_Column]:
    """Return what the live table shows of a silo between its name and its state, in order."""
    first = [
        _Column("examples", 8, 4, lambda row: _cell(row.train, protocol.NUM_EXAMPLES, "{:.0f}")),
        _Column("train loss", 10, 0, lambda row: _cell(row.train, protocol.LOSS, "{:.4f}")),
    ]
    ranks = (1, 3, 6)
    metrics = [
        _metric_column(name, rank) for name, rank in zip(shown, ranks[:MOST_METRICS], strict=False)
    ]
    last = [
        _Column("seconds", 7, 2, lambda row: _cell(row.train, protocol.SECONDS, "{:.1f}")),
        _Column("sent", 8, 5, lambda row: "" if row.sent is None else size(row.sent)),
        _Column("on", ON_WIDTH, 7, lambda row: row.on[:ON_WIDTH]),
    ]
    return [*first, *metrics, *last]


def _metric_column(name: str, rank: int) -> _Column:
    title = name if len(name) <= LONGEST_TITLE else f"{name[: LONGEST_TITLE - 1]}…"
    return _Column(title, max(len(title), 8), rank, lambda row: _shown_cell(row.evaluate, name))


def _cell(metrics: Metrics, name: str, form: str) -> str:
    return form.format(metrics[name]) if metrics.get(name) is not None else ""


def _shown_cell(metrics: Metrics, name: str) -> str:
    return score(metrics, name, DIGITS) if name in metrics else ""
