"""A silo's round under sample-level privacy, asked as a server asks it."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from safetensors.torch import load_file
from scipy import stats

from azureml_jobs.storage.folder_store import FolderStore
from client import cache
from client.app import app
from client.border_mod import OWN_NODE
from client.models import build_model
from client.privacy import private_round, sample_dp
from client.privacy.account import Account
from client.privacy.accountant import Release, epsilon
from client.silo_settings import DATA_KEY, NODE_KEY
from client.tasks import task_named, task_of
from conf.compose import compose
from conf.errors import CheckpointError, ConfigError, SiloError
from conf.schema import (
    Conf,
    DataConf,
    LocalDpConf,
    NoisyConf,
    PolicyConf,
    SampleDpConf,
    SiloDpConf,
)
from conf.silos import silo_to_json, silos
from server.simulation import simulate
from strategies.wire import protocol, run_config

pytestmark = pytest.mark.usefixtures("task_identity")
KEY = b"k" * 32
PRIVATE = [
    "task=digits",
    "data.examples=200",
    "federation.size=2",
    "privacy=sample_dp",
    "strategy.weighting=equal",
    "privacy.epsilon=null",
    "privacy.noise_multiplier=1.5",
    "run.rounds=2",
]


def run(*more: str) -> Conf:
    return compose([*PRIVATE, *more])


def at_a_silo(conf: Conf, state: Path, policy: PolicyConf | None = None) -> Context:
    """A silo's own node, with its state in a folder."""
    silo = dataclasses.replace(silos(conf)[0], account=str(state), policy=policy or PolicyConf())
    node = {NODE_KEY: silo_to_json(silo), OWN_NODE: True, DATA_KEY: KEY.hex()}
    return Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config={})


def asked(conf: Conf, kind: str = "train", *, run: str = "run", round: int = 1) -> Message:
    text = run_config.pack(conf)
    keys: dict[str, str | int] = {
        protocol.PROTOCOL_KEY: protocol.PROTOCOL,
        protocol.RUN_ID: run,
        protocol.ROUND: round,
        protocol.SPLIT: protocol.VALIDATION,
        protocol.RUN_CONFIG: text,
        protocol.RUN_DIGEST: run_config.digest(text),
    }
    model = build_model(conf.model, task_named("digits"), 0)
    content = RecordDict(
        {
            protocol.ARRAYS: protocol.to_record(model.state_dict()),
            protocol.CONFIG: ConfigRecord({**keys}),
        }
    )
    return Message(content, 2, kind)


def metrics(reply: Message) -> MetricRecord:
    return protocol.records(reply.content, MetricRecord)[protocol.METRICS]


def entries(conf: Conf, state: Path) -> list[tuple[str, int]]:
    account = Account.at(str(state), silos(conf)[0].name, KEY)
    return [(entry.run, entry.round) for entry in account.entries()]


def test_an_update_tells_what_it_cost_and_neither_loss_nor_examples_nor_data(
    tmp_path: Path,
) -> None:
    conf = run()
    reply = app(asked(conf), at_a_silo(conf, tmp_path))
    assert set(metrics(reply)) == {
        protocol.NUM_EXAMPLES,
        protocol.SECONDS,
        protocol.EPSILON,
        protocol.RENYI_EPSILON,
        protocol.NOISE,
    }
    assert metrics(reply)[protocol.NUM_EXAMPLES] == 1
    software = protocol.records(reply.content, ConfigRecord)[protocol.SOFTWARE]
    assert software["data"] == "", "it would tell when an example is added"
    assert entries(conf, tmp_path) == [("run", 1)]


def test_an_account_that_is_older_than_the_server_has_seen_it_is_refused(tmp_path: Path) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)
    reply = app(asked(conf, round=1), here)
    old = tmp_path / "copy"
    account = tmp_path / silos(conf)[0].name
    shutil.copytree(account, old)
    reply = app(asked(conf, round=2), here)
    reminder = protocol.records(reply.content, ConfigRecord)[protocol.ACCOUNT][protocol.REMINDER]

    shutil.rmtree(account)
    shutil.copytree(old, account)
    private_round._account.cache_clear()  # another process knows nothing of what was there
    again = asked(conf, round=3)
    again.content.config_records[protocol.CONFIG][protocol.REMINDER] = reminder
    with pytest.raises(CheckpointError, match=r"MDW-540.*put back from an old copy"):
        app(again, here)
    assert len(entries(conf, tmp_path)) == 1, "nothing was trained, and nothing noted"


def test_each_training_costs_whatever_it_is_called(tmp_path: Path) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)
    costs = [metrics(app(asked(conf, round=1), here))[protocol.EPSILON] for _ in range(3)]
    assert costs == sorted(costs) and costs[0] < costs[1] < costs[2]
    assert entries(conf, tmp_path) == [("run", 1)] * 3
    other = metrics(app(asked(conf, run="another"), here))[protocol.EPSILON]
    assert other == costs[0], "what a run costs is told of that run alone"


def test_nothing_else_is_told_of_a_silo_s_examples(tmp_path: Path) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)
    evaluated = app(asked(conf, "evaluate"), here)
    assert metrics(evaluated)[protocol.NUM_EXAMPLES] == 0
    assert not protocol.records(evaluated.content, ArrayRecord).get(protocol.SUMS)
    assert not app(asked(conf, protocol.STATISTICS), here).content


def test_an_owner_s_bound_stops_before_the_round_that_would_exceed_it(tmp_path: Path) -> None:
    conf = run()
    first = metrics(app(asked(conf), at_a_silo(conf, tmp_path / "a")))[protocol.EPSILON]
    policy = PolicyConf(epsilon_at_most=float(first) + 1e-3)  # type: ignore[arg-type]
    here = at_a_silo(conf, tmp_path / "b", policy)
    with pytest.raises(CheckpointError, match="MDW-540"):
        app(asked(conf), here)
    Account.at(str(tmp_path / "b"), silos(conf)[0].name, KEY).begin()
    app(asked(conf), here)
    with pytest.raises(SiloError, match="MDW-373"):
        app(asked(conf, round=2), here)
    with pytest.raises(SiloError, match="MDW-373"):
        app(asked(conf, run="as if it were another"), here)
    assert entries(conf, tmp_path / "b") == [("run", 1)]


@pytest.mark.parametrize(
    "policy", [PolicyConf(privacy_at_least="sample_dp"), PolicyConf(epsilon_at_most=8)]
)
def test_a_run_below_the_owner_s_floor_is_refused_by_name(
    tmp_path: Path, policy: PolicyConf
) -> None:
    conf = compose(["task=digits", "data.examples=200", "federation.size=2"])
    for kind in ("train", "evaluate", protocol.READINESS):
        with pytest.raises(SiloError, match=r"MDW-341: .*privacy=none.*privacy=sample_dp"):
            app(asked(conf, kind), at_a_silo(conf, tmp_path, policy))


def test_a_silo_without_a_place_for_its_account_releases_nothing(tmp_path: Path) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)
    here.node_config[NODE_KEY] = silo_to_json(silos(conf)[0])
    with pytest.raises(SiloError, match="MDW-376"):
        app(asked(conf), here)


@pytest.mark.parametrize("kind", ["train", "evaluate", protocol.READINESS, protocol.STATISTICS])
@pytest.mark.parametrize(
    "words, code",
    [
        (["privacy.test_seed=1"], r"MDW-377: .*test_seed"),
        (["privacy.audit=true"], r"MDW-386: .*privacy.audit=true"),
    ],
)
def test_what_promises_nothing_is_for_simulations_alone_whatever_a_message_asks(
    tmp_path: Path, kind: str, words: list[str], code: str
) -> None:
    """A server that says that nothing is promised would get exact metrics of a silo with a floor."""
    policy = PolicyConf(privacy_at_least="sample_dp")
    with pytest.raises(SiloError, match=code):
        app(asked(run(*words), kind), at_a_silo(run(), tmp_path, policy))
    assert not list(tmp_path.rglob("0*.json")), "nothing was spent"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("privacy", [SampleDpConf(), SiloDpConf(), LocalDpConf()])
def test_a_model_whose_weights_can_t_hold_the_noise_is_refused(
    privacy: NoisyConf, kind: torch.dtype
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).to(kind))
    with pytest.raises(SiloError, match=r"1\.weight is trained in .*float16") as caught:
        private_round.check_weights(model, privacy)
    assert caught.value.code == "MDW-377"


def test_nothing_is_noted_or_trained_of_such_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run()
    halves = build_model(conf.model, task_named("digits"), 0).bfloat16()
    monkeypatch.setattr(cache, "build_model", lambda *_, **__: halves)
    cache._models.clear()
    with pytest.raises(SiloError, match="is trained in bfloat16"):
        app(asked(conf), at_a_silo(conf, tmp_path))
    cache._models.clear()
    assert not list(tmp_path.iterdir())


def test_frozen_weights_may_be_halves() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).bfloat16())
    model[1].requires_grad_(False)
    private_round.check_weights(model, SiloDpConf())


def test_a_delta_that_gives_an_example_away_is_refused(tmp_path: Path) -> None:
    conf = run("privacy.delta=0.05")
    with pytest.raises(SiloError, match="MDW-378"):
        app(asked(conf), at_a_silo(conf, tmp_path))


def test_a_training_that_breaks_off_has_spent_and_one_that_is_not_noted_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def broken(*given: object, **named: object) -> None:
        trained.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_dp, "train", broken)
    conf = run()
    here = at_a_silo(conf, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        app(asked(conf), here)
    assert entries(conf, tmp_path) == [("run", 1)] and len(trained) == 1

    def full(*given: object, **named: object) -> bool:
        raise CheckpointError("MDW-513", "The disk is full.", "Free some space.")

    monkeypatch.setattr(FolderStore, "put_if_absent", full)
    with pytest.raises(CheckpointError, match="MDW-513"):
        app(asked(conf, round=2), here)
    assert entries(conf, tmp_path) == [("run", 1)] and len(trained) == 1


def test_the_noise_of_a_reply_has_the_distribution_that_it_tells(tmp_path: Path) -> None:
    # So much noise that what is learned is lost in it, and steps that only add up.
    words = ["privacy.noise_multiplier=200", "privacy.test_seed=1", "trainer.momentum=0"]
    conf = run(*words, "trainer.lr=1", "privacy.clip_norm=0.5", "trainer.batch_size=32")
    here = at_a_silo(conf, tmp_path)
    here.node_config["partition-id"] = 0
    question = asked(conf)
    reply = app(question, here)
    sent, back = (
        protocol.to_state(protocol.records(message.content, ArrayRecord)[protocol.ARRAYS])
        for message in (question, reply)
    )
    steps = math.ceil(len(task_named("digits").data(silos(conf)[0]).train) / 32)
    noise = metrics(reply)[protocol.NOISE]
    assert noise == 200
    deviation = noise * 0.5 / 32 * steps**0.5  # type: ignore[operator]
    moved = torch.cat([(back[name] - sent[name]).flatten() for name in sent]).numpy()
    assert stats.kstest(moved / deviation, "norm").pvalue > 1e-3
    assert stats.kstest(moved / (1.2 * deviation), "norm").pvalue < 1e-6, "it would show"


def of_patients(where: Path, examples: int = 120, patients: int = 30) -> DataConf:
    """Digits of a silo's own, some of each patient."""
    draws = np.random.default_rng(0)
    x = draws.integers(0, 17, (examples, 8, 8)).astype(np.uint8)
    patient = np.arange(examples) % patients
    np.savez(where / "digits.npz", x=x, y=draws.integers(0, 10, examples), patient=patient)
    return DataConf(root=str(where), partition="own", group="patient")


def with_data(context: Context, conf: Conf, state: Path, data: DataConf) -> Context:
    silo = dataclasses.replace(silos(conf)[0], account=str(state), data=data)
    context.node_config[NODE_KEY] = silo_to_json(silo)
    return context


def test_what_is_counted_of_groups_is_drawn_of_groups(tmp_path: Path) -> None:
    conf = run("privacy.unit=group", "trainer.batch_size=6", "trainer.epochs=1")
    state = tmp_path / "state"
    here = with_data(at_a_silo(conf, state), conf, state, of_patients(tmp_path))
    reply = app(asked(conf), here)
    account = Account.at(str(state), silos(conf)[0].name, KEY)
    (entry,) = account.entries()
    # 24 of 30 patients are trained on, 96 of 120 digits.
    assert (entry.unit, entry.rate, entry.steps) == ("group", 6 / 24, 4)
    assert metrics(reply)[protocol.EPSILON] == epsilon([Release(0.25, 1.5, 4)], 1e-5)
    with pytest.raises(SiloError, match=r"MDW-382: .*of each group, .*of each example"):
        app(asked(run("trainer.batch_size=6"), round=2), here)
    assert len(account.entries()) == 1, "nothing was spent on what was refused"


def test_a_silo_that_names_no_groups_refuses_before_its_data_is_read(tmp_path: Path) -> None:
    conf = run("privacy.unit=group")
    nowhere = DataConf(root=str(tmp_path / "missing"), partition="own")
    for kind in ("train", "evaluate", protocol.READINESS):
        here = with_data(at_a_silo(conf, tmp_path), conf, tmp_path, nowhere)
        with pytest.raises(SiloError, match=r"MDW-364: .*data.group"):
            app(asked(conf, kind), here)


def test_a_simulation_of_groups_says_so_wherever_it_says_epsilon(tmp_path: Path) -> None:
    of_patients(tmp_path, 240, 60)
    words = [f"data.root={tmp_path}", "data.partition=own", "data.group=patient"]
    asked_of = ["privacy.unit=group", "privacy.audit=true", "privacy.epsilon=4"]
    more = ["privacy.noise_multiplier=null", "data.examples=null", "federation.size=1"]
    done = simulated(tmp_path, *words, *asked_of, *more)
    privacy = done.result.privacy  # type: ignore[attr-defined]
    assert (privacy["unit"], privacy["examples_per_unit"]) == ("group", 8)
    assert privacy["audit"]["holds"] and privacy["audit"]["epsilon_at_most"] <= 4
    for name in ("report.html", "model/card.md"):
        text = (done.folder / name).read_text()  # type: ignore[attr-defined]
        assert "of one group more or less" in text, name


def simulated(folder: Path, *more: str) -> object:
    words = ["tracking=off", "simulation=pool", "simulation.workers=0", f"run.output={folder}"]
    return simulate([*PRIVATE, *words, *more])


def resumed(run: Path) -> object:
    return simulate([f"run.resume={run}", "run.rounds=2", "simulation.workers=0"])


def test_a_simulation_says_what_each_silo_spent_and_its_ledger_too(tmp_path: Path) -> None:
    done = simulated(tmp_path, "privacy.test_seed=1")
    privacy = done.result.privacy  # type: ignore[attr-defined]
    assert privacy["guarantee"] is False and set(privacy["silos"]) == {"silo-1", "silo-2"}
    assert done.result.final["accuracy"] > 0  # type: ignore[attr-defined]
    spent = privacy["silos"]["silo-1"]
    assert 0 < spent["epsilon"] < spent["epsilon_renyi"]
    rounds = done.rounds  # type: ignore[attr-defined]
    told = [one.train["silo-1"]["epsilon"] for one in rounds]
    assert told[0] < told[1] == spent["epsilon"]
    ledger = (done.folder / "ledger.jsonl").read_text()  # type: ignore[attr-defined]
    assert f'"silo-1":{spent["epsilon"]}' in ledger
    again = simulated(tmp_path, "privacy.test_seed=1")
    assert again.result.model["digest"] == done.result.model["digest"]  # type: ignore[attr-defined]


def test_a_resumed_simulation_goes_on_with_its_accounts(tmp_path: Path) -> None:
    first = simulated(tmp_path, "run.rounds=1", "run.name=one")
    then = resumed(tmp_path / "one")
    before = first.result.privacy["silos"]["silo-1"]["epsilon"]  # type: ignore[attr-defined]
    assert then.result.privacy["silos"]["silo-1"]["epsilon"] > before  # type: ignore[attr-defined]
    assert then.result.final == {}, "no silo tells metrics"  # type: ignore[attr-defined]


def test_a_table_goes_by_its_contract_s_ranges_and_asks_for_no_statistics(tmp_path: Path) -> None:
    words = ["task=breast_cancer", "data.examples=null", "privacy.test_seed=1", "run.rounds=1"]
    done = simulated(tmp_path, *words)
    state = load_file(done.folder / done.result.model["path"])  # type: ignore[attr-defined]
    low_high = task_of(run("task=breast_cancer").task).input_layer()
    assert low_high is not None and torch.equal(state["input.mean"], low_high.mean)
    with pytest.raises(ConfigError, match=r"MDW-105: task.balanced=true"):
        run("task=breast_cancer", "task.balanced=true")
