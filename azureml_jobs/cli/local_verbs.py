"""The verbs that start, watch and end a federation; each imports what it needs when it runs.

`launch`, `submit` and `serve` take a whole configuration; `status`, `logs`, `wait` and `stop` only say which federation
is meant (`federation.name=` or `federation.folder=`).

    MDW-111 an argument that a verb does not take    MDW-192 a backend that is not there
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from azureml_jobs.cli.table import columns
from conf.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from azureml_jobs.backends.local_jobs import Job, LocalJobs
    from conf.federation_folder import FederationFolder
    from conf.schema import Conf

WHERE: Final = ("federation.name", "federation.folder")
TIMEOUT_STATUS: Final = 124
"""Of `meadow wait` when its time is over; as the command `timeout` has it."""
NOBODY_STATUS: Final = 125
"""Of `meadow wait` when no orchestrator is there to do the run."""

LAUNCH_HELP = """meadow launch all|server|client backend=local [silo=NAME] [--detach] [group=option | key=value ...]

Start a federation: one job for the orchestrator, one for each silo, each with its own key, over TLS.

  meadow launch all backend=local task=digits       start it, do one run, show its progress, end it
  meadow launch all backend=local --detach ...      the same, and return when all jobs have started
  meadow launch server backend=local                only the orchestrator; runs come by meadow submit
  meadow launch client backend=local silo=silo-1    only one silo
  meadow launch all backend=local run.resume=RUN    go on with a run that was cancelled or failed

What runs already is left as it is. A server that is killed while its run is followed is started again.
Groups and keys are those of `meadow simulate --help`; `--cfg job` prints them.
Jobs, keys and the orchestrator's store lie in .meadow/<federation.name>/ (federation.folder=), results in outputs/."""

SUBMIT_HELP = """meadow submit [group=option | key=value ...]

Give a run to the orchestrator of a federation; it does its runs one after another.
Groups and keys are those of `meadow simulate --help`. meadow wait run=RUN waits for the end.
Silos at work keep their own settings (data, device, threads): a run that asks for others is refused."""

SERVE_HELP = """meadow serve federation.folder=FOLDER [federation.orchestrator.listen=HOST:PORT] [key=value ...]

Be the orchestrator of a federation; this is the command of its job. It ends with status 0 after
federation.orchestrator.idle_timeout seconds without a run, with 143 on SIGTERM. Results land in run.output.
federation.orchestrator.host is the name or address that silos dial: its certificate is made for it."""

STATUS_HELP = """meadow status [federation.name=NAME | federation.folder=FOLDER]

Show the jobs of a federation, the silos that are connected, and its runs."""

LOGS_HELP = """meadow logs [-f] [silo=NAME | job=NAME] [federation.name=NAME | federation.folder=FOLDER]

Show what jobs said, each line behind its job's name; -f goes on until they end."""

WAIT_HELP = f"""meadow wait run=RUN [timeout=SECONDS] [federation.name=NAME | federation.folder=FOLDER]

Wait for the end of a run. Exit status: 0 finished, 130 cancelled, that of its error where it failed (docs/errors.md),
{TIMEOUT_STATUS} the time is over, {NOBODY_STATUS} no orchestrator is there."""

STOP_HELP = """meadow stop [silo=NAME | job=NAME | run=RUN] [federation.name=NAME | federation.folder=FOLDER]

End the jobs of a federation, silos first; or one job; or cancel one run and leave the jobs at work.
A run that was in progress goes on when its federation is launched again."""


def serve(args: list[str]) -> int:
    """Be the orchestrator of a federation."""
    if _helped(args, SERVE_HELP):
        return 0

    def work(conf: Any, command: str) -> int:
        import logging

        from server.serve import serve

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
        return serve(conf)

    return _application("serve", args, work)


def join(args: list[str]) -> int:
    """Be a silo's node."""
    from client.node.job import main

    return main(args)


def launch(args: list[str]) -> int:
    """Start a federation, or a part of it."""
    if not args or _helped(args, LAUNCH_HELP):
        if not args:
            print(LAUNCH_HELP)
        return 0
    what, *rest = args
    if what not in ("all", "server", "client"):
        raise ConfigError(
            "MDW-111", f"meadow launch: '{what}' can't be launched.", "Write all, server or client."
        )
    given, detach = _taken(rest, ("backend", "silo")), _flag(rest, "--detach")
    if (
        given.get("backend") != "local"
    ):  # backend=azure goes another way: azureml_jobs.cli.azure_verbs
        where = given.get("backend", "")
        what = (
            f"backend={where}: there is no such backend."
            if where
            else "meadow launch: where is it to run?"
        )
        raise ConfigError(
            "MDW-192", what, "Write backend=local (this machine) or backend=azure (Azure ML)."
        )
    if (what == "client") != ("silo" in given):
        raise ConfigError(
            "MDW-111",
            "meadow launch: silo=NAME belongs to client, and client to it.",
            "See --help.",
        )
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))

    def work(conf: Any, command: str) -> int:
        from azureml_jobs.backends.local_launch import launch_all, launch_client, launch_server
        from conf.federation_folder import FederationFolder

        queue, keys = _queue(FederationFolder.of(conf.federation))
        if what == "all":
            return launch_all(conf, command, queue, keys, detach=detach)
        return launch_server(conf) if what == "server" else launch_client(conf, given["silo"], keys)

    return _application(f"launch {what} backend=local", rest, work)


def submit(args: list[str]) -> int:
    """Give a run to a federation's orchestrator."""
    if _helped(args, SUBMIT_HELP):
        return 0

    def work(conf: Any, command: str) -> int:
        from azureml_jobs.backends import local_launch
        from azureml_jobs.backends.local import LocalFederation
        from conf.federation_folder import FederationFolder

        folder, conf = FederationFolder.of(conf.federation), local_launch.placed(conf)
        asked = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
        LocalFederation(_there(folder)).check_asked(conf, asked)
        run_id = local_launch.submit(conf, command, _queue(folder)[0])
        print(f"run {run_id}")
        if not _runs_server(folder):
            print(
                "No orchestrator is at work here: meadow launch server backend=local starts one.",
                file=sys.stderr,
            )
        return 0

    return _application("submit", args, work)


def status(args: list[str]) -> int:
    """Show a federation's jobs and runs."""
    if _helped(args, STATUS_HELP):
        return 0
    folder = _there(_folder(_only("status", args, WHERE)))
    from server.orchestrator.caretaker import read_status
    from server.store.folder import FolderStore

    jobs, store = _jobs(folder), FolderStore(folder.store)
    known, queue = read_status(store), _queue(folder)[0]
    connected = known.get("connected", []) if _runs_server(folder) else []
    states = [jobs.status(name) for name in jobs.names()]
    head = ("job", "state", "pid", "since", "connected")
    print("\n".join(columns([head, *(_job_row(job, connected) for job in states)])))
    now = known.get("run") if _runs_server(folder) else None
    runs = dict.fromkeys(request.run_id for request in queue.all())
    if runs:
        print()
        rows = [
            _run_row(run, queue.outcome(run), _rounds_done(store, run), run == now) for run in runs
        ]
        print("\n".join(columns([("run", "state", "rounds done", "result"), *rows])))
    return 0


def logs(args: list[str]) -> int:
    """Show what the jobs said."""
    if _helped(args, LOGS_HELP):
        return 0
    rest = list(args)
    follow = _flag(rest, "-f") or _flag(rest, "--follow")
    given = _only("logs", rest, (*WHERE, "silo", "job"))
    jobs = _jobs(_there(_folder(given)))
    for line in jobs.logs(_chosen(given, jobs), follow=follow):
        print(line, flush=True)
    return 0


def wait(args: list[str]) -> int:
    """Wait for the end of a run."""
    if _helped(args, WAIT_HELP):
        return 0
    given = _only("wait", args, (*WHERE, "run", "timeout"))
    if "run" not in given:
        raise ConfigError(
            "MDW-111", "meadow wait: which run?", "Write run=RUN; meadow status lists them."
        )
    folder, deadline = (
        _there(_folder(given)),
        time.monotonic() + _seconds(given.get("timeout", "inf")),
    )
    from azureml_jobs.backends.local_launch import ended

    queue = _queue(folder)[0]
    while True:
        alive, outcome = _runs_server(folder), queue.outcome(given["run"])
        if outcome is not None:
            return ended(given["run"], outcome, print)
        if not alive:
            print(
                "No orchestrator is at work; launched again it goes on with the run.",
                file=sys.stderr,
            )
            return NOBODY_STATUS
        if time.monotonic() >= deadline:
            print(f"The run {given['run']} has not ended in {given['timeout']} s.", file=sys.stderr)
            return TIMEOUT_STATUS
        time.sleep(0.2)


def stop(args: list[str]) -> int:
    """End a federation's jobs, one of them, or a run."""
    if _helped(args, STOP_HELP):
        return 0
    given = _only("stop", args, (*WHERE, "silo", "job", "run"))
    folder = _there(_folder(given))
    jobs = _jobs(folder)
    if "run" in given:
        queue = _queue(folder)[0]
        queue.outcome(given["run"])  # an unknown run is an error
        queue.cancel(given["run"], live=_runs_server(folder))
        return 0
    chosen = _chosen(given, jobs)
    for names in (
        [name for name in chosen if name != "server"],
        [name for name in chosen if name == "server"],
    ):
        for job in jobs.stop(names):
            print(
                f"{job.name}: {job.state}"
                + (f", status {job.status}" if job.status is not None else "")
            )
    return 0


def keys(args: list[str]) -> int:
    """Work on a federation's keys by hand."""
    from azureml_jobs.cli.keys import main

    return main(args, _store_of_keys)


def _application(verb: str, args: list[str], work: Callable[[Any, str], int]) -> int:
    from azureml_jobs.cli.hydra_app import application

    statuses: list[int] = []
    found = application(verb, args, lambda conf, command: statuses.append(work(conf, command)))
    return found or next((status for status in statuses if status), 0)


def _queue(folder: FederationFolder) -> tuple[Any, Any]:
    """Return the queue of runs and the list of admitted keys in the orchestrator's store."""
    from azureml_jobs.identity.admitted_keys import AdmittedKeys
    from server.store.folder import FolderStore
    from server.store.run_queue import RunQueue

    store = FolderStore(folder.store)
    return RunQueue(store), AdmittedKeys(store, time.time)


def _store_of_keys(conf: Conf, folder: Path | None) -> Any:
    """Return the store with the list of admitted keys: a folder, or a container where the federation names one."""
    own = conf.federation.orchestrator
    if folder is None and (own.store or (own.workspace and own.datastore)):
        from azureml_jobs.backends.azure import AzureFederation
        from azureml_jobs.cli.azure_arguments import store_of_federation

        return store_of_federation(conf, AzureFederation(conf))
    from conf.federation_folder import FederationFolder
    from server.store.folder import FolderStore

    return FolderStore(folder or FederationFolder.of(conf.federation).store)


def _jobs(folder: FederationFolder) -> LocalJobs:
    from azureml_jobs.backends.local_jobs import LocalJobs

    return LocalJobs(folder.path / "jobs")


def _runs_server(folder: FederationFolder) -> bool:
    from azureml_jobs.backends.local import SERVER, LocalFederation

    return LocalFederation(folder).runs(SERVER)


def _folder(given: dict[str, str]) -> FederationFolder:
    from conf.federation_folder import FederationFolder
    from conf.schema import FederationConf

    name = given.get("federation.name", FederationConf.name)
    return FederationFolder.of(FederationConf(name=name, folder=given.get("federation.folder")))


def _there(folder: FederationFolder) -> FederationFolder:
    if not folder.path.is_dir():
        hint = "Launch it, or name another by federation.name= or federation.folder=."
        raise ConfigError("MDW-196", f"There is no federation in {folder.path}.", hint)
    return folder


def _chosen(given: dict[str, str], jobs: LocalJobs) -> list[str]:
    name = given.get("job") or (f"silo-{given['silo']}" if "silo" in given else None)
    return jobs.names() if name is None else [jobs.status(name).name]


def _rounds_done(store: Any, run: str) -> str:
    names = store.list(f"runs/{run}/checkpoints/round-")
    return str(int(names[-1].rpartition("round-")[2].split(".")[0])) if names else "0"


def _job_row(job: Job, connected: Iterable[str]) -> tuple[str, ...]:
    state = job.state if job.status is None else f"{job.state}, status {job.status}"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.ended or job.started))
    silo = job.name.removeprefix("silo-")
    there = "" if job.name == "server" else "yes" if silo in connected else "no"
    return job.name, state, str(job.pid), since, there


def _run_row(run: str, outcome: Any, done: str, now: bool) -> tuple[str, ...]:
    if outcome is None:
        return run, "running" if now else "waiting", done, ""
    return run, outcome.status, done, outcome.folder or outcome.reason


def _helped(args: list[str], text: str) -> bool:
    if "--help" in args or "-h" in args:
        print(text)
        return True
    return False


def _flag(args: list[str], flag: str) -> bool:
    """Take a flag out of the arguments; say whether it was there."""
    there = flag in args
    args[:] = [arg for arg in args if arg != flag]
    return there


def _taken(args: list[str], names: tuple[str, ...]) -> dict[str, str]:
    """Take `name=value` of the named ones out of the arguments and return them."""
    found = {
        name: value
        for name, eq, value in (arg.partition("=") for arg in args)
        if eq and name in names
    }
    args[:] = [arg for arg in args if arg.partition("=")[0] not in names]
    return found


def _only(verb: str, args: list[str], names: tuple[str, ...]) -> dict[str, str]:
    rest = list(args)
    found = _taken(rest, names)
    if rest or not all(found.values()):
        wrong = rest[0] if rest else next(f"{name}=" for name, value in found.items() if not value)
        hint = f"It takes {', '.join(f'{name}=' for name in names)}; see --help."
        raise ConfigError("MDW-111", f"meadow {verb}: '{wrong}' is no argument of it.", hint)
    return found


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            "MDW-111", f"meadow wait: timeout={text} is no number of seconds.", "See --help."
        ) from None
