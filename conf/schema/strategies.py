"""How updates become a model, a class for each strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.fields import code, entries, number, one_of, target, value


@dataclass
class StrategyConf:
    """How updates become a model: `strategies/<name>.py`."""

    name: str = value("fedavg", help="the strategy")
    weighting: str = one_of(
        "examples",
        "size",
        "equal",
        help="what a silo's update weighs in the mean: its examples, what the task's size counts "
        "(tokens, pixels), or each the same",
        also=("weighted_by", "weighted_by_key"),
    )
    keeps: list[str] = entries(
        list,
        pattern=r"\w+(\.\w+)*",
        wanted="the beginning of names of arrays, such as fc or layer4.0",
        help="personal layers: beginnings of the names of the model's arrays that never leave a "
        "silo, such as [fc]",
        also=("personal_layers", "local_layers", "head"),
    )


@dataclass
class FedProxConf(StrategyConf):
    """FedAvg with mu/2 ||w - w_t||^2 added to the silo's loss.

    Li et al. 2020, arXiv 1812.06127, eq. 2.
    """

    name: str = value("fedprox", help="the strategy")
    mu: float = number(
        0.01, at_least=0, help="weight of the proximal term", also=("proximal_mu", "prox_mu")
    )


@dataclass
class ScaffoldConf(StrategyConf):
    """Silos corrected by control variates (Karimireddy et al. 2020, arXiv 1910.06378)."""

    name: str = value("scaffold", help="the strategy")
    weighting: str = one_of(
        "equal",
        "examples",
        "size",
        help="what a silo's update weighs: each the same, as in the paper",
    )
    server_lr: float = number(
        1.0, above=0, help="step of the server towards the mean", also=("eta_g", "global_lr")
    )


@dataclass
class ExternalStrategyConf(StrategyConf):
    """Any Flower `Strategy` by its `target`; `args` are checked against its constructor."""

    name: str = value("external", help="the strategy")
    weighting: str = one_of(
        "examples",
        "size",
        "equal",
        help="what a silo's update weighs; size only of a class derived from Algorithm",
    )
    target: str = target(help="a strategy of your own or of Flower: where its class is")
    args: dict[str, Any] = entries(
        dict,
        help="arguments of its constructor: strategy.args.NAME=VALUE",
        also=("init_args", "kwargs"),
    )
    code: str = code(help="digest of the strategy's code; filled in")
