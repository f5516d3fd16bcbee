"""The optimizer of one round, and the learning rate over the whole run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from conf.schema import TrainerConf

WRAPPED: Final = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods that torch wraps so that its compiler leaves them alone."""


def _without_compiler(kind: type[Any]) -> type[Any]:
    """Return an optimizer that does what torch's `kind` does, without loading torch's compiler.

    The wrapped methods import torch._dynamo when they are first called, six tenths of what torch
    itself costs, in every worker. Below the wrappers is the same code, so the bits are the same.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step})


class _PlainSGD(SGD):
    """torch's SGD with momentum and weight decay, for arrays on the CPU.

    torch's own step sorts all arrays by device and type each time, and looks for forms that are not
    used here: a fifth of its time and more for a small model. The operations are the same, so the
    bits are.
    """

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no losses are asked for
        """Change the parameters by their gradients: Sutskever et al. 2013, as torch has it."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            changes = [p.grad for p in parameters]
            if group["weight_decay"]:
                decay = group["weight_decay"]
                changes = list(torch._foreach_add(changes, parameters, alpha=decay))
            if group["momentum"]:
                changes = self._repeated(parameters, changes, group["momentum"])
            torch._foreach_add_(parameters, changes, alpha=-group["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _repeated(
        self, parameters: list[Tensor], changes: list[Tensor], momentum: float
    ) -> list[Tensor]:
        """Return the momentum of each parameter after these changes; it begins with the first."""
        before: list[Tensor] = []
        after: list[Tensor] = []
        added: list[Tensor] = []
        for parameter, change in zip(parameters, changes, strict=True):
            state = self.state[parameter]
            buffer = state.get("momentum_buffer")
            if buffer is None:
                buffer = state["momentum_buffer"] = change.detach().clone()
            else:
                before.append(buffer)
                added.append(change)
            after.append(buffer)
        if before:
            torch._foreach_mul_(before, momentum)
            torch._foreach_add_(before, added)
        return after


_SGD: Final = _without_compiler(SGD)
_PLAIN_SGD: Final = _without_compiler(_PlainSGD)
_ADAM: Final = _without_compiler(Adam)
_ADAMW: Final = _without_compiler(AdamW)


def optimizer_of(model: nn.Module, conf: TrainerConf) -> Optimizer:
    """Return a fresh optimizer of the trainable parameters; it lives for one round.

    On a CUDA GPU in its fused form, one kernel for all parameters, where they are whole floats. On
    the CPU in its `foreach` form, which torch takes by itself on GPUs only: the same bits in two
    thirds of the time, for SGD in less.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    form = _form(parameters, conf.precision)
    if conf.optimizer == "sgd":
        sgd: Optimizer = (_PLAIN_SGD if "foreach" in form else _SGD)(
            parameters,
            conf.lr,
            momentum=conf.momentum,
            weight_decay=conf.weight_decay,
            **form,
        )
        return sgd
    kind = _ADAM if conf.optimizer == "adam" else _ADAMW
    adam: Optimizer = kind(parameters, conf.lr, weight_decay=conf.weight_decay, **form)
    return adam


def _form(parameters: Sequence[nn.Parameter], precision: str) -> dict[str, bool]:
    """Return which of torch's forms of an optimizer fits the parameters; none where it chooses."""
    if precision == "fp16":
        # A fused step that overflows leaves its first momentum as memory was: seen on a GPU, where
        # the step that followed was garbage.
        return {}
    if all(p.is_cpu for p in parameters):
        return {"foreach": True}
    if all(p.is_cuda and p.is_floating_point() for p in parameters):
        return {"fused": True}
    return {}


def learning_rate(conf: TrainerConf, progress: float) -> float:
    """Return the learning rate when a share `progress` (0 to 1) of the run is done.

    Cosine goes from `lr` to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, without
    restarts); step multiplies by `schedule_gamma` after each of `schedule_steps` equal parts.
    """
    if conf.schedule == "cosine":
        return conf.lr * (1 + math.cos(math.pi * progress)) / 2
    if conf.schedule == "step":
        part = math.floor(progress * conf.schedule_steps + 1e-9)  # 0.7 * 10 is a little less than 7
        return float(conf.lr * conf.schedule_gamma ** min(part, conf.schedule_steps - 1))
    return conf.lr


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def momentum_of(conf: TrainerConf) -> float:
    """Return the share of each step that the next one repeats; Adam's steps repeat nothing."""
    return conf.momentum if conf.optimizer == "sgd" else 0.0
