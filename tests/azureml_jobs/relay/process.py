"""`meadow relay` as a process, at one port for all its starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from azureml_jobs.relay.meeting import RelayAddress
from azureml_jobs.relay.outward import Outward
from azureml_jobs.relay.own_relay import Place
from tests.azureml_jobs.relay.public_ca import PublicCa
from tests.faults.federation import until

ROOT = Path(__file__).parents[3]
HOST = "127.0.0.1"


class RelayProcess:
    """A relay that can be killed, and started again at the same port.

    `federations` are those of its file, each with its CA's file, which need not be there yet, and
    all with the same limits.
    """

    def __init__(
        self,
        folder: Path,
        federations: dict[str, Path],
        limits: Mapping[str, Any] | None = None,
        **file: Any,
    ) -> None:
        self.folder = folder
        self.ca = PublicCa.made(folder / "public")
        self.log = folder / "relay.log"
        self.port = 0
        self._file = file
        self._federations = {
            name: {"ca": [str(ca)], **(limits or {})} for name, ca in federations.items()
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        pem, key = self.ca.certify("relay", [HOST])
        file = self.folder / "relay.yaml"
        told = {
            "name": HOST,
            "listen": f"{HOST}:{self.port}",
            "certificate": str(pem),
            "key": str(key),
            "federations": self._federations,
            **self._file,
        }
        file.write_text(yaml.safe_dump(told))
        before = len(self.said())
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "azureml_jobs.cli.main", "relay", f"file={file}"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until(lambda: "listens at" in self.said()[before:], 60)
        found = re.findall(r"listens at 127\.0\.0\.1:(\d+)", self.said())
        self.port = int(found[-1])

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, and return the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def memory(self) -> int:
        """Bytes that it holds now."""
        assert self._process is not None
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def place(self, federation: str = "federation") -> Place:
        return Place(RelayAddress.from_text(self.url), federation, Outward(self.ca.file))
