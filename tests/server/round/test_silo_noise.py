"""Silo-level privacy at the server: paid for before it is released, and no norm is shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from scipy.optimize import brentq
from scipy.stats import norm as normal

from client.privacy.accountant import Release, epsilon, needed, renyi_epsilon
from client.privacy.clipping import clip
from conf.compose import compose
from conf.errors import RoundError, SiloError
from conf.schema import SiloDpConf
from server.round.admission import Admission
from server.round.judgement import Admitted, Rejected
from server.round.silo_noise import SiloNoise, check_silo_noise
from server.run.ledger import Ledger
from server.simulation import simulate
from strategies import build_strategy
from strategies.fedavg import FedAvg
from strategies.mean_noise import noised
from strategies.wire import protocol

COHORT = [f"silo-{n}" for n in range(1, 6)]
BEFORE = {"w": np.zeros(5000, np.float32)}
WORDS = [
    "task=digits",
    "data.examples=120",
    "data.partition=iid",
    "federation.size=3",
    "run.rounds=2",
    "privacy=silo_dp",
    "strategy.weighting=equal",
    "privacy.epsilon=null",
    "privacy.noise_multiplier=0.4",
    "tracking=off",
    "simulation.workers=0",
]


def noise_of(folder: Path, strategy: FedAvg | None = None, **asked: Any) -> SiloNoise:
    """The noise of a run whose ledger is in a folder, as a process that has just started has it."""
    conf = SiloDpConf(name="silo_dp", **asked)
    ledger = Ledger(folder / "ledger.jsonl", "run")
    return SiloNoise(conf, 4, ["w"], strategy or FedAvg(), ledger)


def arrays(values: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in values.items()})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def test_a_release_is_on_disk_before_the_noised_mean_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = noise_of(tmp_path, noise_multiplier=1.0)
    noise.begin(1, COHORT)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("server.round.silo_noise.noised", killed)
    with pytest.raises(KeyboardInterrupt):
        noise.released(BEFORE, BEFORE, 5)
    (line,) = lines(tmp_path)
    assert (line["event"], line["silos"], line["noise"]) == ("release reserved", COHORT, 1.0)
    noise.ledger.close()
    again = noise_of(tmp_path, noise_multiplier=1.0)
    once = again.spent()["silo-1"]["epsilon"]
    again.begin(1, COHORT)
    monkeypatch.undo()
    again.released(BEFORE, BEFORE, 5)
    assert again.spent()["silo-1"]["epsilon"] > once, "a round that is asked again costs again"
    again.ledger.close()


def test_rounds_that_were_tried_again_do_not_carry_a_run_beyond_its_epsilon(tmp_path: Path) -> None:
    noise = noise_of(tmp_path, epsilon=4.0)
    for round in (1, 2, 2, 2, 3, 4):
        noise.begin(round, COHORT)
        noise.released(BEFORE, BEFORE, 5)
    assert 3.9 < noise.spent()["silo-1"]["epsilon"] <= 4.0
    with pytest.raises(SiloError, match="MDW-378"):
        noise.begin(4, COHORT)
    noise.ledger.close()


def test_who_is_asked_pays_and_nobody_else(tmp_path: Path) -> None:
    noise = noise_of(tmp_path, noise_multiplier=1.0)
    noise.begin(1, COHORT[:3])
    noise.released(BEFORE, BEFORE, 1)
    assert sorted(noise.spent()) == COHORT[:3], "also who was asked and did not answer"
    noise.begin(2, COHORT[2:])
    noise.released(BEFORE, BEFORE, 3)
    spent = {silo: one["epsilon"] for silo, one in noise.spent().items()}
    assert spent["silo-3"] > spent["silo-1"] == spent["silo-5"]
    noise.ledger.close()


def test_the_noise_is_that_of_the_norm_over_those_who_were_asked(tmp_path: Path) -> None:
    noise = noise_of(tmp_path, noise_multiplier=2.0, clip_norm=0.5)
    noise.begin(1, COHORT)
    first, second = (noise.released(BEFORE, BEFORE, 5)["w"] for _ in range(2))
    assert not np.array_equal(first, second), "each release has its own noise"
    assert np.isclose(first.std(), 2.0 * 0.5 / 5, rtol=0.05)
    assert np.isclose(noise.facts()["noise_norm"], noise.facts()["step_norm"], rtol=0.05)
    noise.ledger.close()


def test_the_norm_follows_the_quantile_and_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    from strategies.state import restore, state_of

    strategy = FedAvg()
    noise = noise_of(
        tmp_path, strategy, noise_multiplier=0.2, clipping="adaptive", clip_norm=8.0, quantile=0.5
    )
    noise.rounds = 60
    for round in range(1, 61):
        noise.begin(round, COHORT)
        for place, silo in enumerate(COHORT, 1):
            within = {protocol.WITHIN_CLIP: float(place <= noise.clip_norm)}
            noise.take(silo, within)
            assert within == {}, "nobody else hears of it"
        noise.released(BEFORE, BEFORE, 5)
    assert 1.5 < noise.clip_norm < 4.5, "half of norms 1 to 5"
    other = FedAvg()
    restore(other, state_of(strategy))
    assert other.clip_norm == strategy.clip_norm
    alone = noise.deviation / (0.2 * noise.clip_norm / 5)
    assert np.isclose(alone, 1 / math.sqrt(0.99)), "the count's share of the privacy is paid for"
    noise.ledger.close()


def gaussian_epsilon(noise: float, times: int, delta: float) -> float:
    """Balle & Wang 2018 (arXiv 1805.06530, theorem 8): the Gaussian mechanism to the digit."""
    mu = math.sqrt(times) / noise

    def beyond(eps: float) -> float:
        far = normal.cdf(mu / 2 - eps / mu) - math.exp(eps) * normal.cdf(-mu / 2 - eps / mu)
        return float(far) - delta

    return float(brentq(beyond, 0, 400))


@pytest.mark.parametrize("noise", [0.5, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("rounds", [1, 30, 300])
def test_the_accountant_agrees_with_the_formula_of_the_gaussian_mechanism(
    noise: float, rounds: int
) -> None:
    if rounds / noise**2 > 100:
        pytest.skip("no such epsilon is of use to anybody")
    release = Release(1.0, noise, rounds)
    exact = gaussian_epsilon(noise, rounds, 1e-5)
    assert exact <= epsilon([release], 1e-5) * (1 + 1e-9) <= exact + 0.01
    assert exact < renyi_epsilon([release], 1e-5) < exact * 1.3 + 0.1


def test_dp_accounting_s_own_replace_one_is_ours() -> None:
    accounting = needed("dp_accounting")
    pld = needed("dp_accounting.pld.pld_privacy_accountant")
    theirs = pld.PLDAccountant(accounting.NeighboringRelation.REPLACE_ONE)
    theirs.compose(accounting.GaussianDpEvent(3.0), 10)
    ours = epsilon([Release(1.0, 1.5, 10)], 1e-5)
    assert np.isclose(theirs.get_epsilon(1e-5), ours, atol=0.01)


def test_a_silo_that_did_not_clip_is_refused_by_its_norm() -> None:
    admission = Admission({}, weighting=protocol.EQUAL)
    admission.clip_norm = 0.5
    sent = {"w": np.zeros(100, np.float32)}
    for size, admitted in ((0.5, True), (0.5001, False)):
        admission.open(1, arrays(sent), ["north"])
        update = {"w": np.full(100, size / 10, np.float32)}
        numbers = MetricRecord({protocol.NUM_EXAMPLES: 1})
        content = RecordDict({protocol.ARRAYS: arrays(update), protocol.METRICS: numbers})
        verdict = admission.check(content, silo="north", round=1, phase="train")
        assert isinstance(verdict, Admitted) == admitted
        assert admitted or (isinstance(verdict, Rejected) and verdict.code == "MDW-379")


def test_a_strategy_that_makes_no_plain_mean_is_refused() -> None:
    class Median(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            return None, None

    conf = compose(WORDS)
    check_silo_noise(conf, FedAvg(), 3)
    with pytest.raises(RoundError, match="MDW-413"):
        check_silo_noise(conf, Median(), 3)
    scaffold = compose(["strategy=scaffold", "task=digits"])
    with pytest.raises(RoundError, match="MDW-413"):
        check_silo_noise(conf, build_strategy(scaffold.strategy), 3)
    with pytest.raises(SiloError, match="MDW-378"):
        check_silo_noise(conf, FedAvg(), 200_000)


def test_a_run_tells_what_it_cost_and_no_norm_direction_loss_or_count(tmp_path: Path) -> None:
    done = simulate([*WORDS, f"run.output={tmp_path}", "privacy.clipping=adaptive"])
    privacy = done.result.privacy
    assert privacy["guarantee"] and set(privacy["silos"]) == {"silo-1", "silo-2", "silo-3"}
    last = done.rounds[-1]
    assert last.privacy["silo-1"]["epsilon"] == privacy["silos"]["silo-1"]["epsilon"]
    assert last.aggregate == {} and last.metrics == {}
    told = {name for silo in last.train.values() for name in silo}
    assert told == {"num-examples", "seconds", "epsilon", "epsilon-renyi", "noise-multiplier"}
    for path in (*done.folder.glob("*.json*"), done.folder / "report.html"):
        text = path.read_text()
        for hidden in ("update-norm", "update-cosine", protocol.WITHIN_CLIP):
            assert hidden not in text, path
    updates = [line for line in lines(done.folder) if line["event"] == "update admitted"]
    assert {(line["norm"], line["examples"]) for line in updates} == {(None, 1)}


def test_a_seeded_run_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    def digest(*more: str) -> str:
        done = simulate([*WORDS, f"run.output={tmp_path}", "run.rounds=1", *more])
        return str(done.result.model["digest"])

    first = digest("privacy.test_seed=1")
    assert first == digest("privacy.test_seed=1") != digest("privacy.test_seed=2")
    assert digest() != digest(), "without one nobody knows the noise"


def test_a_silo_that_does_not_clip_costs_its_update_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter(range(100))

    def lying(model: Any, start: Any, norm: float) -> bool:
        return clip(model, start, norm if next(asked) else 50 * norm)

    monkeypatch.setattr("client.privacy.clipped_round.clip", lying)
    words = ["run.rounds=1", "trainer.lr=1", "privacy.test_seed=1", "privacy.clip_norm=0.1"]
    done = simulate([*WORDS, *words, f"run.output={tmp_path}"])
    (closed,) = done.rounds
    (liar,) = closed.failed
    assert closed.codes[liar] == "MDW-379" and liar not in closed.replied
    mean = done.result.privacy["mean"]
    noise = mean["noise_norm"]
    assert noise == pytest.approx(0.4 * 0.1 / 3 * math.sqrt(4810), rel=1e-6), "three were asked"
    assert mean["step_norm"] < noise * 1.1
    assert liar in closed.privacy, "who was asked has paid"


def test_a_round_that_broke_off_after_its_release_is_paid_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def breaking(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 1:
            raise OSError("power cut")
        return noised(*args, **kwargs)

    monkeypatch.setattr("server.round.silo_noise.noised", breaking)
    words = [*WORDS, "run.name=one", "privacy.clipping=adaptive", "run.rounds=3"]
    with pytest.raises(RoundError, match="MDW-408"):
        simulate([*words, f"run.output={tmp_path}"])
    before = lines(tmp_path / "one")
    again = simulate([f"run.resume={tmp_path / 'one'}", "simulation.workers=0"])
    reserved = [one for one in lines(again.folder) if one["event"] == "release reserved"]
    assert [one["round"] for one in reserved] == [1, 2, 2, 3]
    assert lines(again.folder)[: len(before)] == before, "nothing of it was taken back"
    norms = [one["clip_norm"] for one in reserved]
    assert norms[1] == norms[2] != norms[0], "the norm is that of the last round that counted"
    four = epsilon([Release(1.0, 0.2, 4)], 1e-5)
    assert again.result.privacy["silos"]["silo-1"]["epsilon"] == pytest.approx(four)
