"""The clipped sum of the gradients of units, without holding the gradient of each.

A linear layer's gradient of an example is the product of what goes in and what comes back; its norm
follows from these two ("ghost clipping": Goodfellow 2015, arXiv 1510.01799; Li et al. 2021, arXiv
2110.05679). So one backward pass gives what comes back at each layer, all norms are taken, and the sum
is made of what comes back times each unit's factor ("book-keeping": Bu et al. 2022, arXiv 2210.00038):
no second pass through the model, and memory for inputs and outputs of layers, not for a gradient of
each example. Where the gradients themselves are less than the products of a sequence they are made, a
few units of one layer at a time (Bu et al. 2022, arXiv 2205.10683), as they are for convolutions and
normalisations, whose rules come from Opacus.

A norm here is not that of the very numbers which are added up later, and an example may be made so that
both differ by rounding: terms that cancel. So each layer's norm has a margin for that, and the products
of sequences are added in float64. What has no finite norm counts as nothing.

    MDW-372 a layer that does not see each example, or whose output is changed in place
    MDW-374 a layer of which this is not known
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from client.privacy.accountant import needed
from client.privacy.sampling import Part
from client.privacy.unmixed import unfit
from client.tf32 import tf32
from conf.errors import SiloError

ROUNDING: Final = 2.0**-20
"""Of the product of the norms of what goes in and what comes back: how far a sum of products in float32
may be from what its norm was taken of. Sixteen times its precision.
"""
AT_ONCE: Final = 2**24
"""Numbers of gradients that are made at once to take their norms."""
BY_OPACUS: Final = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
"""Layers whose gradients of examples are made by Opacus' rules, a few at a time."""


def check_layers(model: nn.Module) -> None:
    """Raise SiloError MDW-374 for a model with a layer whose norms are not known."""
    owners: dict[nn.Parameter, str] = {}
    for layer, name in _layers(model).items():
        if type(layer) not in (nn.Linear, nn.Embedding, *BY_OPACUS):
            raise _unknown(name, layer, "is of a kind whose norms are not known")
        why = _fault(layer)
        if why:
            raise _unknown(name, layer, why)
        for weight in _weights(layer):
            if weight in owners:
                raise _unknown(name, layer, f"shares a weight with {owners[weight]}")
            owners[weight] = name


def _fault(layer: nn.Module) -> str:
    """Return what a layer of a known kind does that its norms do not tell of."""
    if isinstance(layer, nn.Embedding) and layer.scale_grad_by_freq:
        return "has scale_grad_by_freq, by which the words of others change a gradient"
    made = [name for name, _ in layer.named_parameters(recurse=False)]
    others = sorted(set(made) - {"weight", "bias"})
    return f"has a weight {others[0]} of which others are made" if others else ""


@dataclass
class _Pass:
    """What went through a layer, and what comes back."""

    layer: nn.Module
    inputs: Tensor
    output: Tensor
    versions: tuple[int, int]
    """Of both, as they were then: torch counts what is written to them."""
    back: Tensor | None = None

    @property
    def weights(self) -> list[nn.Parameter]:
        return _weights(self.layer)


class Ghost:
    """See `client.privacy.unit_gradients.UnitGradients`; what it puts into the weights is clipped."""

    def __init__(self, model: nn.Module, clip_norm: float) -> None:
        """Raises SiloError MDW-374."""
        check_layers(model)
        self._clip_norm = clip_norm
        self._names = _layers(model)
        self._passes: list[_Pass] = []
        self._hooks = [layer.register_forward_hook(self._keep) for layer in self._names]

    def close(self) -> None:
        """Leave the model's layers as they were."""
        for hook in self._hooks:
            hook.remove()
        self._passes = []

    def take(self, losses: Tensor, part: Part) -> None:
        """Put the clipped sum of a part's units into the weights' `grad`."""
        passes, self._passes = self._passes, []
        self._check(passes, len(part.examples))
        backs = torch.autograd.grad(losses.sum(), [one.output for one in passes], allow_unused=True)
        units = _Units.of(part, losses.device)
        # With TF32 a sum could be further from its norm than the margin.
        with torch.no_grad(), tf32(losses.device, allowed=False):
            for one, back in zip(passes, backs, strict=True):
                if back is None:
                    raise _idle(self._names[one.layer])
                one.back = back * _spread(units.share, back)
            norms = torch.stack([_norms(one, units) for one in passes]).square().sum(0).sqrt()
            factors = (self._clip_norm / (norms + 1e-6)).clamp(max=1.0)
            factors[~norms.isfinite()] = 0.0
            for one in passes:
                _put_sum(one, factors[units.unit])

    def take_none(self) -> None:
        """Put there that no unit was drawn."""
        for layer in self._names:
            for weight in _weights(layer):
                weight.grad = torch.zeros_like(weight)

    def _keep(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        if len(inputs) != 1 or not isinstance(output, Tensor):
            raise _unknown(self._names[layer], layer, "has more than one input or output")
        given = inputs[0].detach()
        self._passes.append(_Pass(layer, given, output, (given._version, output._version)))

    def _check(self, passes: Sequence[_Pass], examples: int) -> None:
        seen: set[nn.Module] = set()
        for one in passes:
            name = self._names[one.layer]
            if one.layer in seen:
                raise _unknown(name, one.layer, "is used more than once")
            seen.add(one.layer)
            if len(one.inputs) != examples or len(one.output) != examples:
                raise _idle(name)
            if (one.inputs._version, one.output._version) != one.versions:
                what = f"what goes into {name}, or comes out of it, is changed in place (x += y)"
                raise unfit(what)
        for layer, name in self._names.items():
            if layer not in seen:
                raise _idle(name)


@dataclass(frozen=True)
class _Units:
    """Of which unit each example is, in order; a mean's share of it; and how many each unit has."""

    unit: Tensor
    share: Tensor
    sizes: list[int]

    @staticmethod
    def of(part: Part, device: torch.device) -> _Units:
        count = len(part.examples)
        unit = torch.arange(count) if part.unit is None else part.unit
        sizes = torch.bincount(unit)
        share = 1.0 / sizes[unit]
        return _Units(unit.to(device), share.to(device), sizes.tolist())

    @property
    def are_examples(self) -> bool:
        return len(self.sizes) == len(self.unit)

    def joined(self, values: Tensor) -> Tensor:
        """Return values of examples (n, s, ...) as those of units (u, r * s, ...), filled with 0."""
        if self.are_examples:
            return values
        most = max(self.sizes)
        sizes = torch.tensor(self.sizes, device=values.device)
        starts = sizes.cumsum(0) - sizes
        place = torch.arange(len(values), device=values.device) - starts[self.unit]
        joined = values.new_zeros((len(self.sizes), most, *values.shape[1:]))
        joined[self.unit, place] = values
        return joined.flatten(1, 2)

    def some(self, numbers: int) -> Iterator[tuple[slice, slice]]:
        """Yield places of examples and of their units, whole units with not too many `numbers` an
        example.
        """
        first = start = rows = 0
        for unit, size in enumerate(self.sizes):
            if rows and (rows + size) * numbers > AT_ONCE:
                yield slice(start, start + rows), slice(first, unit)
                first, start, rows = unit, start + rows, 0
            rows += size
        yield slice(start, start + rows), slice(first, len(self.sizes))


def _norms(one: _Pass, units: _Units) -> Tensor:
    """Return the norm of each unit's gradient of a layer's weights, or a little more."""
    assert one.back is not None
    if type(one.layer) is nn.Linear:
        return _of_linear(one.layer, one.inputs, one.back, units)
    if type(one.layer) is nn.Embedding:
        return _of_embedding(one.layer, one.inputs, one.back, units)
    return _of_others(one, one.back, units)


def _of_linear(layer: nn.Linear, inputs: Tensor, back: Tensor, units: _Units) -> Tensor:
    given = units.joined(inputs.reshape(len(inputs), -1, inputs.shape[-1]))
    back = units.joined(back.reshape(len(back), -1, back.shape[-1]))
    squares = torch.zeros(len(units.sizes), dtype=torch.float64, device=back.device)
    if layer.weight.requires_grad:
        squares += _squares_of_products(given, back)
    if layer.bias is not None and layer.bias.requires_grad:
        squares += back.sum(1).double().square().sum(1)
    if back.shape[1] == 1:
        # One product, of which nothing can cancel.
        return squares.sqrt().float()
    return squares.sqrt().float() + _margin(given, back)


def _squares_of_products(given: Tensor, back: Tensor) -> Tensor:
    """Return the squared norm of the sum over s of back (u, s, o) times given (u, s, i)."""
    length, ins, outs = given.shape[1], given.shape[2], back.shape[2]
    if length == 1:
        return given.double().square().sum((1, 2)) * back.double().square().sum((1, 2))
    if 2 * length**2 <= ins * outs:
        given, back = given.double(), back.double()
        products = torch.bmm(given, given.mT) * torch.bmm(back, back.mT)
        return products.sum((1, 2)).clamp(min=0)
    some = max(AT_ONCE // (ins * outs), 1)
    found = [
        torch.bmm(b.mT, a).square().sum((1, 2))
        for a, b in zip(given.split(some), back.split(some), strict=True)
    ]
    return torch.cat(found).double()


def _of_embedding(layer: nn.Embedding, inputs: Tensor, back: Tensor, units: _Units) -> Tensor:
    # What fills a unit up is the word 0 with nothing that comes back.
    words = units.joined(inputs.reshape(len(inputs), -1, 1)).squeeze(2)
    back = units.joined(back.reshape(len(back), -1, back.shape[-1]))
    by_words = needed("opacus.grad_sample.embedding_norm_sample").compute_embedding_norm_sample
    norms: Tensor = by_words(layer, [words], back)[layer.weight]
    return norms + ROUNDING * _lengths(back) * math.sqrt(words.shape[1])


def _of_others(one: _Pass, back: Tensor, units: _Units) -> Tensor:
    """Return the norms by the gradients themselves, of a few units at a time."""
    rule = needed("opacus.grad_sample").GradSampleHooks.GRAD_SAMPLERS[type(one.layer)]
    found = []
    numbers = sum(weight.numel() for weight in one.weights)
    for rows, which in units.some(numbers):
        of_examples = rule(one.layer, [one.inputs[rows]], back[rows])
        squares = torch.zeros(which.stop - which.start, device=back.device)
        for weight in one.weights:
            gradients = of_examples[weight].flatten(1)
            if not units.are_examples:
                unit = units.unit[rows] - which.start
                summed = gradients.new_zeros((len(squares), gradients.shape[1]))
                gradients = summed.index_add_(0, unit, gradients)
            squares += gradients.square().sum(1)
        found.append(squares.sqrt())
    given, came = (units.joined(each.reshape(len(each), 1, -1)) for each in (one.inputs, back))
    return torch.cat(found) + _margin(given, came)


def _margin(given: Tensor, back: Tensor) -> Tensor:
    """Return what rounding may make of a sum of products, for each unit."""
    # A normalisation's inputs have that norm when it multiplies them.
    least = math.sqrt(given[0].numel())
    return ROUNDING * _lengths(given).clamp(min=least) * _lengths(back)


def _lengths(values: Tensor) -> Tensor:
    """Return the norm of all numbers of each unit."""
    found: Tensor = values.flatten(1).norm(dim=1)
    return found


def _put_sum(one: _Pass, factors: Tensor) -> None:
    """Put the sum of what comes back times each example's factor into the layer's weights."""
    assert one.back is not None
    counts = factors != 0
    inputs, back = one.inputs, one.back * _spread(factors, one.back)
    if not counts.all():
        # What is not finite times 0 would still not be finite.
        back = torch.where(_spread(counts, back), back, 0.0)
        if inputs.is_floating_point():
            inputs = torch.where(_spread(counts, inputs), inputs, 0.0)
    if type(one.layer) is nn.Linear:
        back = back.reshape(-1, back.shape[-1])
        if one.layer.weight.requires_grad:
            one.layer.weight.grad = back.T @ inputs.reshape(-1, inputs.shape[-1])
        if one.layer.bias is not None and one.layer.bias.requires_grad:
            one.layer.bias.grad = back.sum(0)
        return
    with torch.enable_grad():
        # Its own forward and not a call, which the hook would take for another pass.
        output = one.layer.forward(inputs)
    for weight, summed in zip(
        one.weights, torch.autograd.grad(output, one.weights, back), strict=True
    ):
        weight.grad = summed


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Return a value an example (n) in the shape that multiplies each of its numbers."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _layers(model: nn.Module) -> dict[nn.Module, str]:
    """Return the layers that have weights to train, with their names."""
    return {layer: name for name, layer in model.named_modules() if _weights(layer)}


def _weights(layer: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in layer.parameters(recurse=False) if weight.requires_grad]


def _unknown(name: str, layer: nn.Module, why: str) -> SiloError:
    return SiloError(
        "MDW-374",
        f"privacy.gradients=ghost: the layer {name or 'of the model'} ({type(layer).__name__}) {why}.",
        "Use privacy.gradients=hooks, which needs memory for a gradient of each example.",
    )


def _idle(name: str) -> SiloError:
    return unfit(f"{name} has no gradient of each example")
