"""An orchestrator as a process of its own with the real round loop, over silos of `tests.faults.patient`.

    python -m tests.faults.rounds_server FOLDER PORT SILOS [OVERRIDE...]

It goes on from the checkpoint that it finds, and leaves in FOLDER what a run leaves, with `outcome.json`: the model's
first number and each round's record.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path

from conf.compose import compose
from conf.errors import MeadowError
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator, quiet_flower
from server.round.rounds import Rounds
from server.run.history import read_history
from strategies import build_strategy
from tests.faults.federation import Federation
from tests.server.round.sessions import session_in, weight


def main(folder: Path, port: int, silos: int, overrides: list[str]) -> None:
    """Do the rounds of a run and write the outcome."""
    quiet_flower()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    conf = compose(["task=digits", f"federation.size={silos}", *overrides])
    federation = Federation(folder, silos)
    orchestrator = Orchestrator(f"127.0.0.1:{port}", federation.credentials(), federation.public)
    orchestrator.start()
    names = [silo.name for silo in federation.silos]
    orchestrator.wait_for(names, silos, 60)
    run = session_in(folder / "run", conf)
    run.members.extend(federation.silos)
    error = ""
    try:
        Rounds(
            run, PackedGrid(orchestrator.open_run("run", names)), build_strategy(conf.strategy)
        ).run()
    except MeadowError as raised:
        error = str(raised)
    run.ledger.close()
    records = [dataclasses.asdict(record) for record in read_history(folder / "run")]
    outcome = {"error": error, "weight": weight(run.state), "rounds": records}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    orchestrator.stop(over=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
