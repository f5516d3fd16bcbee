"""Carries a plan out on a federation, and gathers what the oracle judges.

The thin shell: threads that wait, signals, files. What to do is drawn in `disturbances`, what it has
come to is judged in `oracle`.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from conf.schema import Conf
from server.run.audit import Outside, audit
from tests.chaos.disturbances import (
    ANY,
    CLOCK,
    CUT,
    JOIN,
    KILL,
    PAUSE,
    RATE,
    Disturbance,
    plan,
)
from tests.chaos.links import QUICK, Links, why_none
from tests.chaos.oracle import judge, rounds_of
from tests.chaos.parties import Parties, Party
from tests.chaos.replay import replay
from tests.chaos.stand_in import lies
from tests.chaos.table import Report

SILOS: Final = ("silo-1", "silo-2", "silo-3", "silo-4", "silo-5")
LATE: Final = "silo-4"
LIAR: Final = "silo-5"
QUIET: Final = "undisturbed"
ROUNDS: Final = 10
PHASE_SECONDS: Final = 30.0
"""That a disturbance waits for the phase in which it is to begin."""
BUSY_SECONDS: Final = 20.0
"""That a disturbance waits for a party that is being disturbed already, before it is left out."""
END_SECONDS: Final = 600.0
"""For everything that was begun to end well, once nothing is disturbed any more."""
RUN: Final = (
    f"run.rounds={ROUNDS}",
    "run.quorum=2",
    "run.start_quorum=3",
    "run.grace=10",
    "run.start_timeout=1200",
    "run.reconnect_patience=1200",
    "run.round_timeout=1200",
)


class Scene:
    """One federation and what is done to it; a block of `with`, in which `play` is called once."""

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        self._seconds = seconds
        self._report = Report()
        # Of this process: one that was killed has left its links, and two may go on at once.
        name = f"mc{os.getpid() % 100_000}"
        why = why_none(name)
        self._links = None if why else Links(name, SILOS)
        if why:
            self._report.without.append(f"{CUT}, {RATE}: {why}")
        if self._links is not None:
            self._links.open()
        try:
            self._parties = Parties(folder, SILOS, LIAR, self._links)
        except BaseException:
            self._close_links()
            raise
        early = [silo for silo in SILOS if silo != LATE]
        self._plan = plan(seed, seconds, early, [LATE], links=self._links is not None)
        self._over = threading.Event()
        self._is_disturbed = True
        self._folder = folder
        self._runs = 0

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for party in self._parties.everybody():
            party.kill()
        self._close_links()

    def play(self) -> Report:
        """Do all of it, and return what was done and found."""
        conf = self._parties.conf(*RUN)
        everybody = self._parties.everybody()
        for party in everybody:
            party.start()
        self._parties.submit(QUIET, conf)
        self._say("a run that nobody disturbs")
        self._await_quiet()
        keeper = threading.Thread(target=self._keep_running, name="keeper", daemon=True)
        keeper.start()
        started = time.monotonic()
        threads = []
        for one in self._plan:
            self._until(started + one.at, conf)
            thread = threading.Thread(target=self._disturb, args=(one,), name=str(one))
            thread.start()
            threads.append(thread)
        self._until(started + self._seconds, conf)
        for thread in threads:
            thread.join()
        self._is_disturbed = False
        self._say("nothing is disturbed any more")
        self._end(everybody)
        self._report.starts = {party.name: party.starts for party in everybody}
        self._judge(conf)
        self._read_logs()
        return self._report

    def left_behind(self) -> list[str]:
        """Return which processes, links and files are left that should not be."""
        left = [f"the link {name} is left" for name in self._links.left()] if self._links else []
        mine = {os.getpid(), *(one.pid for one in psutil.Process().parents())}
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if any(str(self._folder) in word for word in words) and process.pid not in mine:
                left.append(f"the process {process.pid} is left: {' '.join(words)[:200]}")
        for path in self._folder.rglob("*"):
            name = path.name
            if path.is_file() and (name.startswith(".tmp-") or name.endswith(".upload")):
                left.append(f"the file {path} is left")
        return left

    # What happens meanwhile

    def _await_quiet(self) -> None:
        """Wait for the undisturbed run, and let the silo that joins late go again."""
        deadline = time.monotonic() + END_SECONDS
        while self._parties.queue.outcome(QUIET) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the undisturbed run has not ended: see {self._folder}")
            time.sleep(0.2)
        self._parties.party(LATE).end()

    def _until(self, moment: float, conf: Conf) -> None:
        """Wait for a moment, and see to it that there is always a run to be done."""
        while time.monotonic() < moment:
            if self._runs == 0 or self._outcome(self._runs - 1) is not None:
                self._runs += 1
                self._parties.submit(self._run(self._runs), conf)
                self._say(f"{self._run(self._runs)} is asked for")
            time.sleep(0.1)

    def _run(self, number: int) -> str:
        return f"run-{number:03d}"

    def _outcome(self, number: int) -> Any:
        """Return how a run ended; None while it has not, and True for one before the first."""
        return True if number == 0 else self._parties.queue.outcome(self._run(number))

    def _keep_running(self) -> None:
        """Start again whoever ended by itself before its time; a kill is followed by its own start."""
        while not self._over.wait(0.5):
            for party in self._parties.everybody():
                if party.status is None or party.lock.locked() or party.has_left:
                    continue
                # With status 0 it is over, which it may be at the end alone.
                if party.status or self._is_disturbed:
                    self._report.findings.append(
                        f"{party.name} ended with status {party.status}: see {party.log}"
                    )
                    party.start()

    def _disturb(self, one: Disturbance) -> None:
        parties = [self._parties.party(name) for name in one.whom]
        held = [party for party in parties if party.lock.acquire(timeout=BUSY_SECONDS)]
        try:
            if len(held) < len(parties):
                self._report.left_out.append(one)
                return
            self._wait_for_phase(one.phase)
            self._say(str(one))
            ACTS[one.kind](self, one, parties)
            self._report.done.append(one)
        except Exception as error:
            self._report.findings.append(f"{one} could not be done: {error!r}")
        finally:
            for party in held:
                party.lock.release()

    def _wait_for_phase(self, phase: str) -> None:
        if phase == ANY:
            return
        begun = self._parties.begun
        at = begun.stat().st_size if begun.exists() else 0
        end = time.monotonic() + PHASE_SECONDS
        while time.monotonic() < end:
            if begun.exists() and f'"{phase}"'.encode() in begun.read_bytes()[at:]:
                return
            time.sleep(0.05)

    def _kill(self, one: Disturbance, parties: Sequence[Party]) -> None:
        for party in parties:
            party.kill()
        time.sleep(one.seconds)
        for party in parties:
            party.start()

    def _pause(self, one: Disturbance, parties: Sequence[Party]) -> None:
        for party in parties:
            party.send(signal.SIGSTOP)
        time.sleep(one.seconds)
        for party in parties:
            party.send(signal.SIGCONT)

    def _step(self, one: Disturbance, parties: Sequence[Party]) -> None:
        for seconds in (one.amount, 0.0):
            for party in parties:
                party.step(seconds)
            time.sleep(one.seconds if seconds else 0.0)

    def _cut(self, one: Disturbance, parties: Sequence[Party]) -> None:
        assert self._links is not None
        for silo in one.whom:
            self._links.cut(silo)
        time.sleep(one.seconds)
        for silo in one.whom:
            self._links.mend(silo)

    def _slow(self, one: Disturbance, parties: Sequence[Party]) -> None:
        assert self._links is not None
        for rate in (one.amount, QUICK):
            for silo in one.whom:
                self._links.rate(silo, rate)
            time.sleep(one.seconds if rate != QUICK else 0.0)

    def _join(self, one: Disturbance, parties: Sequence[Party]) -> None:
        for party in parties:
            party.start()

    # What it has come to

    def _end(self, everybody: Sequence[Party]) -> None:
        """Wait until all runs have ended, and with them, being idle, all processes."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            if all(not party.is_running for party in everybody):
                break
            time.sleep(0.5)
        self._over.set()
        for run in self._all_runs():
            outcome = self._parties.queue.outcome(run)
            if outcome is None or outcome.status != "finished":
                said = "has not ended" if outcome is None else f"{outcome.status}: {outcome.reason}"
                self._report.findings.append(f"{run} {said}")
        for party in everybody:
            if party.status != 0:
                self._report.findings.append(f"{party.name} did not end well: {party.status}")

    def _judge(self, conf: Conf) -> None:
        quiet = self._parties.run_folder(QUIET) / "ledger.jsonl"
        undisturbed = [times[-1] for _, times in sorted(rounds_of(read_lines(quiet))[0].items())]
        for run in self._all_runs():
            folder = self._parties.run_folder(run)
            if not (folder / "ledger.jsonl").exists():
                self._report.findings.append(f"{run} has no ledger")
                continue
            lines = read_lines(folder / "ledger.jsonl")
            found = judge(lines, ROUNDS, undisturbed, lambda who: replay(conf, who), LIAR, lies)
            verdict = audit(folder, self._outside())
            found.findings += verdict.faults
            if not verdict.confirmed:
                found.findings.append("the ledger is confirmed by nobody")
            self._report.judged[run] = found
            self._report.findings += [f"{run}: {finding}" for finding in found.findings]

    def _all_runs(self) -> list[str]:
        return [QUIET, *(self._run(number) for number in range(1, self._runs + 1))]

    def _outside(self) -> Outside:
        """Return what a run's ledger is compared with: the CA, and what each silo kept of it."""
        records = [self._folder / f"state-{silo}" / "ledger-record.jsonl" for silo in SILOS]
        return Outside(self._parties.ca, {}, [path for path in records if path.exists()])

    def _read_logs(self) -> None:
        """An exception that nobody foresaw is a finding, but for the liar's own."""
        for party in self._parties.everybody():
            text = party.log.read_text(errors="replace") if party.log.exists() else ""
            for sign in ("Traceback (most recent call last)", "MDW-000", "a fault in Meadow"):
                if sign in text and party.name != LIAR:
                    self._report.findings.append(f"{party.name}'s log has {sign!r}: {party.log}")

    def _say(self, what: str) -> None:
        print(f"{time.strftime('%X')} {what}", flush=True)

    def _close_links(self) -> None:
        if self._links is not None:
            self._links.close()


ACTS: Final[dict[str, Callable[[Scene, Disturbance, Sequence[Party]], None]]] = {
    KILL: Scene._kill,
    PAUSE: Scene._pause,
    CLOCK: Scene._step,
    CUT: Scene._cut,
    RATE: Scene._slow,
    JOIN: Scene._join,
}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ledger."""
    return [json.loads(line) for line in path.read_text().splitlines()]
