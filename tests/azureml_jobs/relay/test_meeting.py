"""Where two ends meet: the addresses that mean something."""

from __future__ import annotations

import pytest

from azureml_jobs.relay.meeting import RelayAddress
from conf.errors import ConfigError


def test_an_address_names_a_relay_and_perhaps_a_server() -> None:
    plain = RelayAddress.from_text("https://Relay.Example.org")
    assert (plain.host, plain.authority, plain.path) == (
        "relay.example.org",
        "Relay.Example.org",
        "server",
    )
    whole = RelayAddress.from_text("https://relay.example.org:8443/second/")
    assert (whole.host, whole.authority, whole.path) == (
        "relay.example.org",
        "relay.example.org:8443",
        "second",
    )
    azure = RelayAddress.from_text("sb://ns.servicebus.windows.net/hc")
    assert azure.is_azure
    assert azure.path == "hc"
    assert RelayAddress.from_text("http://127.0.0.1:80").scheme == "http"


@pytest.mark.parametrize(
    "text",
    [
        "relay.example.org",
        "https://",
        "https://user:password@relay.example.org",
        "https://relay.example.org/a/b",
        "https://relay.example.org?x=1",
        "https://relay.example.org:port",
        "https://relay.example.org:99999",
        "http://relay.example.org",
        "sb://ns.servicebus.windows.net",
        "file:///etc/passwd",
    ],
)
def test_any_other_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="MDW-119"):
        RelayAddress.from_text(text)
