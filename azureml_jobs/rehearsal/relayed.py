"""A relay in a rehearsal: where orchestrator and silos meet, each dialling out on 443.

It runs beside the jobs' networks, as on a machine of somebody else. A silo whose owner has a proxy
reaches it through that alone.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from azureml_jobs.rehearsal.certificates import RELAY, Certificates
from azureml_jobs.rehearsal.cluster_node import free_port
from azureml_jobs.rehearsal.networks import Networks
from azureml_jobs.rehearsal.proxy import Proxy
from azureml_jobs.rehearsal.request_log import RequestLog
from conf.errors import AzureError

URL: Final = f"https://{RELAY}"
PROXY_PORT: Final = 3128
USER: Final = "meadow"
SECRET: Final = "proxy-password"
"""Its name in the vault of a silo that is behind the proxy."""
START_SECONDS: Final = 60.0


@dataclass
class Relayed:
    """A relay's process and the proxy before it; `password` is what the proxy asks for."""

    folder: Path
    certificates: Certificates
    networks: Networks
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    _port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None
    _proxy: Proxy | None = None

    def start(self, root: Path, federation: str, ca: Path) -> None:
        """Start both, with the code of a tree; raises AzureError MDW-880."""
        settings = self.folder / "relay.yaml"
        settings.write_text(
            f"name: {RELAY}\nlisten: 127.0.0.1:{self._port}\n"
            f"certificate: {self.certificates.certificate}\nkey: {self.certificates.key}\n"
            f"federations:\n  {federation}: {{ca: [{ca}]}}\n"
        )
        command = [sys.executable, "-m", "azureml_jobs.cli.main", "relay", f"file={settings}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=root, stdout=log, stderr=log)
        self._wait()
        proxy = Proxy([RELAY], self._port, RequestLog(), f"{USER}:{self.password}")
        proxy.start()
        self._proxy = proxy

    @property
    def log(self) -> Path:
        """Return the file of what the relay says."""
        return self.folder / "relay.log"

    def open(self, compute: str, *, proxied: bool = False) -> None:
        """Let a compute's jobs reach the relay on 443, or through the proxy alone."""
        if proxied:
            assert self._proxy is not None, "the relay is not started"
            self.networks.allow(compute, PROXY_PORT, self._proxy.port)
        else:
            self.networks.allow(compute, 443, self._port, RELAY)

    def stop(self) -> None:
        """End both."""
        if self._proxy is not None:
            self._proxy.stop()
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            if "listens at" in self.log.read_text(errors="replace"):
                return
            time.sleep(0.1)
        self.stop()
        said = self.log.read_text(errors="replace")[-500:]
        message = f"The rehearsal's relay did not start: {said or 'it said nothing'}"
        raise AzureError("MDW-880", message, "Look at the lines above.")


def outbound(silo: str) -> list[str]:
    """Return the overrides by which the owner of a proxied silo says how its connections leave."""
    key = f"federation.silos.{silo}.outbound"
    return [
        f"{key}.proxy=http://127.0.0.1:{PROXY_PORT}",
        f"{key}.proxy_user={USER}",
        f"{key}.proxy_password='vault:{SECRET}'",
    ]
