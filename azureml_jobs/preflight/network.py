"""A check's look at addresses and ports. What it sees is this machine's network; a job has another."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from azureml_jobs.jobs.specification import listen_address
from azureml_jobs.preflight.findings import WARNING, Finding
from conf.schema import OrchestratorConf

SECONDS: Final = 3.0
"""For a connection: a firewall that drops packets answers nothing."""
_LOOPBACK: Final = ("localhost", "127.", "::1")


def reached(place: str, address: str) -> Iterator[Finding]:
    """Try the orchestrator's fixed address; an address that is none is told elsewhere."""
    host, _, port = address.rpartition(":")
    here = f"seen from this machine, {socket.gethostname()}"
    try:
        number = int(port)
        with socket.create_connection((host.strip("[]"), number), timeout=SECONDS):
            yield Finding(place, "reach", seen=f"{address} takes connections, {here}")
    except ValueError:
        return
    except (OSError, OverflowError) as error:
        fix = "Before the orchestrator is up that is as it must be; else open its port. The job's network is another."
        yield Finding(
            place, "reach", WARNING, f"{address} was not reached: {_why(error)}; {here}", fix
        )


def listening(place: str, own: OrchestratorConf) -> Iterator[Finding]:
    """Look at where the orchestrator listens: in a job other machines must reach it, here its port must be free."""
    listen = listen_address(own) if own.workspace else own.listen
    host, _, port = listen.rpartition(":")
    if own.workspace and host.strip("[]").startswith(_LOOPBACK):
        fix = "Write 0.0.0.0:9092, or leave orchestrator.listen out."
        yield Finding(
            place, "listen", WARNING, f"{listen} takes connections of its own machine only", fix
        )
    elif own.workspace and port == "0":
        fix = "Name a port, such as 9092."
        yield Finding(
            place,
            "listen",
            WARNING,
            f"{listen} is another port at each start: no firewall can know it",
            fix,
        )
    elif not own.workspace and port != "0" and (why := _taken(host.strip("[]"), port)):
        yield Finding(
            place,
            "listen",
            WARNING,
            f"{listen}: {why}",
            "End what listens there, or choose another port.",
        )
    else:
        yield Finding(place, "listen", seen=listen)


def _taken(host: str, port: str) -> str:
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # a port that has just been closed is free
            probe.bind(where)
    except (OSError, OverflowError) as error:
        return _why(error)
    return ""


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
