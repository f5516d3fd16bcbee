"""What a loopback cloud demands of its clients, as Azure does; each can be turned off alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from azureml_jobs.rehearsal.durations import NONE, Durations
from azureml_jobs.rehearsal.request_budget import RequestBudget


class Preempted(Enum):
    """What becomes of a job whose low-priority node is taken away."""

    REQUEUED = "requeued"
    ENDED = "ended"


@dataclass
class Demands:
    """The settings of one cloud; a cloud's parts read them at each request.

    `client_id`: a cluster's identity endpoint gives no token to who does not name the identity.
    `page`: how many resources a list shows at once. `foreign_jobs`: how many jobs of others are in
    each workspace. `budget`: how many requests are taken; None for any. `durations`: what takes
    how long. `preempted`: Microsoft documents both, restarts for training and a cancelled job for
    batch (how-to-manage-optimize-cost, how-to-use-low-priority-batch).
    """

    client_id: bool = True
    page: int = 10
    foreign_jobs: int = 500
    budget: RequestBudget | None = field(default_factory=RequestBudget)
    durations: Durations = NONE
    preempted: Preempted = Preempted.REQUEUED
