"""The server's judge is the server's: no silo's machine decides how it computes, and its failure ends
no round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from client.tasks.digits import Digits
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import DataConf
from server.observers.progress import PlainProgress
from server.run.result import FinalTest, Metrics, RoundRecord, RunResult
from server.scoring.central import central_score
from server.scoring.evaluation import Scorer, first_weights
from server.simulation import simulate
from tests.server.observers.test_progress import console, text_of

TINY = [
    "task=digits",
    "data.examples=60",
    "data.partition=iid",
    "federation.size=2",
    "run.rounds=3",
    "run.test=rounds",
    "model=mlp",
    "tracking=off",
    "simulation=pool",
    "simulation.workers=0",
]
OF_THE_MACHINE = [
    "trainer.device=cuda",
    "trainer.precision=fp16",
    "trainer.compile=max-autotune",
    "trainer.deterministic=false",
    "trainer.channels_last=true",
]


@pytest.fixture(autouse=True)
def test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give digits a test set of the task's own."""
    drawn = np.random.default_rng(1)
    images = torch.from_numpy(drawn.random((40, 1, 8, 8), dtype=np.float32))
    labels = torch.from_numpy(drawn.integers(0, 10, 40))

    def test(self: Digits, data: DataConf) -> TensorDataset:
        return TensorDataset(images, labels)

    monkeypatch.setattr(Digits, "test", test)


def scored(*overrides: str) -> Metrics:
    conf = compose([*TINY, *overrides])
    judge = central_score(conf)
    assert judge is not None
    return judge.begin(first_weights(conf))()


def test_it_computes_as_the_server_does_whatever_a_run_tells_the_silos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(*_: Any, **__: Any) -> None:
        raise AssertionError("the server has no compiler")

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    assert scored(*OF_THE_MACHINE) == scored()


def test_its_own_device_is_refused_before_anything_trains(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="MDW-104"):
        simulate([*TINY, "federation.orchestrator.device=cuda", f"run.output={tmp_path}"])


def failing(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    whole = Scorer.sums_on
    calls = 0

    def sums_on(self: Scorer, examples: Any) -> Any:
        nonlocal calls
        calls += 1
        if when(calls):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return whole(self, examples)

    monkeypatch.setattr(Scorer, "sums_on", sums_on)


@pytest.mark.usefixtures("undrawn")
def test_a_score_that_raises_is_a_warning_and_no_round_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda call: call == 2)
    run = simulate([*TINY, "run.name=a", f"run.output={tmp_path}"])
    one, two, three = run.rounds
    assert run.result.status == "finished" and run.result.rounds == 3
    assert one.unscored == three.unscored == "" and "central_loss" in one.aggregate
    assert two.unscored.startswith("MDW-365") and "20 GiB" in two.unscored
    assert "central_loss" not in two.aggregate and len(two.replied) == 2
    log = (run.folder / "logs/server.log").read_text()
    assert "round 2: MDW-365" in log
    more = simulate(["run.resume=a", "run.rounds=4", f"run.output={tmp_path}"])
    assert [record.round for record in more.rounds] == [1, 2, 3, 4]
    assert more.rounds[:3] == run.rounds


@pytest.mark.usefixtures("undrawn")
def test_one_that_raises_at_the_end_leaves_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda call: True)
    run = simulate([*TINY, "run.rounds=1", f"run.output={tmp_path}"])
    test = run.result.test
    assert run.result.status == "finished" and test is not None
    assert test.unscored.startswith("MDW-365") and test.central == {} and test.aggregate
    again = RunResult.read(run.folder)
    assert again.test is not None and again.digest == run.result.digest


def test_a_person_hears_of_it() -> None:
    out = console()
    progress = PlainProgress(out)
    progress.run_started(RunResult("a", "simulate", "digits", "fedavg", ["north"]), 1)
    progress.round_closed(RoundRecord(1, ["north"], ["north"], unscored="MDW-365: no\x1bway"))
    progress.model_tested(FinalTest(1, ["north"], unscored="MDW-365: no way"))
    lines = text_of(out).splitlines()
    assert "round 1/1  MDW-365: no way" in lines and "test  MDW-365: no way" in lines
