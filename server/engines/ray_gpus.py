"""What part of which GPU each actor of a Ray is given, so that all are used and each actor sees one.

Ray hides all GPUs from an actor that asks for none, or shows it all of them: which of the two hangs
on a variable of its processes (`RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO`). So an actor asks for its part
where there are GPUs, and is told that none is meant where it shall have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from client import placement
from client.placement import Placement
from conf.errors import SiloError

SMALLEST: Final = 10_000
"""Ray counts in ten thousandths of a GPU."""
CPU: Final = "CPU"
GPU: Final = "GPU"


def share(sharers: int) -> float:
    """Return the part of a GPU that each of some actors asks for, so that all of them fit."""
    return (SMALLEST // sharers) / SMALLEST


def shares(processes: int, gpus: int) -> list[float]:
    """Return the part of a GPU that each actor of one machine asks for, those of one GPU together.

    Ray puts an actor where the least is left that is enough: in another order the last ones would
    find no GPU with room for them.
    """
    places = [placement.placement(n, processes, gpus, meant=False) for n in range(processes)]
    given = sorted((place for place in places if place is not None), key=lambda one: one.gpu or 0)
    return [share(place.sharers) for place in given]


def gpus_of(nodes: Sequence[Mapping[str, Any]], asked: int | None) -> int:
    """Return how many GPUs of a cluster a run uses: all, or as many as it asks for.

    `nodes` are the resources of each. Raises SiloError MDW-345 where there are fewer.
    """
    there = int(sum(node.get(GPU, 0) for node in nodes))
    if asked is not None and asked > there:
        what = f"simulation.gpus={asked} asks for more than there are: the Ray cluster has {there}."
        raise SiloError("MDW-345", what, f"Set it to {there} or less, or leave it out.")
    return there if asked is None else asked


def sharers_on(nodes: Sequence[Mapping[str, Any]], wanted: int, gpus: int) -> int:
    """Return how many actors share each GPU of a cluster, where `wanted` are to run at once: no more
    than the cores beside the GPUs take.
    """
    cores = sum(int(node.get(CPU, 0)) for node in nodes if node.get(GPU, 0))
    return max(1, math.ceil(min(wanted, max(cores, 1)) / gpus))


def told(gpus: int, sharers: int, asked: int | None) -> dict[str, str]:
    """Return the variables of actors that have a GPU each, as Ray shows it to them: their first."""
    if gpus:
        return placement.environment(Placement(0, sharers))
    return placement.environment(Placement(None) if asked == 0 else None)
