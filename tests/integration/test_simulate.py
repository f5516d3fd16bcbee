"""What `simulate` promises: a folder that holds everything, a result that says what happened, a model to use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from client.cache import Loaded, load_cached
from conf.errors import ConfigError, DataError, RoundError, WireError
from conf.schema import RunScope, Silo
from server.run.finished import FinishedRun
from server.run.result import RunResult
from server.scoring.evaluation import evaluate_run, load_model
from server.simulation import simulate

POOL = [
    "task=digits",
    "data.examples=600",
    "run.rounds=2",
    "trainer.epochs=4",
    "simulation=pool",
    "simulation.workers=0",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return simulate([*POOL, "run.baseline=all", f"run.output={tmp_path_factory.mktemp('outputs')}"])


def test_the_folder_holds_what_the_design_promises(run: FinishedRun) -> None:
    files = (
        "config.yaml",
        "result.json",
        "history.jsonl",
        "metrics.jsonl",
        "ledger.jsonl",
        "report.html",
    )
    for name in (*files, "model/model.safetensors", "model/card.md"):
        assert (run.folder / name).stat().st_size > 0, name
    assert list((run.folder / "checkpoints").glob("round-*.safetensors"))
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["run"]["rounds"] == 2


def test_the_result_says_who_did_what_and_what_it_cost(run: FinishedRun) -> None:
    stored = RunResult.read(run.folder)
    assert stored == run.result
    assert (stored.status, stored.mode, stored.task) == ("finished", "simulate", "digits")
    last = run.rounds[-1]
    assert last.cohort == last.replied == ["silo-1", "silo-2", "silo-3"]
    assert not last.failed
    assert all(0 < last.seconds_training[silo] < last.seconds for silo in last.cohort)
    assert all(
        last.bytes_up[silo] == last.bytes_down[silo] == 4 * stored.model["parameters"]
        for silo in last.cohort
    )
    assert sum(map(sum, stored.partition.values())) <= 600
    assert stored.test is not None
    assert stored.test.round == stored.model["round"] == last.round
    assert sorted(stored.test.metrics) == ["silo-1", "silo-2", "silo-3"]
    assert stored.final == stored.test.aggregate


def test_it_learns_and_the_baselines_stand_beside_it(run: FinishedRun) -> None:
    baseline = run.result.baseline
    assert baseline is not None
    assert baseline.centralised is not None
    assert set(baseline.silo_alone) == {"silo-1", "silo-2", "silo-3"}
    assert 0.3 < baseline.federated.union["accuracy"] <= 1
    worst = min(alone.union["accuracy"] for alone in baseline.silo_alone.values())
    assert worst < baseline.centralised.union["accuracy"]
    assert set(baseline.federated.by_silo) == set(run.result.silos)


def test_metrics_are_rows_that_pandas_takes(run: FinishedRun) -> None:
    frame = pd.DataFrame(run.rows())
    assert len(frame) == 2 * (1 + 3)
    assert frame[frame.silo == "silo-2"].accuracy.notna().all()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {(line["round"], line["silo"]) for line in lines} >= {
        (r, f"silo-{s}") for r in (1, 2) for s in (1, 2, 3)
    }


def test_the_model_is_a_module_and_is_found_by_folder(run: FinishedRun) -> None:
    model = load_model(run.folder)
    assert isinstance(model, torch.nn.Module)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert evaluate_run(str(run.folder)).union == pytest.approx(run.result.baseline.federated.union)  # type: ignore[union-attr]


def test_a_run_can_start_from_the_model_of_another(run: FinishedRun, tmp_path: Path) -> None:
    for init in (run.folder, run.folder / "model/model.safetensors"):
        after = simulate([*POOL, f"model.init={init}", "run.rounds=1", f"run.output={tmp_path}"])
        assert after.rounds[0].aggregate["accuracy"] > run.rounds[0].aggregate["accuracy"]
    with pytest.raises(ConfigError, match="MDW-184"):
        simulate([*POOL, f"model.init={run.folder}", "model=cnn", f"run.output={tmp_path}"])


def test_early_stopping_ends_the_run_and_says_so(tmp_path: Path) -> None:
    stop = ["run.early_stop.patience=1", "run.early_stop.min_delta=100", "run.rounds=9"]
    run = simulate([*POOL, *stop, f"run.output={tmp_path}"])
    assert run.result.status == "stopped_early"
    assert len(run.rounds) == 2


def test_a_task_s_own_test_set_is_scored_at_the_end_and_each_round_where_asked(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("train", 120), ("t10k", 40)):
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        images = np.repeat(labels[:, None] * 25, 784, axis=1).astype(
            np.uint8
        )  # a brightness for each class
        header = b"\x00\x00\x08\x03" + np.array([count, 28, 28], ">u4").tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = b"\x00\x00\x08\x01" + np.array([count], ">u4").tobytes()
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    mnist = [
        "task=mnist",
        f"data.root={tmp_path}",
        "data.validation=0",
        "data.test=0",
        "data.partition=iid",
        "model=mlp",
    ]
    pool = ["simulation=pool", "simulation.workers=0", f"run.output={tmp_path}/outputs"]
    run = simulate([*mnist, *pool, "run.rounds=2", "federation.size=2"])
    curve = simulate([*mnist, *pool, "run.rounds=2", "federation.size=2", "run.test=rounds"])
    for record in (*run.rounds, *curve.rounds):
        # No silo has validation examples, so none has anything to say.
        assert "accuracy" not in record.aggregate
        assert record.metrics == {}
    assert all("central_accuracy" not in record.aggregate for record in run.rounds)
    scores = [record.aggregate["central_accuracy"] for record in curve.rounds]
    assert run.result.final["central_accuracy"] == scores[-1]
    assert curve.result.final == run.result.final
    assert run.result.test is not None
    assert run.result.test.metrics == {}
    assert run.result.test.aggregate == {}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    """Silo a fails in every round, as one whose disk died would; return its name."""

    def failing(scope: RunScope, silo: Silo) -> Loaded:
        if silo.name == "a":
            raise DataError("MDW-200", "the disk is gone.")
        return load_cached(scope, silo)

    monkeypatch.setattr("client.app.load_cached", failing)
    return "a"


def test_a_silo_that_fails_is_named_and_the_others_go_on(broken: str, tmp_path: Path) -> None:
    named = [f"federation.silos.{name}.device=cpu" for name in (broken, "b", "c")]
    run = simulate([*POOL, *named, f"run.output={tmp_path}"])
    assert run.result.status == "finished"
    for record in run.rounds:
        assert record.replied == ["b", "c"]
        assert "the disk is gone" in record.failed[broken]


def test_a_round_without_its_quorum_ends_the_run_with_a_resumable_folder(
    broken: str, tmp_path: Path
) -> None:
    named = [f"federation.silos.{name}.device=cpu" for name in (broken, "b")]
    with pytest.raises(RoundError, match="MDW-401"):
        simulate([*POOL, *named, "run.quorum=2", "run.name=lost", f"run.output={tmp_path}"])
    result = RunResult.read(tmp_path / "lost")
    assert result.status == "failed"
    assert result.error is not None
    assert result.error["code"] == "MDW-401"
    assert (tmp_path / "lost/report.html").exists()
    assert list((tmp_path / "lost/checkpoints").glob("round-000000.*"))


@pytest.mark.parametrize(
    ("mistake", "error", "says"),
    [
        (
            [
                "federation.silos.a.data.root=/does/not/exist",
                "federation.silos.a.data.partition=own",
            ],
            DataError,
            "a: .*/does/not/exist",
        ),
        (["federation.size=1000"], ConfigError, "MDW-105"),
        (
            ["strategy=external", "strategy.target=flwr.serverapp.strategy.FedAdm"],
            ConfigError,
            "FedAdam",
        ),
        (["model.init=nothing"], ConfigError, "MDW-183"),
        (["tracking=environment"], ConfigError, "MDW-159"),
        (["run.baseline=all", "data.test=0"], ConfigError, "MDW-105"),
    ],
    ids=["data", "silos", "strategy", "init", "tracking", "baseline"],
)
def test_a_mistake_is_found_before_anything_is_written(
    mistake: list[str],
    error: type[Exception],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(error, match=says):
        simulate([*POOL, *mistake, f"run.output={tmp_path}/outputs"])
    assert not (tmp_path / "outputs").exists()


def test_a_run_that_stopped_early_has_nothing_left_to_resume(tmp_path: Path) -> None:
    stop = [
        "run.early_stop.patience=1",
        "run.early_stop.min_delta=100",
        "run.rounds=9",
        "run.name=early",
    ]
    first = simulate([*POOL, *stop, f"run.output={tmp_path}"])
    with pytest.raises(ConfigError, match=r"MDW-108.*stopped early"):
        simulate([f"run.output={tmp_path}", "run.resume=early"])
    assert RunResult.read(tmp_path / "early") == first.result


def test_a_resumed_run_keeps_the_command_that_began_it(tmp_path: Path) -> None:
    simulate([*POOL, "run.name=first", f"run.output={tmp_path}"])
    after = simulate([f"run.output={tmp_path}", "run.resume=first", "run.rounds=3"])
    began, resumed = after.result.command.splitlines()
    assert "run.name=first" in began
    assert "run.resume=first" in resumed
    with pytest.raises(ConfigError, match=r"MDW-108.*3 rounds"):
        simulate([f"run.output={tmp_path}", "run.resume=first"])


def test_the_metrics_of_the_test_are_those_of_evaluate_and_of_the_baseline(
    tmp_path: Path,
) -> None:
    run = simulate([*POOL, "run.baseline=pooled", f"run.output={tmp_path}", "data.alpha=0.1"])
    again = evaluate_run(str(run.folder))
    assert run.result.baseline is not None
    for name in ("accuracy", "f1", "loss"):
        assert run.result.final[name] == again.union[name], name
        assert run.result.baseline.federated.union[name] == again.union[name], name
    # The mean over silos is another number: it counts a class that a silo lacks as missed.
    by_silo = [metrics["f1"] for metrics in again.by_silo.values()]
    assert abs(sum(by_silo) / len(by_silo) - again.union["f1"]) > 1e-3


def test_a_strategy_that_loses_an_array_is_found_before_anything_is_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(
        "from flwr.app import ArrayRecord\n"
        "from flwr.serverapp.strategy import FedAvg\n\n\n"
        "class Losing(FedAvg):\n"
        "    def aggregate_train(self, server_round, replies):\n"
        "        arrays, metrics = super().aggregate_train(server_round, replies)\n"
        "        return ArrayRecord(dict(list(arrays.items())[1:])), metrics\n"
    )
    given = ["strategy=external", f"strategy.target={tmp_path}/mine.py:Losing"]
    with pytest.raises((RoundError, WireError), match=r"is missing|weight"):
        simulate([*POOL, *given, f"run.output={tmp_path}/outputs"])
    assert not (tmp_path / "outputs").exists()
