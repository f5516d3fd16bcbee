"""Metrics that are pushed: what arrives at a collector, in OpenTelemetry's own form."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from conf.errors import ConfigError
from conf.schema import TrackingConf
from server.observers import otlp as module
from server.observers.otlp import Otlp, check_otlp, otlp
from server.run.result import RoundRecord, RunResult
from tests.server.observers.services import service

ASKED = TrackingConf(otlp="environment")
ENDPOINT = module.ENDPOINTS[0]


def measured(body: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return what a push holds: by metric, attributes and value of each point."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    push = ExportMetricsServiceRequest.FromString(body)
    metrics = [
        metric
        for of in push.resource_metrics
        for scope in of.scope_metrics
        for metric in scope.metrics
    ]
    for metric in metrics:
        points = metric.gauge.data_points or metric.sum.data_points
        found[metric.name] = [(attributes(point), value(point)) for point in points]
    return found


def attributes(point: NumberDataPoint) -> dict[str, str]:
    return {one.key: one.value.string_value for one in point.attributes}


def value(point: NumberDataPoint) -> float:
    return point.as_double if point.HasField("as_double") else point.as_int


def test_rounds_silos_and_links_arrive_when_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as at:
        monkeypatch.setenv(ENDPOINT, at.address.removesuffix("/hook"))
        pushing = otlp(ASKED)
        pushing.run_started(RunResult("r1", "simulate", "digits", "fedavg", ["a", "b"]), 2)
        pushing.round_closed(
            RoundRecord(
                2,
                ["a", "b"],
                ["a"],
                {"b": "gone"},
                {"b": "MDW-330"},
                seconds=1.5,
                seconds_training={"a": 0.5},
                bytes_up={"a": 100},
                bytes_down={"a": 200, "b": 200},
                aggregate={"accuracy": 0.75, "loss": float("nan")},
            )
        )
        end = RunResult("r1", "simulate", "digits", "fedavg", ["a", "b"], status="finished")
        pushing.run_finished(end)
        pushing.close()
    run = {"run": "r1", "task": "digits", "strategy": "fedavg"}
    found = measured(at.bodies[-1])
    assert found["meadow.round"] == [(run, 2)]
    assert found["meadow.round.duration"] == [(run, 1.5)]
    # A number that is none is not sent.
    assert found["meadow.federated"] == [({**run, "metric": "accuracy"}, 0.75)]
    assert found["meadow.silo.replies"] == [({**run, "silo": "a"}, 1)]
    assert found["meadow.silo.failures"] == [({**run, "silo": "b", "code": "MDW-330"}, 1)]
    assert found["meadow.silo.training"] == [({**run, "silo": "a"}, 0.5)]
    link = [(one["silo"], one["direction"], size) for one, size in found["meadow.link.bytes"]]
    assert sorted(link) == [("a", "down", 200), ("a", "up", 100), ("b", "down", 200)]
    assert found["meadow.run.finished"] == [({**run, "status": "finished", "code": ""}, 1)]


def test_a_collector_that_is_away_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as at:
        address = at.address
    monkeypatch.setenv(ENDPOINT, address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    pushing = otlp(ASKED)
    pushing.run_started(RunResult("r1", "simulate", "digits", "fedavg", ["a"]), 1)
    pushing.round_closed(RoundRecord(1, ["a"], ["a"]))
    pushing.close()
    assert at.bodies == []


def test_metrics_need_a_collector_and_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="MDW-133"):
        check_otlp(ASKED)
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    check_otlp(ASKED)
    monkeypatch.setattr(module, "EXPORTER", "opentelemetry.not_there.http")
    with pytest.raises(ConfigError, match="MDW-134"):
        check_otlp(ASKED)


def test_nothing_is_pushed_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    assert not isinstance(otlp(TrackingConf()), Otlp)
