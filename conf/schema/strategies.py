"""How updates become a model, a class for each strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.fields import MOST_SILOS, code, entries, number, one_of, target, value


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
    hold_mib: int = number(
        2048,
        at_least=0,
        at_most=2**30,
        help="most MiB of a round's updates that the server holds and adds up in the silos' order; "
        "of a cohort that may send more, each is added up as it arrives",
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
class CohortRuleConf(StrategyConf):
    """What every rule has that looks at all updates of a round at once, and not at their mean."""

    name: str = value("median", help="the strategy")
    weighting: str = one_of(
        "equal",
        "examples",
        "size",
        help="what a silo's update weighs: each the same, for who lies may lie of its examples too",
    )
    f: int = number(
        1,
        at_least=0,
        at_most=MOST_SILOS,
        help="how many silos of a round may lie; a round with too few updates for that does not close",
        also=("num_malicious_nodes", "byzantine", "num_byzantine"),
    )
    bucket: int = number(
        1,
        at_least=1,
        at_most=MOST_SILOS,
        help="updates that are averaged at random into one before the rule sees them, against label "
        "skew (Karimireddy et al. 2022, arXiv 2006.09365); 1 = none",
        also=("bucketing", "s"),
    )


@dataclass
class MedianConf(CohortRuleConf):
    """The median of each weight (Yin et al. 2018, arXiv 1803.01498): bears f liars of 2f + 1."""

    name: str = value("median", help="the strategy")


@dataclass
class TrimmedMeanConf(CohortRuleConf):
    """The mean of each weight without its f smallest and f largest (Yin et al. 2018): bears f liars
    of 2f + 1.
    """

    name: str = value("trimmed_mean", help="the strategy")


@dataclass
class KrumConf(CohortRuleConf):
    """The one update that is nearest to its neighbours (Blanchard et al. 2017, arXiv 1703.02757):
    bears f liars of 2f + 3.
    """

    name: str = value("krum", help="the strategy")


@dataclass
class MultiKrumConf(CohortRuleConf):
    """The mean of the updates that Krum ranks first (Blanchard et al. 2017): bears f liars of
    2f + 3.
    """

    name: str = value("multikrum", help="the strategy")
    select: int | None = number(
        None,
        at_least=1,
        at_most=MOST_SILOS,
        help="how many updates are averaged; null = all but f. The proof is for at most n - 2f - 3",
        also=("num_nodes_to_select", "m"),
    )


@dataclass
class BulyanConf(CohortRuleConf):
    """Of n - 2f updates that Krum chooses, the mean of each weight's nearest to the median
    (El Mhamdi et al. 2018, arXiv 1802.07927): bears f liars of 4f + 3.
    """

    name: str = value("bulyan", help="the strategy")


@dataclass
class GeometricMedianConf(CohortRuleConf):
    """The model whose distances to all updates have the least sum (Pillutla et al. 2022,
    arXiv 1912.13445): bears liars with less than half of the weight.
    """

    name: str = value("geometric_median", help="the strategy")
    iterations: int = number(
        10,
        at_least=1,
        at_most=1000,
        help="steps of the smoothed Weiszfeld algorithm at most, each of which reads all updates",
    )
    smoothing: float = number(
        1e-6, above=0, help="distance below which an update is taken to be this far", also=("nu",)
    )


@dataclass
class CenteredClippingConf(CohortRuleConf):
    """The mean of updates that are cut to `tau` around the last round's change (Karimireddy et al.
    2021, arXiv 2012.10333): proved for one liar in ten, needs 2f + 1 updates here.
    """

    name: str = value("centered_clipping", help="the strategy")
    tau: float | None = number(
        None,
        above=0,
        help="distance from the centre to which an update is cut; null = the median of the round's "
        "distances",
        also=("clipping_radius", "clip"),
    )
    iterations: int = number(
        1,
        at_least=1,
        at_most=1000,
        help="how often the centre is moved in a round, each time with a reading of all updates",
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
