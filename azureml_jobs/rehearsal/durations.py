"""How long Azure takes, and by what factor a rehearsal shortens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Durations:
    """What passes before a job's command runs, and before a role holds, in seconds.

    `roles`: from a role's assignment until it is obeyed. `build`: of a job's image. `queue`: until
    the cluster has a node. `start`: of the node's container, with the image's download.
    """

    roles: float = 0.0
    build: float = 0.0
    queue: float = 0.0
    start: float = 0.0

    def shortened(self, factor: float) -> Durations:
        """Return the same, divided by a factor; raises ValueError for one below 1."""
        if factor < 1:
            raise ValueError(f"a rehearsal does not take longer than Azure: {factor}")
        values = (self.roles, self.build, self.queue, self.start)
        return Durations(*(value / factor for value in values))

    @property
    def before_running(self) -> float:
        """Return how long a job is not running yet after it was sent."""
        return self.build + self.queue + self.start


AZURE: Final = Durations(roles=600.0, build=1200.0, queue=600.0, start=600.0)
"""Azure's own times, at their longest where Microsoft says one.

`roles`: "it can take up to 10 minutes for changes to take effect" (learn.microsoft.com,
role-based-access-control/troubleshooting). For the others there is no published limit, so they are
estimates: a first build of an image with CUDA and PyTorch, a node from zero, a pull of 10 GB.
"""
NONE: Final = Durations()
"""A cloud in which nothing takes time, for tests of other things."""
