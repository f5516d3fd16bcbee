"""Where an orchestrator is, by what its machine's network says."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from conf.host_port import LOOPBACK
from conf.schema import OrchestratorConf
from server.orchestrator import backends
from server.orchestrator.backends import dialled_host, own_host

ROOT = Path(__file__).parents[3]
APART = ["unshare", "--user", "--map-root-user", "--net", "--uts"]
NAMELESS = """
import logging, socket
logging.basicConfig()
socket.sethostname("a-name-that-no-resolver-knows")
from server.orchestrator.backends import own_host
print(own_host())
"""


def test_its_own_address_is_one_of_a_network_and_no_name() -> None:
    assert str(ip_address(own_host())) == own_host()


@pytest.mark.parametrize(
    ("listen", "host", "dialled"),
    [
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0:9092", "127.0.0.1", "127.0.0.1"),
        ("[::1]:0", "127.0.0.1", "::1"),
        ("10.0.0.7:9092", "127.0.0.1", "10.0.0.7"),
        ("0.0.0.0:9092", "fl.example.org", "fl.example.org"),
    ],
)
def test_silos_dial_the_one_address_at_which_it_listens(
    listen: str, host: str, dialled: str
) -> None:
    assert dialled_host(OrchestratorConf(listen=listen, host=host)) == dialled


def test_without_a_route_it_is_loopback_and_the_log_says_who_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "ROUTES", ())
    assert own_host() == LOOPBACK
    assert "MDW-729" in caplog.text and "relay" in caplog.text


def test_a_machine_whose_own_name_has_no_address_and_that_has_no_network_starts_all_the_same() -> (
    None
):
    can = subprocess.run([*APART, "true"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("no network namespaces here")
    command = [*APART, sys.executable, "-c", NAMELESS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == f"{LOOPBACK}\n", done.stderr
    assert "MDW-729" in done.stderr and "Traceback" not in done.stderr
