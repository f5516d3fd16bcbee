"""The check of addresses and ports. It sees this machine's network; a job has another."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from azureml_jobs.jobs.specification import listen_address
from azureml_jobs.preflight.findings import WARNING, Finding
from conf.host_port import listening_here
from conf.schema import OrchestratorConf

SECONDS: Final = 3.0
"""Time limit of a connection: a firewall that drops packets never answers."""
_LOOPBACK: Final = ("localhost", "127.", "::1")


def reached(part: str, address: str) -> Iterator[Finding]:
    """Connect to the orchestrator's fixed address; another check refuses one that is not valid."""
    host, _, port = address.rpartition(":")
    machine = f"seen from this machine, {socket.gethostname()}"
    try:
        number = int(port)
        with socket.create_connection((host.strip("[]"), number), timeout=SECONDS):
            yield Finding(part, "reach", seen=f"{address} takes connections, {machine}")
    except ValueError:
        return
    except (OSError, OverflowError) as error:
        seen = f"{address} was not reached: {_reason(error)}; {machine}"
        fix = (
            "This is normal before the orchestrator is started; else open its port. A job has"
            " another network."
        )
        yield Finding(part, "reach", WARNING, seen, fix)


def listening(part: str, orchestrator: OrchestratorConf) -> Iterator[Finding]:
    """Check where the orchestrator listens.

    In a job other machines must reach the address; on this machine the port must be free.
    """
    if orchestrator.workspace:
        yield _job_listening(part, listen_address(orchestrator))
    else:
        yield _local_listening(part, listening_here(orchestrator.listen))


def _job_listening(part: str, address: str) -> Finding:
    host, _, port = address.rpartition(":")
    if host.strip("[]").startswith(_LOOPBACK):
        seen = f"{address} takes connections of its own machine only"
        fix = "Write 0.0.0.0:9092, or leave orchestrator.listen out."
        return Finding(part, "listen", WARNING, seen, fix)
    if port == "0":
        seen = f"{address} is another port at each start: no firewall can know it"
        return Finding(part, "listen", WARNING, seen, "Name a port, such as 9092.")
    return Finding(part, "listen", seen=address)


def _local_listening(part: str, address: str) -> Finding:
    host, _, port = address.rpartition(":")
    # Port 0 means any free one.
    error = "" if port == "0" else _error_of_binding(host.strip("[]"), port)
    if error:
        fix = "End what listens there, or choose another port."
        return Finding(part, "listen", WARNING, f"{address}: {error}", fix)
    return Finding(part, "listen", seen=address)


def _error_of_binding(host: str, port: str) -> str:
    """Return why nothing can listen at an address; empty where it is free."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # Without this option a port that was closed a moment ago would count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
