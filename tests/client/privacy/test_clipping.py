"""A silo's change is never longer than the norm, whatever was trained, and its noise is what is said."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from client.privacy.clipping import Start, add_noise, clip, salt
from strategies.silo_half import SiloHalf


def model(size: float = 1.0) -> nn.Module:
    made = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(size)
    return made


def keeping(*names: str) -> SiloHalf:
    half = SiloHalf()
    half.keeps = names
    return half


def change(made: nn.Module, start: Start) -> dict[str, Tensor]:
    own = dict(made.named_parameters())
    return {n: (own[n] - before).detach().double() for n, before in start.parameters.items()}


def norm(made: nn.Module, start: Start) -> float:
    return math.sqrt(sum(float(one.square().sum()) for one in change(made, start).values()))


@torch.no_grad()
def trained(made: nn.Module, by: float) -> None:
    for weight in made.parameters():
        weight.add_(torch.randn_like(weight), alpha=by)
    for buffer in made.buffers():
        buffer.add_(torch.ones_like(buffer))


@pytest.mark.parametrize("size", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("to", [1e-6, 0.3, 10.0])
@pytest.mark.parametrize("by", [1e-9, 0.1, 1e6])
def test_no_change_is_longer_than_the_norm_however_large_weights_and_steps_are(
    size: float, to: float, by: float
) -> None:
    made = model(size)
    start = Start.of(made, SiloHalf())
    trained(made, by)
    before = norm(made, start)
    assert clip(made, start, to) == (before <= to)
    assert norm(made, start) <= to
    if before <= to / 2:
        assert norm(made, start) == before, "what is short is left as it is"
    salt(made, start, to, torch.Generator())
    assert norm(made, start) <= to or size * 1e-7 > to * 1e-3, "but for what rounding does"


def test_the_direction_stays() -> None:
    made = model()
    start = Start.of(made, SiloHalf())
    trained(made, 1.0)
    wanted = change(made, start)
    clip(made, start, 0.5)
    got = change(made, start)
    flat = [torch.cat([one.flatten() for one in of.values()]) for of in (wanted, got)]
    assert float(torch.cosine_similarity(flat[0], flat[1], dim=0)) > 0.99999
    assert 0.49 < norm(made, start) <= 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_change_that_is_not_finite_is_none(value: float) -> None:
    made = model()
    start = Start.of(made, SiloHalf())
    with torch.no_grad():
        trained(made, 1.0)
        made[0].weight[0, 0] = value
    within = clip(made, start, 1.0)
    assert not within
    assert norm(made, start) <= 1.0
    assert all(torch.isfinite(one).all() for one in made.parameters())


def test_buffers_go_back_and_personal_layers_stay_as_they_are() -> None:
    made = model()
    start = Start.of(made, keeping("2"))
    before = {n: b.clone() for n, b in made.named_buffers()}
    trained(made, 1.0)
    own = made[2].weight.detach().clone()
    clip(made, start, 1e-3)
    assert all(torch.equal(b, before[n]) for n, b in made.named_buffers())
    assert torch.equal(made[2].weight, own)
    assert set(start.parameters) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_the_noise_that_leaves_is_normal_and_as_wide_as_is_said() -> None:
    made = nn.Linear(400, 100)
    start = Start.of(made, SiloHalf())
    add_noise(made, start, 0.25, torch.Generator().manual_seed(1))
    noise = torch.cat([one.flatten() for one in change(made, start).values()])
    assert kstest(noise.numpy(), "norm", args=(0.0, 0.25)).pvalue > 1e-3
    assert kstest(noise.numpy(), "norm", args=(0.0, 0.26)).pvalue < 1e-3, "it can tell"


def test_the_salt_makes_two_updates_of_the_same_training_different() -> None:
    made = model()
    start = Start.of(made, SiloHalf())
    clip(made, start, 1.0)
    salt(made, start, 1.0, torch.Generator().manual_seed(1))
    first = {n: p.detach().clone() for n, p in made.named_parameters()}
    clip(made, start, 1.0)
    made.load_state_dict({**made.state_dict(), **start.parameters})
    salt(made, start, 1.0, torch.Generator().manual_seed(2))
    moved = sum(int((first[n] != p).sum()) for n, p in made.named_parameters())
    assert moved > 150 and norm(made, start) < 1e-3
