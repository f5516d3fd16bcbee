"""The verbs of a federation on Azure ML (`backend=azure`), and `check`; each imports what it needs when it runs.

A verb acts on what its caller's role owns: `as=orchestrator`, `as=silo:NAME` or, by default, `as=all`.

    MDW-111 an argument that a verb does not take
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from conf.errors import AzureError, ConfigError
from conf.schema import Conf

if TYPE_CHECKING:
    from azureml_jobs.azure_federation import AzureFederation

ALL, ORCHESTRATOR = "all", "orchestrator"
OWN: Final = ("as", "silo", "silo.file", "run", "timeout")
FLAGS: Final = ("--detach", "--open", "--dry-run", "-f")
POLL_SECONDS: Final = 2.0
TIMEOUT_STATUS, NOBODY_STATUS, UNSEEN = 124, 125, "not yours to see"

HELP: Final = """meadow {verb} backend=azure federation.file=FILE [as=orchestrator|silo:NAME|all] [key=value ...]

A federation on Azure ML, described by a file that holds no secret (docs/azure.md).

  launch server | client silo=NAME [silo.file=FILE] | all
                                           start what is not at work yet, checked first; all does one run, brings
                                           it home and ends the jobs; --detach returns when they have started
         --dry-run                         write the jobs' YAML below .meadow/ for `az ml job create`, send nothing
         --open                            open the jobs in Azure ML's Studio
  submit                                   give a run to the orchestrator
  status, logs [-f] [silo=NAME], wait run=RUN [timeout=SECONDS], download run=RUN, stop
Exit status of wait: 0 finished, 130 cancelled, that of its error where it failed, 124 time over, 125 nobody there."""

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

    @property
    def federation(self) -> AzureFederation:
        """Return the federation's jobs."""
        from azureml_jobs.azure_federation import AzureFederation

        return AzureFederation(self.conf)

    def store(self) -> Any:
        """Return the orchestrator's store, its address looked up where the file does not give it."""
        from azureml_jobs.workspace import Workspace
        from server.places import store_of

        own = self.conf.federation.orchestrator
        if own.store is None and own.workspace is not None and own.datastore is not None:
            own = dataclasses.replace(own, store=Workspace(own.workspace).container(own.datastore))
        if own.store is None:
            hint = "Write workspace and datastore, or store, below orchestrator in the federation's file."
            raise AzureError("MDW-810", "The federation does not say where its store is.", hint)
        federation = dataclasses.replace(self.conf.federation, orchestrator=own)
        return store_of(dataclasses.replace(self.conf, federation=federation))

    def queue(self) -> Any:
        """Return the orchestrator's queue of runs."""
        from server.run_queue import RunQueue

        return RunQueue(self.store())


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
    asked = _asked("launch", rest)
    if (what == "client") != ("silo" in asked.given):
        raise ConfigError("MDW-111", "meadow launch: silo=NAME belongs to client, and client to it.", "See --help.")
    if "silo.file" in asked.given:
        if what != "client":
            raise ConfigError("MDW-111", "meadow launch: silo.file=FILE belongs to client silo=NAME.", "See --help.")
        from azureml_jobs.silo_file import with_own

        own = with_own(asked.conf, asked.given["silo"], Path(asked.given["silo.file"]))
        asked = dataclasses.replace(asked, conf=own)
    role = {"server": ORCHESTRATOR, "client": f"silo:{asked.given.get('silo')}"}.get(what, ALL)
    asked = dataclasses.replace(asked, given={**asked.given, "as": role})
    if "--dry-run" in asked.flags:
        folder = Path(".meadow") / asked.conf.federation.name / time.strftime("dry-run-%Y%m%d-%H%M%S")
        for file in asked.federation.dry_run(folder, server=asked.server, names=asked.silos):
            print(file)
        return 0
    _table(asked).refuse()
    for name, start in _starts(asked):
        job, new = start()
        print(f"{name}: {'started' if new else 'at work already'}, {job.studio}", flush=True)
        if "--open" in asked.flags:
            import webbrowser

            webbrowser.open(job.studio)
    return _one_run(asked) if what == "all" else 0


def submit(args: list[str]) -> int:
    """Give a run to the orchestrator."""
    print(f"run {_submitted(_asked('submit', args))}")
    return 0


def status(args: list[str]) -> int:
    """Show the jobs of all workspaces that the caller may see, and the runs."""
    asked = _asked("status", args)
    jobs = {job.silo or ORCHESTRATOR: job for job in asked.federation.jobs(asked.silos, server=asked.server)}
    mine = [*([ORCHESTRATOR] if asked.server else []), *asked.silos]
    for name in [ORCHESTRATOR, *sorted(asked.conf.federation.silos)]:
        job = jobs.get(name)
        told = f"{job.status:12} {job.name}  {job.studio}" if job else "no job" if name in mine else UNSEEN
        print(f"{name:14} {told}")
    if asked.server:
        queue = asked.queue()
        for run in dict.fromkeys(request.run_id for request in queue.all()):
            outcome = queue.outcome(run)
            print(f"run {run}: {outcome.status if outcome else 'waiting or in progress'}")
    return 0


def logs(args: list[str]) -> int:
    """Show what a job said; -f goes on until it ends."""
    import tempfile

    asked = _asked("logs", args)
    names = [asked.given["silo"]] if "silo" in asked.given else asked.silos
    jobs = asked.federation.jobs(names, server=asked.server and "silo" not in asked.given)
    if "-f" in asked.flags and len(jobs) > 1:
        raise ConfigError("MDW-111", "meadow logs -f follows one job here.", "Add silo=NAME, or as=orchestrator.")
    for job in jobs:
        place, name = asked.federation.workspace_of(job), job.silo or ORCHESTRATOR
        if not job.over:  # Azure ML hands out the files of a job that has ended, and a stream until then
            if "-f" in asked.flags:
                place.follow(job.name)
            else:
                print(f"{name:14} {job.status}; -f follows it, and so does {job.studio}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            place.download(job.name, Path(folder))
            for path in sorted(Path(folder).rglob("user_logs/*.txt")):
                print(*(f"{name:14} {line}" for line in path.read_text(errors="replace").splitlines()), sep="\n")
    return 0


def wait(args: list[str]) -> int:
    """Wait for the end of a run and return the exit status that it stands for."""
    asked = _asked("wait", args)
    return _waited(asked, _run(asked, "wait"), float(asked.given.get("timeout", "inf")))


def download(args: list[str]) -> int:
    """Bring a run's files into run.output."""
    from azureml_jobs.azure_federation import download as bring

    asked = _asked("download", args)
    files = bring(asked.store(), _run(asked, "download"), Path(asked.conf.run.output))
    print(f"{len(files)} files: {Path(asked.conf.run.output) / _run(asked, 'download')}")
    return 0


def stop(args: list[str]) -> int:
    """End the caller's jobs, silos before the orchestrator."""
    asked = _asked("stop", args)
    for job in asked.federation.stop(asked.silos, server=asked.server):
        print(f"{job.silo or ORCHESTRATOR}: {job.status}")
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
    for arg in args:
        key, equals, value = arg.partition("=")
        if arg in FLAGS:
            flags.add(arg)
        elif equals and key in OWN:
            given[key] = value
        elif arg.startswith("-"):
            raise ConfigError("MDW-111", f"meadow {verb}: '{arg}' is no argument of it.", f"See meadow {verb} --help.")
        elif arg != "backend=azure":
            overrides.append(arg)
    conf = compose(overrides)
    roles = [ALL, ORCHESTRATOR, *(f"silo:{name}" for name in sorted(conf.federation.silos))]
    if given.get("as", ALL) not in roles:
        raise ConfigError("MDW-111", f"meadow {verb}: there is no role '{given['as']}'.", f"Roles: {', '.join(roles)}.")
    return Asked(conf, given, flags, " ".join(["meadow", verb, *args]))


def _table(asked: Asked) -> Any:
    from azureml_jobs.admitted_keys import AdmittedKeys
    from azureml_jobs.preflight import Sources
    from azureml_jobs.preflight import check as look
    from azureml_jobs.vault import VaultSecrets
    from azureml_jobs.workspace import Workspace

    def admitted() -> Any:
        return AdmittedKeys(asked.store(), time.time).all()

    return look(asked.conf, asked.role, Sources(Workspace, VaultSecrets, admitted if asked.server else None))


def _starts(asked: Asked) -> list[tuple[str, Callable[[], Any]]]:
    federation = asked.federation
    server = [(ORCHESTRATOR, federation.start_server)] if asked.server else []
    return [*server, *((name, partial(federation.start_silo, name)) for name in asked.silos)]


def _one_run(asked: Asked) -> int:
    run_id = _submitted(asked)
    print(f"run {run_id}", flush=True)
    if "--detach" in asked.flags:
        print(f"meadow wait backend=azure run={run_id} waits for it; meadow stop backend=azure ends the jobs.")
        return 0
    try:
        found = _waited(asked, run_id, float("inf"))
        if found == 0:
            from azureml_jobs.azure_federation import download as bring

            bring(asked.store(), run_id, Path(asked.conf.run.output))
            print(f"result: {Path(asked.conf.run.output) / run_id}")
        return found
    finally:
        asked.federation.stop(asked.silos, server=asked.server)


def _submitted(asked: Asked) -> str:
    from azureml_jobs.launch import submit as ask

    return ask(asked.conf, asked.command, asked.queue())


def _waited(asked: Asked, run_id: str, seconds: float) -> int:
    queue, end = asked.queue(), time.monotonic() + seconds
    while True:
        alive = any(job.live for job in asked.federation.jobs([], server=True))  # asked before the last look
        outcome = queue.outcome(run_id)
        if outcome is not None:
            print(f"run {run_id}: {outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))
            return int(outcome.exit)
        if not alive:
            print("No orchestrator is at work; launched again it goes on with the run.", file=sys.stderr)
            return NOBODY_STATUS
        if time.monotonic() >= end:
            print(f"The run {run_id} has not ended in {seconds:.0f} s.", file=sys.stderr)
            return TIMEOUT_STATUS
        time.sleep(POLL_SECONDS)


def _run(asked: Asked, verb: str) -> str:
    if "run" not in asked.given:
        raise ConfigError("MDW-111", f"meadow {verb}: which run?", "Write run=RUN; meadow status lists them.")
    return asked.given["run"]
