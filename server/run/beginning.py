"""What a run begins with: a new folder and first weights, or what there is of a run that is resumed."""

from __future__ import annotations

from datetime import UTC, datetime

from azureml_jobs.storage.base import Store
from azureml_jobs.storage.folder_store import FolderStore
from client.tasks import task_of
from conf.errors import CheckpointError, ConfigError
from conf.schema import Conf, Silo
from server.run.checkpoint import Checkpoints, RunState
from server.run.environment import environment
from server.run.history import SEGMENTS, read_history
from server.run.result import RunResult
from server.run.run_folder import RunFolder, find
from server.scoring.evaluation import first_weights
from strategies.wire import run_config


def first_result(
    conf: Conf, members: list[Silo], mode: str, folder: RunFolder, before: RunResult | None
) -> RunResult:
    """Return the summary of a run that is about to start; `before` is what it said until now."""
    return RunResult(
        run_id=folder.run_id,
        mode=mode,
        task=conf.task.title,
        strategy=conf.strategy.name,
        silos=[silo.name for silo in members],
        folder=str(folder.path),
        seed=conf.run.seed,
        engine=conf.simulation.engine if mode == "simulate" else "",
        shown=dict(task_of(conf.task).shown),
        environment=environment(conf),
        config_digest=run_config.digest(run_config.pack(conf)),
        started=before.started if before else datetime.now(UTC).isoformat(timespec="seconds"),
    )


def commands(before: RunResult | None, command: str) -> str:
    """Return the commands that were given for a run, each once."""
    given = before.command.splitlines() if before else []
    if command and command not in given:
        given.append(command)
    return "\n".join(given)


def new_run(conf: Conf, command: str, store: Store | None) -> tuple[RunFolder, RunState]:
    """Begin a new run, or continue with what a store that outlives folders has of it."""
    state = Checkpoints(store).load() if store else None
    if state is None:
        if store is not None and store.list(SEGMENTS):
            # They were forgotten: to begin at round 0 would cut back the record of what happened.
            hint = "Start a new run from its model: model.init=RUN_ID."
            raise CheckpointError("MDW-503", f"The run {conf.run.name} has no checkpoint.", hint)
        state = RunState(0, first_weights(conf))
    return RunFolder.create(conf, command, anew=store is None), state


def resumed_run(conf: Conf, store: Store | None) -> tuple[RunFolder, RunState]:
    """Continue the run that `run.resume` names, if there is something left of it to do."""
    folder = find(str(conf.run.resume), conf.run.output)
    state = Checkpoints(store or FolderStore(folder.path)).load()
    before = stored_result(folder)
    if state is None:
        if next(read_history(folder.path), None) is not None:
            hint = "Restore its checkpoints, or start it anew without run.resume."
            raise CheckpointError("MDW-503", f"The run {folder.run_id} has no checkpoint.", hint)
        # It ended before its first weights were stored: its configuration is all there is, and
        # enough.
        return folder, RunState(0, first_weights(conf))
    ended = before is not None and before.status in ("finished", "stopped_early")
    stopped = before is not None and before.status == "stopped_early"
    if conf.run.rounds < state.round or (ended and (stopped or conf.run.rounds == state.round)):
        how = "stopped early, as configured" if stopped else f"has done {state.round} rounds"
        hint = f"Raise run.rounds, or start a new run from its model: model.init={folder.known_as}."
        raise ConfigError(
            "MDW-108", f"run.resume={conf.run.resume}: nothing is left to do, the run {how}.", hint
        )
    return folder, state


def stored_result(folder: RunFolder) -> RunResult | None:
    """Return what result.json says; None where there is none, or one that is damaged.

    It is derived, and written anew: the checkpoint is the truth. Raises CheckpointError MDW-505 for
    one of another version, which belongs to a run that this Meadow can't continue.
    """
    try:
        return RunResult.read(folder.path)
    except CheckpointError as error:
        if error.code == "MDW-505":
            raise
        return None
