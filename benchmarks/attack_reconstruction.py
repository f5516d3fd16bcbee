"""Examples given back by one update: by a trap in the model's first layer, by the gradient of a single
example, and by searching for a batch whose gradient is the one that was seen.
"""

from __future__ import annotations

import copy

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attack_training import Rows, Train, mlp

NEAR = 0.02
"""Within which every number of a row has to lie for it to count as given back."""
TRAP_LR = 1e5
"""With which float32 keeps the differences of an update apart."""
HIDDEN = 256
STEPS = 600
"""Of the search for a batch."""


def trap(inputs: Tensor, units: int, classes: int) -> nn.Sequential:
    """Return a model whose first layer is the trap (Fowl et al. 2022, arXiv 2110.13057), for rows
    like these.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs.shape[1], units), nn.ReLU())
    model.append(nn.Linear(units, classes))
    with torch.no_grad():
        # A direction of chance: hardly two rows lie at the same place of it.
        direction = torch.randn(inputs.shape[1]) / inputs.shape[1] ** 0.5
        model[1].weight.copy_(direction.expand_as(model[1].weight))
        places = torch.linspace(0, 1, units)
        model[1].bias.copy_(-torch.quantile(inputs @ direction, places))
        model[3].weight.fill_(0)
        # Of the true class alone there is a gradient that differs between the units.
        model[3].weight.add_(torch.linspace(-1e-3, 1e-3, classes)[:, None])
        model[3].bias.zero_()
    return model


def trapped(task: Rows, train: Train, units: int) -> float:
    """Return the share of all rows that one step over all of them gives back through the trap."""
    model = trap(task.inputs, units, task.contract.outputs)
    before = copy.deepcopy(model)
    words = [f"trainer.lr={TRAP_LR}", "trainer.batch_size=100000"]
    train(model, task.some(slice(None)), task, words)
    weight = (before[1].weight - model[1].weight).detach()
    bias = (before[1].bias - model[1].bias).detach()
    numbers = weight[:-1] - weight[1:]
    shares = (bias[:-1] - bias[1:])[:, None]
    found = torch.where(shares.abs() > 0, numbers / shares, torch.nan)
    return given_back(found, task.inputs)


def given_back(found: Tensor, truth: Tensor) -> float:
    """Return of which share of the true rows there is one that is near in every number."""
    known = found[found.isfinite().all(1)]
    if not len(known):
        return 0.0
    hits = sum(bool(((known - one).abs().amax(1) < NEAR).any()) for one in truth)
    return hits / len(truth)


def psnr(found: Tensor, truth: Tensor) -> float:
    """Return the median over rows of the peak signal-to-noise ratio in dB (peak 1), each true row
    with the one of those found that is assigned to it.
    """
    errors = torch.cdist(torch.nan_to_num(found), truth).square() / truth.shape[1]
    places = linear_sum_assignment(errors.numpy())
    least = errors[places].clamp_min(1e-12)
    return float((-10 * least.log10()).median())


def update_of(task: Rows, train: Train, chosen: Tensor) -> tuple[nn.Module, list[Tensor]]:
    """Return an honest model, and the gradient that a server reads off one step over some rows."""
    model = mlp(task, HIDDEN, seed=3)
    before = copy.deepcopy(model)
    train(model, task.some(chosen), task, ["trainer.lr=1", f"trainer.batch_size={len(chosen)}"])
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    return before, [(old - new).detach() for old, new in pairs]


def single(task: Rows, train: Train, examples: int) -> tuple[float, float]:
    """Return the share of single rows that their own gradient gives back, and the PSNR.

    A unit's gradient is the row times that of its bias (Phong et al. 2017): the largest of the
    latter is divided by.
    """
    found = []
    for place in range(examples):
        _, (weight, bias, *_) = update_of(task, train, torch.tensor([place]))
        unit = int(bias.abs().argmax())
        found.append(weight[unit] / bias[unit])
    rows = torch.stack(found)
    truth = task.inputs[:examples]
    return float(((rows - truth).abs().amax(1) < NEAR).float().mean()), psnr(rows, truth)


def batch(task: Rows, train: Train, size: int) -> float:
    """Return the PSNR of a whole batch found by search: rows whose gradient has the direction of the
    one that was seen (Geiping et al. 2020, arXiv 2003.14053), by a server that knows the labels.
    """
    chosen = torch.arange(size)
    model, seen = update_of(task, train, chosen)
    labels = task.labels_of_rows[chosen]
    torch.manual_seed(5)
    lowest = task.inputs.amin()
    highest = task.inputs.amax()
    rows = (torch.rand(size, task.inputs.shape[1]) * (highest - lowest) + lowest).requires_grad_()
    search = torch.optim.Adam([rows], lr=0.05)
    weights = list(model.parameters())
    norm = sum(one.square().sum() for one in seen).sqrt()
    for _ in range(STEPS):
        search.zero_grad()
        loss = functional.cross_entropy(model(rows), labels)
        made = torch.autograd.grad(loss, weights, create_graph=True)
        along = sum((a * b).sum() for a, b in zip(made, seen, strict=True))
        length = sum(one.square().sum() for one in made).sqrt()
        (1 - along / (length * norm + 1e-12)).backward()
        search.step()
        with torch.no_grad():
            rows.clamp_(lowest, highest)
    return psnr(rows.detach(), task.inputs[chosen])
