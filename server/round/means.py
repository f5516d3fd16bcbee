"""What a strategy makes of the silos' metrics, as the numbers of a round."""

from __future__ import annotations

from typing import Final

from flwr.app import MetricRecord

from server.run.result import Metrics
from strategies.wire import protocol

NO_MEAN: Final = (
    *protocol.OF_THE_MACHINE,
    protocol.NUM_EXAMPLES,
    protocol.SIZE,
)
"""What has no meaning as a mean over silos."""


def means(record: MetricRecord | None) -> Metrics:
    """Return a strategy's aggregate, without what has no meaning as a mean over silos."""
    if record is None:
        return {}
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name not in NO_MEAN
    }
