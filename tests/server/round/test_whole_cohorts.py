"""The round loop with a rule over all updates: its quorum, what it says of each silo, what it leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error

from conf.compose import compose
from conf.errors import RoundError
from server.round.exchange import exchange
from server.round.mapped_replies import HELD
from server.round.rounds import Rounds
from server.run.history import read_history
from server.run.movement import moved_by, owner_of
from server.run.result import RoundRecord
from server.run.verdict import verify_file
from strategies import build_strategy
from tests.server.round.scripted_grid import Clock, TrainingGrid
from tests.server.round.sessions import session_in, weight

pytestmark = pytest.mark.usefixtures("task_identity")


def run(
    folder: Path, *words: str, silos: int = 5, failing: int = 0, reverse: bool = False
) -> tuple[float, list[RoundRecord]]:
    """Run over silos of which number k adds k to each weight; return the model and the records."""
    conf = compose(["run.rounds=2", "run.reconnect_patience=0", f"federation.size={silos}", *words])
    clock = Clock()
    grid = TrainingGrid(clock, {node: f"silo-{node}" for node in range(1, silos + 1)})
    for node in range(1, silos + 1):
        grid.after[("train", node)] = float(silos - node if reverse else node)
    for node in range(1, failing + 1):
        grid.wrong[("train", node)] = Error(0, "scripted")
    session = session_in(folder, conf)
    step = partial(exchange, clock=clock, sleep=clock.sleep)
    Rounds(session, grid, build_strategy(conf.strategy), clock=clock, step=step).run()
    assert not (folder / HELD).exists()
    assert verify_file(folder / "ledger.jsonl").faults == []
    return weight(session.state), list(read_history(folder))


def test_the_median_of_two_rounds(tmp_path: Path) -> None:
    made, records = run(tmp_path, "strategy=median")
    assert made == 6.0
    assert [record.replied for record in records] == [[f"silo-{k}" for k in range(1, 6)]] * 2


@pytest.mark.parametrize("rule", ["median", "krum", "geometric_median", "centered_clipping"])
def test_who_answers_first_changes_no_bit(rule: str, tmp_path: Path) -> None:
    words = [f"strategy={rule}", "strategy.bucket=1"]
    one, records = run(tmp_path / "one", *words)
    other, others = run(tmp_path / "other", *words, reverse=True)
    assert one == other
    assert [record.train for record in records] == [record.train for record in others]
    assert [record.aggregate for record in records] == [record.aggregate for record in others]


def test_a_record_says_who_was_left_out_and_nobody_owns_what_krum_takes(tmp_path: Path) -> None:
    _, records = run(tmp_path, "strategy=krum")
    shares = {silo: said["update-share"] for silo, said in records[0].train.items()}
    assert sorted(shares.values()) == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert shares["silo-1"] == shares["silo-5"] == 0.0
    assert list(moved_by(records[0].train).values()) == [1.0]
    assert owner_of(records[0].train) is None


def test_a_record_of_a_trimmed_mean_says_how_much_each_counted(tmp_path: Path) -> None:
    _, records = run(tmp_path, "strategy=trimmed_mean")
    shares = [records[0].train[f"silo-{k}"]["update-share"] for k in range(1, 6)]
    assert shares == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])


def test_a_round_with_too_few_updates_for_f_has_no_quorum(tmp_path: Path) -> None:
    """More than half would do for a mean; the run stops with the state of the round before."""
    with pytest.raises(RoundError, match=r"MDW-401.*4 of the 5 updates"):
        run(tmp_path, "strategy=krum", failing=1)
    assert not (tmp_path / HELD).exists()
    made, _ = run(tmp_path / "median", "strategy=median", failing=1)
    assert made == 7.0


def test_what_a_killed_process_left_is_gone_and_changes_nothing(tmp_path: Path) -> None:
    left = tmp_path / HELD
    left.mkdir()
    (left / "000000").write_bytes(np.full(3, 99.0, np.float32).tobytes())
    (left / "000007").write_bytes(b"half")
    assert run(tmp_path, "strategy=median")[0] == 6.0
