"""A federation by the relay whose machines are network namespaces: a server that nobody can dial, and silos that reach
one port each: 443 behind a filter by name, a proxy that wants a password, a proxy that inspects.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from azureml_jobs.backends.local_jobs import LocalJobs
from server.simulation import simulate
from tests.azureml_jobs.relay.proxies import PASSWORD, USER
from tests.azureml_jobs.relay.public_ca import PublicCa
from tests.faults.federation import until
from tests.integration.namespaces import Network, network, possible

ROOT = Path(__file__).parents[2]
NAME = "relay.test"
RELAY = "10.87.1.1"
"""The middle's address in front of the server's site: the relay listens at port 443 of it alone."""
SMALL = ["task=digits", "data.examples=300", "federation.size=3", "run.rounds=6"]
PYTHON = [sys.executable, "-m"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not possible(), reason="needs root and network namespaces"),
]


@dataclass
class Places:
    """The processes in the middle, and the sites around it."""

    folder: Path
    net: Network
    public: PublicCa
    inspecting: PublicCa
    relay: subprocess.Popen[bytes] | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_relay(self) -> None:
        file = self.folder / "relay.yaml"
        before = self._said("relay")
        self.relay = self._run("relay", "azureml_jobs.cli.main", "relay", f"file={file}")
        until(lambda: "listens at" in self._said("relay")[len(before) :], 120)

    def middle(self, name: str, *arguments: str) -> None:
        """Run one of `tests.integration.middle_box` there, until it listens."""
        self._run(name, "tests.integration.middle_box", *arguments)
        until(lambda: "listens" in self._said(name), 120)

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.net.command("middle", *PYTHON, *command),
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self.processes.append(process)
        return process

    def _said(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def meadow(self, site: str, *arguments: str) -> str:
        """Run a verb in a site; what it starts stays there."""
        done = subprocess.run(
            self.net.command(site, *PYTHON, "azureml_jobs.cli.main", *arguments),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PROXY_PASSWORD": PASSWORD},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@contextmanager
def places(cut_after: float = 0.0) -> Iterator[Places]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meadow-sites-")))
        net = stack.enter_context(network())
        made = Places(
            folder,
            net,
            PublicCa.made(folder / "public"),
            PublicCa.made(folder / "inspecting", "inspecting"),
        )
        stack.callback(lambda: _end(made))
        net.site("server", (443,), NAME)
        filtered = net.site("filtered", (443,), NAME)
        proxied = net.site("proxied", (3128,), NAME)
        inspected = net.site("inspected", (3128,), NAME)
        pem, key = made.public.certify("relay", [NAME])
        ca = folder / ".meadow/federation/keys/ca-certificate"
        told = {
            "name": NAME,
            "listen": f"{RELAY}:443",
            "certificate": str(pem),
            "key": str(key),
            "federations": {"federation": {"ca": [str(ca)]}},
        }
        (folder / "relay.yaml").write_text(yaml.safe_dump(told))
        made.start_relay()
        to = f"{RELAY}:443"
        made.middle("filter", "filter", f"{filtered}:443", to, NAME, str(cut_after))
        made.middle("proxy", "proxy", f"{proxied}:3128", to, USER, PASSWORD)
        trusted = str(made.public.file)
        made.middle(
            "inspector", "inspect", f"{inspected}:3128", to, str(made.inspecting.folder), trusted
        )
        yield made


def _end(made: Places) -> None:
    jobs = LocalJobs(made.folder / ".meadow/federation/jobs")
    jobs.stop(jobs.names())
    for process in made.processes:
        process.kill()
        process.wait(10)


def owners(made: Places) -> dict[str, list[str]]:
    """What each owner says of its own way out, by part."""
    public = f"ca={made.public.file}"
    key = "+federation.silos.{silo}.outbound.{said}"
    said = {
        "silo-1": [public],
        "silo-2": [
            public,
            "proxy=http://relay.test:3128",
            f"proxy_user={USER}",
            "proxy_password='env:PROXY_PASSWORD'",
        ],
        "silo-3": [f"ca={made.inspecting.file}", "proxy=http://relay.test:3128"],
    }
    ways = {silo: [key.format(silo=silo, said=one) for one in more] for silo, more in said.items()}
    return {"server": [f"federation.orchestrator.outbound.{public}"], **ways}


SITES = {"silo-1": "filtered", "silo-2": "proxied", "silo-3": "inspected"}


def trained(made: Places, kill: bool) -> str:
    """Train one run, and return its model's digest; with `kill` the relay dies in the middle of it."""
    common = ["backend=local", f"federation.relay.url=https://{NAME}"]
    ways = owners(made)
    every = [one for more in ways.values() for one in more]
    made.meadow("server", "launch", "server", *common, *SMALL, *every)
    for silo, site in SITES.items():
        made.meadow(site, "launch", "client", f"silo={silo}", *common, *SMALL, *every)
    made.meadow("server", "submit", *common, *SMALL, *every, "run.name=a")
    history = made.folder / "outputs/a/history.jsonl"
    if kill:
        until(lambda: history.exists() and history.read_text().count("\n") >= 1, 240)
        assert made.relay is not None
        made.relay.kill()
        made.relay.wait(10)
        time.sleep(1)
        made.start_relay()
    status = made.meadow("server", "wait", *common, "run=a")
    assert "finished" in status, status
    assert "by relay" in made.meadow("server", "status", *common)
    result = json.loads((made.folder / "outputs/a/result.json").read_text())
    return str(result["model"]["digest"])


def reached(made: Places, site: str, address: str) -> bool:
    """Whether a site can open a TCP connection to an address."""
    code = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    host, _, port = address.rpartition(":")
    command = made.net.command(site, sys.executable, "-c", code, host, port)
    return subprocess.run(command, capture_output=True).returncode == 0


def test_silos_behind_a_filter_and_two_proxies_train_with_a_server_that_nobody_can_dial(
    tmp_path: Path,
) -> None:
    with places() as made:
        digest = trained(made, kill=True)
        direct = simulate([*SMALL, f"run.output={tmp_path}", "run.name=direct"])
        assert digest == direct.result.model["digest"]
        # What the sites reach: each its one port of the middle, and nobody each other.
        log = (made.folder / ".meadow/federation/jobs/server/log.txt").read_text()
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log)
        assert found is not None
        for site in SITES.values():
            assert not reached(made, site, f"10.87.1.2:{found[1]}")
            assert not reached(made, site, "10.87.1.1:443")
        assert not reached(made, "middle", f"10.87.1.2:{found[1]}")
        assert reached(made, "filtered", f"{NAME}:443")
        assert not reached(made, "proxied", f"{NAME}:443")
        # The inspecting proxy has read the outer connection, and found TLS in it.
        read = (made.folder / "inspector.log").read_text(errors="replace")
        assert "GET /v1/federation/server/silo" in read
        for text in (read, log, (made.folder / "proxy.log").read_text(errors="replace")):
            assert PASSWORD not in text
        jobs = made.folder / ".meadow/federation/jobs"
        for name in jobs.rglob("*"):
            if name.is_file():
                assert PASSWORD.encode() not in name.read_bytes(), name


def test_connections_that_are_cut_each_five_seconds_cost_no_bit(tmp_path: Path) -> None:
    """As an ingress that ends each connection after 240 s, made shorter."""
    with places(cut_after=5.0) as made:
        digest = trained(made, kill=False)
        direct = simulate([*SMALL, f"run.output={tmp_path}", "run.name=direct"])
        assert digest == direct.result.model["digest"]
