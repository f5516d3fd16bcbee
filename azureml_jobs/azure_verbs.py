"""The verbs of a federation on Azure ML (`backend=azure`), and `check`; each imports what it needs when it runs.

A verb acts on what its caller's role owns: `as=orchestrator`, `as=silo:NAME` or, by default, `as=all`.

    MDW-111 an argument that a verb does not take    MDW-193 no such silo
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from conf.errors import AzureError, CheckpointError, ConfigError, MeadowError
from conf.schema import Conf

if TYPE_CHECKING:
    from azureml_jobs.azure_federation import AzureFederation
    from azureml_jobs.azure_watch import JobLog

ALL, ORCHESTRATOR = "all", "orchestrator"
TAKES: Final[dict[str, tuple[str, ...]]] = {
    "check": (),
    "launch": ("silo", "silo.file", "--detach", "--open", "--dry-run"),
    "submit": (),
    "status": (),
    "logs": ("silo", "-f"),
    "wait": ("run", "timeout"),
    "download": ("run",),
    "stop": ("silo", "run"),
}
"""The arguments of each verb's own, beside as= and the configuration's."""
POLL_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 300.0
"""For which a wait bears that Azure is not reached; a training goes on meanwhile."""
TIMEOUT_STATUS, NOBODY_STATUS, SIGNED_OUT_STATUS = 124, 125, 126
UNREACHED: Final = ("MDW-800", "MDW-515")

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


@dataclass(frozen=True)
class Asked:
    """What a verb was asked: the configuration, its own arguments and flags."""

    conf: Conf
    given: dict[str, str]
    flags: set[str]
    command: str

    @property
    def role(self) -> str:
        """Return as whom the verb acts."""
        return self.given.get("as", ALL)

    @property
    def server(self) -> bool:
        """Return whether the orchestrator is the caller's."""
        return self.role in (ALL, ORCHESTRATOR)

    @property
    def silos(self) -> list[str]:
        """Return the silos that are the caller's."""
        names = sorted(self.conf.federation.silos)
        return names if self.role == ALL else [name for name in names if self.role == f"silo:{name}"]

    @cached_property
    def federation(self) -> AzureFederation:
        """Return the federation's jobs; one sign-in for all that the verb asks of a workspace."""
        from azureml_jobs.azure_federation import AzureFederation

        return AzureFederation(self.conf)

    @cached_property
    def store(self) -> Any:
        """Return the orchestrator's store, its address looked up where the file does not give it."""
        from server.places import store_of

        own = self.conf.federation.orchestrator
        if own.store is None and own.workspace is not None and own.datastore is not None:
            own = dataclasses.replace(own, store=self.federation.store())
        if own.store is None:
            hint = "Write workspace and datastore, or store, below orchestrator in the federation's file."
            raise AzureError("MDW-810", "The federation does not say where its store is.", hint)
        federation = dataclasses.replace(self.conf.federation, orchestrator=own)
        return store_of(dataclasses.replace(self.conf, federation=federation))

    @cached_property
    def queue(self) -> Any:
        """Return the orchestrator's queue of runs."""
        from server.run_queue import RunQueue

        return RunQueue(self.store)


def check(args: list[str]) -> int:
    """Print the table of what would fail; the exit status is 9 where something would."""
    if "--help" in args or "-h" in args:
        print(CHECK_HELP)
        return 0
    table = _table(_asked("check", args))
    print("\n".join(table.lines()))
    return AzureError.exit_status if table.errors else 0


def launch(args: list[str]) -> int:
    """Start the orchestrator's job, a silo's, or all and a run."""
    words = [arg for arg in args if arg != "backend=azure"]
    what, rest = (words[0], words[1:]) if words else ("", [])
    if what not in ("all", "server", "client"):
        raise ConfigError("MDW-111", f"meadow launch: '{what}' can't be launched.", "Write all, server or client.")
    asked = _launched(_asked(f"launch {what}", rest), what)
    if "--dry-run" in asked.flags:
        folder = Path(".meadow") / asked.conf.federation.name / time.strftime("dry-run-%Y%m%d-%H%M%S")
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
        raise ConfigError("MDW-111", "meadow launch: silo=NAME belongs to client, and client to it.", "See --help.")
    if "silo.file" in asked.given:
        if what != "client":
            raise ConfigError("MDW-111", "meadow launch: silo.file=FILE belongs to client silo=NAME.", "See --help.")
        from azureml_jobs.silo_file import with_own

        own = with_own(asked.conf, asked.given["silo"], Path(asked.given["silo.file"]))
        asked = dataclasses.replace(asked, conf=own)
    if what == "client":
        _known(asked, asked.given["silo"])
    role = {"server": ORCHESTRATOR, "client": f"silo:{asked.given.get('silo')}"}.get(what, ALL)
    return dataclasses.replace(asked, given={**asked.given, "as": role})


def submit(args: list[str]) -> int:
    """Give a run to the orchestrator."""
    print(f"run {_submitted(_asked('submit', args))}")
    return 0


def status(args: list[str]) -> int:
    """Show the jobs of all workspaces that the caller may see, and the runs; 9 where nothing of it can be seen."""
    from azureml_jobs.azure_watch import HEAD, look, row, unseen
    from azureml_jobs.columns import columns

    asked = _asked("status", args)
    mine = [*([""] if asked.server else []), *asked.silos]
    seen = look(asked.federation, mine)
    table = [HEAD]
    for silo in ["", *sorted(asked.conf.federation.silos)]:
        name = silo or ORCHESTRATOR
        table.append(row(name, seen[silo]) if silo in seen else (name, "not asked", "", f"as={asked.role}"))
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
    from azureml_jobs.azure_watch import JobLog, follow, look

    asked = _asked("logs", args)
    names, server = _parts(asked)
    read, failed = list[JobLog](), list[MeadowError]()
    for silo, seen in look(asked.federation, [*([""] if server else []), *names]).items():
        if isinstance(seen, MeadowError):
            failed.append(seen)
        elif seen is not None:
            read.append(JobLog(asked.federation.workspace_of(seen), seen.name, silo or ORCHESTRATOR))
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
    asked = _asked("wait", args)
    run_id, timeout = _run(asked, "wait"), asked.given.get("timeout", "inf")
    try:
        seconds = float(timeout)
    except ValueError:
        raise ConfigError("MDW-111", f"meadow wait: timeout={timeout} is no number.", "Give seconds.") from None
    return _waited(asked, run_id, seconds)


def download(args: list[str]) -> int:
    """Bring a run's files into run.output."""
    from azureml_jobs.azure_federation import download as bring

    asked = _asked("download", args)
    files = bring(asked.store, _run(asked, "download"), Path(asked.conf.run.output))
    print(f"{len(files)} files: {Path(asked.conf.run.output) / _run(asked, 'download')}")
    return 0


def stop(args: list[str]) -> int:
    """End the caller's jobs, silos before the orchestrator; or one silo's; or a run, and leave the jobs at work."""
    asked = _asked("stop", args)
    if "run" in asked.given:
        _cancel(asked, asked.given["run"])
        print(f"run {asked.given['run']}: its end is asked for")
        return 0
    names, server = _parts(asked)
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


def _asked(verb: str, args: list[str]) -> Asked:
    from conf.compose import compose

    given, flags, overrides = dict[str, str](), set[str](), list[str]()
    takes = TAKES[verb.split()[0]]
    every = {name for names in TAKES.values() for name in names}
    for arg in args:
        key, equals, value = arg.partition("=")
        if arg.startswith("-") and arg in takes:
            flags.add(arg)
        elif equals and (key == "as" or key in takes):
            given[key] = value
        elif arg.startswith("-") or key in every:
            raise ConfigError("MDW-111", f"meadow {verb}: '{arg}' is no argument of it.", f"See meadow {verb} --help.")
        elif arg != "backend=azure":
            overrides.append(arg)
    conf = compose(overrides)
    roles = [ALL, ORCHESTRATOR, *(f"silo:{name}" for name in sorted(conf.federation.silos))]
    if given.get("as", ALL) not in roles:
        raise ConfigError("MDW-111", f"meadow {verb}: there is no role '{given['as']}'.", f"Roles: {', '.join(roles)}.")
    return Asked(conf, given, flags, " ".join(["meadow", verb, *args]))


def _known(asked: Asked, silo: str) -> str:
    there = sorted(asked.conf.federation.silos)
    if silo not in there:
        raise ConfigError("MDW-193", f"The federation has no silo {silo!r}.", f"Its silos: {', '.join(there)}.")
    return silo


def _parts(asked: Asked) -> tuple[list[str], bool]:
    """Return the silos that are meant, and whether the orchestrator is: all of the caller's, or `silo=NAME`."""
    if "silo" in asked.given:
        return [_known(asked, asked.given["silo"])], False
    return asked.silos, asked.server


def _table(asked: Asked) -> Any:
    from azureml_jobs.admitted_keys import AdmittedKeys
    from azureml_jobs.preflight import Sources
    from azureml_jobs.preflight import check as look
    from azureml_jobs.vault import VaultSecrets
    from azureml_jobs.workspace import Workspace

    def admitted() -> Any:
        return AdmittedKeys(asked.store, time.time).all()

    return look(asked.conf, asked.role, Sources(Workspace, VaultSecrets, admitted if asked.server else None))


def _start(asked: Asked, started: list[str]) -> None:
    """Start the caller's parts that are not at work; name in `started` those that were not, as they start."""
    federation = asked.federation
    for silo in [*([""] if asked.server else []), *asked.silos]:
        job, new = federation.start_silo(silo) if silo else federation.start_server()
        name = silo or ORCHESTRATOR
        if new:
            started.append(name)
        print(f"{name}: {'started' if new else 'at work already'}, {job.name}, {job.studio}", flush=True)
        if "--open" in asked.flags:
            import webbrowser

            webbrowser.open(job.studio)


def _launch_all(asked: Asked) -> int:
    """Do one run; end what was started for it. What Azure does not answer meanwhile ends nothing."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    run_id, started = _submitted(asked), list[str]()
    print(f"run {run_id}", flush=True)
    try:
        _start(asked, started)
        if "--detach" in asked.flags:
            print(f"meadow wait backend=azure run={run_id} waits for it; meadow stop backend=azure ends the jobs.")
            return 0
        found = _seen_through(asked, run_id)
    except _Unanswered as reason:
        print("The jobs stay at work: meadow wait, meadow download and meadow stop go on.", file=sys.stderr)
        if reason.error is None:
            return SIGNED_OUT_STATUS
        raise reason.error from None
    except BaseException:
        _cancel(asked, run_id)
        _stop(asked, started)
        raise
    if found == NOBODY_STATUS:
        _cancel(asked, run_id)
    _stop(asked, started)
    return found


class _Unanswered(Exception):
    """A run that goes on can't be seen any more: signed out (None), or an error of Azure."""

    def __init__(self, error: MeadowError | None) -> None:
        super().__init__()
        self.error = error


def _seen_through(asked: Asked, run_id: str) -> int:
    """Show the orchestrator's lines until a run has ended, and bring it home; return its exit status."""
    from azureml_jobs.azure_federation import download as bring
    from azureml_jobs.azure_watch import JobLog

    try:
        log = None
        for job in asked.federation.jobs([], server=True):
            log = JobLog(asked.federation.workspace_of(job), job.name, ORCHESTRATOR)
        found = _waited(asked, run_id, float("inf"), log)
        if found == 0:
            bring(asked.store, run_id, Path(asked.conf.run.output))
            print(f"result: {Path(asked.conf.run.output) / run_id}")
    except (AzureError, CheckpointError) as error:
        raise _Unanswered(error) from None
    if found == SIGNED_OUT_STATUS:
        raise _Unanswered(None)
    return found


def _stop(asked: Asked, started: list[str]) -> None:
    names = [name for name in started if name != ORCHESTRATOR]
    asked.federation.stop(names, server=ORCHESTRATOR in started)


def _cancel(asked: Asked, run_id: str) -> None:
    """End a run, or ask the live orchestrator for it; raises ConfigError MDW-183 for one that was never asked for."""
    asked.queue.outcome(run_id)
    asked.queue.cancel(run_id, live=_alive(asked))


def _alive(asked: Asked) -> bool:
    """Return whether an orchestrator is at work, as far as the caller may see."""
    try:
        return any(job.live for job in asked.federation.jobs([], server=True))
    except AzureError as error:
        if error.code == "MDW-801":  # whoever reads the store alone still learns how a run ended
            return True
        raise


def _submitted(asked: Asked) -> str:
    from azureml_jobs.launch import submit as ask

    return ask(asked.conf, asked.command, asked.queue)


def _waited(asked: Asked, run_id: str, seconds: float, log: JobLog | None = None) -> int:
    """Return a run's exit status once it has ended, or why it is waited for no longer; show a job's lines meanwhile."""
    end, answered = time.monotonic() + seconds, time.monotonic()
    while True:
        try:
            alive = _alive(asked)  # asked before the last look
            outcome = asked.queue.outcome(run_id)
            for line in log.lines() if log else ():
                print(line, flush=True)
            answered = time.monotonic()
        except (AzureError, CheckpointError) as error:
            if error.code == "MDW-803":
                print(f"error {error}", file=sys.stderr)
                return SIGNED_OUT_STATUS
            if error.code not in UNREACHED or time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        else:
            if outcome is not None:
                print(f"run {run_id}: {outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))
                return int(outcome.exit)
            if not alive:
                print("No orchestrator is at work; launched again it goes on with the run.", file=sys.stderr)
                return NOBODY_STATUS
        if time.monotonic() >= end:
            print(f"The run {run_id} has not ended in {seconds:.0f} s.", file=sys.stderr)
            return TIMEOUT_STATUS
        time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))


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
        yield (run, outcome.status, outcome.reason) if outcome else (run, "waiting or in progress", "")


def _run(asked: Asked, verb: str) -> str:
    if "run" not in asked.given:
        raise ConfigError("MDW-111", f"meadow {verb}: which run?", "Write run=RUN; meadow status lists them.")
    return asked.given["run"]
