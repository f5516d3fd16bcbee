"""Max-pooling without places has the values of torch's own, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from client import pooling
from client.pooling import MaxPool2

SIDES = [(8, 8), (24, 24), (5, 7), (2, 3)]


def images(height: int, width: int) -> Tensor:
    """Return images with many equal pixels."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, height, width, generator=generator).round(decimals=1)


@pytest.mark.parametrize("height, width", SIDES)
def test_without_a_gradient_the_values_are_those_of_torch(height: int, width: int) -> None:
    given = images(height, width)
    expected = nn.MaxPool2d(2)(given)
    assert torch.equal(MaxPool2()(given), expected)
    with torch.inference_mode():
        assert torch.equal(MaxPool2()(given.requires_grad_(False)), expected)


def test_one_image_alone_is_pooled_as_well() -> None:
    given = images(6, 6)[0]
    assert torch.equal(MaxPool2()(given), nn.MaxPool2d(2)(given))


def test_the_places_are_not_looked_for_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def places(*args: object) -> None:
        raise AssertionError("torch's own pooling was called")

    monkeypatch.setattr(nn.MaxPool2d, "forward", places)
    MaxPool2()(images(8, 8))
    with pytest.raises(AssertionError, match="was called"):
        MaxPool2()(images(8, 8).requires_grad_())


def test_a_gradient_goes_where_torch_sends_it() -> None:
    gradients = []
    for pool in (MaxPool2(), nn.MaxPool2d(2)):
        given = images(8, 6).requires_grad_()
        pool(given).square().sum().backward()
        gradients.append(given.grad)
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]  # both are there


def test_a_pixel_that_is_no_number_is_not_hidden_by_its_neighbours() -> None:
    given = images(4, 4)
    given[0, 0, 3, 2] = torch.nan
    pooled = MaxPool2()(given)
    assert torch.isnan(pooled[0, 0, 1, 1]) and int(torch.isnan(pooled).sum()) == 1
    assert torch.equal(pooled.nan_to_num(9), nn.MaxPool2d(2)(given).nan_to_num(9))


def test_channels_that_lie_side_by_side_are_left_to_torch() -> None:
    given = images(8, 8).contiguous(memory_format=torch.channels_last)
    assert not pooling._values_alone(given)
    assert torch.equal(MaxPool2()(given), nn.MaxPool2d(2)(given))


def test_an_image_of_one_row_is_refused_by_both() -> None:
    # torch refuses it with its own words; here it would become an image of no pixel.
    for pool in (MaxPool2(), nn.MaxPool2d(2)):
        with pytest.raises(RuntimeError):
            pool(images(1, 4))
