"""Runs side by side: what they reached, what they cost, and in which settings they differ.

    meadow.compare("first", "second").rows()

Everything comes from the runs' folders, and no task is loaded. What makes a comparison less than it
seems (other tasks, other test examples, other code) is said.
"""

from __future__ import annotations

import hashlib
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from conf.errors import CheckpointError, ConfigError
from conf.resume import folder_of
from server.report.overview import MOST_CURVES, NUM_EXAMPLES, Overview, Point
from server.report.run_list import is_run, run_folders
from server.report.trained import flat, read_config
from server.run.history import rounds_of
from server.run.result import RunResult
from server.run.shown import (
    CENTRAL,
    Known,
    best,
    in_words,
    known,
    partial_sentence,
    value_of,
    written,
)

RunLike = str | os.PathLike[str]
"""A run's id, the path of its folder, or that of a folder of runs, such as a sweep's."""

NOT_COMPARED: Final = (
    "run.name",
    "run.output",
    "run.resume",
    "run.baseline",
    "task.code",
    "model.code",
    "strategy.code",
)
"""Keys that differ between any two runs and say nothing of what was trained."""
WHERE_IT_RAN: Final = ("federation.orchestrator.", "federation.folder", "tracking.")
"""Prefixes of keys that say where a run was made."""
DECIDE_EXAMPLES: Final = ("data.", "federation.size", "federation.silos.")
"""Prefixes of keys that decide which examples a silo has, and which of them it tests on."""
MAY_DECIDE_THEM: Final = ("task.args.",)
"""Of keys that may: a task's argument can be the width of its model, or what it reads."""
PAGE: Final = "comparison.html"
"""The page of a folder of runs, in it."""
MOST_IN_LABEL: Final = 2
"""Settings that stand beside a run's name."""
MOST_NAMES: Final = 6
"""Runs or keys that are named in a sentence."""
ENDED: Final = ("finished", "stopped_early")
LONGEST_NAME: Final = 80
"""Characters of the page's name that come from the runs' names."""


@dataclass
class ComparedRun:
    """One of the runs: its result, its configuration by dotted keys, its rounds as points.

    `name` tells it apart from the others; `moved` are bytes of arrays, both ways.
    """

    name: str
    folder: Path
    result: RunResult
    settings: dict[str, str]
    points: list[Point] = field(default_factory=list)

    @property
    def final(self) -> Known:
        """Its metrics at the end."""
        return self.result.final

    @property
    def moved(self) -> float:
        """The bytes that travelled, both ways."""
        return sum(point.up + point.down for point in self.points)


@dataclass
class Difference:
    """A key of the configuration in which runs differ, with each one's value, in their order."""

    key: str
    values: list[str]


@dataclass
class RunComparison:
    """Runs side by side; `shown` are all metrics that their tasks show, each with its direction.

    `notes` say what makes the comparison less than it seems; `page` is where it was written.
    """

    runs: list[ComparedRun]
    shown: dict[str, str]
    differences: list[Difference]
    notes: list[str] = field(default_factory=list)
    page: Path | None = None

    @property
    def headline(self) -> str | None:
        """The first metric that every run has at its end; None where there is none."""
        for name in self.shown:
            if all(value_of(run.final, name) is not None for run in self.runs):
                return name
        return None

    @property
    def other_examples(self) -> list[str]:
        """The settings by which the runs' test examples are not the same ones."""
        keys = [one.key for one in self.differences]
        counts = [tested_examples(run.result) for run in self.runs]
        as_many = bool(counts[0]) and all(one == counts[0] for one in counts)
        deciding = DECIDE_EXAMPLES if as_many else (*DECIDE_EXAMPLES, *MAY_DECIDE_THEM)
        return [key for key in keys if key.startswith(deciding)]

    @property
    def seeds_alone(self) -> bool:
        """Whether the runs differ in nothing but their seeds."""
        keys = {one.key for one in self.differences}
        return bool(keys) and keys <= {"run.seed", "data.seed"}

    @property
    def best(self) -> ComparedRun | None:
        """The run that is best by the headline, where all have one task and the same examples, and
        differ in more than their seeds.
        """
        name = self.headline
        tasks = {run.result.task for run in self.runs}
        if name is None or len(tasks) > 1 or self.other_examples or self.seeds_alone:
            return None
        value = best(self.shown, name, known([run.final for run in self.runs], name))
        return next(run for run in self.runs if value_of(run.final, name) == value)

    def label(self, run: ComparedRun) -> str:
        """Return a run's name with the settings that tell it from the others, where they are few."""
        if not 0 < len(self.differences) <= MOST_IN_LABEL:
            return run.name
        place = self.runs.index(run)
        settings = [f"{one.key}={one.values[place]}" for one in self.differences]
        return f"{run.name} ({', '.join(settings)})"

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per run, for `pandas.DataFrame`: what it reached, what it cost, and the
        settings in which the runs differ.
        """
        rows = []
        for place, run in enumerate(self.runs):
            row: dict[str, Any] = {
                "run": run.name,
                "task": run.result.task,
                "strategy": run.result.strategy,
                "status": run.result.status,
                "rounds": run.result.rounds,
                "seconds": run.result.seconds,
                "bytes": run.moved,
            }
            for name in self.shown:
                row[name] = value_of(run.final, name)
                central = value_of(run.final, f"{CENTRAL}{name}")
                if central is not None:
                    row[f"{CENTRAL}{name}"] = central
            rows.append(row | {one.key: one.values[place] for one in self.differences})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {
            "runs": self.rows(),
            "shown": self.shown,
            "differences": {one.key: one.values for one in self.differences},
            "notes": self.notes,
            "page": str(self.page) if self.page else None,
        }


def compare(
    *runs: RunLike, output: RunLike = "outputs", page: RunLike | None = None
) -> RunComparison:
    """Put runs side by side, write the page, and return the comparison.

    Runs are ids in `output` or paths; a folder of runs stands for all of them. The page is written
    to `page`, by default into `output` under a name made of the runs', or into the folder of runs
    where only that was given. Raises ConfigError: MDW-183
    for a run that is not there, MDW-131 for fewer than two runs; CheckpointError for one that is
    damaged.
    """
    from server.report.comparison_page import write_page

    compared = read_runs(runs, Path(output))
    if page is not None:
        path = Path(page)
    elif len(runs) == 1:
        path = compared.runs[0].folder.parent / PAGE
    else:
        path = Path(output) / _page_name(compared.runs)
    compared.page = write_page(compared, path)
    return compared


def read_runs(runs: Sequence[RunLike], output: Path) -> RunComparison:
    """Return the comparison of some runs without writing a page; see `compare`."""
    folders = _folders(runs, output)
    names = _names([folder for folder, _ in folders])
    skipped: list[str] = []
    read = []
    for name, (folder, named) in zip(names, folders, strict=True):
        try:
            read.append(_read(name, folder))
        except CheckpointError as error:
            # Of a whole folder, one damaged run must not hide the others.
            if named:
                raise
            skipped.append(f"{name} can't be read and is left out: {error.code} {error.message}")
    if len(read) < 2:
        raise ConfigError(
            "MDW-131",
            f"A comparison takes at least two runs; here is {len(read) or 'none'}.",
            "meadow compare A B, or a folder of runs, such as a sweep's. meadow runs lists them.",
        )
    shown: dict[str, str] = {}
    for run in read:
        shown |= {name: way for name, way in run.result.shown.items() if name not in shown}
    comparison = RunComparison(read, shown, _differences(read))
    comparison.notes = [*_notes(comparison), *skipped]
    return comparison


def _folders(runs: Iterable[RunLike], output: Path) -> list[tuple[Path, bool]]:
    """Return the runs' folders, each once and with whether it was named itself."""
    found: dict[Path, tuple[Path, bool]] = {}
    for given in runs:
        for path in (Path(given), output / given):
            if path.is_dir() and not is_run(path):
                below = [(one, False) for one in run_folders(path)]
                if below:
                    break
        else:
            below = [(folder_of(os.fspath(given), str(output)), True)]
        for folder, named in below:
            found.setdefault(folder.resolve(), (folder, named))
    return list(found.values())


def _names(folders: Sequence[Path]) -> list[str]:
    """Return each run's own name, with as many of the folders above it as tell it from others."""
    names = [folder.name for folder in folders]
    for depth in range(2, 6):
        twice = {name for name in names if names.count(name) > 1}
        if not twice:
            break
        for place, folder in enumerate(folders):
            if names[place] in twice:
                names[place] = "/".join(folder.resolve().parts[-depth:])
    return names


def _read(name: str, folder: Path) -> ComparedRun:
    result = RunResult.read(folder)
    gathered = Overview(tuple(result.shown)[:MOST_CURVES])
    for record in rounds_of(folder, result):
        # No silo's own curve is drawn here.
        gathered.add(record, curves=False)
    return ComparedRun(name, folder, result, flat(read_config(folder)), gathered.points)


def _differences(runs: Sequence[ComparedRun]) -> list[Difference]:
    """Return the keys whose values are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    differences = []
    for key in keys:
        if key in NOT_COMPARED or key.startswith(WHERE_IT_RAN):
            continue
        values = [run.settings.get(key, "") for run in runs]
        if len({_meant(key, value) for value in values}) > 1:
            differences.append(Difference(key, values))
    return differences


def _meant(key: str, value: str) -> str:
    """Return what a value means: a folder is one, written whole (by a launch) or from here."""
    if key.endswith("data.root") and value:
        return os.path.abspath(value)
    return value


def tested_examples(result: RunResult) -> dict[str, float]:
    """Return how many examples each silo tested the run's model on; empty where nobody said."""
    test = result.test
    if test is None:
        return {}
    told = {silo: metrics.get(NUM_EXAMPLES) for silo, metrics in test.metrics.items()}
    return {silo: count for silo, count in told.items() if count is not None}


def _notes(comparison: RunComparison) -> list[str]:
    """Return what makes a comparison less than it seems, in sentences."""
    runs = comparison.runs
    notes = []
    tasks = sorted({run.result.task for run in runs})
    others = comparison.other_examples
    if len(tasks) > 1:
        notes.append(
            f"The runs have different tasks ({', '.join(tasks)}): their metrics measure different"
            " things, and no run is called the best."
        )
    elif others and not comparison.seeds_alone:
        more = " and more" if len(others) > MOST_NAMES else ""
        notes.append(
            f"The runs differ in {', '.join(others[:MOST_NAMES])}{more}: their silos test on other"
            " examples, so no run is called the best."
        )
    elif any(one.key.startswith(MAY_DECIDE_THEM) for one in comparison.differences):
        notes.append(
            "The runs differ in the task's arguments: they are taken to test on the same examples,"
            " since each silo tests on as many."
        )
    if len({str(run.result.environment.get("code", "")) for run in runs}) > 1:
        notes.append("The runs were made by different releases of the code.")
    unfinished = [run.name for run in runs if run.result.status not in ENDED]
    if unfinished:
        more = " and more" if len(unfinished) > MOST_NAMES else ""
        notes.append(f"Not finished: {', '.join(unfinished[:MOST_NAMES])}{more}.")
    for run in runs:
        partial = partial_sentence(run.result.test, f" of {run.name}")
        if partial:
            notes.append(partial)
    return notes + _over_seeds(comparison)


def _over_seeds(comparison: RunComparison) -> list[str]:
    """Return mean and spread of the headline of runs that differ in their seed alone."""
    name = comparison.headline
    if name is None or not comparison.seeds_alone:
        return []
    values = known([run.final for run in comparison.runs], name)
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values)
    return [
        f"The runs differ in their seeds alone: {in_words(name)} {written(mean, 4)} on average,"
        f" standard deviation {written(deviation, 4)}, over {len(values)} runs."
    ]


def _page_name(runs: Sequence[ComparedRun]) -> str:
    """Return a file's name made of the runs' names: short, and the same for the same runs."""
    joined = "-vs-".join(run.name for run in runs)
    name = re.sub(r"[^\w.-]", "-", joined)
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(joined.encode()).hexdigest()[:8]
        name = f"{name[:LONGEST_NAME]}-{digest}"
    return f"compare-{name}.html"
