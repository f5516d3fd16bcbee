"""`meadow check` of a run, where no federation is named: a dry round on this machine, a line for
each thing that is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flwr.app import ArrayRecord
    from torch import nn

    from client.tasks.base import Task
    from conf.schema import Conf, Silo

OF_A_RUN: Final = ("task", "data", "model", "trainer", "strategy")
"""Groups of what is trained; a federation has the others."""
OF_A_FEDERATION: Final = ("federation", "orchestrator")


def is_about_a_run(overrides: Sequence[str]) -> bool:
    """Return whether overrides say what is trained and nothing of a federation."""
    groups = {override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides}
    return not groups.isdisjoint(OF_A_RUN) and groups.isdisjoint(OF_A_FEDERATION)


def check_run(conf: Conf) -> int:
    """Go through a dry round of a run, and print what was seen; raises what is wrong with it."""
    from client.tasks import class_counts, task_of
    from conf.silos import silos
    from server.round.readiness import check_here

    members = silos(conf)
    task = task_of(conf.task)
    _say("task", f"{conf.task.title}, {_shown(task)}")
    class_counts(task, members)
    _say("data", _data(task, members))
    model = _model(conf, task)
    _say("model", model)
    check_here(conf, task, len(members), task.data(members[0]))
    _say("batch", f"through {', '.join(METHODS)}: nothing is wrong")
    _say("algorithm", "its half at the silos trains, and sends what the other half expects")
    _say("aggregation", f"{conf.strategy.name} gives a model of the same arrays")
    print("A run of this would start: meadow simulate with the same words.")
    return 0


METHODS: Final = ("output", "loss", "size", "sums", "metrics")


def _say(what: str, seen: str) -> None:
    print(f"{what:12} {seen}", flush=True)


def _shown(task: Task) -> str:
    better = {"max": "more is better", "min": "less is better"}
    name, direction = next(iter(task.shown.items()))
    return f"compared by {name} ({better[direction]})"


def _data(task: Task, members: Sequence[Silo]) -> str:
    from client.batches import length

    each = [task.data(silo) for silo in members]
    train = [length(data.train) for data in each]
    validation = sum(length(data.validation) for data in each)
    test = sum(length(data.test) for data in each)
    silos = "1 silo" if len(members) == 1 else f"{len(members)} silos"
    least = "" if len(train) == 1 else f" ({min(train)} to {max(train)} a silo)"
    return (
        f"{silos}: {sum(train)} examples to train on{least}, {validation} validation, {test} test"
    )


def _model(conf: Conf, task: Task) -> str:
    from client.models import build_model
    from strategies.wire import protocol
    from strategies.wire.objects import view

    model: nn.Module = build_model(conf.model, task, seed=0)
    arrays: ArrayRecord = protocol.to_record(model.state_dict())
    parameters = sum(weight.numel() for weight in model.parameters())
    size = sum(view(array).nbytes for array in arrays.values())
    return f"{conf.model.name}: {parameters:,} parameters, {len(arrays)} arrays, {size / 1000:,.1f} kB a message"
