"""How many requests Azure Resource Manager takes: a bucket of tokens that refills."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.responses import Response

from azureml_jobs.rehearsal.answers import failure


@dataclass(frozen=True)
class Bucket:
    """How many requests may come at once, and how many more each second."""

    size: int
    refill: float


READS: Final = Bucket(250, 25.0)
WRITES: Final = Bucket(200, 10.0)
"""For each subscription, principal and kind of request (learn.microsoft.com,
azure-resource-manager/management/request-limits-and-throttling)."""


@dataclass
class RequestBudget:
    """The buckets of one cloud; safe to use from several threads."""

    reads: Bucket = READS
    writes: Bucket = WRITES
    clock: Callable[[], float] = time.monotonic
    _left: dict[tuple[str, str, bool], tuple[float, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spend(self, subscription: str, identity: str, *, reads: bool) -> float:
        """Take one request's token; return after how many seconds there is one again, 0 for now."""
        bucket = self.reads if reads else self.writes
        key = (subscription, identity, reads)
        now = self.clock()
        with self._lock:
            left, since = self._left.get(key, (float(bucket.size), now))
            left = min(float(bucket.size), left + (now - since) * bucket.refill)
            if left < 1:
                self._left[key] = (left, now)
                return (1 - left) / bucket.refill
            self._left[key] = (left - 1, now)
        return 0.0

    def forget(self) -> None:
        """Fill every bucket."""
        with self._lock:
            self._left.clear()


def throttled(subscription: str, method: str, seconds: float) -> Response:
    """Return ARM's answer to one request too many."""
    whole = max(1, math.ceil(seconds))
    message = (
        f"Number of requests for subscription '{subscription}' and operation"
        f" '{method}/SUBSCRIPTIONS/' exceeded the backend storage limit. Please try again after"
        f" '{whole}' seconds."
    )
    answer = failure(429, "SubscriptionRequestsThrottled", message)
    answer.headers["Retry-After"] = str(whole)
    return answer
