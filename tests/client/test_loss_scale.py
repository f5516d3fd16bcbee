"""The scale of fp16's loss is found once, kept over rounds, and tried again now and then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client.loss_scale import GOOD_STEPS, SCALE, LossScale, growth_interval

CPU = torch.device("cpu")


def weight() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    made = nn.Parameter(torch.zeros(1))
    return made, torch.optim.SGD([made], lr=1.0)


def scale(**more: object) -> LossScale:
    return LossScale(CPU, enabled=True, **more)  # type: ignore[arg-type]  # names of its arguments


def stepped(of: LossScale, gradient: float) -> bool:
    """Take one step whose gradient, scaled as it is, is given."""
    made, optimizer = weight()
    of.scaled(made.sum())
    made.grad = torch.tensor([gradient])
    of.unscale(optimizer)
    return of.step(optimizer)


@pytest.mark.parametrize(("steps", "interval"), [(1, 50), (10, 100), (500, 2000)])
def test_a_larger_scale_is_tried_every_tenth_round(steps: int, interval: int) -> None:
    assert growth_interval(steps) == interval


def test_a_step_that_overflows_is_not_taken_and_halves_the_scale() -> None:
    of = scale()
    assert not stepped(of, torch.inf)
    assert of.value == 32768
    assert stepped(of, 1.0)
    assert of.value == 32768


def test_the_scale_and_its_good_steps_go_on_from_round_to_round() -> None:
    kept = {SCALE: torch.tensor([256.0]), GOOD_STEPS: torch.tensor([48])}
    of = scale(kept=kept)
    assert of.value == 256
    assert stepped(of, 1.0) and of.value == 256
    of = scale(kept=of.state())
    assert stepped(of, 1.0)
    assert of.value == 512
    assert int(of.state()[GOOD_STEPS]) == 0


def test_gradients_are_those_of_the_loss_itself() -> None:
    made, optimizer = weight()
    of = scale()
    of.scaled(3 * made.sum()).backward()  # type: ignore[no-untyped-call]  # torch's own
    of.unscale(optimizer)
    assert made.grad is not None and made.grad.item() == 3
    # A step that was given up may begin again: torch's own unscales once.
    of.renew()
    of.scaled(made.sum())
    of.unscale(optimizer)


def test_without_fp16_there_is_no_scale_and_nothing_to_keep() -> None:
    made, optimizer = weight()
    of = LossScale(CPU, enabled=False)
    loss = made.sum()
    assert of.scaled(loss) is loss
    made.grad = torch.ones(1)
    of.unscale(optimizer)
    assert of.step(optimizer) and made.item() == -1 and of.state() == {}
