"""The orchestrator is killed in the middle of an upload: the next one has what had arrived, and gets the rest.

What crosses is counted at a proxy's sockets. A file's bytes say what is on the disk.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.federation import ROOT, Federation, free_port, lines, until
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.slow

ELEMENTS = 1_500_000
"""6 MB, in two objects."""
BYTES = 4 * ELEMENTS
KEPT = 4_000_000
RATE = 750_000.0
PART = 2 * RATE
"""Bytes of one call over this link, which a cut may cost."""


def serve(folder: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
    """Start an orchestrator with one round of one silo."""
    where = (str(folder), str(port), "1", "1", "--elements", str(ELEMENTS))
    command = [sys.executable, "-m", "tests.faults.toy_server", *where, *more]
    return subprocess.Popen(command, cwd=ROOT)


class Upload:
    """One silo, one round, and an orchestrator that is killed once a part of the update is here."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.federation = Federation(folder, silos=1)
        self.port = free_port()
        self.proxy = Proxy(f"127.0.0.1:{self.port}")
        stack.callback(self.proxy.close)
        silo = self.federation.silos[0]
        stack.enter_context(self.federation.thread_node(self.proxy.address, silo, folder / "state"))

    def killed_in_the_middle(self) -> int:
        """Kill the orchestrator when `KEPT` bytes are on its disk; return those that had crossed."""
        with serve(self.folder, self.port) as server:
            try:
                until(lambda: (self.folder / "trained.jsonl").exists(), 60)
                self.proxy.limit(RATE)
                until(lambda: self.on_disk() >= KEPT, 60)
            finally:
                server.kill()
        return self.proxy.carried

    def ended(self) -> str:
        """Let another orchestrator end the run; return the model's digest."""
        return ended(self.folder, self.port)

    def on_disk(self) -> int:
        files = list((self.folder / "uploads").glob("*.upload"))
        return sum(path.stat().st_size for path in files)


def ended(folder: Path, port: int) -> str:
    with serve(folder, port) as server:
        assert server.wait(120) == 0
    (done,) = [one for one in lines(folder / "events.jsonl") if one["event"] == "done"]
    return str(done["digest"])


def digest_of_a_quiet_run(folder: Path) -> str:
    folder.mkdir(mode=0o700)
    federation, port = Federation(folder, silos=1), free_port()
    with federation.thread_node(f"127.0.0.1:{port}", federation.silos[0]):
        return ended(folder, port)


def test_killed_in_mid_upload_the_next_orchestrator_is_sent_the_rest(tmp_path: Path) -> None:
    with ExitStack() as stack:
        folder = tmp_path / "killed"
        folder.mkdir(mode=0o700)
        upload = Upload(folder, stack)
        before = upload.killed_in_the_middle()
        assert before < BYTES, "it was killed in the middle"
        digest = upload.ended()
        again = upload.proxy.carried - before
        assert again < BYTES - KEPT + PART + 100_000, f"{again} bytes after 4 MB of 6 were kept"
        assert len(lines(folder / "trained.jsonl")) == 1
    assert digest == digest_of_a_quiet_run(tmp_path / "quiet")


def test_an_update_that_had_arrived_whole_is_not_sent_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        upload = Upload(tmp_path, stack)
        with serve(tmp_path, upload.port, "--die", "collecting:1") as server:
            until(lambda: (tmp_path / "trained.jsonl").exists(), 60)
            upload.proxy.limit(2 * RATE)
            assert server.wait(120) == -9
        before = upload.proxy.carried
        assert before > BYTES
        upload.ended()
        again = upload.proxy.carried - before
        assert again < 200_000, f"{again} bytes for an update that was here"


def test_on_an_empty_disk_it_starts_from_zero_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack, caplog.at_level("INFO"):
        upload = Upload(tmp_path, stack)
        before = upload.killed_in_the_middle()
        shutil.rmtree(tmp_path / "uploads")
        upload.ended()
        assert upload.proxy.carried - before > BYTES
    assert any("they go anew" in message for message in caplog.messages)
