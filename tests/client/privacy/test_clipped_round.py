"""A silo's round under silo-level and local privacy, asked as a server asks it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from scipy.stats import kstest
from torch import Tensor

from client.app import app
from client.privacy.account import Account, Entry
from client.privacy.accountant import Release, epsilon
from client.privacy.clipped_round import noise_left
from conf.compose import compose
from conf.errors import CheckpointError, SiloError
from conf.privacy_kinds import REPLACE_ONE
from conf.schema import Conf, LocalDpConf, PolicyConf
from conf.silos import silos
from strategies.wire import protocol
from tests.client.privacy.test_private_round import KEY, asked, at_a_silo, metrics

pytestmark = pytest.mark.usefixtures("task_identity")
TOLD = {protocol.CLIP_NORM: 0.5, protocol.SERVER_NOISE: 1.5}


def run(kind: str, *more: str) -> Conf:
    words = ["task=digits", "data.examples=200", "federation.size=2", "run.rounds=2"]
    noise = ["privacy.epsilon=null", "privacy.noise_multiplier=1.5", "privacy.clip_norm=0.5"]
    return compose([*words, f"privacy={kind}", "strategy.weighting=equal", *noise, *more])


def told(conf: Conf, keys: dict[str, Any] | None = None, **where: Any) -> Message:
    message = asked(conf, **where)
    config = protocol.records(message.content, ConfigRecord)[protocol.CONFIG]
    config.update(TOLD if keys is None else keys)
    return message


def change(message: Message, reply: Message) -> dict[str, Tensor]:
    sent, got = (
        protocol.to_state(protocol.records(one.content, ArrayRecord)[protocol.ARRAYS])
        for one in (message, reply)
    )
    return {name: got[name].double() - sent[name].double() for name in sent}


def norm(of: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(one.square().sum()) for one in of.values()))


def entries(conf: Conf, state: Path) -> list[Entry]:
    return Account.at(str(state), silos(conf)[0].name, KEY).entries()


def test_what_leaves_for_the_server_s_noise_has_the_norm_and_says_nothing_else(
    tmp_path: Path,
) -> None:
    conf = run("silo_dp", "trainer.lr=1")
    message = told(conf)
    reply = app(message, at_a_silo(conf, tmp_path))
    assert 0.49 < norm(change(message, reply)) <= 0.5
    assert set(metrics(reply)) == {
        protocol.NUM_EXAMPLES,
        protocol.SECONDS,
        protocol.EPSILON,
        protocol.RENYI_EPSILON,
        protocol.NOISE,
    }
    assert metrics(reply)[protocol.NUM_EXAMPLES] == 1
    software = protocol.records(reply.content, ConfigRecord)[protocol.SOFTWARE]
    assert software["data"] == ""
    (entry,) = entries(conf, tmp_path)
    assert (entry.mechanism, entry.relation, entry.unit) == ("silo_dp", REPLACE_ONE, "silo")
    assert entry.release == Release(1.0, 0.75, 1), "another change lies up to twice the norm away"
    assert metrics(reply)[protocol.EPSILON] == epsilon([Release(1.0, 0.75, 1)], 1e-5)


def test_an_adaptive_norm_is_told_of_by_one_bit(tmp_path: Path) -> None:
    conf = run("silo_dp", "privacy.clipping=adaptive")
    for clip_norm, bit in ((1e-3, 0), (1e3, 1)):
        message = told(conf, TOLD | {protocol.CLIP_NORM: clip_norm})
        reply = app(message, at_a_silo(conf, tmp_path))
        assert metrics(reply)[protocol.WITHIN_CLIP] == bit
        assert norm(change(message, reply)) <= clip_norm


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {protocol.CLIP_NORM: 0.5},
        TOLD | {protocol.SERVER_NOISE: 0.1},
        TOLD | {protocol.SERVER_NOISE: math.nan},
        TOLD | {protocol.CLIP_NORM: 1e9},
        TOLD | {protocol.CLIP_NORM: -1.0},
        TOLD | {protocol.CLIP_NORM: "0.5"},
    ],
)
def test_a_server_that_promises_less_than_its_run_gets_nothing(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    conf = run("silo_dp")
    with pytest.raises(SiloError, match="MDW-381"):
        app(told(conf, keys), at_a_silo(conf, tmp_path))
    assert entries(conf, tmp_path) == []


def test_local_noise_is_in_all_that_leaves_and_is_the_silo_s_own(tmp_path: Path) -> None:
    conf = run("local_dp")
    message = told(conf, {})
    here = at_a_silo(conf, tmp_path)
    first, second = (change(message, app(message, here)) for _ in range(2))
    for of in (first, second):
        assert all(bool((one != 0).all()) for one in of.values())
    noise = torch.cat([(first[n] - second[n]).flatten() for n in first]) / math.sqrt(2)
    # Both were trained alike, so that what differs is noise alone: 1.5 times the norm of 0.5.
    assert kstest(noise.numpy(), "norm", args=(0.0, 0.75)).pvalue > 1e-3
    assert kstest(noise.numpy(), "norm", args=(0.0, 0.9)).pvalue < 1e-3, "it can tell"
    assert [one.round for one in entries(conf, tmp_path)] == [1, 1], "training again costs again"


def test_an_owner_s_bound_of_an_example_counts_what_is_local_and_not_what_a_server_promises(
    tmp_path: Path,
) -> None:
    conf = run("local_dp")
    one = epsilon([Release(1.0, 0.75, 1)], 1e-5)
    policy = PolicyConf(epsilon_at_most=one + 1e-3)
    here = at_a_silo(conf, tmp_path, policy)
    with pytest.raises(CheckpointError, match="MDW-540"):
        app(told(conf, {}), here)
    Account.at(str(tmp_path), silos(conf)[0].name, KEY).begin()
    app(told(conf, {}), here)
    with pytest.raises(SiloError, match=r"MDW-373: .*each example"):
        app(told(conf, {}, run="another"), here)
    with pytest.raises(SiloError, match=r"MDW-341: .*privacy=silo_dp"):
        app(told(run("silo_dp")), here)


def test_an_owner_s_bound_of_the_silo_counts_what_a_server_promises_and_holds_over_runs(
    tmp_path: Path,
) -> None:
    conf = run("silo_dp")
    one = epsilon([Release(1.0, 0.75, 1)], 1e-5)
    here = at_a_silo(conf, tmp_path, PolicyConf(silo_epsilon_at_most=one + 1e-3))
    Account.at(str(tmp_path), silos(conf)[0].name, KEY).begin()
    app(told(conf), here)
    for other in (told(conf, round=2), told(conf, run="another"), told(run("local_dp"), {})):
        with pytest.raises(SiloError, match=r"MDW-373: .*the silo as a whole"):
            app(other, here)
    assert len(entries(conf, tmp_path)) == 1


@pytest.mark.parametrize(
    ("floor", "kind", "enough"),
    [
        ("silo_dp", "local_dp", True),
        ("sample_dp", "local_dp", True),
        ("sample_dp", "silo_dp", False),
        ("silo_dp", "sample_dp", False),
        ("local_dp", "silo_dp", False),
        ("local_dp", "sample_dp", False),
    ],
)
def test_a_floor_is_met_by_what_protects_as_much(
    tmp_path: Path, floor: str, kind: str, enough: bool
) -> None:
    conf = run(kind)
    here = at_a_silo(conf, tmp_path, PolicyConf(privacy_at_least=floor))
    if enough:
        app(told(conf, {}), here)
        return
    with pytest.raises(SiloError, match=rf"MDW-341: .*privacy={kind}.*privacy={floor}"):
        app(told(conf), here)


def test_a_seed_of_the_noise_is_for_simulations_alone(tmp_path: Path) -> None:
    for kind in ("silo_dp", "local_dp"):
        conf = run(kind, "privacy.test_seed=1")
        with pytest.raises(SiloError, match=r"MDW-377: .*test_seed"):
            app(told(conf), at_a_silo(conf, tmp_path))


def test_the_noise_for_an_epsilon_is_that_of_all_rounds_and_of_rounds_asked_again() -> None:
    asked = LocalDpConf(name="local_dp", epsilon=4.0)
    noise = noise_left(asked, 5, ())
    release = Release(1.0, noise / 2, 1)
    assert 3.9 < epsilon([release] * 5, 1e-5) <= 4.0
    assert noise_left(asked, 2, [release] * 3) == noise, "it is kept as long as it is enough"
    more = noise_left(asked, 4, [release] * 3)
    assert more > noise, "two rounds were tried twice"
    assert epsilon([*[release] * 3, *[Release(1.0, more / 2, 1)] * 4], 1e-5) <= 4.0
    with pytest.raises(SiloError, match="MDW-378"):
        noise_left(asked, 1, [release] * 5)


@pytest.mark.parametrize("kind", ["silo_dp", "local_dp"])
def test_a_silo_that_dies_in_its_training_has_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    conf = run(kind)
    here = at_a_silo(conf, tmp_path)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("client.loop.train", killed)
        with pytest.raises(KeyboardInterrupt):
            app(told(conf), here)
    assert [one.round for one in entries(conf, tmp_path)] == [1]
    cost = metrics(app(told(conf), here))[protocol.EPSILON]
    assert cost == epsilon([Release(1.0, 0.75, 2)], 1e-5), "and pays again for training again"


def test_a_clock_that_was_set_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run("local_dp")
    here = at_a_silo(conf, tmp_path)
    app(told(conf), here)
    monkeypatch.setattr("client.privacy.account._now", lambda: "1999-01-01T00:00:00+00:00")
    cost = metrics(app(told(conf, round=2), here))[protocol.EPSILON]
    assert cost == epsilon([Release(1.0, 0.75, 2)], 1e-5)
    assert [one.number for one in entries(conf, tmp_path)] == [2, 3], (
        "in the order of their numbers"
    )
