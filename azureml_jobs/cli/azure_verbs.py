"""The verbs of a federation on Azure ML (`backend=azure`), and `check`; each imports what it needs when it runs."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azureml_jobs.cli.azure_arguments import (
    ALL,
    ORCHESTRATOR,
    Asked,
    asked_of,
    known,
    parts,
    run_of,
)
from azureml_jobs.cli.azure_run import (
    NOBODY_STATUS,
    SIGNED_OUT_STATUS,
    Unanswered,
    cancel,
    seen_through,
    submitted,
    waited,
)
from conf.errors import AzureError, ConfigError, MeadowError

if TYPE_CHECKING:
    from azureml_jobs.cli.azure_watch import JobLog

HELP: Final = """meadow {verb} backend=azure federation.file=FILE [as=orchestrator|silo:NAME|all] [key=value ...]

A federation on Azure ML, described by a file that holds no secret (docs/azure.md).

  launch server | client silo=NAME [silo.file=FILE] | all
                                           start what is not at work yet, checked first; all does one run, brings
                                           it home and ends what it started; --detach returns when all has started
         --dry-run                         write the jobs' YAML below .meadow/ for `az ml job create`, send nothing
         --open                            open the jobs in Azure ML's Studio
  submit                                   give a run to the orchestrator
  status                                   the jobs of all workspaces that you may see, and the runs
  logs [-f] [silo=NAME]                    what the jobs said so far; -f merges their lines until all have ended
  wait run=RUN [timeout=SECONDS]           wait for the end of a run
  download run=RUN                         bring its files into run.output
  stop [silo=NAME | run=RUN]               end the jobs, silos first; or one silo's; or cancel a run alone

Exit status of wait, and of launch all:
    0 finished                 3-8 failed: that of its error (docs/errors.md); 5 is a lost quorum
  130 cancelled, or Ctrl-C     124 the time is over       125 no orchestrator is at work
  126 not signed in to Azure any more (MDW-803); the run goes on       9 another error of Azure"""

CHECK_HELP: Final = """meadow check federation.file=FILE [as=orchestrator | as=silo:NAME | as=all] [key=value ...]

Look now at all that would fail later in a launch on Azure ML: one line each, and below it what to do."""


def check(args: list[str]) -> int:
    """Print the table of what would fail; the exit status is 9 where something would."""
    if "--help" in args or "-h" in args:
        print(CHECK_HELP)
        return 0
    table = _table(asked_of("check", args))
    print("\n".join(table.lines()))
    return AzureError.exit_status if table.errors else 0


def launch(args: list[str]) -> int:
    """Start the orchestrator's job, a silo's, or all and a run."""
    words = [arg for arg in args if arg != "backend=azure"]
    what, rest = (words[0], words[1:]) if words else ("", [])
    if what not in ("all", "server", "client"):
        raise ConfigError(
            "MDW-111", f"meadow launch: '{what}' can't be launched.", "Write all, server or client."
        )
    asked = _launched(asked_of(f"launch {what}", rest), what)
    if "--dry-run" in asked.flags:
        folder = (
            Path(".meadow") / asked.conf.federation.name / time.strftime("dry-run-%Y%m%d-%H%M%S")
        )
        for file in asked.federation.dry_run(folder, server=asked.server, names=asked.silos):
            print(file)
        return 0
    _table(asked).refuse()
    if what == "all":
        return _launch_all(asked)
    _start(asked, [])
    return 0


def _launched(asked: Asked, what: str) -> Asked:
    """Return what was asked of a launch as the role that it is for, a silo's own file read."""
    if (what == "client") != ("silo" in asked.given):
        raise ConfigError(
            "MDW-111",
            "meadow launch: silo=NAME belongs to client, and client to it.",
            "See --help.",
        )
    if "silo.file" in asked.given:
        if what != "client":
            raise ConfigError(
                "MDW-111",
                "meadow launch: silo.file=FILE belongs to client silo=NAME.",
                "See --help.",
            )
        from azureml_jobs.jobs.silo_file import with_own

        own = with_own(asked.conf, asked.given["silo"], Path(asked.given["silo.file"]))
        asked = dataclasses.replace(asked, conf=own)
    if what == "client":
        known(asked, asked.given["silo"])
    role = {"server": ORCHESTRATOR, "client": f"silo:{asked.given.get('silo')}"}.get(what, ALL)
    return dataclasses.replace(asked, given={**asked.given, "as": role})


def submit(args: list[str]) -> int:
    """Give a run to the orchestrator."""
    print(f"run {submitted(asked_of('submit', args))}")
    return 0


def status(args: list[str]) -> int:
    """Show the jobs of all workspaces that the caller may see, and the runs; 9 where nothing of it can be seen."""
    from azureml_jobs.cli.azure_watch import HEAD, look, row, unseen
    from azureml_jobs.cli.table import columns

    asked = asked_of("status", args)
    mine = [*([""] if asked.server else []), *asked.silos]
    seen = look(asked.federation, mine)
    table = [HEAD]
    for silo in ["", *sorted(asked.conf.federation.silos)]:
        name = silo or ORCHESTRATOR
        table.append(
            row(name, seen[silo]) if silo in seen else (name, "not asked", "", f"as={asked.role}")
        )
    print("\n".join(columns(table)))
    errors = [one for one in seen.values() if isinstance(one, MeadowError)]
    if asked.server:
        print()
        try:
            print("\n".join(columns([("run", "state", "why"), *_runs(asked.queue)])))
        except MeadowError as error:
            print(f"runs: {unseen(error)}")
    if len(errors) < len(mine) or not errors:
        return 0
    raise errors[0]


def logs(args: list[str]) -> int:
    """Show what the jobs said, each line behind its job's name; -f goes on until all have ended."""
    from azureml_jobs.cli.azure_watch import JobLog, follow, look

    asked = asked_of("logs", args)
    names, server = parts(asked)
    read, failed = list[JobLog](), list[MeadowError]()
    for silo, seen in look(asked.federation, [*([""] if server else []), *names]).items():
        if isinstance(seen, MeadowError):
            failed.append(seen)
        elif seen is not None:
            read.append(
                JobLog(asked.federation.workspace_of(seen), seen.name, silo or ORCHESTRATOR)
            )
    for line in follow(read) if "-f" in asked.flags else _once(read):
        if isinstance(line, MeadowError):
            failed.append(line)
        else:
            print(line, flush=True)
    for error in failed:
        print(f"error {error}", file=sys.stderr)
    return failed[0].exit_status if failed else 0


def wait(args: list[str]) -> int:
    """Wait for the end of a run and return the exit status that it stands for."""
    asked = asked_of("wait", args)
    run_id, timeout = run_of(asked, "wait"), asked.given.get("timeout", "inf")
    try:
        seconds = float(timeout)
    except ValueError:
        raise ConfigError(
            "MDW-111", f"meadow wait: timeout={timeout} is no number.", "Give seconds."
        ) from None
    return waited(asked, run_id, seconds)


def download(args: list[str]) -> int:
    """Bring a run's files into run.output."""
    from azureml_jobs.backends.azure import download as bring

    asked = asked_of("download", args)
    files = bring(asked.store, run_of(asked, "download"), Path(asked.conf.run.output))
    print(f"{len(files)} files: {Path(asked.conf.run.output) / run_of(asked, 'download')}")
    return 0


def stop(args: list[str]) -> int:
    """End the caller's jobs, silos before the orchestrator; or one silo's; or a run, and leave the jobs at work."""
    asked = asked_of("stop", args)
    if "run" in asked.given:
        cancel(asked, asked.given["run"])
        print(f"run {asked.given['run']}: its end is asked for")
        return 0
    names, server = parts(asked)
    ended = asked.federation.stop(names, server=server)
    for job in ended:
        print(f"{job.silo or ORCHESTRATOR}: {job.status}")
    if not ended:
        print("nothing is at work")
    return 0


Verb = Callable[[list[str]], int]
VERBS: Final[dict[str, Verb]] = {
    "launch": launch, "submit": submit, "status": status, "logs": logs, "wait": wait, "download": download,
    "stop": stop,
}  # fmt: skip


def run(verb: str, args: list[str]) -> int:
    """Run a verb of a federation on Azure ML."""
    if "--help" in args or "-h" in args:
        print(HELP.format(verb=verb))
        return 0
    return VERBS[verb](args)


def _table(asked: Asked) -> Any:
    from azureml_jobs.backends.workspace import Workspace
    from azureml_jobs.identity.admitted_keys import AdmittedKeys
    from azureml_jobs.identity.key_vault import VaultSecrets
    from azureml_jobs.preflight.checks import Sources
    from azureml_jobs.preflight.checks import check as look

    def admitted() -> Any:
        return AdmittedKeys(asked.store, time.time).all()

    return look(
        asked.conf, asked.role, Sources(Workspace, VaultSecrets, admitted if asked.server else None)
    )


def _start(asked: Asked, started: list[str]) -> None:
    """Start the caller's parts that are not at work; name in `started` those that were not, as they start."""
    federation = asked.federation
    for silo in [*([""] if asked.server else []), *asked.silos]:
        job, new = federation.start_silo(silo) if silo else federation.start_server()
        name = silo or ORCHESTRATOR
        if new:
            started.append(name)
        print(
            f"{name}: {'started' if new else 'at work already'}, {job.name}, {job.studio}",
            flush=True,
        )
        if "--open" in asked.flags:
            import webbrowser

            webbrowser.open(job.studio)


def _launch_all(asked: Asked) -> int:
    """Do one run; end what was started for it. What Azure does not answer meanwhile ends nothing."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    run_id, started = submitted(asked), list[str]()
    print(f"run {run_id}", flush=True)
    try:
        _start(asked, started)
        if "--detach" in asked.flags:
            print(
                f"meadow wait backend=azure run={run_id} waits for it; meadow stop backend=azure ends the jobs."
            )
            return 0
        found = seen_through(asked, run_id)
    except Unanswered as reason:
        print(
            "The jobs stay at work: meadow wait, meadow download and meadow stop go on.",
            file=sys.stderr,
        )
        if reason.error is None:
            return SIGNED_OUT_STATUS
        raise reason.error from None
    except BaseException:
        cancel(asked, run_id)
        _stop(asked, started)
        raise
    if found == NOBODY_STATUS:
        cancel(asked, run_id)
    _stop(asked, started)
    return found


def _stop(asked: Asked, started: list[str]) -> None:
    names = [name for name in started if name != ORCHESTRATOR]
    asked.federation.stop(names, server=ORCHESTRATOR in started)


def _once(read: list[JobLog]) -> Iterator[str | MeadowError]:
    """Yield what jobs said so far, one job after the other."""
    for log in read:
        try:
            yield from log.lines()
        except MeadowError as error:
            yield error


def _runs(queue: Any) -> Iterator[tuple[str, str, str]]:
    for run in dict.fromkeys(request.run_id for request in queue.all()):
        outcome = queue.outcome(run)
        yield (
            (run, outcome.status, outcome.reason)
            if outcome
            else (run, "waiting or in progress", "")
        )
