"""One sign-in for a process: as whom, with which client id, and what is said where there is none."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from azureml_jobs.identity import azure_sign_in
from azureml_jobs.identity.azure_answers import answer_of
from azureml_jobs.identity.azure_meanings import meaning
from azureml_jobs.identity.azure_sign_in import (
    MANAGED,
    NOBODY,
    REMEMBERED,
    USER,
    SharedCredential,
    failed_sign_in,
    identity_of,
    sign_in,
)

SCOPE = "https://vault.azure.net/.default"
CLIENT = "00000000-0000-0000-0000-00000000c11e"


class Endpoint(ThreadingHTTPServer):
    """An identity endpoint of a job: it demands a client id, or takes none."""

    demands = CLIENT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"


class Answering(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        asked = {key: value[0] for key, value in parse_qs(urlparse(self.path).query).items()}
        self.server.asked.append({**asked, "path": urlparse(self.path).path})
        good = asked.get("clientid", "") == self.server.demands
        body = {"error": "No token"}
        if good:
            body = {
                "access_token": "token",
                "expires_on": str(int(time.time()) + 3600),
                "resource": asked["resource"],
                "token_type": "Bearer",
            }
        data = json.dumps(body).encode()
        self.send_response(200 if good else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in list(os.environ):
        if name.startswith(("AZURE", "MSI_", "OBO_", "IDENTITY_", "DEFAULT_IDENTITY")):
            monkeypatch.delenv(name)
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name, raising=False)
    azure_sign_in.forget()
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("MSI_ENDPOINT", server.url)
        monkeypatch.setenv("MSI_SECRET", "secret")
        yield server
        server.shutdown()
        thread.join()
    azure_sign_in.forget()


@pytest.mark.parametrize(
    ("variables", "identity"),
    [
        ({}, NOBODY),
        ({"MSI_ENDPOINT": "http://x", "MSI_SECRET": "s"}, MANAGED),
        ({"MSI_ENDPOINT": "http://x"}, NOBODY),
        ({"AZUREML_OBO_ENABLED": "True", "MSI_ENDPOINT": "x", "MSI_SECRET": "s"}, USER),
        ({"AZUREML_OBO_ENABLED": "False", "MSI_ENDPOINT": "x", "MSI_SECRET": "s"}, MANAGED),
        ({"MEADOW_IDENTITY": "user", "MSI_ENDPOINT": "x", "MSI_SECRET": "s"}, USER),
        (
            {
                "MEADOW_IDENTITY": "managed",
                "AZUREML_OBO_ENABLED": "True",
                "MSI_ENDPOINT": "x",
                "MSI_SECRET": "s",
            },
            MANAGED,
        ),
        ({"AZUREML_OBO_ENABLED": "", "OBO_ENDPOINT": "x"}, NOBODY),
        ({"OBO_ENDPOINT": "x", "MSI_ENDPOINT": "x", "MSI_SECRET": "s"}, MANAGED),
    ],
)
def test_a_job_signs_in_as_the_identity_that_it_was_given(
    variables: dict[str, str], identity: str
) -> None:
    assert identity_of(variables) == identity


def test_on_a_cluster_the_endpoint_is_asked_with_the_client_id(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_IDENTITY_CLIENT_ID", CLIENT)
    assert sign_in().get_token(SCOPE).token == "token"
    assert [asked["clientid"] for asked in endpoint.asked] == [CLIENT]


def test_on_kubernetes_it_is_asked_without(endpoint: Endpoint) -> None:
    endpoint.demands = ""
    assert sign_in().get_token(SCOPE).token == "token"
    assert ["clientid" in asked for asked in endpoint.asked] == [False]


def test_on_behalf_of_a_user_the_other_endpoint_is_asked(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.demands = ""
    monkeypatch.setenv("AZUREML_OBO_ENABLED", "True")
    monkeypatch.setenv("OBO_ENDPOINT", endpoint.url.replace("/token", "/obo"))
    assert sign_in().get_token(SCOPE).token == "token"
    assert [asked["path"] for asked in endpoint.asked] == ["/obo"]


def test_a_job_whose_identity_is_refused_says_so_in_one_line(endpoint: Endpoint) -> None:
    begun = time.monotonic()
    with pytest.raises(ClientAuthenticationError) as refused:
        sign_in().get_token(SCOPE)
    told = meaning(answer_of(refused.value), "the Key Vault kv-north", "x")
    assert told.code == "MDW-803" and "no token of its managed identity" in told.message
    assert "\n" not in told.message and len(told.message) < 500
    assert time.monotonic() - begun < 10, "no chain of ten credentials is tried"


def test_all_that_a_process_asks_shares_one_sign_in(endpoint: Endpoint) -> None:
    endpoint.demands = ""
    first = sign_in(interactive=False)
    assert sign_in(interactive=False) is first
    for _ in range(3):
        first.get_token(SCOPE)
    assert len(endpoint.asked) == 1


class Failing:
    """A credential that counts how often it is asked, and fails until it is told otherwise."""

    def __init__(self) -> None:
        self.asked = 0
        self.works = False

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked += 1
        if self.works:
            return AccessToken("token", 0)
        raise ClientAuthenticationError(
            message="first line\n\tAzureCliCredential: it broke\n\tB: c"
        )


def test_a_sign_in_that_failed_is_waited_for_once() -> None:
    now = [0.0]
    below = Failing()
    shared = SharedCredential(below, clock=lambda: now[0])
    for _ in range(3):
        with pytest.raises(ClientAuthenticationError, match=r"the sign-in failed: AzureCli.*broke"):
            shared.get_token(SCOPE)
    assert below.asked == 1
    below.works = True
    now[0] = REMEMBERED
    assert shared.get_token(SCOPE).token == "token"


NOTHING_THERE = """DefaultAzureCredential failed to retrieve a token from the included credentials.
Attempted credentials:
\tEnvironmentCredential: EnvironmentCredential authentication unavailable. Not fully configured.
\tWorkloadIdentityCredential: WorkloadIdentityCredential authentication unavailable.
\tManagedIdentityCredential: ManagedIdentityCredential authentication unavailable.
\tAzureCliCredential: Azure CLI not found on path
To mitigate this issue, please refer to the troubleshooting guidelines here"""


def test_of_ten_ways_to_sign_in_only_one_that_was_there_is_told() -> None:
    said = failed_sign_in(NOTHING_THERE, NOBODY)
    assert said == "no identity was found: no az login, no service principal, no managed identity"
    expired = "\n\tAzureCliCredential: AADSTS700082: The refresh token has expired."
    assert failed_sign_in(NOTHING_THERE + expired, NOBODY) == (
        "the sign-in failed: AzureCliCredential: AADSTS700082: The refresh token has expired."
    )


def test_a_locked_out_user_s_job_is_told_as_the_user_s() -> None:
    assert "on behalf of the user" in failed_sign_in("No token received.", USER)
