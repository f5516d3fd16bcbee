"""The same run gives the same model to the bit: in both engines, with any workers, twice, and when resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from client import loop
from client.models import build_model
from client.tasks import task_named
from conf.compose import compose
from conf.errors import ConfigError, Interrupted
from conf.seeds import seed_for
from conf.silos import silos
from server.round.cohort import select
from server.run.finished import FinishedRun
from server.simulation import simulate

SMALL = ["task=digits", "data.examples=400", "run.rounds=3", "federation.size=3"]


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return simulated(tmp_path, "simulation=pool", "simulation.workers=0")


def simulated(folder: Path, *overrides: str) -> FinishedRun:
    return simulate([*SMALL, f"run.output={folder}", *overrides])


def weights(run: FinishedRun) -> dict[str, torch.Tensor]:
    return run.model().state_dict()


def same_bits(a: FinishedRun, b: FinishedRun) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True)
    )


def test_the_same_seed_gives_the_same_model_twice_and_another_seed_another(
    run: FinishedRun, tmp_path: Path
) -> None:
    pool = ["simulation=pool", "simulation.workers=0"]
    assert same_bits(run, simulated(tmp_path, *pool))
    assert not same_bits(run, simulated(tmp_path, *pool, "run.seed=1"))


def test_two_workers_give_the_bits_of_none(run: FinishedRun, tmp_path: Path) -> None:
    assert same_bits(run, simulated(tmp_path, "simulation=pool", "simulation.workers=2"))


def test_two_workers_encode_to_the_bits_of_none(tmp_path: Path) -> None:
    form = ["simulation=pool", "compression=int4"]
    alone = simulated(tmp_path, *form, "simulation.workers=0")
    assert same_bits(alone, simulated(tmp_path, *form, "simulation.workers=2"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray_at_a_time")
@pytest.mark.parametrize("form", ["int8", "topk", "randk", "lowrank"])
def test_ray_encodes_to_the_bits_of_the_pool(tmp_path: Path, form: str) -> None:
    pool = ["simulation=pool", "simulation.workers=0"]
    alone = simulated(tmp_path, *pool, f"compression={form}")
    assert same_bits(alone, simulated(tmp_path, "simulation=ray", f"compression={form}"))


@pytest.mark.usefixtures("one_ray_at_a_time")
def test_ray_gives_the_bits_of_the_pool(run: FinishedRun, tmp_path: Path) -> None:
    assert same_bits(run, simulated(tmp_path, "simulation=ray"))


@pytest.mark.parametrize(
    "strategy",
    [
        ["strategy=fedavg"],
        ["strategy=fedprox", "strategy.mu=0.1"],
        ["strategy=scaffold"],
        [
            "strategy=external",
            "strategy.target=flwr.serverapp.strategy.FedAdam",
            "strategy.args.eta=0.05",
        ],
        ["compression=topk"],
        ["compression=lowrank"],
    ],
    ids=["fedavg", "fedprox", "scaffold", "fedadam", "topk", "lowrank"],
)
def test_a_resumed_run_gives_the_unbroken_runs_model(
    tmp_path: Path, strategy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decides = ["run.rounds=4", "run.cohort=2", "run.seed=3", "trainer.schedule=step", *strategy]
    pool = ["simulation=pool", "simulation.workers=0"]
    whole = simulated(tmp_path, *pool, *decides, "run.name=whole")

    def interrupted_in_round_3(
        silos: list[str], *, cohort: int | None, seed: int, round: int
    ) -> list[str]:
        if round == 3:
            raise KeyboardInterrupt
        return select(silos, cohort=cohort, seed=seed, round=round)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"run\.resume=.*broken"):
        patch.setattr("server.round.rounds.select", interrupted_in_round_3)
        simulated(tmp_path, *pool, *decides, "run.name=broken")
    resumed = simulate([f"run.output={tmp_path}", "run.resume=broken"])

    assert resumed.result.run_id == "broken"
    assert [record.round for record in resumed.rounds] == [1, 2, 3, 4]
    assert [record.cohort for record in resumed.rounds] == [
        record.cohort for record in whole.rounds
    ]
    assert same_bits(whole, resumed)


def test_a_resumed_run_refuses_to_become_another(run: FinishedRun) -> None:
    with pytest.raises(ConfigError, match="MDW-185"):
        simulate(
            [f"run.output={run.folder.parent}", f"run.resume={run.result.run_id}", "trainer.lr=0.5"]
        )


def test_one_silo_is_the_plain_loop(tmp_path: Path) -> None:
    overrides = [
        *SMALL,
        "federation.size=1",
        "data.partition=iid",
        "simulation=pool",
        "simulation.workers=0",
    ]
    federated = simulate([*overrides, f"run.output={tmp_path}"])
    conf = compose(overrides)
    (silo,), task = silos(conf), task_named("digits")
    torch.set_num_threads(conf.trainer.threads)
    model = loop.prepare(build_model(conf.model, task, conf.run.seed), conf.trainer)
    for round in (1, 2, 3):
        seed = seed_for(conf.run.seed, silo.name, round, "train")
        loop.train(
            model, task.data(silo).train, task, conf.trainer, seed=seed, round=round, rounds=3
        )
    for name, tensor in weights(federated).items():
        assert torch.equal(tensor, model.state_dict()[name]), name
