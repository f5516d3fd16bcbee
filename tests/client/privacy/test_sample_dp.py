"""DP-SGD at a silo: each example's share is bounded, the noise is what was counted, and nothing else
of the examples leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from client.models import build_model
from client.privacy import sample_dp
from client.privacy.accountant import Release, epsilon
from client.privacy.privacy_unit import count_of
from client.privacy.sampling import Plan
from client.tasks.base import Contract, Data, Task
from client.tasks.kinds.classification import Classification
from client.tasks.kinds.multi_label import MultiLabel
from client.tasks.kinds.regression import Regression
from client.tasks.kinds.segmentation import Segmentation
from client.tasks.kinds.token_classification import TokenClassification
from conf.compose import compose
from conf.errors import ConfigError, DataError, SiloError
from conf.schema import RunScope, SampleDpConf, Silo
from strategies.silo_half import SiloHalf

NORTH = Silo("north")
SGD = ["trainer.momentum=0", "trainer.lr=1"]
HARDLY_ANY = 1e-9
"""A noise multiplier with which what is left is the clipped gradients."""


class Points(Classification):
    """Two numbers, two classes."""

    name = "points"
    contract = Contract((2,), ("no", "yes"))

    def data(self, silo: Silo) -> Data:
        raise NotImplementedError


def scope(*more: str) -> RunScope:
    conf = compose(["privacy=sample_dp", "strategy.weighting=equal", *SGD, *more])
    names = [field.name for field in dataclasses.fields(RunScope)]
    run = RunScope(**{name: getattr(conf, name) for name in names})
    return dataclasses.replace(
        run, trainer=dataclasses.replace(run.trainer, precision="fp32", deterministic="true")
    )


def points(examples: int = 40) -> TensorDataset:
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 2, generator=draws)
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


def moved_by(
    run: RunScope,
    noise: float,
    *,
    dataset: Any = None,
    task: Task | None = None,
    net: nn.Module | None = None,
    half: SiloHalf | None = None,
    silo: Silo = NORTH,
    groups: Any = None,
) -> Tensor:
    """Return by what a round moves the weights, flat."""
    dataset = points() if dataset is None else dataset
    net = model() if net is None else net
    before = [p.detach().clone() for p in net.parameters()]
    plan = sample_dp.plan_for(run, dataset, groups)
    release = Release(plan.rate, noise, plan.steps)
    sample_dp.train(
        net,
        dataset,
        task or Points(),
        run,
        half or SiloHalf(),
        release,
        silo=silo,
        round=1,
        groups=groups,
    )
    after = [p.detach() for p in net.parameters()]
    return torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)])


class Flat(Points):
    """A task without a gradient: what moves its weights is noise alone."""

    def example_losses(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return output.sum(1) * 0.0


def test_the_noise_that_leaves_has_the_distribution_that_was_counted() -> None:
    wide = nn.Linear(2, 4000)
    # Seeded: one in a thousand draws of chance would fail.
    run = scope("trainer.batch_size=8", "privacy.clip_norm=0.5", "privacy.test_seed=1")
    moved = moved_by(run, 2.0, task=Flat(), net=wide)
    # 5 steps, each of noise with a deviation of 2 * .5, divided by the 8 that are expected.
    expected = 2.0 * 0.5 / 8 * np.sqrt(5)
    assert stats.kstest(moved.numpy() / expected, "norm").pvalue > 1e-3
    assert stats.kstest(moved.numpy() / (1.2 * expected), "norm").pvalue < 1e-6, "it would show"


@pytest.mark.parametrize("key", ["privacy.clip_norm", "privacy.metrics_loss_at_most"])
def test_a_norm_so_small_that_its_noise_would_round_to_nothing_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        scope(f"{key}=1e-45")
    run = scope("trainer.batch_size=40", "privacy.clip_norm=1e-6", "privacy.test_seed=1")
    moved = moved_by(run, 0.4, task=Flat(), net=at_zero(nn.Linear(2, 4000)))
    assert 0.9 < moved.std() / (0.4 * 1e-6 / 40) < 1.1


def at_zero(net: nn.Module) -> nn.Module:
    """Return a model whose weights are 0, in which the smallest noise can be seen."""
    for weight in net.parameters():
        nn.init.zeros_(weight)
    return net


@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
def test_an_example_moves_the_weights_by_no_more_than_its_clipped_gradient(clipping: str) -> None:
    run = scope("trainer.batch_size=40", "privacy.clip_norm=0.01", f"privacy.clipping={clipping}")
    data = points()
    # Every example is in every draw: two sets differ by one example's gradient alone.
    whole = moved_by(run, HARDLY_ANY, dataset=data)
    inputs, labels = data.tensors
    far = inputs.clone()
    far[7] = 1e6
    other = moved_by(run, HARDLY_ANY, dataset=TensorDataset(far, 1 - labels))
    assert (whole * 40).norm() <= 40 * 0.01 + 1e-6
    assert whole.norm() > 0
    changed = labels.clone()
    changed[7] = 1 - changed[7]
    one = moved_by(run, HARDLY_ANY, dataset=TensorDataset(far, changed))
    assert ((one - whole) * 40).norm() <= 2 * 0.01 + 1e-6
    assert other.isfinite().all()


GROUPS = np.array([0] * 6 + [1] * 2 + list(range(2, 34)))
"""Of 40 examples: a group of six, one of two, and 32 of one."""
CLIP = 0.01


def of_groups(groups: Any, dataset: Any = None, *more: str, net: Any = None) -> Tensor:
    """Return the sum of a step over all groups, in units of the clipping norm."""
    batch = count_of(groups)
    words = ["privacy.unit=group", f"trainer.batch_size={batch}", f"privacy.clip_norm={CLIP}"]
    run = scope(*words, *more)
    return moved_by(run, HARDLY_ANY, dataset=dataset, groups=groups, net=net) * batch / CLIP


@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
@pytest.mark.parametrize("inside", [2, 6])
def test_all_examples_of_a_group_together_move_the_sum_by_no_more_than_one(
    clipping: str, inside: int
) -> None:
    group = 0 if inside == 6 else 1
    within = np.flatnonzero(group == GROUPS)
    assert len(within) == inside
    inputs, labels = points().tensors
    inputs = inputs.clone()
    # As far away as can be, and all the same way: one by one each would move it by the norm.
    inputs[within] = 100.0
    labels = labels.clone()
    labels[within] = 0
    more = f"privacy.clipping={clipping}"
    data = TensorDataset(inputs, labels)
    whole = of_groups(GROUPS, data, more)
    others = np.flatnonzero(group != GROUPS)
    less = of_groups(GROUPS[others], TensorDataset(inputs[others], labels[others]), more)
    assert 0.9 < (whole - less).norm() <= 1 + 1e-4
    each = of_groups(np.arange(40), data, more) - of_groups(
        np.arange(len(others)), TensorDataset(inputs[others], labels[others]), more
    )
    assert each.norm() > 0.9 * inside, "as examples they move it by as many times the norm"


def test_a_group_s_gradient_is_the_mean_of_its_examples_and_of_one_its_own() -> None:
    inputs, labels = points(4).tensors
    twice = TensorDataset(torch.cat([inputs, inputs]), torch.cat([labels, labels]))
    once = of_groups(np.arange(4), TensorDataset(inputs, labels))
    both = of_groups(np.tile(np.arange(4), 2), twice)
    torch.testing.assert_close(both, once, atol=1e-5, rtol=1e-4)
    run = scope("trainer.batch_size=4", f"privacy.clip_norm={CLIP}")
    alone = moved_by(run, HARDLY_ANY, dataset=points(4)) * 4 / CLIP
    assert torch.equal(once, alone), "a group of one is an example"
    wide = of_groups(np.zeros(4, int), points(4), "privacy.clip_norm=10") * CLIP
    net = model()
    Points().example_losses(net(inputs), (inputs, labels)).mean().backward()
    mean = torch.cat([-weight.grad.flatten() for weight in net.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(wide, mean, atol=1e-6, rtol=1e-4)


def test_groups_in_parts_that_fit_move_the_same_and_what_is_not_finite_nothing() -> None:
    together = of_groups(GROUPS)
    task = Once()
    silo = dataclasses.replace(NORTH, batch_size_at_most=8)
    words = ["privacy.unit=group", "trainer.batch_size=34", f"privacy.clip_norm={CLIP}"]
    run = scope(*words)
    apart = moved_by(run, HARDLY_ANY, task=task, silo=silo, groups=GROUPS) * 34 / CLIP
    assert max(task.sizes) <= 8 and sum(task.sizes) == 40
    torch.testing.assert_close(apart, together, atol=1e-4, rtol=1e-3)
    inputs, labels = points().tensors
    huge = inputs.clone()
    huge[0] = torch.nan
    huge[6:8] = 3e38
    moved = of_groups(GROUPS, TensorDataset(huge, labels))
    assert moved.isfinite().all() and moved.norm() > 0


def test_a_draw_takes_so_many_examples_of_a_group_and_the_rate_is_that_of_groups() -> None:
    task = Once()
    words = ["privacy.unit=group", "privacy.examples_per_unit=2", "trainer.batch_size=4"]
    run = scope(*words, "privacy.noise_multiplier=1", "privacy.epsilon=null")
    groups = np.repeat(np.arange(4), 10)
    moved_by(run, HARDLY_ANY, task=task, groups=groups)
    assert sum(task.sizes) == 8, "two of each of four"
    plan = sample_dp.plan_for(scope(*words[:2], "trainer.batch_size=2"), points(), groups)
    assert (plan.units, plan.batch, plan.steps) == (4, 2, 2)
    release = sample_dp.release_of(run, plan)
    assert release == Release(0.5, 1.0, 2), "of four groups, not of 40 examples"


KINDS: dict[str, tuple[type[Task], dict[str, Any]]] = {
    "classes": (Classification, {"contract": Contract((2,), ("no", "yes", "may"))}),
    "labels": (MultiLabel, {"contract": Contract((2,), ("no", "yes", "may"))}),
    "numbers": (Regression, {"contract": Contract((2,), targets=("a", "b"))}),
    "tokens": (TokenClassification, {"contract": Contract((None,), ("no", "yes"), dense=True)}),
    "pixels": (Segmentation, {"contract": Contract((1, 4, 4), ("no", "yes"), dense=True)}),
}
BATCHES: dict[str, tuple[Tensor, tuple[Tensor, Tensor]]] = {
    "classes": (torch.randn(5, 3), (torch.zeros(5, 2), torch.tensor([0, 1, 2, 1, 0]))),
    "labels": (torch.randn(5, 3), (torch.zeros(5, 2), torch.rand(5, 3).round())),
    "numbers": (torch.randn(5, 2), (torch.zeros(5, 2), torch.rand(5, 2))),
    "tokens": (
        torch.randn(5, 6, 2),
        (torch.zeros(5, 6), torch.randint(0, 2, (5, 6)).index_fill(0, torch.tensor([3]), -100)),
    ),
    "pixels": (torch.randn(5, 2, 4, 4), (torch.zeros(5, 1, 4, 4), torch.randint(0, 2, (5, 4, 4)))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_s_loss_depends_on_no_other_example_of_the_batch(kind: str) -> None:
    cls, given = KINDS[kind]
    task = type("Made", (cls,), {**given, "name": kind, "data": lambda self, silo: None})()
    output, batch = BATCHES[kind]
    whole = task.example_losses(output, batch)
    assert whole.shape == (5,) and whole.isfinite().all()
    for index in range(5):
        alone = task.example_losses(
            output[index : index + 1], tuple(t[index : index + 1] for t in batch)
        )
        assert torch.equal(alone[0], whole[index])


def test_an_example_s_clipped_gradient_is_the_same_whatever_shares_its_batch() -> None:
    run = scope("trainer.batch_size=1", "privacy.clip_norm=0.01")
    one = TensorDataset(torch.tensor([[0.3, -2.0]]), torch.tensor([1]))
    alone = moved_by(run, HARDLY_ANY, dataset=one)
    both = TensorDataset(torch.tensor([[0.3, -2.0], [5.0, 5.0]]), torch.tensor([1, 0]))
    other = TensorDataset(torch.tensor([[5.0, 5.0]]), torch.tensor([0]))
    wide = scope("trainer.batch_size=2", "privacy.clip_norm=0.01")
    shared = moved_by(wide, HARDLY_ANY, dataset=both) * 2
    torch.testing.assert_close(
        shared, alone + moved_by(run, HARDLY_ANY, dataset=other), atol=1e-7, rtol=1e-5
    )


def test_an_example_without_a_finite_gradient_moves_nothing() -> None:
    inputs, labels = points().tensors
    inputs[3] = torch.nan
    inputs[4] = 1e38
    moved = moved_by(
        scope("trainer.batch_size=40"), HARDLY_ANY, dataset=TensorDataset(inputs, labels)
    )
    assert moved.isfinite().all() and moved.norm() > 0


class Once(Points):
    """Says how large the batches are that it is asked about."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def example_losses(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.sizes.append(len(batch[1]))
        return super().example_losses(output, batch)


def test_a_draw_without_examples_is_a_step_of_noise() -> None:
    task = Once()
    run = scope("trainer.batch_size=1", "trainer.epochs=1", "privacy.test_seed=3")
    net = nn.Linear(2, 2000)
    moved = moved_by(run, 1.0, dataset=points(20), task=task, net=net)
    assert len(task.sizes) < 20 and 0 not in task.sizes, "some of 20 draws at 1/20 are empty"
    spread = moved.std().item()
    assert spread == pytest.approx(np.sqrt(20), rel=0.1), "noise of all 20 steps is in it"


def test_no_more_examples_are_in_memory_than_the_owner_allows() -> None:
    task = Once()
    silo = dataclasses.replace(NORTH, batch_size_at_most=3)
    apart = moved_by(scope("trainer.batch_size=40"), HARDLY_ANY, task=task, silo=silo)
    assert max(task.sizes) == 3
    together = moved_by(scope("trainer.batch_size=40"), HARDLY_ANY)
    torch.testing.assert_close(apart, together, atol=1e-6, rtol=1e-4)


def test_two_rounds_draw_anew_and_a_test_seed_draws_the_same() -> None:
    run = scope()
    assert not torch.equal(moved_by(run, 1.0), moved_by(run, 1.0)), "run.seed is no seed of noise"
    seeded = scope("privacy.test_seed=5")
    assert torch.equal(moved_by(seeded, 1.0), moved_by(seeded, 1.0))
    other = dataclasses.replace(NORTH, name="south")
    assert not torch.equal(moved_by(seeded, 1.0), moved_by(seeded, 1.0, silo=other))


def test_the_model_is_left_as_it_was_but_for_its_weights() -> None:
    net = model()
    net.register_buffer("seen", torch.zeros(1))

    class Counting(Points):
        def output(self, model: nn.Module, batch: Any) -> Tensor:
            model.seen += len(batch[0])  # type: ignore[operator]
            return super().output(model, batch)  # type: ignore[no-any-return]

    moved_by(scope(), 1.0, net=net, task=Counting())
    assert net.seen.item() == 0, "a buffer that depends on examples does not leave"
    for weight in net.parameters():
        assert weight.grad is None and not hasattr(weight, "grad_sample")
    assert not any(module._forward_hooks for module in net.modules())
    assert net(torch.zeros(1, 2)).requires_grad


def test_a_residual_network_that_works_in_place_has_a_gradient_of_each_example() -> None:
    class Grey(Points):
        contract = Contract((1, 8, 8), ("no", "yes"))

    draws = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.rand(4, 1, 8, 8, generator=draws), torch.tensor([0, 1, 1, 0]))
    run = scope("model=resnet18", "model.norm=group", "trainer.batch_size=4")
    net = build_model(run.model, Grey(), seed=1)
    moved = moved_by(run, HARDLY_ANY, dataset=data, task=Grey(), net=net)
    assert 0 < (moved * 4).norm() <= 4 + 1e-4
    assert net.relu.inplace, "as it was"


def test_a_silo_tells_neither_loss_nor_number_of_examples() -> None:
    run = scope()
    plan = sample_dp.plan_for(run, points())
    release = Release(plan.rate, 1.0, plan.steps)
    trained = sample_dp.train(
        model(), points(), Points(), run, SiloHalf(), release, silo=NORTH, round=1
    )
    assert set(trained.metrics) == {"num-examples", "seconds"}
    assert trained.metrics["num-examples"] == 1 and trained.size == 1


def test_the_noise_is_that_of_the_whole_run() -> None:
    plan = Plan(1000, 50, 20)
    few = sample_dp.release_of(scope("privacy.epsilon=2", "run.rounds=2"), plan)
    many = sample_dp.release_of(scope("privacy.epsilon=2", "run.rounds=20"), plan)
    assert many.noise > few.noise and few.rate == 0.05
    named = sample_dp.release_of(scope("privacy.epsilon=null", "privacy.noise_multiplier=3"), plan)
    assert named.noise == 3.0


def test_a_run_that_is_resumed_for_more_rounds_still_costs_what_it_may() -> None:
    plan = Plan(1000, 50, 20)
    first = sample_dp.release_of(scope("privacy.epsilon=2", "run.rounds=3"), plan)
    made = [first]
    assert sample_dp.release_of(scope("privacy.epsilon=2", "run.rounds=3"), plan, made) == first
    longer = scope("privacy.epsilon=2", "run.rounds=6")
    for _ in range(5):
        made.append(sample_dp.release_of(longer, plan, made))
    assert 1.98 < epsilon(made, 1e-5) <= 2
    assert made[1].noise > first.noise and made[1:] == [made[1]] * 5
    with pytest.raises(SiloError, match="MDW-378"):
        sample_dp.release_of(longer, plan, [first] * 6)


def test_a_message_without_any_noise_and_a_silo_without_examples_are_refused() -> None:
    run = scope()
    nothing = SampleDpConf(name="sample_dp", epsilon=None)
    with pytest.raises(SiloError, match="MDW-378"):
        sample_dp.release_of(dataclasses.replace(run, privacy=nothing), Plan(100, 10, 10))
    with pytest.raises(DataError, match="MDW-205"):
        sample_dp.plan_for(run, TensorDataset(torch.zeros(0, 2), torch.zeros(0)))


class Seeing(SiloHalf):
    """An algorithm that looks at what is computed of examples."""

    def loss(self, loss: Tensor, model: nn.Module, batch: Any) -> Tensor:
        return loss * 2


class Twice(SiloHalf):
    """An algorithm of two passes."""

    def fit(self, run_epochs: Any) -> None:
        run_epochs()
        run_epochs()


class Untold(Task):
    """A task that tells no loss of an example."""

    name = "untold"

    def data(self, silo: Silo) -> Data:
        raise NotImplementedError

    def loss(self, output: Any, batch: Any) -> Tensor:
        raise NotImplementedError


REFUSED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "no loss of an example": ("MDW-371", {"task": Untold()}),
    "batch normalisation": ("MDW-372", {"net": nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))}),
    "an algorithm that sees examples": ("MDW-377", {"half": Seeing()}),
    "clipping of the whole": ("MDW-377", {"trainer": {"clip_norm": 1.0}}),
    "accumulated batches": ("MDW-377", {"trainer": {"accumulate": 2}}),
    "a compiled model": ("MDW-377", {"trainer": {"compile": "default"}}),
    "weights by examples": ("MDW-377", {"strategy": {"weighting": "examples"}}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_silo_refuses_what_looks_past_the_noise(what: str) -> None:
    code, given = REFUSED[what]
    run = scope()
    for group in ("trainer", "strategy"):
        changed = dataclasses.replace(getattr(run, group), **given.get(group, {}))
        run = dataclasses.replace(run, **{group: changed})
    with pytest.raises(SiloError) as caught:
        sample_dp.check(
            given.get("net", model()),
            given.get("task", Points()),
            given.get("half", SiloHalf()),
            run,
            NORTH,
        )
    assert caught.value.code == code and caught.value.hint


def test_a_second_pass_over_the_examples_is_refused() -> None:
    with pytest.raises(SiloError) as caught:
        moved_by(scope(), 1.0, half=Twice())
    assert caught.value.code == "MDW-377"
