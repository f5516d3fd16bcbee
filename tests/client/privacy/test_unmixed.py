"""Nothing carries one example to another, or to a weight, past its clipped gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client.privacy import sample_dp
from conf.errors import SiloError
from strategies.silo_half import SiloHalf
from tests.client.privacy.test_sample_dp import (
    HARDLY_ANY,
    NORTH,
    Points,
    model,
    moved_by,
    scope,
)


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


def halves(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), layer, nn.Linear(4, 2))


@pytest.mark.parametrize("how", ["hooks", "ghost"])
@pytest.mark.parametrize(
    ("net", "said"),
    [
        (halves(nn.BatchNorm1d(4, affine=False)), "1 .BatchNorm1d. mixes"),
        (halves(frozen(nn.BatchNorm1d(4))), "1 .BatchNorm1d. mixes"),
        (nn.Sequential(frozen(nn.Embedding(3, 2, max_norm=1)), nn.Linear(2, 2)), "has max_norm"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="circular")), "padding_mode=circular"),
    ],
)
def test_a_layer_that_mixes_examples_is_refused_with_weights_and_without(
    net: nn.Module, said: str, how: str
) -> None:
    with pytest.raises(SiloError, match=f"MDW-372: .*{said}"):
        sample_dp.check(net, Points(), SiloHalf(), scope(f"privacy.gradients={how}"), NORTH)


def test_a_normalisation_that_stays_as_it_was_trained_is_none() -> None:
    class Still(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Still:
            return super().train(False)

    sample_dp.check(halves(frozen(Still(4))), Points(), SiloHalf(), scope(), NORTH)


class Follows(nn.Module):
    """A model that shifts what it sees by what it has seen before."""

    seen: Tensor

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.layers = model()
        self.in_place = in_place
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, rows: Tensor) -> Tensor:
        shifted = rows - self.seen
        new = self.seen + rows.detach().mean(0)
        if self.in_place:
            self.seen.copy_(new)
        else:
            self.seen = new
        found: Tensor = self.layers(shifted)
        return found


@pytest.mark.parametrize("how", ["hooks", "ghost"])
@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_model_keeps_of_examples_reaches_no_later_gradient(how: str, in_place: bool) -> None:
    asked = scope("trainer.batch_size=40", "trainer.epochs=3", f"privacy.gradients={how}")
    followed = moved_by(asked, HARDLY_ANY, net=Follows(in_place))
    alone = moved_by(asked, HARDLY_ANY, net=model())
    torch.testing.assert_close(followed, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("how", ["hooks", "ghost"])
def test_a_model_that_writes_to_a_weight_while_it_computes_is_refused(how: str) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model()
            self.code = nn.Parameter(torch.zeros(2), requires_grad=False)

        def forward(self, rows: Tensor) -> Tensor:
            self.code.copy_(rows.detach().mean(0))
            found: Tensor = self.layers(rows)
            return found

    with pytest.raises(SiloError, match=r"MDW-372: .*writes to its weight code"):
        moved_by(scope(f"privacy.gradients={how}"), 1.0, net=Writes())


def test_words_that_are_frequent_hide_no_gradient_of_another_example() -> None:
    def net(by_frequency: bool = True) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(4, 2, scale_grad_by_freq=by_frequency), nn.Flatten())

    asked = scope("privacy.gradients=ghost")
    with pytest.raises(SiloError, match=r"MDW-374: .*scale_grad_by_freq"):
        sample_dp.check(net(), Points(), SiloHalf(), asked, NORTH)
    sample_dp.check(net(False), Points(), SiloHalf(), asked, NORTH)


def test_weights_that_others_make_are_none_that_ghost_knows() -> None:
    made: Any = torch.nn.utils.spectral_norm(nn.Linear(2, 2))
    with pytest.raises(SiloError, match=r"MDW-374: .*weight_orig"):
        sample_dp.check(made, Points(), SiloHalf(), scope("privacy.gradients=ghost"), NORTH)
