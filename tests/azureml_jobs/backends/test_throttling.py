"""Who waits because Azure throttles is told so, and for how long."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline import Pipeline
from azure.core.pipeline.policies import RetryPolicy
from azure.core.rest import HttpRequest

from azureml_jobs.backends.throttling import TellsThrottling


class Answer:
    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.headers = headers


class Service:
    """A transport that throttles so many times; sleeping is counted and not done."""

    def __init__(self, times: int, headers: dict[str, str]) -> None:
        self.times = times
        self.headers = headers
        self.slept: list[float] = []

    def send(self, request: Any, **options: Any) -> Answer:
        self.times -= 1
        return Answer(429 if self.times >= 0 else 200, self.headers)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None: ...


def test_a_client_waits_as_long_as_azure_asks_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    service: Any = Service(2, {"Retry-After": "17"})
    pipeline: Any = Pipeline(service, [RetryPolicy(), TellsThrottling("The workspace north")])
    with caplog.at_level(logging.WARNING):
        answer = pipeline.run(HttpRequest("GET", "https://management.azure.com/jobs"))
    assert answer.http_response.status_code == 200 and service.slept == [17, 17]
    said = "The workspace north takes no more requests for now; asked again in 17 s, as it says"
    assert [record.message for record in caplog.records] == [said, said]


def test_nothing_is_said_of_what_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    service: Any = Service(0, {})
    pipeline: Any = Pipeline(service, [TellsThrottling("The workspace north")])
    try:
        pipeline.run(HttpRequest("GET", "https://management.azure.com/jobs"))
    except HttpResponseError:
        raise AssertionError("it was answered") from None
    assert caplog.records == []
