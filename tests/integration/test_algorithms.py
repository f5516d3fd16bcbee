"""Algorithms with two halves through whole runs: what both sides remember means the same rounds."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context

from azureml_jobs.storage.folder_store import FolderStore
from client import loop
from client.silo_settings import silo_of
from conf.errors import ConfigError, RoundError
from conf.schema import Silo
from server.run.checkpoint import Checkpoints, RunState
from server.run.finished import FinishedRun
from server.simulation import simulate
from strategies.scaffold import Scaffold
from strategies.state import restore

SKETCHES = Path(__file__).parents[1] / "strategies" / "sketches.py"
SMALL = ["task=digits", "data.examples=300", "federation.size=4", "tracking=off"]
HERE = ["simulation=pool", "simulation.workers=0"]
SCAFFOLD = [*SMALL, "strategy=scaffold", "run.rounds=5", "run.cohort=2", "run.seed=3"]

Variates = dict[str, torch.Tensor]


class Watch:
    """What each silo was given and left in each round, seen from inside this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: dict[tuple[int, str], Variates] = {}
        self.left: dict[tuple[int, str], Variates] = {}
        self.spoil: tuple[int, str] | None = None
        self._inner = loop.train
        monkeypatch.setattr("client.loop.train", self.train)
        monkeypatch.setattr("client.app.silo_of", self.silo_of)

    def silo_of(self, context: Context) -> Silo:
        self._silo = silo_of(context)
        return self._silo

    def train(self, *arguments: Any, **named: Any) -> loop.Trained:
        told = self._inner(*arguments, **named)
        at = (named["round"], self._silo.name)
        self.given[at] = dict(named["state"].get("c", {}))
        self.left[at] = dict(told.state["c"])
        if at == self.spoil:
            # What it sends can't be admitted.
            for array in told.sent["c"].values():
                array.fill_(float("nan"))
        return told


def state_of(run: FinishedRun) -> RunState:
    state = Checkpoints(FolderStore(run.folder)).load()
    assert state is not None
    return state


def variate(state: RunState) -> Variates:
    server = Scaffold()
    restore(server, state.strategy)
    return {name: torch.from_numpy(c) for name, c in server.c.items()}


def mean_of_silos(watch: Watch, but: tuple[int, str] | None = None) -> Variates:
    """The mean over all four silos of what they left in the last round of theirs that counted."""
    # In the order of the rounds, so that a silo's last one stays.
    last = {at[1]: left for at, left in sorted(watch.left.items()) if at != but}
    names = next(iter(last.values()))
    return {name: sum((c[name] for c in last.values()), torch.zeros(())) / 4 for name in names}


def agree(a: Variates, b: Variates) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in b)


def test_the_server_s_variate_stays_the_mean_of_the_silos_under_partial_participation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    run = simulate([*SCAFFOLD, *HERE, f"run.output={tmp_path}"])
    state = state_of(run)
    expected = mean_of_silos(watch)
    assert agree(variate(state), expected)
    assert any(c.abs().max() > 1e-3 for c in expected.values())
    counted = {name: r.round for r in run.rounds for name in r.cohort}
    assert state.counted == counted


def test_a_silo_whose_update_was_refused_goes_on_from_what_the_server_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    refused = "silo-2"
    watch.spoil = (2, refused)
    more = ["run.cohort=null", "run.rounds=3", f"run.output={tmp_path}"]
    run = simulate([*SCAFFOLD, *HERE, *more])
    assert list(run.rounds[1].failed) == [refused]
    # Round 3 begins as round 2 did for it, and for the others with what round 2 left.
    assert agree(watch.given[3, refused], watch.left[1, refused])
    assert agree(watch.given[3, "silo-1"], watch.left[2, "silo-1"])
    assert agree(variate(state_of(run)), mean_of_silos(watch, but=(2, refused)))


def test_a_silo_that_has_lost_its_state_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.memory.write", lambda *given: None)
    more = ["run.cohort=null", "run.rounds=2", f"run.output={tmp_path}"]
    with pytest.raises(RoundError, match=r"MDW-401: Round 2 has 0 .*MDW-672"):
        simulate([*SCAFFOLD, *HERE, *more])


def test_a_silo_that_has_lost_its_personal_layers_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.memory.write", lambda *given: None)
    more = ["strategy.keeps=['3']", "run.rounds=2", f"run.output={tmp_path}"]
    with pytest.raises(RoundError, match=r"MDW-401: Round 2 has 0 .*MDW-672"):
        simulate([*SMALL, *HERE, *more])


@pytest.mark.parametrize(
    ("keeps", "says"),
    [("['3','fc']", "begins with 'fc'"), ("['1','3']", "nothing would be shared")],
)
def test_personal_layers_that_the_model_has_not_got_are_refused_before_the_run_has_a_folder(
    tmp_path: Path, keeps: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"MDW-146.*{says}"):
        simulate([*SMALL, *HERE, f"strategy.keeps={keeps}", f"run.output={tmp_path}/outputs"])
    assert not (tmp_path / "outputs").exists()


def test_workers_change_no_bit_of_scaffold(tmp_path: Path) -> None:
    alone = simulate([*SCAFFOLD, *HERE, f"run.output={tmp_path}"])
    two = ["simulation=pool", "simulation.workers=2"]
    assert same_bits(alone, simulate([*SCAFFOLD, *two, f"run.output={tmp_path}"]))


@pytest.mark.usefixtures("one_ray_at_a_time")
def test_ray_gives_scaffold_the_bits_of_the_pool(tmp_path: Path) -> None:
    alone = simulate([*SCAFFOLD, *HERE, f"run.output={tmp_path}"])
    assert same_bits(alone, simulate([*SCAFFOLD, "simulation=ray", f"run.output={tmp_path}"]))


def same_bits(a: FinishedRun, b: FinishedRun) -> bool:
    left, right = a.model().state_dict(), b.model().state_dict()
    return all(torch.equal(left[name], right[name]) for name in right)


@pytest.mark.parametrize(
    ("algorithm", "argument", "stays_here", "model"),
    [
        (f"strategy.target={SKETCHES}:FedBN", "args.normalisation", "bn1", "resnet18"),
        (f"strategy.target={SKETCHES}:FedRep", "args.head", "11", "cnn"),
        ("strategy=fedavg", "keeps", "11", "cnn"),
        ("strategy=scaffold", "keeps", "11", "cnn"),
    ],
)
def test_what_a_half_keeps_never_leaves_the_silo_and_is_there_at_its_next_round(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    argument: str,
    stays_here: str,
    model: str,
) -> None:
    personal = [algorithm, f"strategy.{argument}=['{stays_here}']"]
    began: dict[int, list[Variates]] = defaultdict(list)
    ended: dict[int, list[Variates]] = defaultdict(list)
    inner = loop.train

    def train(net: torch.nn.Module, *given: Any, **named: Any) -> loop.Trained:
        began[named["round"]].append({n: t.clone() for n, t in net.state_dict().items()})
        told = inner(net, *given, **named)
        ended[named["round"]].append({n: t.clone() for n, t in net.state_dict().items()})
        return told

    evaluated: list[Variates] = []
    evaluate = loop.evaluate

    def note(net: torch.nn.Module, *given: Any) -> loop.Evaluation:
        evaluated.append({n: t.clone() for n, t in net.state_dict().items()})
        return evaluate(net, *given)

    monkeypatch.setattr("client.loop.train", train)
    monkeypatch.setattr("client.loop.evaluate", note)
    few = ["data.examples=120", "federation.size=2", "run.rounds=2", f"model={model}"]
    run = simulate([*SMALL, *HERE, *few, *personal, f"run.output={tmp_path}"])
    stays = [name for name in began[1][0] if name.startswith(f"{stays_here}.")]
    final = run.model().state_dict()
    for silo in (0, 1):
        assert all(torch.equal(began[2][silo][n], ended[1][silo][n]) for n in stays)
    # A silo is evaluated, in its own round, with what it keeps.
    for net in evaluated[:2]:
        assert any(all(torch.equal(net[n], one[n]) for n in stays) for one in ended[1])
    # The server's own are those of the first weights, and the others moved.
    assert all(torch.equal(final[n], began[1][0][n]) for n in stays)
    assert not all(torch.equal(final[n], began[1][0][n]) for n in final)
    assert not all(torch.equal(ended[1][0][n], ended[1][1][n]) for n in stays)
