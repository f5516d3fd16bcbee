"""Ghost clipping gives what the gradients of examples give, and never more than the norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client.models import build_model
from client.privacy.ghost_gradients import Ghost, check_layers
from client.privacy.sampling import Part
from client.privacy.unit_gradients import check_ghost, unit_gradients
from conf.compose import compose
from conf.errors import ConfigError, SiloError
from conf.schema import SampleDpConf
from tests.client.privacy.test_clipping_bound import EXAMPLES, FAMILIES, Family, Held
from tests.client.privacy.test_sample_dp import HARDLY_ANY, Points, moved_by, scope

CLIP = 0.05
UNIT = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 4, 5, 5])
SHARED = nn.Linear(4, 4)


def moved(family: Family, how: str, groups: Any = None, clip: float = CLIP) -> Tensor:
    """Return by what a step over all examples moves the weights, without noise worth its name."""
    count = EXAMPLES if groups is None else len(set(groups.tolist()))
    words = [f"trainer.batch_size={count}", f"privacy.clip_norm={clip}", "trainer.lr=1"]
    asked = [f"privacy.gradients={how}", f"privacy.unit={'example' if groups is None else 'group'}"]
    state = {name: tensor.clone() for name, tensor in family.model.state_dict().items()}
    found = moved_by(
        scope(*words, *asked),
        HARDLY_ANY,
        dataset=Held(family.examples),
        task=family.task,
        net=family.model,
        groups=groups,
    )
    family.model.load_state_dict(state)
    return found


@pytest.mark.parametrize("groups", [None, UNIT.numpy()], ids=["examples", "groups"])
@pytest.mark.parametrize("clip", [CLIP, 100.0], ids=["clipped", "whole"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_step_is_that_of_the_gradients_of_examples(kind: str, clip: float, groups: Any) -> None:
    torch.manual_seed(0)
    family = FAMILIES[kind]()
    hooks, ghost = (moved(family, how, groups, clip) for how in ("hooks", "ghost"))
    assert hooks.norm() > 0
    assert (hooks - ghost).norm() <= 1e-4 * hooks.norm()


def test_a_residual_network_is_trained_the_same() -> None:
    class Grey(Points):
        contract = FAMILIES["images"]().task.contract

    run = scope("model=resnet18", "model.norm=group")
    net = build_model(run.model, Grey(), seed=1)
    family = Family(Grey(), net, FAMILIES["images"]().examples[:4], None)
    hooks, ghost = (moved(family, how) for how in ("hooks", "ghost"))
    assert (hooks - ghost).norm() <= 1e-3 * hooks.norm() and hooks.norm() > 0


def test_a_far_example_moves_no_more_than_the_norm() -> None:
    for kind in ("classes", "images", "numbers", "tokens", "pixels"):
        torch.manual_seed(0)
        family = FAMILIES[kind]()
        before = moved(family, "ghost") * EXAMPLES
        family.examples[-1] = family.far
        after = moved(family, "ghost") * EXAMPLES
        assert after.isfinite().all() and (after - before).norm() <= 2 * CLIP * 1.001, kind


def sums(model: nn.Module, inputs: Tensor, losses: Any, unit: Tensor | None = None) -> Tensor:
    """Return the clipped sum of some examples."""
    part = Part(torch.arange(len(inputs)), unit)
    with unit_gradients(model, SampleDpConf(name="sample_dp", gradients="ghost")) as gradients:
        gradients.take(losses(model(inputs)), part)
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1e-6, 1e-5, 1e-4])
def test_terms_that_cancel_hide_no_norm(grouped: bool, shift: float) -> None:
    """An example that is made so that its norm, in float32, would come out as nothing."""
    model = nn.Linear(64, 64, bias=False)
    row = torch.randn(64, generator=torch.Generator().manual_seed(0))
    # What comes back is the opposite for two inputs that differ by very little.
    pair = torch.stack([row, row * (1 + shift)]) * 1e3
    signs = torch.tensor([1.0, -1.0]).view(2, 1) * 1e3
    unit = torch.tensor([0, 0]) if grouped else None
    inputs = pair if grouped else pair[None]
    found = sums(model, inputs, lambda out: (out * signs).flatten(1).sum(1), unit)
    assert found.norm() <= 1.001


def test_an_example_without_a_finite_norm_moves_nothing_and_no_other_one() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(12, 1))
    inputs = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0))
    without = sums(model, inputs[:3], lambda out: out.flatten())
    for bad in (torch.nan, torch.inf, 1e30):
        worse = inputs.clone()
        worse[3] = bad
        worse[3, 0, 0] = -1e30
        found = sums(model, worse, lambda out: out.flatten() * 1e30)
        assert found.isfinite().all(), bad
        named = sums(
            model, torch.cat([inputs[:3], worse[3:] * torch.nan]), lambda out: out.flatten()
        )
        torch.testing.assert_close(named, without, atol=1e-6, rtol=1e-4)


class Twice(nn.Module):
    """A layer that is used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.layer(self.layer(rows))
        return found


class Apart(nn.Module):
    """A layer that sees the pieces of examples as if each were one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.layer(rows.reshape(-1, 2)).reshape(len(rows), -1)
        return found


class InPlace(nn.Module):
    """A layer whose output is changed afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.layer(rows)
        found *= 2
        return found


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Twice(), "MDW-374: .*layer .Linear. is used more than once"),
        (Apart(), "MDW-372: .*layer has no gradient of each example"),
        (InPlace(), "MDW-372: .*layer, .* is changed in place"),
    ],
)
def test_a_model_that_does_other_than_it_is_thought_is_refused(model: nn.Module, said: str) -> None:
    with pytest.raises(SiloError, match=said):
        sums(model, torch.ones(3, 4), lambda out: out.sum(1))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.PReLU()), "0 .PReLU. is of a kind"),
        (nn.Sequential(nn.LSTM(2, 2)), "0 .LSTM. is of a kind"),
        (nn.Sequential(SHARED, nn.ReLU(), nn.ModuleList([nn.Linear(4, 4)])), ""),
    ],
)
def test_a_layer_that_is_not_known_is_refused_by_name(model: nn.Module, said: str) -> None:
    if not said:
        model[2][0].weight = SHARED.weight  # type: ignore[index]
        said = "2.0 .Linear. shares a weight with 0"
    with pytest.raises(SiloError, match=f"MDW-374: .*{said}"):
        check_layers(model)
    with pytest.raises(SiloError, match="MDW-374"):
        Ghost(model, 1.0)


def test_clipping_of_each_layer_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"MDW-105: privacy.gradients=ghost"):
        compose(["privacy=sample_dp", "privacy.gradients=ghost", "privacy.clipping=per_layer"])
    asked = SampleDpConf(name="sample_dp", gradients="ghost", clipping="per_layer")
    with pytest.raises(SiloError, match=r"MDW-374: .*per_layer"):
        check_ghost(nn.Linear(1, 1), asked)


def test_a_draw_of_nobody_leaves_nothing_in_the_weights() -> None:
    model = nn.Linear(2, 2)
    with unit_gradients(model, SampleDpConf(name="sample_dp", gradients="ghost")) as gradients:
        gradients.take_none()
        assert all(torch.equal(w.grad, torch.zeros_like(w)) for w in model.parameters())  # type: ignore[arg-type]
    assert all(weight.grad is None for weight in model.parameters())


def test_many_units_come_in_parts_whatever_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.privacy.ghost_gradients.AT_ONCE", 1)
    torch.manual_seed(0)
    family = FAMILIES["images"]()
    for groups in (None, UNIT.numpy()):
        hooks, ghost = (moved(family, how, groups) for how in ("hooks", "ghost"))
        assert (hooks - ghost).norm() <= 1e-4 * hooks.norm()
