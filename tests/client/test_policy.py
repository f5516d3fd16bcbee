"""What a silo's owner does not allow is refused in the silo's own process, by name, before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from client.app import app
from client.batches import length
from client.border_mod import OWN_NODE
from client.cache import load_cached
from client.models import build_model
from client.policy import check_examples, check_run, for_evaluation
from client.silo_settings import NODE_KEY
from client.tasks import task_named
from conf.allowed import draft
from conf.compose import compose
from conf.errors import MeadowError, SiloError
from conf.schema import PolicyConf, RunScope, Silo, TrainerConf
from conf.silos import silo_to_json, silos
from strategies.wire import protocol, run_config

pytestmark = pytest.mark.usefixtures("task_identity")
RUN = [
    "task=digits",
    "model=mlp",
    "data.examples=200",
    "run.rounds=5",
    "trainer.epochs=2",
    "trainer.batch_size=64",
]


def scope(*overrides: str) -> RunScope:
    return run_config.unpack(run_config.pack(compose([*RUN, *overrides])))


def silo(batch_size_at_most: int | None = None, **policy: object) -> Silo:
    own = compose([*RUN, "federation.size=2"])
    return dataclasses.replace(
        silos(own)[0],
        name="north",
        batch_size_at_most=batch_size_at_most,
        policy=PolicyConf(**policy),
    )


def test_who_sets_nothing_allows_all() -> None:
    check_run(scope(), silo(), 1)
    check_examples(0, silo())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["privacy=sample_dp"], r"privacy.unit=example\. .*privacy.unit=group or privacy=local_dp"),
        (["privacy=none"], r"privacy=none\. .*privacy=sample_dp with privacy.unit=group or"),
        (["privacy=silo_dp"], r"privacy=silo_dp\."),
    ],
)
def test_a_unit_that_is_weaker_than_the_owner_s_is_refused(asked: list[str], said: str) -> None:
    run = scope(*asked, "strategy.weighting=equal")
    with pytest.raises(SiloError, match=f"MDW-341: .*{said}"):
        check_run(run, silo(unit_at_least="group"), 1)
    check_run(run, silo(), 1)


@pytest.mark.parametrize(
    "asked", [["privacy=sample_dp", "privacy.unit=group"], ["privacy=local_dp"]]
)
def test_a_unit_that_is_as_strong_passes_and_a_stronger_one(asked: list[str]) -> None:
    run = scope(*asked, "strategy.weighting=equal")
    check_run(run, silo(unit_at_least="group", epsilon_at_most=8), 1)
    check_run(run, silo(epsilon_at_most=8, privacy_at_least="sample_dp"), 1)


ALLOWING = {
    "tasks": ["digits"], "models": ["cnn", "mlp"], "strategies": ["fedavg"], "epochs_at_most": 2, "rounds_at_most": 5,
}  # fmt: skip


def test_what_is_allowed_passes() -> None:
    check_run(scope(), silo(batch_size_at_most=64, **ALLOWING), 5)
    check_examples(10, silo(examples_at_least=10))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("task=mnist", "task=mnist. Allowed: digits."),
        ("model=resnet18", "model=resnet18. Allowed: cnn, mlp."),
        ("strategy=fedprox", "strategy=fedprox. Allowed: fedavg."),
        ("trainer.epochs=3", "trainer.epochs=3. Allowed: at most 2."),
        ("run.rounds=6", "run.rounds=6. Allowed: at most 5."),
    ],
)
def test_what_is_not_is_refused_with_the_silo_s_name_and_what_is(asked: str, said: str) -> None:
    with pytest.raises(SiloError) as caught:
        check_run(scope(asked), silo(**ALLOWING), 1)
    assert str(caught.value) == f"MDW-341: The owner of north does not allow {said}"


def test_all_that_is_not_allowed_is_named_at_once() -> None:
    with pytest.raises(SiloError) as caught:
        check_run(
            scope("model=resnet18", "trainer.epochs=3", "run.rounds=6"),
            silo(batch_size_at_most=8, **ALLOWING),
            1,
        )
    said = str(caught.value)
    assert said.startswith("MDW-341: The owner of north does not allow 4 things of this run: ")
    for one in (
        "model=resnet18 (allowed: cnn, mlp)",
        "trainer.epochs=3 (allowed: at most 2)",
        "run.rounds=6 (allowed: at most 5)",
        "trainer.batch_size=64 (allowed: at most 8)",
    ):
        assert one in said


def test_a_refusal_has_a_bounded_length_whatever_a_run_calls_its_arguments() -> None:
    asked = scope()
    asked.task.args = {f"{'x' * 500}{i}": "y" * 500 for i in range(100)}
    with pytest.raises(SiloError, match="and 80 more") as caught:
        check_run(asked, silo(version=2, allow=draft(scope())), 1)
    assert len(str(caught.value)) < 4000


def test_a_drafted_policy_allows_its_run_and_no_other_key_or_value() -> None:
    closed = silo(version=2, allow=draft(scope()))
    check_run(scope(), closed, 5)
    # The timing at the server, and its seed, are not what a silo acts upon.
    check_run(scope("run.round_timeout=7", "run.seed=3", "run.rounds=4"), closed, 4)
    for asked in ("trainer.lr=0.06", "trainer.momentum=0", "model.hidden=[65]", "run.rounds=6"):
        with pytest.raises(SiloError, match=f"MDW-341.*{asked.partition('=')[0]}"):
            check_run(scope(asked), closed, 1)
    with pytest.raises(SiloError, match=r"task\.args\.new=1 \(allowed: no value\)|args\.new=1"):
        check_run(scope("+task.args.new=1"), closed, 1)


def test_a_policy_of_version_2_without_rules_allows_nothing() -> None:
    with pytest.raises(SiloError, match=r"MDW-341.*trainer\.lr=0\.05 \(allowed: no value\)"):
        check_run(scope(), silo(version=2), 1)


def test_a_server_that_goes_on_after_the_last_round_is_refused_too() -> None:
    with pytest.raises(SiloError, match=r"MDW-341.*run\.rounds=6"):
        check_run(scope(), silo(**ALLOWING), 6)


@pytest.mark.parametrize(("limit", "accumulate"), [(32, 2), (50, 2), (20, 4)])
def test_a_batch_that_the_machine_does_not_take_is_refused_and_told_what_would_go(
    limit: int, accumulate: int
) -> None:
    wanted = rf"MDW-340: north takes at most {limit} .* not 64.*batch_size={limit}, .*accumulate={accumulate} "
    with pytest.raises(SiloError, match=wanted):
        check_run(scope(), silo(batch_size_at_most=limit), 1)
    check_run(
        scope(f"trainer.batch_size={limit}", f"trainer.accumulate={accumulate}"), silo(limit), 1
    )


def test_a_model_is_scored_in_batches_that_the_machine_takes() -> None:
    assert for_evaluation(TrainerConf(eval_batch_size=512), silo(64)).eval_batch_size == 64
    assert for_evaluation(TrainerConf(eval_batch_size=32), silo(64)).eval_batch_size == 32
    assert for_evaluation(TrainerConf(), silo()) == TrainerConf()


def test_too_few_examples_are_not_trained_on() -> None:
    with pytest.raises(
        SiloError, match=r"MDW-341: The owner of north does not allow training on fewer than 11"
    ):
        check_examples(10, silo(examples_at_least=11))


# ---- in the app


def message(
    kind: str = "train", words: Sequence[str] = (), split: str = protocol.VALIDATION
) -> Message:
    conf = compose([*RUN, *words])
    text = run_config.pack(conf)
    config = {protocol.PROTOCOL_KEY: protocol.PROTOCOL, protocol.RUN_ID: "run", protocol.ROUND: 1}
    config[protocol.SPLIT] = split
    record = ConfigRecord(
        {**config, protocol.RUN_CONFIG: text, protocol.RUN_DIGEST: run_config.digest(text)}
    )
    model = build_model(conf.model, task_named("digits"), 0)
    return Message(
        RecordDict(
            {protocol.ARRAYS: protocol.to_record(model.state_dict()), protocol.CONFIG: record}
        ),
        2,
        kind,
    )


def ask(one: Silo, kind: str = "train", **asked: Any) -> Message:
    node = {NODE_KEY: silo_to_json(one)}
    return app(
        message(kind, **asked),
        Context(
            run_id=1,
            node_id=2,
            node_config={**node, OWN_NODE: True},
            state=RecordDict(),
            run_config={},
        ),
    )


EQUAL = "strategy.weighting=equal"


def numbers(reply: Message) -> dict[str, object]:
    return dict(protocol.records(reply.content, MetricRecord)[protocol.METRICS])


def test_who_keeps_the_counts_takes_part_only_where_each_silo_weighs_the_same() -> None:
    keeps = silo(reveal_counts=False)
    for weighting in ("examples", "size"):
        with pytest.raises(SiloError, match=rf"MDW-341.*north.*weighting={weighting}.*equal"):
            check_run(scope(f"strategy.weighting={weighting}"), keeps, 1)
    check_run(scope(EQUAL), keeps, 1)
    check_run(scope("strategy=scaffold"), keeps, 1)


def test_what_leaves_a_silo_that_keeps_the_counts_does_not_tell_them() -> None:
    told = numbers(ask(silo(), words=[EQUAL]))
    kept = numbers(ask(silo(reveal_counts=False), words=[EQUAL]))
    assert told[protocol.NUM_EXAMPLES] == length(load_cached(scope(), silo()).data.train)
    assert kept[protocol.NUM_EXAMPLES] == 1
    assert kept.keys() == {protocol.NUM_EXAMPLES, protocol.LOSS, protocol.SECONDS}
    assert kept[protocol.LOSS] == told[protocol.LOSS], "it trains as any other"


@pytest.mark.parametrize("split", [protocol.VALIDATION, protocol.TEST])
def test_it_is_in_no_metric(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.loop.evaluate", lambda *given: pytest.fail("it evaluated"))
    reply = ask(silo(reveal_counts=False), "evaluate", words=[EQUAL], split=split)
    assert numbers(reply) == {protocol.NUM_EXAMPLES: 0, protocol.WITHHELD: 1}
    assert not protocol.records(reply.content, ArrayRecord)


def test_a_size_is_told_only_where_it_weighs() -> None:
    assert protocol.SIZE not in numbers(ask(silo()))
    told = numbers(ask(silo(), words=["strategy.weighting=size"]))
    # Digits counts examples, whatever the epochs.
    assert told[protocol.SIZE] == told[protocol.NUM_EXAMPLES]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("policy", [{"models": ["cnn"]}, {"examples_at_least": 10_000}])
def test_the_app_neither_trains_nor_scores_what_is_not_allowed(
    monkeypatch: pytest.MonkeyPatch, kind: str, policy: dict[str, object]
) -> None:
    def trained(*args: object, **given: object) -> None:
        raise AssertionError("the loop was entered")

    monkeypatch.setattr("client.loop.train", trained)
    monkeypatch.setattr("client.loop.evaluate", trained)
    with pytest.raises(MeadowError, match=r"MDW-341.*north"):
        ask(silo(**policy), kind)


def test_no_data_is_read_for_a_run_that_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "client.app.load_cached", lambda *given: pytest.fail("the data was asked for")
    )
    with pytest.raises(SiloError, match="MDW-341"):
        ask(silo(tasks=["mnist"]))


def test_the_score_is_the_same_in_smaller_batches() -> None:
    whole, parted = (ask(one, "evaluate") for one in (silo(), silo(batch_size_at_most=64)))
    first, second = (
        protocol.records(reply.content, MetricRecord)[protocol.METRICS] for reply in (whole, parted)
    )
    assert first["accuracy"] == second["accuracy"] and first[protocol.LOSS] == pytest.approx(
        second[protocol.LOSS], rel=1e-6
    )
    assert load_cached(scope(), silo()).data.validation


def test_a_run_that_shows_the_server_more_than_the_owner_wants_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_run(scope(), silo(aggregation_at_least="plain"), 1)
    monkeypatch.setattr("client.policy.WEAKEST_FIRST", ("plain", "masked"))
    with pytest.raises(SiloError, match=r"MDW-341: .*aggregation=plain.*aggregation=masked"):
        check_run(scope(), silo(aggregation_at_least="masked"), 1)
