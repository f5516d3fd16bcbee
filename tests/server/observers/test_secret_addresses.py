"""Addresses come from the environment, else from the orchestrator's secrets, and are in no log."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from azureml_jobs.identity.secret_store import FolderSecrets
from conf.errors import IdentityError
from conf.schema import TrackingConf
from server.observers.otlp import ENDPOINTS
from server.observers.secret_addresses import HEADERS, take_addresses
from server.observers.webhook import VARIABLE, webhook_address

ALL = TrackingConf(webhook="environment", otlp="environment")
HOOK = "https://hooks.example.org/T0/secret-part"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with none of them, put back afterwards."""
    for name in (VARIABLE, HEADERS, *ENDPOINTS):
        monkeypatch.setenv(name, "")


@pytest.fixture
def secrets(tmp_path: Path) -> FolderSecrets:
    made = FolderSecrets(tmp_path / "keys")
    made.set("webhook-address", f"{HOOK}\n".encode())
    made.set("otlp-endpoint", b"https://otel.example.org")
    made.set("otlp-headers", b"authorization=Bearer%20abc")
    return made


def test_they_are_taken_from_the_secrets_and_in_no_log(
    secrets: FolderSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    take_addresses(ALL, secrets)
    assert webhook_address(ALL) == HOOK
    assert os.environ[ENDPOINTS[0]] == "https://otel.example.org"
    assert os.environ[HEADERS] == "authorization=Bearer%20abc"
    assert "secret-part" not in caplog.text and "abc" not in caplog.text


def test_a_run_that_asks_for_none_reads_no_secret(tmp_path: Path) -> None:
    take_addresses(TrackingConf(), FolderSecrets(tmp_path / "none"))
    assert not os.environ[VARIABLE]


def test_the_environment_comes_first_and_a_token_goes_to_no_other_s_address(
    secrets: FolderSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINTS[1], "https://elsewhere.example.org")
    monkeypatch.setenv(VARIABLE, "https://mine.example.org")
    take_addresses(ALL, secrets)
    assert os.environ[VARIABLE] == "https://mine.example.org"
    assert not os.environ[HEADERS] and not os.environ[ENDPOINTS[0]]


def test_where_there_is_no_secret_nothing_is_taken(tmp_path: Path) -> None:
    take_addresses(ALL, FolderSecrets(tmp_path))
    assert not os.environ[VARIABLE]


@pytest.mark.parametrize("secret", [b"", b"a\nb", b"\xff\xfe", b"x" * 5000])
def test_what_is_no_line_of_text_is_refused_and_not_shown(tmp_path: Path, secret: bytes) -> None:
    made = FolderSecrets(tmp_path / "keys")
    made.set("webhook-address", secret)
    with pytest.raises(IdentityError, match=r"MDW-727.*not one line"):
        take_addresses(ALL, made)
