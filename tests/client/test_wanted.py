"""Work that nobody waits for ends at its next look; all other work is left alone."""

from __future__ import annotations

import threading

import pytest

from client import wanted


def test_work_ends_once_its_round_has_closed_and_only_in_its_own_thread() -> None:
    closed = threading.Event()
    with wanted.until(closed):
        wanted.check()
        closed.set()
        with pytest.raises(wanted.NotWanted):
            wanted.check()
        other = threading.Thread(target=wanted.check)
        other.start()
        other.join()
    wanted.check()


def test_training_and_evaluation_look_from_batch_to_batch() -> None:
    from client import loop
    from client.models import build_model
    from client.tasks import task_of
    from conf.compose import compose

    conf = compose(["task=digits", "data.examples=60"])
    task = task_of(conf.task)
    model = build_model(conf.model, task, seed=0)
    examples = task.made_up()
    assert examples is not None
    closed = threading.Event()
    closed.set()
    with wanted.until(closed):
        with pytest.raises(wanted.NotWanted):
            loop.train(model, examples, task, conf.trainer, seed=1)
        with pytest.raises(wanted.NotWanted):
            loop.evaluate(model, examples, task, conf.trainer)
