"""The gradient of each unit is its own, whatever is computed beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from client.privacy.sampling import Part
from client.privacy.unit_gradients import unit_gradients
from conf.errors import SiloError
from conf.schema import SampleDpConf

ASKED = SampleDpConf(name="sample_dp")
ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
ALL = torch.arange(5)
UNIT = torch.tensor([0, 0, 1, 2, 2])


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))


def by_hand(model: nn.Module, rows: Tensor) -> list[Tensor]:
    """Return the gradient of the mean of some rows' losses."""
    return list(torch.autograd.grad(model(rows).square().mean(), list(model.parameters())))


@pytest.mark.parametrize("unit", [None, UNIT])
def test_each_unit_has_the_gradient_of_the_mean_loss_of_its_examples(unit: Tensor | None) -> None:
    model = net()
    part = Part(ALL, unit)
    with unit_gradients(model, ASKED) as gradients:
        gradients.take(model(ROWS).square().flatten(), part)
        held = [weight.grad_sample.clone() for weight in model.parameters()]  # type: ignore[attr-defined]
        gradients.take_none()
        empty = [tuple(weight.grad_sample.shape) for weight in model.parameters()]  # type: ignore[attr-defined]
    assert empty == [(0, *weight.shape) for weight in model.parameters()]
    for one in range(part.units):
        rows = ROWS[one : one + 1] if unit is None else ROWS[unit == one]
        for found, expected in zip(held, by_hand(model, rows), strict=True):
            torch.testing.assert_close(found[one], expected)


def test_the_model_is_left_as_it_was() -> None:
    model = net()
    with unit_gradients(model, ASKED) as gradients:
        gradients.take(model(ROWS).square().flatten(), Part(ALL, None))
    assert model[1].inplace  # type: ignore[index]
    for weight in model.parameters():
        assert weight.grad is None and not hasattr(weight, "grad_sample")
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


class Unused(nn.Module):
    """A model with a weight that no example moves."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 1)
        self.idle = nn.Linear(3, 1)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.used(rows)
        return found


def test_a_weight_without_a_gradient_of_each_example_is_refused() -> None:
    model = Unused()
    with (
        pytest.raises(SiloError, match=r"MDW-372: .*idle.weight has no gradient"),
        unit_gradients(model, ASKED) as gradients,
    ):
        gradients.take(model(ROWS).flatten(), Part(ALL, None))
