"""The forms in which a silo's change of the model travels, one codec a file."""

from __future__ import annotations

from conf.schema import BlockwiseConf, CompressionConf, LowRankConf, SparseConf
from strategies.compression.blockwise import Int4, Int8
from strategies.compression.codec import Codec
from strategies.compression.half import BFloat16, Float16
from strategies.compression.lowrank import LowRank
from strategies.compression.sparse import RandK, TopK


def codec_of(conf: CompressionConf) -> Codec | None:
    """Return the codec that a configuration names; None where updates travel as they are."""
    match conf:
        case BlockwiseConf():
            return (Int8 if conf.name == "int8" else Int4)(conf.block)
        case SparseConf():
            return (TopK if conf.name == "topk" else RandK)(conf.fraction)
        case LowRankConf():
            return LowRank(conf.rank)
    return {"bf16": BFloat16, "fp16": Float16}[conf.name]() if conf.name != "none" else None
