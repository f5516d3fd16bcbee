"""A silo is one process: whoever starts several that are to train together is told so.

Each of them would connect with the silo's key, and the orchestrator would take each for the silo,
crashed and started again, until it gives up on it.

    MDW-358 one of several processes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from conf.errors import SiloError

SIZES: Final = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Where torchrun, Azure ML and MPI say how many processes they started."""


def check_alone(silo: str, environment: Mapping[str, str]) -> None:
    """Raise SiloError MDW-358 where this process is one of several that are to train together."""
    for name in SIZES:
        size = environment.get(name, "")
        if size.isdigit() and int(size) > 1:
            raise SiloError(
                "MDW-358",
                f"{silo} was started as {size} processes ({name}={size}), and a silo is one:"
                " it trains on one GPU of one node.",
                "Start its job once: gpus: 1 and nodes: 1 in the federation's file.",
            )
