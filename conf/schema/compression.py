"""How a silo's update is made smaller for the wire."""

from __future__ import annotations

from dataclasses import dataclass

from conf.fields import number, one_of


@dataclass
class CompressionConf:
    """The form in which a silo's change of the model travels: `strategies/compression/`."""

    name: str = one_of(
        "none",
        "bf16",
        "fp16",
        "int8",
        "int4",
        "topk",
        "randk",
        "lowrank",
        help="the form of a silo's change of the model",
    )
    down: str = one_of(
        "full",
        "bf16",
        "int8",
        "int4",
        help="the form of the model on its way to the silos: full, or what it differs by from the one "
        "that a silo has; the run's models are then what the silos decode",
        also=("downlink",),
    )


@dataclass
class BlockwiseConf(CompressionConf):
    """Whole numbers of 8 or 4 bits with one scale a block, rounded at random without a bias."""

    block: int = number(
        256, at_least=16, at_most=65536, help="values that share a scale", also=("group_size",)
    )


@dataclass
class SparseConf(CompressionConf):
    """Few of the change's values; what is left out is added to the next round's."""

    fraction: float = number(
        0.01,
        above=0,
        at_most=0.5,
        help="share of the values that is sent",
        also=("k", "ratio", "density"),
    )


@dataclass
class LowRankConf(CompressionConf):
    """Two factors for each matrix (Vogels et al. 2019, arXiv 1905.13727)."""

    rank: int = number(
        4, at_least=1, at_most=256, help="columns of the two factors of a matrix", also=("r",)
    )
