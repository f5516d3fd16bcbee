"""Each answer of Azure is told as what it is; the bodies have the form that Microsoft documents."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from azureml_jobs.identity.azure_answers import SIGNED_OUT, Answer, answer_of
from azureml_jobs.identity.azure_meanings import Throttled, meaning
from tests.azureml_jobs.identity.azure_bodies import BODIES, Body, raised

VAULT = "the Key Vault kv-north"


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_an_answer_has_the_code_and_the_fix_of_its_kind(body: Body) -> None:
    error = meaning(answer_of(raised(body)), VAULT, "Key Vault Secrets User")
    assert (error.code, body.name) == (body.means, body.name)
    for word in body.told:
        assert word in str(error), str(error)
    for word in ("az login", "Grant that identity"):
        assert (word in error.hint) == (word in body.told), error.hint


def test_no_answer_at_all_is_a_matter_of_the_network() -> None:
    error = meaning(Answer(text="Failed to resolve 'kv-nroth.vault.azure.net'"), VAULT, "x")
    assert error.code == "MDW-800" and "DNS" in error.hint and "kv-nroth" in error.message


def test_a_sign_in_that_gave_no_token_is_not_a_matter_of_the_network() -> None:
    error = meaning(Answer(code=SIGNED_OUT, text="no identity was found"), VAULT, "x")
    assert error.code == "MDW-803" and "no identity was found" in error.message


def test_a_throttled_call_says_for_how_long_and_survives_a_process_border() -> None:
    error = meaning(Answer(429, text="Too many requests.", retry_after=17), VAULT, "x")
    assert isinstance(error, Throttled) and error.seconds == 17 and "17 s, as it says" in error.hint
    assert copy.copy(error).code == "MDW-805"  # by __reduce__, as between two processes


def test_what_a_wrapper_hides_is_found() -> None:
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import HttpResponseError

    body = next(one for one in BODIES if one.means == "MDW-804")
    inner = raised(body)
    assert isinstance(inner, HttpResponseError)
    try:
        try:
            raise inner
        except HttpResponseError as cause:
            raise MlException(message="Failed", no_personal_data_message="Failed") from cause
    except MlException as error:
        assert meaning(answer_of(error), VAULT, "x").code == "MDW-804"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"error": {"code": "UserError", "message": "Bearer token not provided"}}, "MDW-803"),
        (403, {"error": {"code": "AuthorizationFailed", "message": "No role."}}, "MDW-801"),
        (429, {"error": {"code": "TooManyRequests", "message": "Slow down"}}, "MDW-805"),
        (500, {"error": {"code": "ServiceError", "message": "?"}}, "MDW-809"),
    ],
)
def test_mlflow_s_errors_keep_their_kind_too(status: int, body: dict[str, Any], code: str) -> None:
    from mlflow.exceptions import MlflowException

    said = (
        f"API request to endpoint /api/2.0/mlflow/runs/search failed with error code {status} != "
        f"200. Response body: '{json.dumps(body)}'"
    )
    assert meaning(answer_of(MlflowException(said)), "MLflow", "Reader").code == code


def test_any_other_error_is_told_with_its_text() -> None:
    error = meaning(answer_of(OSError("Connection reset by peer")), VAULT, "x")
    assert error.code == "MDW-800" and "reset by peer" in error.message
