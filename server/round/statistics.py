"""Before round 1: what all silos know of their data together, which fits the model's first layer.

One exchange of sums (`Task.statistics`). Each silo's are admitted as those of an evaluation are: by
name, type, shape, and by what so many examples can add up to. The layer's buffers then are part of
the model: they travel with it, and no later message asks again.

    MDW-416 too few silos tell their statistics
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from client import sums
from client.input_layer import WithInputLayer
from client.models import build_model
from client.sums import SIZE
from client.tasks.base import SumSpec, Task
from conf.errors import RoundError
from conf.schema import Conf
from server.round.error_text import plain_reason
from server.round.exchange import exchange
from server.round.judgement import AdmissionFault
from server.round.patience import closing_of
from server.round.reply_sums import check_sums
from strategies.wire import protocol

log = logging.getLogger(__name__)


def fitted(
    conf: Conf,
    task: Task,
    grid: Grid,
    silos: Mapping[int, str],
    config: ConfigRecord,
    arrays: ArrayRecord,
) -> ArrayRecord:
    """Return a model's arrays with its first layer fitted to the data of all silos (by node id).

    The arrays as they are where the task needs no statistics, and where the run is private: then the
    layer goes by the contract's ranges. Raises RoundError MDW-416 where so few
    silos tell theirs that no round would close.
    """
    if conf.privacy.is_private:
        return arrays
    specs = statistic_specs(task)
    model = build_model(conf.model, task, conf.run.seed)
    if not specs or not isinstance(model, WithInputLayer):
        return arrays
    model.load_state_dict(protocol.to_state(arrays))
    with torch.no_grad():
        model.input.fit(_asked(conf, grid, silos, config, specs))
    return protocol.to_record(model.state_dict())


def statistic_specs(task: Task) -> dict[str, SumSpec]:
    """Return the form of a silo's statistics with the number of its examples; empty without any."""
    specs = dict(task.statistic_specs())
    return {**specs, SIZE: SumSpec()} if specs else {}


def _asked(
    conf: Conf,
    grid: Grid,
    silos: Mapping[int, str],
    config: ConfigRecord,
    specs: Mapping[str, SumSpec],
) -> dict[str, Tensor]:
    config[protocol.ROUND] = 1
    content = RecordDict({protocol.CONFIG: config})
    questions = [Message(content, node, protocol.STATISTICS) for node in sorted(silos)]
    closing = closing_of(conf.run, len(silos))
    union = sums.Union()
    told = 0
    lacking: dict[str, str] = {}
    for node, reply, _ in exchange(grid, questions, closing):
        silo = silos[node]
        try:
            union.add(silo, _admitted(reply, specs))
            told += 1
        except AdmissionFault as fault:
            lacking[silo] = str(fault)
            log.warning("%s tells no statistics: %s", silo, fault)
    if told < closing.quorum or told == 0:
        reasons = "; ".join(f"{silo}: {reason}" for silo, reason in sorted(lacking.items()))
        raise RoundError(
            "MDW-416",
            f"Before round 1, {told} of {len(silos)} silos tell the statistics that the task needs,"
            f" and {closing.quorum} have to ({reasons}).",
            "Correct what the silos say; nothing was trained.",
        )
    return union.total()


def _admitted(reply: Message, specs: Mapping[str, SumSpec]) -> dict[str, Tensor]:
    if reply.has_error():
        raise AdmissionFault("MDW-416", plain_reason(reply.error.reason))
    record = reply.content.array_records.get(protocol.SUMS)
    if record is None:
        raise AdmissionFault("MDW-416", "its owner tells none")
    check_sums(record, specs)
    return protocol.to_state(record)
