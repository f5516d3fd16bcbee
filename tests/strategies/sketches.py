"""Algorithms that are not shipped, each in the fewest lines that make its point.

They decide which hooks `strategies.silo_half` has: a hook stays where two of them, or of those that
are shipped, need it. In brackets after each hook: who needs it here.

    begin (all)                             fit (Ditto, FedRep, MOON)
    wrap (Sampled, Noisy)                   output (FedRS, GlobalTeacher)
    loss (MOON, GlobalTeacher)              gradients (Ditto, FedProx, SCAFFOLD)
    end (Ditto, MOON, SCAFFOLD)             keeps (FedBN, FedRep)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from strategies.fedavg import FedAvg
from strategies.silo_half import Batches, Records, RunEpochs, SiloHalf, belongs


class DittoSilo(SiloHalf):
    """Li et al. 2021 (arXiv 2012.04221): a second model, pulled towards the global one, stays here."""

    def __init__(self, pull: float = 0.5) -> None:
        self.pull = pull

    def begin(self, model: nn.Module, state: Records, sent: Records) -> None:
        self.start = [w.detach().clone() for w in model.parameters()]
        self.personal = copy.deepcopy(model)
        if "personal" in state:
            self.personal.load_state_dict(state["personal"])
        self.is_personal = False

    def fit(self, run_epochs: RunEpochs) -> None:
        run_epochs()
        self.is_personal = True
        run_epochs(self.personal)

    def gradients(self, weights: Sequence[nn.Parameter]) -> None:
        if self.is_personal:
            for weight, origin in zip(weights, self.start, strict=True):
                assert weight.grad is not None
                weight.grad.add_(weight.detach() - origin, alpha=self.pull)

    def end(self, model: nn.Module, steps: int, rates: float) -> tuple[Records, Records]:
        return {}, {"personal": self.personal.state_dict()}


class FedRepSilo(SiloHalf):
    """Collins et al. 2021 (arXiv 2102.07078): first the head, which stays here, then the body."""

    def __init__(self, head: Sequence[str], head_epochs: int = 2) -> None:
        self.keeps = head
        self.head_epochs = head_epochs

    def fit(self, run_epochs: RunEpochs) -> None:
        run_epochs(epochs=self.head_epochs, trains=lambda name: belongs(name, self.keeps))
        run_epochs(trains=lambda name: not belongs(name, self.keeps))


class FedRep(FedAvg):
    silo_half = FedRepSilo

    def __init__(self, head: Sequence[str], head_epochs: int = 2) -> None:
        super().__init__()
        self.keeps = head


class FedBNSilo(SiloHalf):
    """Li et al. 2021 (arXiv 2102.07623): normalisation stays at the silo."""

    def __init__(self, normalisation: Sequence[str]) -> None:
        self.keeps = normalisation


class FedBN(FedAvg):
    silo_half = FedBNSilo

    def __init__(self, normalisation: Sequence[str]) -> None:
        super().__init__()
        self.keeps = normalisation


class MoonSilo(SiloHalf):
    """Li et al. 2021 (arXiv 2103.16257): features near the global model's, far from one's last."""

    def __init__(self, layer: str, mu: float = 1.0, temperature: float = 0.5) -> None:
        self.layer = layer
        self.mu = mu
        self.temperature = temperature
        self.features: dict[nn.Module, Tensor] = {}

    def begin(self, model: nn.Module, state: Records, sent: Records) -> None:
        self.teacher = copy.deepcopy(model).eval()
        self.before = copy.deepcopy(model).eval()
        if "before" in state:
            self.before.load_state_dict(state["before"])
        self.models = (model, self.teacher, self.before)

    def fit(self, run_epochs: RunEpochs) -> None:
        handles = [self._watch(model) for model in self.models]
        try:
            run_epochs()
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, model: nn.Module) -> Any:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.features[model] = inputs[0].flatten(1)

        return model.get_submodule(self.layer).register_forward_pre_hook(note)

    def loss(self, loss: Tensor, model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            self.local.forward(self.teacher, batch)
            self.local.forward(self.before, batch)
        mine, near, far = (self.features[one] for one in self.models)
        pairs = [functional.cosine_similarity(mine, other) for other in (near, far)]
        scores = torch.stack(pairs, 1) / self.temperature
        return loss + self.mu * functional.cross_entropy(
            scores, torch.zeros(len(scores), dtype=torch.long)
        )

    def end(self, model: nn.Module, steps: int, rates: float) -> tuple[Records, Records]:
        return {}, {"before": {name: value.clone() for name, value in model.state_dict().items()}}


class FedRSSilo(SiloHalf):
    """Li and Zhan 2021 (KDD): the scores of classes that a silo does not have are held down."""

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = alpha

    def output(self, output: Tensor, batch: Any) -> Tensor:
        scale = torch.full((output.shape[1],), self.alpha)
        scale[torch.as_tensor(self.local.labels).unique()] = 1.0
        return output * scale


class GlobalTeacherSilo(SiloHalf):
    """Distillation from the global model on the silo's own examples (as in FedNTD and FedGKD)."""

    def begin(self, model: nn.Module, state: Records, sent: Records) -> None:
        self.teacher = copy.deepcopy(model).eval()

    def output(self, output: Tensor, batch: Any) -> Tensor:
        self.mine = output
        return output

    def loss(self, loss: Tensor, model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            theirs = self.local.forward(self.teacher, batch).log_softmax(1)
        mine = self.mine.log_softmax(1)
        return loss + functional.kl_div(mine, theirs, log_target=True, reduction="batchmean")


class SampledSilo(SiloHalf):
    """The form of sample-level privacy: other batches, and an optimizer that adds noise."""

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, batches: Batches
    ) -> tuple[nn.Module, Optimizer, Batches]:
        def noise(*_: object) -> None:
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.grad.add_(torch.randn_like(weight), alpha=0.1)

        optimizer.register_step_pre_hook(noise)
        return model, optimizer, Half(batches)


class Half:
    """Every second batch of others."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return (len(self.batches) + 1) // 2

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(self.batches):
            if index % 2 == 0:
                yield batch


class NoisySilo(SiloHalf):
    """Training on other inputs than the silo's own (in the way of FedMix and of augmentation)."""

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, batches: Batches
    ) -> tuple[nn.Module, Optimizer, Batches]:
        return model, optimizer, Noisy(batches)


class Noisy:
    """Batches whose inputs have noise added."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for inputs, *others in self.batches:
            yield (inputs + 0.1 * torch.randn_like(inputs), *others)
