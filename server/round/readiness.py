"""Before round 1: is what a run brings fit to be trained, here and at each silo?

A dry round costs one batch. Without it a mistake in a task is told by the silos, after their data
was loaded and a round was lost; one in its metrics only after that round's training.

    MDW-406 too few silos that are ready
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch.utils.data import Dataset

from client.compute import for_scoring
from client.dry_round import dry_round
from client.loop import prepare
from client.model_state import check_state
from client.models import build_model
from client.tasks.base import Data, Task
from conf.errors import RoundError
from conf.schema import Conf, RunConf
from server.round import contract_answers
from server.round.dry_aggregation import dry_aggregation
from server.round.dry_half import dry_half
from server.round.error_text import plain_reason
from server.round.exchange import NODE_UNAVAILABLE, exchange
from server.round.gate import check_bounds
from server.round.noise_outlook import say_outlook
from server.round.patience import closing_of
from server.round.silo_noise import check_silo_noise
from strategies import build_strategy
from strategies.algorithm import Algorithm
from strategies.silo_half import belongs, check_keeps
from strategies.wire import protocol

log = logging.getLogger(__name__)

HERE: Final = "cpu"
"""Where a dry round is gone through before a run has a folder."""
GRACE_SECONDS: Final = 60.0
"""After enough silos are ready, for those that still load their data; later ones are simply asked
for round 1.
"""


def check_here(conf: Conf, task: Task, silos: int, data: Data | Dataset[Any] | None) -> None:
    """Go through a dry round of a run in this process, before it has a folder.

    `data` is a silo's, with which the algorithm's half there is tried too, or a few examples that
    are made up; without any only the model's state and the aggregation are tried. Raises DataError MDW-230
    to 239, 208 and 209 (`client.dry_round`, `server.round.dry_half`), ConfigError
    MDW-146 for personal layers that the model has not got, and RoundError MDW-405
    (`server.round.dry_aggregation`), MDW-409 (`server.round.gate`) or MDW-413
    (`server.round.silo_noise`).
    """
    # Whatever the silos train on: this process may have no GPU, and what is compiled is thrown away.
    trainer = for_scoring(conf.trainer)
    model = prepare(build_model(conf.model, task, seed=0), trainer, HERE)
    examples = data.train if isinstance(data, Data) else data
    if examples is None:
        check_state(model)
    else:
        dry_round(model, examples, task, trainer)
    arrays = protocol.to_record(model.state_dict())
    parameters = [name for name, _ in model.named_parameters()]
    strategy = build_strategy(conf.strategy)
    if isinstance(strategy, Algorithm):
        check_keeps(list(arrays), strategy.keeps)
    check_bounds(conf.run, strategy)
    check_silo_noise(conf, strategy, silos)
    weights = sum(p.numel() for n, p in model.named_parameters() if not _stays(n, strategy))
    say_outlook(conf, conf.run.cohort or silos, weights)
    dry_aggregation(strategy, arrays, conf.run.cohort or silos, parameters)
    if isinstance(data, Data) and isinstance(strategy, Algorithm):
        dry_half(replace(conf, trainer=trainer), strategy, model, task, data)


def _stays(name: str, strategy: Strategy) -> bool:
    return isinstance(strategy, Algorithm) and belongs(name, strategy.keeps)


def ask_silos(grid: Grid, silos: Mapping[int, str], run: RunConf, config: ConfigRecord) -> None:
    """Let each silo (by node id) go through a dry round on its own first examples.

    Those that can't are named in the log, and will fail in their rounds. Raises RoundError MDW-406
    where so many can't that no round would close.
    """
    config[protocol.ROUND] = 1
    content = RecordDict({protocol.CONFIG: config})
    questions = [Message(content, node, protocol.READINESS) for node in sorted(silos)]
    closing = replace(closing_of(run, run.cohort or len(silos)), grace=GRACE_SECONDS)
    needed = closing.quorum
    unfit: dict[str, str] = {}
    answers: list[contract_answers.Answer] = []
    for node, reply, _ in exchange(grid, questions, closing):
        silo = silos[node]
        if not reply.has_error():
            answers.append(contract_answers.Answer(silo))
            continue
        if reply.error.code == NODE_UNAVAILABLE:
            continue
        unfit[silo] = plain_reason(reply.error.reason)
        answers += contract_answers.of_reason(silo, reply.error.reason)
        log.warning("%s is not ready: %s", silo, unfit[silo])
    contract_answers.say(answers)
    if len(silos) - len(unfit) >= needed:
        return
    reasons = "; ".join(f"{silo}: {reason}" for silo, reason in sorted(unfit.items()))
    raise RoundError(
        "MDW-406",
        f"Before round 1, {len(silos) - len(unfit)} of {len(silos)} silos are ready, and a round"
        f" needs {needed} ({reasons}).",
        "Correct what the silos say; nothing was trained.",
    )
