"""An orchestrator as a process of its own, with rounds and a checkpoint a round, that kills itself where it is told.

    python -m tests.faults.toy_server FOLDER PORT SILOS ROUNDS [--die PLACE:ROUND] [--sleep SECONDS] [--elements N]

PLACE is before-send, collecting (after the first reply), aggregating or writing (a checkpoint). It goes on from the
checkpoint that it finds, and writes what happens to FOLDER/events.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from server.orchestrator.kept_uploads import KeptUploads
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator, quiet_flower
from server.round.exchange import Closing, exchange
from tests.faults.federation import Federation


class Server:
    def __init__(self, folder: Path, die: str, sleep: float, elements: int = 0) -> None:
        self.folder, self.sleep = folder, sleep
        self.elements = elements
        self.place, _, round = die.partition(":")
        self.die_in = int(round or 0)

    def event(self, what: str, **more: Any) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": what, **more}) + "\n")

    def maybe_die(self, place: str, round: int) -> None:
        if place == self.place and round == self.die_in:
            self.event("dying", place=place, round=round)
            os.kill(os.getpid(), signal.SIGKILL)

    def load(self) -> tuple[int, np.ndarray]:
        file = self.folder / "checkpoint.npy"
        if not file.exists():
            if self.elements:
                return 0, np.random.default_rng(1).random(self.elements, dtype=np.float32)
            return 0, np.zeros(50_000, dtype=np.float32)
        stored = np.load(file, allow_pickle=False)
        return int(stored[0]), stored[1:]

    def save(self, round: int, weights: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(
            buffer, np.concatenate([np.array([round], np.float32), weights]), allow_pickle=False
        )
        temporary = self.folder / "checkpoint.tmp"
        temporary.write_bytes(
            buffer.getvalue()[
                : 100_000 if self.place == "writing" and round == self.die_in else None
            ]
        )
        self.maybe_die("writing", round)
        temporary.replace(self.folder / "checkpoint.npy")

    def run(self, port: int, silos: int, rounds: int) -> None:
        federation = Federation(self.folder, silos)
        orchestrator = Orchestrator(
            f"127.0.0.1:{port}",
            federation.credentials(),
            federation.public,
            uploads=KeptUploads(self.folder / "uploads", after=1.0),
        )
        orchestrator.start()
        names = [silo.name for silo in federation.silos]
        started = time.monotonic()
        orchestrator.wait_for(names, silos, 60)
        self.event("connected", seconds=time.monotonic() - started)
        grid = PackedGrid(orchestrator.open_run("run", names))
        done, weights = self.load()
        for round in range(done + 1, rounds + 1):
            weights = self.round(grid, round, weights)
            self.save(round, weights)
            self.event("closed", round=round)
        digest = hashlib.sha256(weights.tobytes()).hexdigest()
        self.event("done", digest=digest, first=float(weights[0]))
        orchestrator.stop(over=True)

    def round(self, grid: PackedGrid, round: int, weights: np.ndarray) -> np.ndarray:
        arrays = ArrayRecord()
        arrays["w"] = Array(weights)
        config = ConfigRecord(
            {
                "server-round": round,
                "meadow-run-id": "run",
                "sleep": self.sleep,
                "sleep-silo": "silo-2",
                "trained-file": str(self.folder / "trained.jsonl"),
            }
        )
        content = RecordDict({"arrays": arrays, "config": config})
        self.maybe_die("before-send", round)
        closing = Closing(timeout=60, quorum=len(grid.names()), patience=60)
        messages = [Message(content, node, "train") for node in grid.get_node_ids()]
        folded: dict[str, np.ndarray] = {}
        for node, reply, _ in exchange(grid, messages, closing):
            assert not reply.has_error(), reply.error.reason
            folded[grid.names()[node]] = reply.content["arrays"]["w"].numpy()
            self.event("reply", round=round, silo=grid.names()[node])
            self.maybe_die("collecting", round)
        total = np.zeros_like(weights)
        for name in sorted(folded):
            total += folded[name]
            self.maybe_die("aggregating", round)
        return total / np.float32(len(folded)) * np.float32(1.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("port", "silos", "rounds"):
        parser.add_argument(name, type=int)
    parser.add_argument("--die", default="")
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--elements", type=int, default=0)
    args = parser.parse_args()
    quiet_flower()
    Server(args.folder, args.die, args.sleep, args.elements).run(args.port, args.silos, args.rounds)
