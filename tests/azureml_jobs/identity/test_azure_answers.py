"""What is read of an error is what the service said, whichever SDK raised it and however deep it lies."""

from __future__ import annotations

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
)

from azureml_jobs.identity.azure_answers import SIGNED_OUT, Answer, answer_of
from tests.azureml_jobs.identity.azure_bodies import Body, raised


def http(headers: dict[str, str], status: int = 429) -> Answer:
    return answer_of(
        raised(Body("one", status, {"error": {"code": "A", "message": "b"}}, "", (), headers))
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"x-ms-retry-after-ms": "3000"}, 3),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"Retry-After": "9" * 40}, None),
        ({"Retry-After": "-1"}, None),
        ({}, None),
    ],
)
def test_when_to_ask_again_is_read_from_the_headers(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert http(headers).retry_after == seconds


def test_codes_come_from_the_body_the_inner_error_and_storage_s_header() -> None:
    inner = {"error": {"code": "Forbidden", "message": "m", "innererror": {"code": "Inner"}}}
    found = answer_of(raised(Body("one", 403, inner, "")))
    assert (found.status, found.code, found.inner) == (403, "Forbidden", "Inner")
    assert http({"x-ms-error-code": "ServerBusy"}, 503).code == "ServerBusy"


def test_a_credential_without_a_token_is_told_apart_from_a_service_that_refuses() -> None:
    assert answer_of(ClientAuthenticationError(message="none")).code == SIGNED_OUT
    assert http({}, 401).code == "A"


def test_what_got_no_answer_has_no_status() -> None:
    found = answer_of(ServiceRequestError("timed out"))
    assert (found.status, found.text) == (0, "timed out")


def test_an_error_that_leads_to_itself_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert answer_of(one) == Answer(text="one")


def test_a_response_without_headers_or_body_is_read_too() -> None:
    error = HttpResponseError("bare")
    error.status_code = 418
    assert answer_of(error) == Answer(418, "", "", "bare")
