"""Azurite, Microsoft's own emulator of blob storage: installed through npm, without telemetry.

MDW-870 no Node on this machine    MDW-871 npm could not install it    MDW-872 it did not start
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from conf.errors import AzureError
from conf.files.homes import cache_folder
from conf.files.whole import rename_new

VERSION: Final = "3.35.0"
"""The last that runs on Node 20."""
START_SECONDS: Final = 120.0
INSTALL_SECONDS: Final = 600.0
STOP_SECONDS: Final = 5.0


def installed() -> Path:
    """Return Azurite's program, installed into the cache folder at first use; raises AzureError."""
    folder = _cache() / f"azurite-{VERSION}"
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if not (shutil.which("node") and (program.exists() or shutil.which("npm"))):
        message = "A rehearsal needs Node, for Azurite, and there is none on this machine."
        hint = (
            "Install Node 20 or later with npm (nodejs.org, or your system's package), then run"
            " this again."
        )
        raise AzureError("MDW-870", message, hint)
    if not program.exists():
        _install(folder)
    return program


def _cache() -> Path:
    return cache_folder() / "meadow"


def _install(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Installed beside and then renamed: whole or not at all, also where two processes install it.
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
    flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    command = ["npm", "install", "--prefix", str(temporary), *flags, f"azurite@{VERSION}"]
    temporary.mkdir(exist_ok=True)
    try:
        npm = subprocess.run(
            command, cwd=temporary, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
        if npm.returncode:
            reason = " ".join(npm.stderr.split())[-300:]
            message = f"npm could not install Azurite {VERSION}: {reason}"
            raise AzureError("MDW-871", message, "Check npm's registry.")
        rename_new(temporary, folder)
    except subprocess.TimeoutExpired:
        message = f"npm took longer than {INSTALL_SECONDS:.0f} s for Azurite."
        hint = "Check the network and npm's registry."
        raise AzureError("MDW-871", message, hint) from None
    except OSError:
        # Another process may have renamed its copy first: that one serves as well.
        if not (folder / "node_modules" / ".bin" / "azurite-blob").exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Azurite:
    """An Azurite process with these accounts and keys, on a free port of 127.0.0.1 without TLS."""

    def __init__(self, folder: Path, accounts: Mapping[str, str]) -> None:
        self._folder = folder
        self._accounts = accounts
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        """Start it and wait until its port answers; raises AzureError MDW-870, 871 or 872."""
        program = installed()
        self._folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [str(program), "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        # Blobs end with the rehearsal: written to the disk, each would be waited for.
        command += ["--inMemoryPersistence"]
        command += ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        environment = {
            name: value for name, value in os.environ.items() if "proxy" not in name.lower()
        }
        # Through the environment: other users can read a process's arguments.
        accounts = [f"{name}:{key}" for name, key in self._accounts.items()]
        environment["AZURITE_ACCOUNTS"] = ";".join(accounts)
        with (self._folder / "azurite.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait()

    def stop(self) -> None:
        """End the process with its children: asked first, killed where it does not end in time."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        output = (self._folder / "azurite.log").read_text(errors="replace")[-500:]
        message = f"Azurite did not start: {output or 'it wrote nothing'}"
        raise AzureError("MDW-872", message, "Try `node --version`.")
