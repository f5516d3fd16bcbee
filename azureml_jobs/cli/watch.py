"""Looking at a federation's jobs, and ending them: status, logs, stop, check."""

from __future__ import annotations

import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from azureml_jobs.backends.base import ORCHESTRATOR, Backend, Job, JobLog
from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.asking_again import Patience
from azureml_jobs.cli.dry_check import check_run, is_about_a_run
from azureml_jobs.cli.ending import end_jobs
from azureml_jobs.cli.federation import Federation, federation_of
from azureml_jobs.cli.table import columns
from conf.border import plain_lines
from conf.errors import AzureError, MeadowError

AT_ONCE: Final = 16
"""Workspaces that are asked at the same time."""
SEE_ROLE: Final = "Reader"
LABEL_WIDTH: Final = len(ORCHESTRATOR)
JOB_COLUMNS: Final = ("part", "state", "since", "connected", "job", "where")
RUN_COLUMNS: Final = ("run", "state", "rounds done", "result")
CHECKPOINT: Final = re.compile(r"runs/(.+)/checkpoints/round-(\d+)")
Line = tuple[str, str]
"""A label and what was said."""


# ---- the verbs


def status(arguments: Arguments) -> int:
    """Show the jobs of all parts that the caller may see, and the runs; an error where nothing can
    be seen.
    """
    federation = federation_of(arguments)
    federation.backend.check_exists()
    seen = look(federation.backend, federation.parts)
    told, unreadable = _told(federation)
    live = getattr(seen.get(ORCHESTRATOR), "live", False)
    rows: list[tuple[str, ...]] = [JOB_COLUMNS]
    for part in [ORCHESTRATOR, *federation.backend.silos()]:
        connected = _connected(part, told) if live else ""
        if part in seen:
            rows.append(_job_row(part, seen[part], connected))
        else:
            rows.append(
                (part, "not asked", "", connected, "", f"not yours to see, as={federation.role}")
            )
    print("\n".join(columns(rows)))
    for part, job in seen.items():
        if isinstance(job, Job) and job.live and federation.backend.nobody_restarts(part):
            print(f"{part}: nobody restarts this when it ends")
    print_quorum(told.get("quorum") if live else None)
    for silo, what in (told.get("named", {}) if live else {}).items():
        print(f"{silo}: {what}")
    for line in _transfers(federation, seen, told if live else {}):
        print(line)
    if federation.has_orchestrator:
        print()
        print("\n".join(_runs(federation, told.get("run") if live else None, unreadable)))
        software = software_lines(told.get("software", {}))
        if software:
            print("\n".join(["", *software]))
    errors = [one for one in seen.values() if isinstance(one, MeadowError)]
    if errors and len(errors) == len(seen):
        raise errors[0]
    return 0


def print_quorum(lacking: Mapping[str, Any] | None) -> None:
    """Say that a round could not close with the silos that are connected, if so."""
    if lacking:
        missing = ", ".join(lacking["missing"])
        print(
            f"{ORCHESTRATOR}: {lacking['connected']} of the {lacking['needed']} silos that a round"
            f" needs are connected, since {lacking['since']}; missing: {missing} (MDW-412)"
        )


def logs(arguments: Arguments) -> int:
    """Show what the jobs said, each line behind its part's name; -f goes on until all have ended."""
    federation = federation_of(arguments)
    backend = federation.backend
    backend.check_exists()
    parts = federation.chosen(arguments.get("silo"))
    read: list[JobLog] = []
    failed: list[MeadowError] = []
    for seen in look(backend, parts).values():
        if isinstance(seen, MeadowError):
            failed.append(seen)
        elif seen is not None:
            read.append(backend.log(seen))
    shown = follow(read, backend) if arguments.has("-f") else _once(read)
    for line in shown:
        if isinstance(line, MeadowError):
            failed.append(line)
        else:
            # What a job said may be another party's text, and a terminal obeys control characters.
            print(plain_lines(log_line(*line)), flush=True)
    return _told_of(failed)


def stop(arguments: Arguments) -> int:
    """End the caller's jobs, silos before the orchestrator; or one silo's; or a run, and leave the
    jobs running.
    """
    federation = federation_of(arguments)
    federation.backend.check_exists()
    run_id = arguments.get("run")
    if run_id:
        from azureml_jobs.cli.runs import cancel_run

        live = cancel_run(federation, run_id)
        print(f"run {run_id}: {'its end is requested' if live else 'cancelled'}")
        return 0
    # what can't be seen keeps nothing else from being ended
    seen = look(federation.backend, federation.chosen(arguments.get("silo")))
    failed = [one for one in seen.values() if isinstance(one, MeadowError)]
    ended = end_jobs(federation, [one.part for one in seen.values() if isinstance(one, Job)])
    for job in ended:
        print(f"{job.part}: {job.state}")
    if not ended and not failed:
        print("nothing is running")
    return _told_of(failed)


def check(arguments: Arguments) -> int:
    """Print what would keep a launch from working, with what to do; the exit status says whether
    anything would.

    Where the words are about what is trained, and none about a federation, that is tried here.
    """
    if is_about_a_run(arguments.rest) and not (arguments.has("backend") or arguments.has("as")):
        from conf.compose import compose

        return check_run(compose(list(arguments.rest)))
    federation = federation_of(arguments)
    table = federation.backend.check(federation.role)
    print("\n".join(table.lines()))
    return AzureError.exit_status if table.errors else 0


# ---- what they are made of


def look(backend: Backend, parts: Sequence[str]) -> dict[str, Job | MeadowError | None]:
    """Return the job of each part, or why it can't be seen; None where there is none.

    All are asked at once; a workspace that refuses or can't be reached holds no other up.
    """

    def seen(part: str) -> Job | MeadowError | None:
        try:
            return backend.job(part)
        except MeadowError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as asking:
        return dict(zip(parts, asking.map(seen, parts), strict=True))


def unseen(error: MeadowError) -> str:
    """Return in a few words why something can't be seen."""
    if error.code == "MDW-801":
        return f"not yours to see: it needs the role '{SEE_ROLE}' there"
    if error.code == "MDW-800":
        return f"not reached: {error.message}"
    return f"{error.code}: {error.message}"


def log_line(label: str, line: str) -> str:
    """Return a line that a part said, as every verb shows it."""
    return f"{label:{LABEL_WIDTH}}  {line}"


def follow(read: Sequence[JobLog], backend: Backend) -> Iterator[Line | MeadowError]:
    """Yield the lines of several jobs as they come until all have ended; an error ends the lines of
    its job alone, and a workspace that is not reached for a moment ends none.

    Each job has a thread, so that one slow workspace holds no other up; closing the iterator ends
    them.
    """
    said: queue.SimpleQueue[Line | MeadowError | None] = queue.SimpleQueue()
    closed = threading.Event()

    def listen(log: JobLog) -> None:
        try:
            patience = Patience(backend)
            while True:
                for line in _lines_if_reached(log, patience):
                    said.put(line)
                if log.over or closed.wait(patience.pause()):
                    return
        except MeadowError as error:
            said.put(error)
        finally:
            said.put(None)

    for log in read:
        threading.Thread(target=listen, args=(log,), name="log", daemon=True).start()
    try:
        left = len(read)
        while left:
            line = said.get()
            if line is None:
                left -= 1
            else:
                yield line
    finally:
        closed.set()


def _lines_if_reached(log: JobLog, patience: Patience) -> list[Line]:
    """Return a job's new lines, none where it is not reached for a moment."""
    try:
        lines = log.lines()
    except MeadowError as error:
        patience.bear(error)
        return []
    patience.answered(news=bool(lines))
    return lines


def _told_of(failed: Sequence[MeadowError]) -> int:
    """Say what could not be seen; return the exit status of the first."""
    for error in failed:
        print(f"error {error}", file=sys.stderr)
    return failed[0].exit_status if failed else 0


def _once(read: Sequence[JobLog]) -> Iterator[Line | MeadowError]:
    """Yield what jobs said so far, one job after the other."""
    for log in read:
        try:
            yield from log.lines()
        except MeadowError as error:
            yield error


def _told(federation: Federation) -> tuple[dict[str, Any], MeadowError | None]:
    """Return what the orchestrator last told of itself, where it is the caller's; or why that can't
    be read.
    """
    from server.orchestrator.caretaker import read_status

    if not federation.has_orchestrator:
        return {}, None
    try:
        return read_status(federation.store), None
    except MeadowError as error:
        return {}, error


def _connected(part: str, told: dict[str, Any]) -> str:
    if part == ORCHESTRATOR or "connected" not in told:
        return ""
    if part not in told["connected"]:
        return "no"
    return "by relay" if told.get("ways", {}).get(part) == "relay" else "yes"


def _transfers(
    federation: Federation, seen: Mapping[str, Job | MeadowError | None], told: Mapping[str, Any]
) -> list[str]:
    """Return how transfers that take long go on, as the orchestrator says, else each silo's own
    job.
    """
    from azureml_jobs.cli.transfer_lines import own_transfer_line, transfer_line

    by_server = told.get("transfers", {})
    lines = [transfer_line(silo, said) for silo, said in by_server.items()]
    for part, job in seen.items():
        if part != ORCHESTRATOR and part not in by_server and isinstance(job, Job) and job.live:
            lines.append(own_transfer_line(part, federation.backend.transfer(part)))
    return [line for line in lines if line is not None]


def software_lines(software: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return what silos said that they run as a table, and a sentence where they differ."""
    if not software:
        return []
    from server.report.software_table import mixed_software, software_table

    titles, rows = software_table(software)
    lines = columns([("silos", *titles), *rows])
    promise = mixed_software(software)
    if promise:
        lines.append(promise)
    return lines


def _job_row(part: str, seen: Job | MeadowError | None, connected: str) -> tuple[str, ...]:
    if isinstance(seen, MeadowError):
        return part, "not seen", "", connected, "", unseen(seen)
    if seen is None:
        return part, "no job", "", connected, "", ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seen.since)) if seen.since else ""
    return part, seen.state, since, connected, seen.name, seen.where


def _runs(federation: Federation, now: str | None, unreadable: MeadowError | None) -> list[str]:
    """Return the table of runs; one line that says why where the store can't be read."""
    try:
        if unreadable is not None:
            raise unreadable
        runs = dict.fromkeys(request.run_id for request in federation.queue.all())
        done = _rounds_done(_checkpoints(federation))
        rows = [_run_row(federation, run, done.get(run, 0), now) for run in runs]
    except MeadowError as error:
        return [f"runs: {unseen(error)}"]
    return columns([RUN_COLUMNS, *rows])


def _checkpoints(federation: Federation) -> Sequence[str]:
    """Return the names of what runs have left, none where they are not the caller's to see."""
    try:
        return federation.store.list("runs/")
    except MeadowError as error:
        if error.code == "MDW-514":
            return []
        raise


def _rounds_done(names: Sequence[str]) -> dict[str, int]:
    """Return the last round of each run of which a checkpoint is in the store."""
    found: dict[str, int] = {}
    for name in names:
        match = CHECKPOINT.match(name)
        if match is not None:
            found[match[1]] = max(found.get(match[1], 0), int(match[2]))
    return found


def _run_row(federation: Federation, run: str, done: int, now: str | None) -> tuple[str, ...]:
    outcome = federation.queue.outcome(run)
    if outcome is None:
        return run, "running" if run == now else "waiting", str(done), ""
    folder = outcome.folder if federation.backend.files_here else ""
    return run, outcome.status, str(done), outcome.reason or folder
