"""The pool's workers come from a copy of a program that has imported torch, and end with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.engines.fork_server import fork_from_here

PROGRAM = """
import json, multiprocessing, os, sys, threading, types
from server.engines import worker
from server.engines.fork_server import fork_from_here
import probe

sys.modules["marker"] = types.ModuleType("marker")
copied = fork_from_here("client.app")
context = multiprocessing.get_context("forkserver")
answers = context.SimpleQueue()
with worker.main_hidden():
    process = context.Process(target=probe.look, args=(answers,))
    process.start()
print(json.dumps({"copied": copied, **answers.get()}))
process.join()
"""
PROBE = """
import multiprocessing, os, sys
from multiprocessing import forkserver

def look(answers):
    free = forkserver._forkserver._lock.acquire(blocking=False)
    answers.put({
        "marker": "marker" in sys.modules,
        "lock": free,
        "open": len(os.listdir("/proc/self/fd")),
    })
"""
COPIES = sys.platform.startswith("linux")


@pytest.mark.skipif(not COPIES, reason="a process is copied on Linux alone")
def test_a_worker_has_what_the_program_has_imported_and_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    # Its output ends when every process has ended that holds it: the copy too.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    assert told["copied"] and told["marker"] and told["lock"], done.stderr
    # Three streams, the pipes of one worker and the listing: nothing of the program's own.
    assert told["open"] < 12


def test_a_program_with_another_thread_is_not_copied() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert not fork_from_here("client.app")
    finally:
        over.set()
        thread.join()
