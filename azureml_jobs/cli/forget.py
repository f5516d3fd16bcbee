"""`meadow forget`: delete what a run has left, on the caller's side, and note it.

What proves the run stays: ledger, history, result, configuration and model at the orchestrator,
what a silo kept of the ledger there. docs/lifetimes.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.federation import Federation, federation_of
from conf.errors import ConfigError

if TYPE_CHECKING:
    from client.node.silo_forgetting import SiloFiles

JOB_LOGS = "job_logs"
"""What the jobs on this machine have said, of whichever runs: forgotten alone, and for itself."""
KINDS = ("checkpoints", "logs", "errors", "updates", "states")
"""Of both sides; each side deletes those that it has."""
BY_HAND = "meadow forget"
"""Why something was deleted, in the ledger's line."""


def forget(arguments: Arguments) -> int:
    """Delete what is asked for, and print a line for each side."""
    run_id = arguments.get("run")
    if arguments.get("what") == JOB_LOGS:
        print("\n".join(list(_job_logs(arguments))))
        return 0
    if not run_id:
        raise arguments.wrong("run= is missing", "Name a run that has ended, or what=job_logs.")
    kinds = _kinds(arguments)
    # All is done before a reader of the lines can go away.
    lines = list(_lines(arguments, run_id, kinds))
    print("\n".join(lines))
    return 0


def _job_logs(arguments: Arguments) -> Iterator[str]:
    """Forget what the caller's jobs on this machine have said until now."""
    from azureml_jobs.backends.kept_logs import forget_logs
    from conf.federation_folder import FederationFolder

    federation = federation_of(arguments)
    if not federation.backend.files_here:
        hint = "Azure ML keeps what a job has said for as long as the job (docs/lifetimes.md)."
        raise arguments.wrong("what=job_logs is of jobs on this machine", hint)
    federation.backend.check_exists()
    folder = FederationFolder.of(federation.conf.federation)
    for part in federation.chosen(arguments.get("silo")):
        name = "server" if part == "orchestrator" else f"silo-{part}"
        files, size = forget_logs(folder.job(name))
        yield f"{part}: {files} files, {size} bytes of its job's log deleted"


def _kinds(arguments: Arguments) -> list[str]:
    """Return what to delete; raises ConfigError MDW-111 for a kind that there is not."""
    kinds = [kind for kind in arguments.get("what").split(",") if kind] or list(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise arguments.wrong(
                f"'{kind}' is not a kind of file", f"There are {', '.join(KINDS)}."
            )
    return kinds


def _lines(arguments: Arguments, run_id: str, kinds: list[str]) -> Iterator[str]:
    if arguments.has("state"):
        yield _at_a_silo_by_hand(arguments, run_id, kinds)
        return
    federation = federation_of(arguments)
    if not _has_a_federation(federation):
        yield _of_a_folder(run_id, kinds)
        return
    if federation.has_orchestrator:
        yield _at_the_orchestrator(federation, run_id, kinds)
    for silo in federation.chosen(arguments.get("silo")):
        if silo != "orchestrator":
            yield f"{silo}: {_at_a_silo(federation, silo, run_id, kinds)}"


def _has_a_federation(federation: Federation) -> bool:
    if not federation.backend.files_here:
        return True
    try:
        federation.backend.check_exists()
    except ConfigError:
        return False
    return True


def _of_a_folder(run: str, kinds: list[str]) -> str:
    """Forget a run of this machine that no federation has: a simulation's."""
    from conf.resume import folder_of
    from server.run.run_forgetting import forget_run

    folder = folder_of(run)
    return f"{folder}: {forget_run(folder.name, folder, None, kinds, BY_HAND)}"


def _at_the_orchestrator(federation: Federation, run_id: str, kinds: list[str]) -> str:
    from server.store.expired_runs import forget_stored_run

    folder = Path(federation.conf.run.output) / run_id
    done = forget_stored_run(federation.store, federation.queue, run_id, folder, kinds, BY_HAND)
    return f"orchestrator: {done}"


def _at_a_silo(federation: Federation, silo: str, run_id: str, kinds: list[str]) -> str:
    """Forget a run at a silo of this machine, or in the storage that the federation's file names."""
    from client.node.state_store import SiloStateStore
    from conf.federation_folder import FederationFolder
    from conf.schema import SiloConf

    place = federation.conf.federation.silos.get(silo, SiloConf()).state or ""
    if federation.backend.files_here:
        folder = FederationFolder.of(federation.conf.federation).job(f"silo-{silo}") / "state"
        return _told(_files(silo, folder, place if "://" not in place else ""), run_id, kinds)
    if not place:
        return "its job's disk has ended with the job; for its state give state_store=PLACE"
    from azureml_jobs.storage.opened import open_store
    from client.node.silo_forgetting import SiloFiles

    states = SiloStateStore(lambda: open_store(place), silo)
    return _told(SiloFiles(states=states), run_id, kinds)


def _at_a_silo_by_hand(arguments: Arguments, run_id: str, kinds: list[str]) -> str:
    silo = arguments.get("silo")
    if not silo:
        raise arguments.wrong("state=FOLDER needs silo=NAME")
    folder = Path(arguments.get("state"))
    if not folder.is_dir():
        raise arguments.wrong(f"state={folder} is not a folder")
    files = _files(silo, folder, arguments.get("state_store"))
    return f"{silo}: {_told(files, run_id, kinds)}"


def _files(silo: str, folder: Path, place: str) -> SiloFiles:
    """Return what a silo's node keeps in its state folder, and its algorithm's states there or at
    another `place`.
    """
    from azureml_jobs.storage.opened import open_store
    from client.node.job import OWN_STATES
    from client.node.journal import UpdateJournal
    from client.node.silo_forgetting import SiloFiles
    from client.node.state_store import SiloStateStore
    from client.node.witness import LedgerRecord

    if not folder.is_dir():
        return SiloFiles()
    where = place or str(folder / OWN_STATES)
    states = None
    if place or Path(where).is_dir():
        states = SiloStateStore(lambda: open_store(where), silo)
    return SiloFiles(UpdateJournal(folder), states, LedgerRecord(folder))


def _told(files: SiloFiles, run_id: str, kinds: list[str]) -> str:
    try:
        done = files.forget(run_id, kinds)
    finally:
        if files.states is not None:
            files.states.close()
    return ", ".join(done) + " deleted" if done else "nothing of that kind was there"
