"""Whole runs of several frameworks on the same work: start, first round, rounds, end.

    python benchmarks/frameworks.py --root DATA --silos 3 10 --pfl PFL/bin/python --nvflare NVF/bin/python
    python benchmarks/frameworks.py --draw FILE... --svg docs/frameworks.svg

FedAvg with NIID-Bench's CNN on MNIST, one epoch of batches of 10, two processes of one thread. Each
round trains on 3,000 examples whatever the number of silos (all of them; of 1,000 a cohort of 50),
so that what differs is what a silo costs. The model is evaluated on the 10,000 test images once, at
the end. Meadow's runs are whole commands of `simulate`: admission, ledger, history, checkpoints,
report. Each side is a process of its own; sides take turns, `--repeat` times, and medians are
printed. Each line of the log (`--log`) is one run; the chart is drawn from such lines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.many_silos import PORT
from benchmarks.work import Work

PEERS = Path(__file__).parent / "peers"
ROUND_EXAMPLES = 3_000
"""Trained on in each round, by all silos together."""
COHORT = 50
"""Of 1,000 silos; with fewer all are asked."""
SIDES = ("Meadow, pool", "Meadow, ray", "Flower, simulation", "pfl-research", "NVFlare, simulator")
PHASES = ("start", "first", "rounds", "end")


@dataclass
class Run:
    """One run: seconds from the command to the first round, of it, of the others, and to the exit."""

    side: str
    silos: int
    start: float = 0.0
    first: float = 0.0
    rounds: float = 0.0
    end: float = 0.0
    cpu: float = 0.0
    accuracy: float | None = None
    error: str = ""

    @property
    def wall(self) -> float:
        """Seconds of the whole command."""
        return self.start + self.first + self.rounds + self.end


def work_of(silos: int, rounds: int, root: str) -> Work:
    """Return the work of so many silos: the same examples a round."""
    cohort = COHORT if silos > COHORT * 2 else 0
    examples = ROUND_EXAMPLES // (cohort or silos) * silos
    return Work(root, silos, cohort, rounds, test=0, examples=examples)


def commands(
    side: str, work: Work, args: argparse.Namespace
) -> list[tuple[list[str], dict[str, str]]]:
    """Return the processes of a side, each with what its environment has besides; none without it."""
    more = work.arguments()
    if side.startswith("Meadow"):
        engine = side.rpartition(" ")[2]
        script = str(PEERS / "meadow_simulate.py")
        return [([sys.executable, script, "--engine", engine, *more], {})]
    if side.startswith("Flower"):
        return [([sys.executable, str(PEERS / "flower_simulation.py"), *more], {})]
    if side.startswith("NVFlare"):
        script = str(PEERS / "nvflare_job.py")
        return [([args.nvflare, script, *more], {})] if args.nvflare else []
    if not args.pfl:
        return []
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT, "WORLD_SIZE": "2"}
    meeting |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "frameworks"}
    command = [args.pfl, "-W", "ignore", str(PEERS / "pfl_fedavg.py"), *more]
    return [(command, {**meeting, "RANK": r, "LOCAL_RANK": r}) for r in ("0", "1")]


class Cpu(threading.Thread):
    """Looks at all processes below some, twice a second, and keeps what each has used."""

    def __init__(self, roots: list[int]) -> None:
        super().__init__(daemon=True)
        self._roots = roots
        self._used: dict[int, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            for root in self._roots:
                self._look(root)

    def _look(self, root: int) -> None:
        try:
            top = psutil.Process(root)
            family = [top, *top.children(recursive=True)]
        except psutil.Error:
            return
        for process in family:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._used[process.pid] = times.user + times.system

    def total(self) -> float:
        """End, and return the seconds of all of them together."""
        self._over.set()
        self.join()
        return sum(self._used.values())


def run(side: str, work: Work, args: argparse.Namespace) -> Run | None:
    """Do one run of a side; None where it is not installed."""
    started = commands(side, work, args)
    return run_of(side, work, started, args.limit) if started else None


def run_of(
    side: str, work: Work, started: list[tuple[list[str], dict[str, str]]], limit: float
) -> Run:
    """Do one run of some processes, the first of which says what happens."""
    with tempfile.TemporaryDirectory(prefix="meadow-frameworks-") as folder:
        errors = Path(folder) / "stderr"
        began = time.time()
        with errors.open("wb") as file:
            processes = [
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, **environment},
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                    start_new_session=True,
                )
                for command, environment in started
            ]
            cpu = Cpu([process.pid for process in processes])
            cpu.start()
            try:
                said = processes[0].communicate(timeout=limit)[0]
                for process in processes[1:]:
                    process.wait(limit)
            except subprocess.TimeoutExpired:
                said = ""
            seconds = time.time() - began
            used = cpu.total()
            late = _ended(processes)
        if late:
            return Run(side, work.silos, error=f"not done after {limit} s")
        told = [json.loads(line) for line in said.splitlines() if line.startswith('{"event"')]
        result = _times(Run(side, work.silos, cpu=used), told, began, seconds)
        if result.accuracy is None:
            # One line: it becomes a cell of the table.
            result.error = " ".join(errors.read_text(errors="replace").split())[-200:]
    return result


def _ended(processes: list[subprocess.Popen[str]]) -> bool:
    """End what still runs, with all that it started; return whether there was any."""
    late = [process for process in processes if process.poll() is None]
    for process in late:
        # Some start theirs in sessions of their own.
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    return bool(late)


def _times(result: Run, told: list[dict[str, float]], began: float, seconds: float) -> Run:
    at = [one["at"] for one in told if one["event"] in ("begin", "round")]
    if len(at) < 3:
        return result
    result.start = at[0] - began
    result.first = at[1] - at[0]
    result.rounds = at[-1] - at[1]
    result.end = began + seconds - at[-1]
    result.accuracy = next((one["value"] for one in told if one["event"] == "accuracy"), None)
    return result


# ---- table and chart ----


def medians(runs: list[Run]) -> list[Run]:
    """Return the median run of each side and number of silos, phase by phase."""
    groups: dict[tuple[int, str], list[Run]] = {}
    for one in runs:
        groups.setdefault((one.silos, one.side), []).append(one)
    result = []
    for (silos, side), group in sorted(
        groups.items(), key=lambda g: (g[0][0], SIDES.index(g[0][1]))
    ):
        good = [one for one in group if not one.error]
        if not good:
            result.append(group[0])
            continue
        middle = Run(side, silos, accuracy=good[0].accuracy)
        for name in (*PHASES, "cpu"):
            setattr(middle, name, statistics.median(getattr(one, name) for one in good))
        result.append(middle)
    return result


def table(rows: list[Run], rounds: int) -> str:
    """Return the medians as a table."""
    lines = [
        "| silos | side | start s | first round s | a further round s | end s | whole run s"
        " | CPU s | accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.error:
            lines.append(f"| {row.silos:,} | {row.side} | {row.error} | | | | | | |")
            continue
        cells = [row.start, row.first, row.rounds / (rounds - 1), row.end, row.wall, row.cpu]
        numbers = " | ".join(f"{cell:.1f}" for cell in cells)
        lines.append(f"| {row.silos:,} | {row.side} | {numbers} | {row.accuracy:.3f} |")
    return "\n".join(lines)


COLORS = {"start": "#9aa5b1", "first": "#e3a33b", "rounds": "#2f6db5", "end": "#6b4c9a"}


def chart(rows: list[Run]) -> str:
    """Return the medians as an SVG picture: a bar for each side, a panel for each number of silos."""
    left, width, bar, gap = 170, 640, 16, 6
    longest = max(row.wall for row in rows)
    scale = (width - left - 60) / longest
    y = 34
    parts = []
    x = left
    for name, words in zip(PHASES, ("start", "first round", "other rounds", "end"), strict=True):
        parts.append(f'<rect x="{x}" y="8" width="10" height="10" fill="{COLORS[name]}"/>')
        parts.append(f'<text x="{x + 14}" y="17">{words}</text>')
        x += 110
    silos = 0
    for row in rows:
        if row.silos != silos:
            silos = row.silos
            y += 20
            parts.append(f'<text x="4" y="{y - 4}" font-weight="bold">{silos:,} silos</text>')
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{row.side}</text>')
        at = float(left)
        for name in PHASES:
            length = getattr(row, name) * scale
            box = f'x="{at:.1f}" y="{y}" width="{length:.1f}" height="{bar}"'
            parts.append(f'<rect {box} fill="{COLORS[name]}"/>')
            at += length
        words = row.error if row.error else f"{row.wall:.0f} s"
        parts.append(f'<text x="{at + 5:.1f}" y="{y + 12}">{words}</text>')
        y += bar + gap
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 8}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def read(files: list[Path]) -> list[Run]:
    """Return the runs that logs hold."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [Run(**json.loads(line)) for line in lines]


def main() -> None:
    """Do the runs and print their table, or draw those of some logs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="folder of MNIST's idx files")
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--pfl", help="python of an environment with pfl and torch")
    parser.add_argument("--nvflare", help="python of an environment with nvflare and torch")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that a run may take")
    parser.add_argument("--log", type=Path, help="file to which each run is appended")
    parser.add_argument("--draw", type=Path, nargs="+", help="logs to draw instead of running")
    parser.add_argument("--svg", type=Path, help="file for the chart")
    args = parser.parse_args()
    runs = read(args.draw) if args.draw else []
    for silos in [] if args.draw else args.silos:
        for _ in range(args.repeat):
            for side in args.sides:
                done = run(side, work_of(silos, args.rounds, args.root), args)
                if done is None:
                    continue
                runs.append(done)
                print(json.dumps(asdict(done)), flush=True)
                if args.log:
                    with args.log.open("a") as file:
                        file.write(json.dumps(asdict(done)) + "\n")
    rows = medians(runs)
    print(table(rows, args.rounds))
    if args.svg:
        args.svg.write_text(chart(rows))


if __name__ == "__main__":
    main()
