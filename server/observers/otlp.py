"""Metrics of rounds, silos and links, pushed with OpenTelemetry's own protocol (OTLP over HTTP).

Where to is said by OpenTelemetry's own environment variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_EXPORTER_OTLP_HEADERS` for a token, and so on); nothing here listens. A thread of
OpenTelemetry's pushes every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds, 10,000 if it is not set;
a collector that is away costs the run nothing.

    meadow.round               the last closed round
    meadow.round.duration      seconds of it; meadow.round.waiting: of these, without enough silos
    meadow.federated           a federated metric of it, by `metric`
    meadow.silo.replies        admitted updates, by `silo`
    meadow.silo.failures       rounds without one, by `silo` and `code`
    meadow.silo.training       seconds of a silo's last training
    meadow.link.bytes          of arrays, by `silo` and `direction` (up, down)
    meadow.silos.connected     silos of the run that are connected; told where it changes
    meadow.quorum.missing      how many more a round would need; 0 where there are enough
    meadow.run.finished        runs that ended, by `status` and `code`
"""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from conf.errors import ConfigError
from conf.schema import TrackingConf
from server.observers.base import Observer, PresenceChange
from server.run.result import RoundRecord, RunResult

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"
INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"
INTERVAL_MILLISECONDS: Final = 10_000
END_MILLISECONDS: Final = 5_000
"""For the last push, at the run's end."""


def check_otlp(conf: TrackingConf) -> None:
    """Raise ConfigError MDW-133 where metrics are asked for and the environment names no collector,
    MDW-134 where the exporter is not installed.
    """
    if conf.otlp == "off":
        return
    if not any(os.environ.get(name) for name in ENDPOINTS):
        raise ConfigError(
            "MDW-133",
            f"tracking.otlp=environment, and {ENDPOINTS[0]} is not set.",
            "Set it to a collector's address, such as http://localhost:4318, where the run is"
            " served; or leave tracking.otlp out.",
        )
    try:
        found = find_spec(EXPORTER)
    except ModuleNotFoundError:
        found = None
    if found is None:
        what = f"tracking.otlp=environment needs {EXPORTER}, which is not installed."
        raise ConfigError("MDW-134", what, "From the source tree: pip install '.[otlp]'")


def otlp(conf: TrackingConf) -> Observer:
    """Return who pushes a run's metrics, or an observer that does nothing; raises as `check_otlp`."""
    if conf.otlp == "off":
        return Observer()
    check_otlp(conf)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    # Where the variable is set, OpenTelemetry reads it itself.
    interval = None if os.environ.get(INTERVAL) else INTERVAL_MILLISECONDS
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), interval, END_MILLISECONDS)
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "meadow")})
    return Otlp(MeterProvider([reader], resource, shutdown_on_exit=False))


class Otlp(Observer):
    """Turns what happens in a run into measurements; `provider` pushes them."""

    def __init__(self, provider: MeterProvider) -> None:
        self._provider = provider
        self._run: dict[str, str] = {}
        meter = provider.get_meter("meadow")
        self._round = meter.create_gauge("meadow.round")
        self._duration = meter.create_gauge("meadow.round.duration", "s")
        self._waiting = meter.create_gauge("meadow.round.waiting", "s")
        self._federated = meter.create_gauge("meadow.federated")
        self._replies = meter.create_counter("meadow.silo.replies")
        self._failures = meter.create_counter("meadow.silo.failures")
        self._training = meter.create_gauge("meadow.silo.training", "s")
        self._bytes = meter.create_counter("meadow.link.bytes", "By")
        self._connected = meter.create_gauge("meadow.silos.connected")
        self._missing = meter.create_gauge("meadow.quorum.missing")
        self._finished = meter.create_counter("meadow.run.finished")

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Note whose measurements they are."""
        self._run = {"run": result.run_id, "task": result.task, "strategy": result.strategy}

    def round_closed(self, record: RoundRecord) -> None:
        """Measure a round, its silos and their links."""
        self._round.set(record.round, self._run)
        self._duration.set(record.seconds, self._run)
        self._waiting.set(record.seconds_waiting, self._run)
        for metric, value in record.aggregate.items():
            if math.isfinite(value):
                self._federated.set(value, {**self._run, "metric": metric})
        for silo in record.replied:
            self._replies.add(1, {**self._run, "silo": silo})
        for silo, code in record.codes.items():
            self._failures.add(1, {**self._run, "silo": silo, "code": code})
        for silo, seconds in record.seconds_training.items():
            self._training.set(seconds, {**self._run, "silo": silo})
        for direction, sizes in (("up", record.bytes_up), ("down", record.bytes_down)):
            for silo, size in sizes.items():
                self._bytes.add(size, {**self._run, "silo": silo, "direction": direction})

    def presence(self, change: PresenceChange) -> None:
        """Measure how many silos are connected, and how many a round lacks."""
        self._connected.set(change.connected, self._run)
        self._missing.set(max(change.needed - change.connected, 0), self._run)

    def run_finished(self, result: RunResult) -> None:
        """Count the run by how it ended."""
        code = (result.error or {}).get("code", "")
        self._finished.add(1, {**self._run, "status": result.status, "code": code})

    def close(self) -> None:
        """Push what is left."""
        self._provider.shutdown(END_MILLISECONDS)
